package redis_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

// A deafProxy stands between a layer and its server. At will it keeps back what the
// server has to say on connections that are subscribed, which stay open.
type deafProxy struct {
	listener net.Listener
	running  sync.WaitGroup
	keeping  func(reply string) bool // what is kept back: a reply, or a push with its first words

	mu         sync.Mutex
	conns      []net.Conn
	subscribed map[net.Conn]bool // false: it has sent no SUBSCRIBE yet
	deaf       map[net.Conn]bool
}

func startDeafProxy(t *testing.T, s *server, keeping func(reply string) bool) *deafProxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &deafProxy{listener: listener, keeping: keeping, subscribed: make(map[net.Conn]bool), deaf: make(map[net.Conn]bool)}
	p.running.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", s.addr())
			if err != nil {
				client.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, client, server)
			p.mu.Unlock()
			p.running.Go(func() { p.listen(client, server) })
			p.running.Go(func() { p.answer(client, server) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		p.mu.Lock()
		for _, conn := range p.conns {
			conn.Close()
		}
		p.mu.Unlock()
		p.running.Wait()
	})
	return p
}

// listen passes on what the client says.
func (p *deafProxy) listen(client, server net.Conn) {
	defer server.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := client.Read(buf)
		if err != nil {
			return
		}
		if bytes.Contains(buf[:n], []byte("SUBSCRIBE")) {
			p.mu.Lock()
			p.subscribed[client] = true
			p.mu.Unlock()
		}
		if _, err := server.Write(buf[:n]); err != nil {
			return
		}
	}
}

// answer passes on what the server says, reply by reply.
func (p *deafProxy) answer(client, server net.Conn) {
	defer client.Close()
	replies := bufio.NewReader(server)
	for {
		reply, err := readReply(replies)
		if err != nil {
			return
		}
		p.mu.Lock()
		kept := p.deaf[client] && p.keeping(reply)
		p.mu.Unlock()
		if kept {
			continue
		}
		if _, err := io.WriteString(client, reply); err != nil {
			return
		}
	}
}

// readReply reads a reply of RESP, whole.
func readReply(r *bufio.Reader) (string, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return "", err
	}
	n, _ := strconv.Atoi(strings.TrimSpace(line[1:]))
	switch line[0] {
	case '$', '=', '!': // so many bytes
		if n >= 0 {
			rest := make([]byte, n+2)
			if _, err := io.ReadFull(r, rest); err != nil {
				return "", err
			}
			line += string(rest)
		}
	case '%': // so many pairs
		n *= 2
		fallthrough
	case '*', '>', '~': // so many replies
		for range n {
			element, err := readReply(r)
			if err != nil {
				return "", err
			}
			line += element
		}
	}
	return line, nil
}

// deafen begins to keep back what the server says on the connections that are
// subscribed now, and returns how many these are.
func (p *deafProxy) deafen() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.Copy(p.deaf, p.subscribed)
	return len(p.deaf)
}

func TestSubscriptionThatIsSilentlyDeadIsNoticedIn15Seconds(t *testing.T) {
	for _, c := range []struct {
		name    string
		keeping func(reply string) bool
	}{
		{"NothingComes", func(string) bool { return true }},
		// As on a master that was cut off from where the publications are.
		{"OnlyPublicationsDoNotCome", func(reply string) bool { return strings.Contains(reply, "\r\nmessage\r\n") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			proxy := startDeafProxy(t, s, c.keeping)
			options := grouphub.Options{Logger: slog.New(slog.DiscardHandler),
				Policy: func(group string) grouphub.GroupPolicy {
					if group == "kept" {
						return grouphub.GroupPolicy{History: 100}
					}
					return grouphub.GroupPolicy{}
				},
				Consumer: grouphub.Consumer{
					Connect: func(c *grouphub.Conn) error { return errors.Join(c.Join("kept"), c.Join("g")) },
					Events:  grouphub.Events{"n": grouphub.Forward()},
				}}
			newHub := func(url string) *grouphub.Hub {
				options := options
				options.Layer = layer(t, url, nil)
				hub := grouphub.New(&options)
				t.Cleanup(func() { hub.Shutdown(context.Background()) })
				await(t, "Ping", func() bool { return hub.Ping(t.Context()) == nil })
				return hub
			}
			hub, sender := newHub("redis://"+proxy.listener.Addr().String()), newHub(s.url())
			client := hubtest.Dial(t, hub, "/")
			send := func(hub *grouphub.Hub, group string, n int) {
				t.Helper()
				if err := hub.GroupSend(t.Context(), group, "n", n); err != nil {
					t.Fatal(err)
				}
			}
			send(sender, "kept", 1)
			client.ExpectEvent("n")
			if n := proxy.deafen(); n != 1 {
				t.Fatalf("%d connections are subscribed, want 1", n)
			}
			begun := time.Now()
			send(sender, "kept", 2)
			send(hub, "kept", 3) // its other connection is as good as ever
			send(sender, "g", 4)
			await(t, "Resync and what was missed", func() bool { return hub.Stats().Resyncs == 1 && hub.Stats().Recovered == 2 })
			took := time.Since(begun)
			t.Logf("noticed, and mended, after %v", took)
			if took > 15*time.Second {
				t.Errorf("noticed after %v, want 15s at most", took)
			}
			await(t, "LayerUp", func() bool { return hub.Stats().LayerUp })
			send(sender, "kept", 5)
			var got []string
			for range 4 {
				var e grouphub.Event
				if err := client.Next().Decode(&e); err != nil {
					t.Fatal(err)
				}
				got = append(got, e.Type+" "+e.Group+" "+string(e.Data))
			}
			slices.Sort(got) // no order holds between groups
			if want := []string{"n kept 2", "n kept 3", "n kept 5", "resync g "}; !slices.Equal(got, want) {
				t.Errorf("received %q, want %q", got, want)
			}
		})
	}
}
