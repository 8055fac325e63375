package grouphub_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/internal/redistest"
)

// echoing returns a hub whose connections are sent their own messages, and the URL at which
// requests of any user are served: the user is in the header X-User.
func echoing(t *testing.T, options grouphub.Options) string {
	options.Consumer = grouphub.Consumer{
		Receive: func(c *grouphub.Conn, m grouphub.Message) error { return c.Send(m.Data) },
	}
	authenticate := grouphub.Authenticate(func(r *http.Request) (grouphub.User, error) {
		return grouphub.User{ID: r.Header.Get("X-User")}, nil
	})
	hub := newHub(t, &options)
	eventually(t, func() bool { return hub.Stats().LayerUp }, "the layer is not up")
	s := httptest.NewServer(authenticate(hub))
	t.Cleanup(s.Close)
	return s.URL
}

func TestPostIsAMessageOnAnyHubOfTheLayer(t *testing.T) {
	server := redistest.Start(t)
	one := echoing(t, grouphub.Options{Layer: redisLayer(t, server.URL(), nil)})
	two := echoing(t, grouphub.Options{Layer: redisLayer(t, server.URL(), nil)})
	source := &eventSource{t: t}
	source.connect(one)
	token := source.expect("grouphub.open").data
	for _, text := range []string{"one", "two", "three"} {
		for _, url := range []string{one, two} {
			if status := post(t, url, token, "", text); status != http.StatusNoContent {
				t.Errorf("POST: %d", status)
			}
			if b := source.expect(""); b.data != text {
				t.Errorf("got %q, want %q", b.data, text)
			}
		}
	}
}

func TestPostThatIsRepeatedIsOneMessage(t *testing.T) {
	url := echoing(t, grouphub.Options{})
	source := &eventSource{t: t}
	source.connect(url)
	token := source.expect("grouphub.open").data
	for _, test := range []struct {
		seq    string
		status int
	}{
		{"1", 204}, {"1", 204}, {"2", 204}, {"2", 204}, {"7", 204},
		{"5", 409}, // it was not sent one at a time: to say that it was taken would be a lie
		{"1", 409}, {"7", 204}, {"", 204}, {"7", 204}, {"8", 204},
	} {
		if status := post(t, url, token, test.seq, "number "+test.seq); status != test.status {
			t.Errorf("POST of number %s: %d, want %d", test.seq, status, test.status)
		}
	}
	for _, want := range []string{"number 1", "number 2", "number 7", "number ", "number 8"} {
		if b := source.expect(""); b.data != want {
			t.Errorf("got %q, want %q", b.data, want)
		}
	}
}

func TestPostsAtTheSameTimeAreTakenOrTold(t *testing.T) {
	received := make(chan string, 1000)
	hub := hubOf(t, grouphub.Consumer{Receive: func(_ *grouphub.Conn, m grouphub.Message) error {
		received <- string(m.Data)
		return nil
	}})
	s := httptest.NewServer(hub)
	defer s.Close()
	source := &eventSource{t: t}
	source.connect(s.URL)
	token := source.expect("grouphub.open").data
	var posting sync.WaitGroup
	taken := make(map[string]bool)
	var mu sync.Mutex
	for i := range 100 {
		posting.Go(func() {
			text := fmt.Sprint(i)
			status := post(t, s.URL, token, "", text)
			if status != 204 && status != 429 {
				t.Errorf("POST %d: %d", i, status)
			}
			mu.Lock()
			defer mu.Unlock()
			taken[text] = status == 204
		})
	}
	posting.Wait()
	for _, ok := range taken {
		if ok && !taken[<-received] {
			t.Error("a message was received for which 429 was answered")
		}
	}
	if n := len(received); n > 0 {
		t.Errorf("%d messages were received twice, or for which 429 was answered", n)
	}
	source.cut()
}

// While a message waits for its rate, the client may have given up and sent it again.
func TestPostThatIsRepeatedWhileItWaitsIsOneMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var received []string // by callbacks, which run one at a time
		hub := newHub(t, &grouphub.Options{ReceiveRate: 1, ReceiveBurst: 1, Consumer: grouphub.Consumer{
			Receive: func(_ *grouphub.Conn, m grouphub.Message) error {
				received = append(received, string(m.Data))
				return nil
			},
		}})
		source := &eventSource{t: t, way: throughPipes(hub)}
		source.connect("http://example.com")
		token := source.expect("grouphub.open").data
		send := func(seq string) int {
			r := httptest.NewRequest("POST", "/", strings.NewReader(seq))
			r.Header.Set("Grouphub-Stream", token)
			r.Header.Set("Grouphub-Seq", seq)
			w := httptest.NewRecorder()
			hub.ServeHTTP(w, r)
			return w.Code
		}
		if status := send("1"); status != 204 {
			t.Errorf("the first POST: %d", status)
		}
		waiting := make(chan int, 1)
		go func() { waiting <- send("2") }()
		synctest.Wait()
		if status := send("2"); status != 429 {
			t.Errorf("a repeat while the message waits: %d, want 429", status)
		}
		if status := <-waiting; status != 204 {
			t.Errorf("the POST that waited: %d", status)
		}
		if status := send("2"); status != 204 {
			t.Errorf("a repeat behind the answer: %d", status)
		}
		synctest.Wait()
		if got := strings.Join(received, " "); got != "1 2" {
			t.Errorf("received %q, want each message once", got)
		}
		source.cut()
	})
}

// A message that has to wait for ReceiveRate waits for as long as any call through a layer.
func TestPostWaitsForItsRateFiveSecondsAtTheMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tooFast := func(rate float64) (first, second int, took time.Duration) {
			hub := newHub(t, &grouphub.Options{ReceiveRate: rate, ReceiveBurst: 1})
			source := &eventSource{t: t, way: throughPipes(hub)}
			source.connect("http://example.com")
			token := source.expect("grouphub.open").data
			send := func() int {
				r := httptest.NewRequest("POST", "/", strings.NewReader("x"))
				r.Header.Set("Grouphub-Stream", token)
				w := httptest.NewRecorder()
				hub.ServeHTTP(w, r)
				return w.Code
			}
			first = send()
			start := time.Now()
			second = send()
			source.cut()
			return first, second, time.Since(start)
		}
		if first, second, took := tooFast(0.25); first != 204 || second != 204 || took != 4*time.Second {
			t.Errorf("%d, %d after %v, want to wait for 4 s", first, second, took)
		}
		if first, second, took := tooFast(0.1); first != 204 || second != 429 || took > 5*time.Second {
			t.Errorf("%d, %d after %v, want 429 within 5 s", first, second, took)
		}
	})
}

func TestPostWhoseBodyDoesNotComeIsEnded(t *testing.T) {
	t.Parallel()
	hub := newHub(t, &grouphub.Options{PingInterval: 500 * time.Millisecond, PongTimeout: time.Second})
	s := httptest.NewServer(hub)
	defer s.Close()
	source := &eventSource{t: t}
	source.connect(s.URL)
	token := source.expect("grouphub.open").data
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: example.com\r\nGrouphub-Stream: %s\r\nContent-Length: 10\r\n\r\nhalf", token)
	conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusRequestTimeout {
		t.Errorf("answered by %s, want 408", answer.Status)
	}
	// It is not the stream's fault.
	if status := post(t, s.URL, token, "", "x"); status != http.StatusNoContent {
		t.Errorf("the next POST: %d", status)
	}
	source.cut()
}

func TestPostWithAWrongTokenIs403Or410AndNothingElseHappens(t *testing.T) {
	t.Parallel()
	url := echoing(t, grouphub.Options{MaxMessageSize: 10})
	source := &eventSource{t: t}
	source.connect(url)
	token := source.expect("grouphub.open").data
	channel, _, _ := strings.Cut(token, ".")
	other := &eventSource{t: t}
	other.connect(url)
	otherChannel, _, _ := strings.Cut(other.expect("grouphub.open").data, ".")
	_, secret, _ := strings.Cut(token, ".")
	for name, test := range map[string]struct {
		token, seq, text, user string
		status                 int
	}{
		"without a token":               {"", "", "x", "", 400},
		"with a token that is none":     {"x", "", "x", "", 410},
		"without a secret":              {channel + ".", "", "x", "", 403},
		"with a wrong secret":           {channel + ".AAAA", "", "x", "", 403},
		"with the secret of another":    {otherChannel + "." + secret, "", "x", "", 403},
		"to a hub that has gone":        {"AAAA!1." + secret, "", "x", "", 410},
		"to a stream that never was":    {channel + "0." + secret, "", "x", "", 410},
		"of another user":               {token, "", "x", "bob", 403},
		"that is too large":             {token, "", strings.Repeat("x", 11), "", 413},
		"that is not UTF-8":             {token, "", "\xff", "", 400},
		"with a number that is no such": {token, "one", "x", "", 400},
	} {
		r := httptest.NewRequest("POST", url, strings.NewReader(test.text))
		r.RequestURI = ""
		r.Header.Set("X-User", test.user)
		if test.token != "" {
			r.Header.Set("Grouphub-Stream", test.token)
		}
		if test.seq != "" {
			r.Header.Set("Grouphub-Seq", test.seq)
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != test.status {
			t.Errorf("a POST %s: %d, want %d", name, answer.StatusCode, test.status)
		}
	}
	// Whoever guesses may do so in the URL.
	if status := post(t, url+"?stream="+channel+".AAAA", "", "", "x"); status != http.StatusForbidden {
		t.Errorf("a POST with a wrong secret in its URL: %d", status)
	}
	if status := post(t, url, token, "", "fine"); status != http.StatusNoContent {
		t.Errorf("a POST with nothing wrong: %d", status)
	}
	if b := source.expect(""); b.data != "fine" {
		t.Errorf("got %q", b.data)
	}
	source.cut()
}

func TestPostWithAWrongTokenIsRefusedByTheHubOfTheStreamToo(t *testing.T) {
	layer := grouphub.NewMemoryLayer()
	one := echoing(t, grouphub.Options{Layer: layer, Logger: quiet()})
	two := echoing(t, grouphub.Options{Layer: layer, Logger: quiet()})
	source := &eventSource{t: t}
	source.connect(one)
	token := source.expect("grouphub.open").data
	channel, secret, _ := strings.Cut(token, ".")
	for token, want := range map[string]int{
		channel + ".AAAA":       403,
		channel + ".":           403,
		channel + "0." + secret: 410,
	} {
		if status := post(t, two, token, "", "x"); status != want {
			t.Errorf("a POST with %s: %d, want %d", token, status, want)
		}
	}
	for _, seq := range []string{"2", "1"} {
		want := map[string]int{"2": 204, "1": 409}[seq]
		if status := post(t, two, token, seq, "fine"); status != want {
			t.Errorf("a POST of number %s: %d, want %d", seq, status, want)
		}
	}
	if b := source.expect(""); b.data != "fine" {
		t.Errorf("got %q", b.data)
	}
	source.cut()
}

// A stranger may send any number of these, each as large as a message may be.
func TestPostForWhichThereIsNoStreamIsRefusedBeforeItsBodyIsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		layer := newFaultyLayer()
		t.Cleanup(func() { layer.Close() })
		other := newHub(t, &grouphub.Options{Layer: layer})
		layer.publish = func(p grouphub.Publication) error {
			if strings.HasPrefix(p.Topic, "h:invented") {
				t.Error("a message was published for a hub that is not there")
			}
			return layer.MemoryLayer.Publish(background, p)
		}
		hub := newHub(t, &grouphub.Options{Layer: layer})
		grouphub.AskForHubs(hub)
		source := &eventSource{t: t, way: throughPipes(hub)}
		source.connect("http://example.com")
		token := source.expect("grouphub.open").data
		channel, secret, _ := strings.Cut(token, ".")
		for token, want := range map[string]int{
			"":                      400,
			"none":                  410,
			channel + ".AAAA":       403,
			channel + "0." + secret: 410,
			"invented!1." + secret:  410,
			grouphub.HubName(other) + "x!1." + secret: 410,
		} {
			r := httptest.NewRequest("POST", "/", unread{t})
			r.Header.Set("Grouphub-Stream", token)
			w := httptest.NewRecorder()
			began := time.Now()
			hub.ServeHTTP(w, r)
			if took := time.Since(began); w.Code != want || took > 0 {
				t.Errorf("a POST with the token %q: %d after %v, want %d at once", token, w.Code, took, want)
			}
		}
		source.cut()
	})
}

func TestPostToAStreamThatHasEndedIsGone(t *testing.T) {
	gone := make(chan struct{})
	hub := newHub(t, &grouphub.Options{Consumer: grouphub.Consumer{
		Disconnect: func(context.Context, *grouphub.Conn, int) { close(gone) },
	}})
	s := httptest.NewServer(hub)
	defer s.Close()
	source := &eventSource{t: t}
	source.connect(s.URL)
	token := source.expect("grouphub.open").data
	source.cut()
	<-gone
	if status := post(t, s.URL, token, "", "x"); status != http.StatusGone {
		t.Errorf("POST: %d, want 410", status)
	}
}

func TestPostOfAnotherOriginIsAllowedAsTheStreamIs(t *testing.T) {
	hub := newHub(t, &grouphub.Options{})
	// A browser sends no credentials with a preflight, so Authenticate passes it on.
	nobody := grouphub.Authenticate(func(r *http.Request) (grouphub.User, error) {
		if r.Method == http.MethodOptions {
			return grouphub.User{}, errors.New("no credentials")
		}
		return grouphub.User{}, nil
	})
	s := httptest.NewServer(grouphub.AllowOrigins("https://page.example")(nobody(hub)))
	defer s.Close()
	ask := func(method, origin string, header ...string) *http.Response {
		r := httptest.NewRequest(method, s.URL, nil)
		r.RequestURI = ""
		r.Header.Set("Origin", origin)
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { answer.Body.Close() })
		return answer
	}
	preflight := []string{"Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "grouphub-stream"}
	for _, test := range []struct {
		method, origin string
		header         []string
		status         int
	}{
		{"OPTIONS", "https://page.example", preflight, 204},
		{"POST", "https://page.example", nil, 400}, // for want of a token, which the page may read
		{"GET", "https://page.example", []string{"Accept", "text/event-stream"}, 200},
		{"OPTIONS", "https://evil.example", preflight, 403},
		{"POST", "https://evil.example", nil, 403},
		{"GET", "https://evil.example", []string{"Accept", "text/event-stream"}, 403},
	} {
		answer := ask(test.method, test.origin, test.header...)
		if answer.StatusCode != test.status {
			t.Errorf("%s from %s: %s, want %d", test.method, test.origin, answer.Status, test.status)
		}
		want := ""
		if test.status != 403 {
			want = test.origin
		}
		if got := answer.Header.Get("Access-Control-Allow-Origin"); got != want {
			t.Errorf("%s from %s may be read by %q, want %q", test.method, test.origin, got, want)
		}
		if test.status == 204 && !strings.Contains(answer.Header.Get("Access-Control-Allow-Headers"), "Grouphub-Stream") {
			t.Errorf("preflight: %v", answer.Header)
		}
	}
}
