package grouphub_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

// floodHub returns a hub of at most so many connections, which are echoed what they send, and its
// server, whose requests are those of the user in the header X-User.
func floodHub(t *testing.T, layer grouphub.Layer, conns int) (*grouphub.Hub, *httptest.Server) {
	t.Helper()
	hub := newHub(t, &grouphub.Options{Layer: layer, MaxConns: conns, MaxMessageSize: 1000, CloseTimeout: time.Second, Logger: quiet(),
		PingInterval: 500 * time.Millisecond, PongTimeout: time.Second, // how long a body may take, too
		Consumer: grouphub.Consumer{Receive: func(c *grouphub.Conn, m grouphub.Message) error { return c.Send(m.Data) }}})
	server := httptest.NewUnstartedServer(grouphub.Authenticate(func(r *http.Request) (grouphub.User, error) {
		return grouphub.User{ID: r.Header.Get("X-User")}, nil
	})(hub))
	server.Config.ReadHeaderTimeout = 500 * time.Millisecond
	server.Start()
	t.Cleanup(server.Close)
	return hub, server
}

// untilAsBefore waits until there are no more goroutines than there were.
func untilAsBefore(t *testing.T, before int) {
	t.Helper()
	eventually(t, func() bool { return runtime.NumGoroutine() <= before }, "goroutines are left")
}

// echoes has a client send and get something again and again until the function that it returns is called,
// which says how long the slowest answer took.
func echoes(c *hubtest.Client) (stop func() time.Duration) {
	over, slowest := make(chan struct{}), make(chan time.Duration)
	go func() {
		var most time.Duration
		for i := 0; ; i++ {
			select {
			case <-over:
				slowest <- most
				return
			default:
			}
			began := time.Now()
			c.Send(fmt.Sprint(i))
			c.Expect(fmt.Sprint(i))
			most = max(most, time.Since(began))
		}
	}()
	return func() time.Duration {
		close(over)
		return <-slowest
	}
}

// A repeated reader is a body of one byte again and again.
type repeated struct{}

func (repeated) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

func TestFloodsOfPostsHarmNobody(t *testing.T) {
	const streams, senders, each = 4, 8, 20
	layer := grouphub.NewMemoryLayer()
	defer layer.Close()
	one, oneServer := floodHub(t, layer, streams+1)
	two, twoServer := floodHub(t, layer, streams+1)
	for _, hub := range []*grouphub.Hub{one, two} {
		grouphub.AskForHubs(hub)
	}
	reader := hubtest.Dial(t, one, "/")
	var tokens []string
	for range streams { // that do not read what they are echoed
		s := &eventSource{t: t}
		s.connect(oneServer.URL)
		tokens = append(tokens, s.expect("grouphub.open").data)
	}
	channel, secret, _ := strings.Cut(tokens[0], ".")
	way := &http.Transport{MaxIdleConnsPerHost: senders}
	before := runtime.NumGoroutine()
	stop := echoes(reader)

	var flood sync.WaitGroup
	var taken atomic.Int64
	flooding := func(url string, sender int) {
		endless := io.Reader(repeated{})
		for i := range each {
			for _, kind := range []struct {
				token, user string
				body        io.Reader
				statuses    string
			}{
				{tokens[(sender+i)%streams], "", strings.NewReader("fine"), "204 429"},
				{tokens[i%streams], "", io.LimitReader(repeated{}, 1001), "413"},
				{tokens[i%streams], "mallory", strings.NewReader("x"), "403"},
				{channel + ".AAAA", "", io.LimitReader(repeated{}, 900), "403"},
				{channel + "0." + secret, "", io.LimitReader(repeated{}, 900), "410"},
				{fmt.Sprintf("invented%d!1.%s", i, secret), "", io.LimitReader(repeated{}, 900), "410"},
				{"", "", io.LimitReader(repeated{}, 900), "400"},
				{tokens[0], "", endless, "413"},
				{channel + ".AAAA", "", endless, "403 413"}, // of the other hub, which has not this stream
			} {
				if kind.body == endless && i > 0 {
					continue // the server takes half a second to end such a request
				}
				r, err := http.NewRequest("POST", url, kind.body)
				if err != nil {
					t.Error(err)
					return
				}
				r.Header.Set("Grouphub-Stream", kind.token)
				r.Header.Set("X-User", kind.user)
				answer, err := way.RoundTrip(r)
				if err != nil {
					continue // the server has ended a body without an end
				}
				io.Copy(io.Discard, answer.Body)
				answer.Body.Close()
				switch status := fmt.Sprint(answer.StatusCode); {
				case !strings.Contains(kind.statuses, status):
					t.Errorf("a POST with token %s of %q: %s, want %s", kind.token, kind.user, status, kind.statuses)
				case status == "204":
					taken.Add(1)
				}
			}
		}
	}
	for i := range senders {
		flood.Go(func() { flooding([]*httptest.Server{oneServer, twoServer}[i%2].URL, i) })
	}
	// Bodies that do not come, with a token that is good and with one that is not.
	for i := range 2 * senders {
		token := []string{tokens[0], channel + ".AAAA"}[i%2]
		conn, err := net.Dial("tcp", oneServer.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: example.com\r\nGrouphub-Stream: %s\r\nContent-Length: 900\r\n\r\nhalf", token)
		flood.Go(func() {
			conn.SetReadDeadline(time.Now().Add(20 * time.Second))
			if _, err := io.Copy(io.Discard, conn); err != nil && strings.Contains(err.Error(), "timeout") {
				t.Error("a request whose body does not come is not ended")
			}
		})
	}
	flood.Wait()
	if slowest := stop(); slowest > 2*time.Second {
		t.Errorf("an echo took %v", slowest)
	}
	way.CloseIdleConnections()
	untilAsBefore(t, before)
	if n := one.Stats(); n.Conns != streams+1 || n.Streams != streams || n.SlowClosed != 0 {
		t.Errorf("Stats: %+v", n)
	}
	// The limit holds as before.
	hubtest.DialRefused(t, one, "/")
	received := int64(one.Stats().Received)
	reader.Send("last")
	reader.Expect("last")
	if n := two.Stats(); n.Conns != 0 || n.Received != 0 {
		t.Errorf("Stats of the other hub: %+v", n)
	}
	if n := taken.Load(); n > received {
		t.Errorf("%d messages were taken, and %d received", n, received)
	}
}

func TestHeadsThatDoNotComeTakeNoPlace(t *testing.T) {
	t.Parallel()
	hub, server := floodHub(t, nil, 2)
	var conns []net.Conn
	for i := range 50 {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		head := []string{silentUpgrade, silentStream}[i%2]
		io.WriteString(conn, head[:len(head)-2]) // without the empty line
		conns = append(conns, conn)
	}
	for _, c := range []*hubtest.Client{hubtest.Dial(t, hub, "/"), hubtest.Dial(t, hub, "/", hubtest.AsStream())} {
		c.Send("x")
		c.Expect("x")
	}
	for _, conn := range conns {
		conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		if answer, err := io.ReadAll(conn); err != nil || strings.Contains(string(answer), "HTTP/1.1 200") {
			t.Errorf("answered by %q, %v", answer, err)
		}
	}
	if n := hub.Stats(); n.Conns != 2 || n.Accepted != 2 || n.Rejected != 0 {
		t.Errorf("Stats: %+v", n)
	}
}

func TestConnectionsThatAreResetAtOnceLeaveNothing(t *testing.T) {
	const floods, each, places = 4, 25, 3
	for name, client := range map[string]silentClient{
		"WebSocket":                          {"", silentUpgrade},
		"WebSocket over TLS":                 {"http/1.1", silentUpgrade},
		"stream":                             {"", silentStream},
		"stream over TLS":                    {"http/1.1", silentStream},
		"streams over one HTTP/2 connection": {"h2", http2Request(5, 1<<31-1)},
	} {
		t.Run(name, func(t *testing.T) {
			var connected, disconnected atomic.Int64
			hub := newHub(t, &grouphub.Options{MaxConns: places, CloseTimeout: time.Second, Logger: quiet(),
				Policy: func(string) grouphub.GroupPolicy { return grouphub.GroupPolicy{History: 10, Announce: true} },
				Consumer: grouphub.Consumer{
					Connect: func(c *grouphub.Conn) error {
						connected.Add(1)
						return c.Join("all", grouphub.Last(5))
					},
					Disconnect: func(context.Context, *grouphub.Conn, int) { disconnected.Add(1) },
					Events:     grouphub.Events{"note": grouphub.Forward(), "presence": grouphub.Forward()},
				}})
			server := httptest.NewUnstartedServer(hub)
			var ended atomic.Int64 // connections of which the server has seen the end, or which the hub has taken over
			server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
				if state == http.StateClosed || state == http.StateHijacked {
					ended.Add(1)
				}
			}
			if server.EnableHTTP2 = client.protocol == "h2"; client.protocol != "" {
				server.StartTLS()
			} else {
				server.Start()
			}
			defer server.Close()
			reader := hubtest.Dial(t, hub, "/")
			before := runtime.NumGoroutine()
			var flood sync.WaitGroup
			for i := range floods {
				flood.Go(func() {
					for j := range each {
						conn := client.connect(t, server)
						if (i+j)%2 == 0 { // it has been answered
							conn.SetReadDeadline(time.Now().Add(10 * time.Second))
							conn.Read(make([]byte, 1))
						}
						beneath := conn
						if c, ok := conn.(interface{ NetConn() net.Conn }); ok {
							beneath = c.NetConn()
						}
						beneath.(*net.TCPConn).SetLinger(0)
						beneath.Close()
					}
				})
			}
			flooded := make(chan struct{})
			go func() { defer close(flooded); flood.Wait() }()
			for sent := 0; ; sent++ {
				send(t, hub, "all", "note", sent)
				began := time.Now()
				reader.SkipTo("note")
				if took := time.Since(began); took > 2*time.Second {
					t.Errorf("an event took %v", took)
				}
				select {
				case <-flooded:
				default:
					time.Sleep(time.Millisecond)
					continue
				}
				break
			}
			eventually(t, func() bool { return ended.Load() == floods*each }, "the server waits for connections")
			eventually(t, func() bool { return hub.Stats().Conns == 1 && disconnected.Load() == connected.Load()-1 }, "connections are left")
			untilAsBefore(t, before)
			n := hub.Stats()
			if n.Streams != 0 || groupSize(hub, "all") != 1 {
				t.Errorf("Stats: %+v, %d members", n, groupSize(hub, "all"))
			}
			t.Logf("%d accepted, %d refused", n.Accepted, n.Rejected)
			eventually(t, func() bool { // the lease is written behind the connection's end
				members, err := hub.Members(background, "all")
				return err == nil && len(members) == 1
			}, "members are left")
			hubtest.Dial(t, hub, "/").SkipTo("presence")
		})
	}
}
