package grouphub_test

import (
	"bytes"
	"compress/flate"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

func TestMountingPlainRequestGets426(t *testing.T) {
	status, body, header := get(t, newHub(t, nil), nil)
	if status != http.StatusUpgradeRequired || header.Get("Upgrade") != "websocket" {
		t.Errorf("got %d, %v", status, header)
	}
	wantOneLine(t, body, "WebSocket")
}

// Servers speak HTTP/2 over TLS by default, and an upgrade is none of it.
// A page learns in this way why its WebSocket was refused.
func TestAPlainRequestIsRefusedAsAnUpgradeIs(t *testing.T) {
	hub := newHub(t, &grouphub.Options{MaxConns: 1, Consumer: grouphub.Consumer{Accept: func(r *http.Request) error {
		if room := r.URL.Query().Get("room"); room != "" {
			return &grouphub.Reject{Status: http.StatusNotFound, Reason: "no room " + room}
		}
		return nil
	}}})
	get := func(path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		hub.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		return w
	}
	want := func(path string, status int, text string) http.Header {
		t.Helper()
		w := get(path)
		if w.Code != status || !strings.Contains(w.Body.String(), text) {
			t.Errorf("%s: %d %q, want %d %q", path, w.Code, w.Body, status, text)
		}
		return w.Header()
	}
	want("/?room=7", http.StatusNotFound, "no room 7")
	for range 3 { // no seat is kept
		want("/", http.StatusUpgradeRequired, "connect with a WebSocket client")
	}
	hubtest.Dial(t, hub, "/")
	if seconds := want("/", http.StatusServiceUnavailable, "too many").Get("Retry-After"); seconds != "5" {
		t.Errorf("Retry-After: %q", seconds)
	}
}

func TestPlainRequestOverHTTP2Gets426(t *testing.T) {
	hub := hubOf(t, grouphub.Consumer{})
	s := httptest.NewUnstartedServer(hub)
	s.EnableHTTP2 = true
	s.StartTLS()
	defer s.Close()
	response, err := s.Client().Get(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.ProtoMajor != 2 || response.StatusCode != 426 || response.Header.Get("Upgrade") != "" {
		t.Errorf("%s %d, Upgrade: %q, which RFC 9113 8.2.2 calls malformed", response.Proto, response.StatusCode, response.Header.Get("Upgrade"))
	}
	if out, err := exec.Command("curl", "-sSk", "--http2", "-m", "20", s.URL).CombinedOutput(); err != nil {
		t.Errorf("curl: %v: %s", err, out)
	}
}

// HTTP/1.0 must not be upgraded (RFC 9110, 7.8).
func TestHTTP10IsNotUpgraded(t *testing.T) {
	s := serve(t, hubOf(t, grouphub.Consumer{}))
	c := s.dial("/")
	c.Close()
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET / HTTP/1.0\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	b := make([]byte, 12)
	conn.Read(b)
	if !strings.Contains(string(b), "426") {
		t.Errorf("got %q", b)
	}
}

func TestMountingRefusesAnotherOriginWith403(t *testing.T) {
	hub := newHub(t, nil)
	status, body, _ := get(t, hub, upgradeHeader("Origin", "https://evil.example"))
	if status != http.StatusForbidden {
		t.Errorf("got %d", status)
	}
	wantOneLine(t, body, "https://evil.example")
	if n := hub.Stats().Rejected; n != 1 {
		t.Errorf("%d rejected", n)
	}
	c := hubtest.Dial(t, grouphub.AllowOrigins("https://evil.example")(hub), "/",
		hubtest.WithHeader(http.Header{"Origin": {"https://evil.example"}}))
	c.Close()
}

func TestTwoOriginHeadersAreRefused(t *testing.T) {
	status, body, _ := get(t, grouphub.AllowOrigins("*")(newHub(t, nil)),
		upgradeHeader("Origin", "http://example.com", "Origin", "http://example.com"))
	if status != http.StatusForbidden {
		t.Errorf("got %d", status)
	}
	wantOneLine(t, body, "Origin")
}

func TestMountingFullHubGets503(t *testing.T) {
	hub := newHub(t, &grouphub.Options{MaxConns: 1})
	c := hubtest.Dial(t, hub, "/")
	response := hubtest.DialRefused(t, hub, "/")
	if response.StatusCode != http.StatusServiceUnavailable || response.Header.Get("Retry-After") == "" {
		t.Errorf("got %v", response)
	}
	wantOneLine(t, readAll(t, response.Body), "too many connections")
	c.Close()
	s := serve(t, hub)
	eventually(t, func() bool { // the seat is free once the socket is closed
		conn, _, err := websocket.DefaultDialer.Dial(s.webSocket(), nil)
		if err == nil {
			conn.Close()
		}
		return err == nil
	}, "the seat is still taken")
}

func TestMountingHubThatShutsDownGets503(t *testing.T) {
	hub := grouphub.New(nil)
	if err := hub.Shutdown(background); err != nil {
		t.Fatal(err)
	}
	response := hubtest.DialRefused(t, hub, "/")
	if response.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("got %v", response)
	}
	wantOneLine(t, readAll(t, response.Body), "shutting down")
}

func TestBadHandshakeGetsOneClearLine(t *testing.T) {
	h := upgradeHeader()
	h.Set("Sec-WebSocket-Version", "7")
	status, body, header := get(t, newHub(t, nil), h)
	if status != http.StatusBadRequest || header.Get("Sec-WebSocket-Version") != "13" {
		t.Errorf("got %d, %v", status, header)
	}
	wantOneLine(t, body, "version")
	// httptest's recorder cannot be hijacked.
	status, body, _ = get(t, newHub(t, nil), upgradeHeader())
	if status != http.StatusInternalServerError {
		t.Errorf("got %d", status)
	}
	wantOneLine(t, body, "hijack")
}

// unwrapper is a middleware's writer that supports http.ResponseController, and is no
// http.Hijacker itself.
type unwrapper struct{ w http.ResponseWriter }

func (u unwrapper) Header() http.Header { return u.w.Header() }

func (u unwrapper) Write(p []byte) (int, error) { return u.w.Write(p) }

func (u unwrapper) WriteHeader(status int) { u.w.WriteHeader(status) }

func (u unwrapper) Unwrap() http.ResponseWriter { return u.w }

func TestMountingBehindMiddlewareThatUnwraps(t *testing.T) {
	hub := newHub(t, &grouphub.Options{Consumer: noteConsumer})
	s := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Set-Cookie", "from=middleware")
		hub.ServeHTTP(unwrapper{w}, r)
	}))
	c := s.dial("/")
	send(t, hub, "all", "note", 1)
	wantNext(t, c, `{"type":"note","group":"all","data":1}`)
}

func TestAcceptChoosesTheRefusal(t *testing.T) {
	for want, err := range map[int]error{
		http.StatusTeapot:    &grouphub.Reject{Status: http.StatusTeapot, Reason: "short and stout"},
		http.StatusForbidden: errors.New("secret reason"),
	} {
		hub := hubOf(t, grouphub.Consumer{Accept: func(*http.Request) error { return err }})
		if got := hubtest.DialRefused(t, hub, "/"); got.StatusCode != want {
			t.Errorf("got %v, want %d", got, want)
		}
	}
}

func TestSubprotocolIsNegotiated(t *testing.T) {
	got := make(chan string, 1)
	hub := hubOf(t, grouphub.Consumer{
		Subprotocols: []string{"v2", "v1"},
		Connect:      func(c *grouphub.Conn) error { got <- c.Subprotocol(); return nil },
	})
	hubtest.Dial(t, hub, "/", hubtest.WithHeader(http.Header{"Sec-Websocket-Protocol": {"v1"}}))
	if p := <-got; p != "v1" {
		t.Errorf("got %q", p)
	}
}

func TestAHeaderThatNamesCompressionDoesNotTurnItOn(t *testing.T) {
	hub := hubOf(t, grouphub.Consumer{Receive: func(c *grouphub.Conn, m grouphub.Message) error { return c.Send(m.Data) }})
	s := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Note", "permessage-deflate")
		hub.ServeHTTP(w, r)
	}))
	c := s.dial("/")
	c.WriteMessage(websocket.TextMessage, []byte(strings.Repeat("x", 1000)))
	wantNext(t, c, strings.Repeat("x", 1000))
}

func TestCompressionReachesClientsOfBothKinds(t *testing.T) {
	hub := newHub(t, &grouphub.Options{Compression: true, Consumer: grouphub.Consumer{
		Connect: joinAll,
		Receive: func(c *grouphub.Conn, m grouphub.Message) error { return c.Send(m.Data) },
		Events:  grouphub.Events{"note": grouphub.Forward()},
	}})
	s := serve(t, hub)
	plain := s.dial("/")
	packed := s.dialWith(&websocket.Dialer{EnableCompression: true}, "/")
	for i := range 20 {
		text := strings.Repeat(fmt.Sprint(i), 1+i*100)
		send(t, hub, "all", "note", text)
		for _, c := range []*websocket.Conn{plain, packed} {
			wantNext(t, c, `{"type":"note","group":"all","data":"`+text+`"}`)
		}
		packed.WriteMessage(websocket.TextMessage, []byte(text))
		wantNext(t, packed, text)
	}
}

// gorilla lets these pass.
func TestFramesThatTheRFCForbidsEndWith1002(t *testing.T) {
	hub := newHub(t, &grouphub.Options{Compression: true, Logger: quiet(), Consumer: grouphub.Consumer{
		Receive: func(*grouphub.Conn, grouphub.Message) error { t.Error("Receive was called"); return nil },
	}})
	s := serve(t, hub)
	for name, sent := range map[string]string{
		"RSV1 on a ping":               string(masked(0xc9, "")),
		"RSV1 on a continuation":       string(masked(0x01, "a")) + string(masked(0xc0, "b")),
		"a close of one byte":          string(masked(0x88, "x")),
		"5 bytes in two":               "\x81\xfe\x00\x05\x00\x00\x00\x00hello",
		"5 bytes in eight":             "\x81\xff\x00\x00\x00\x00\x00\x00\x00\x05\x00\x00\x00\x00hello",
		"2^63 bytes":                   "\x81\xff\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		"2^64-1 bytes in a second one": string(masked(0x01, "a")) + "\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00",
	} {
		c := s.dialWith(&websocket.Dialer{EnableCompression: true}, "/")
		if _, err := c.NetConn().Write([]byte(sent)); err != nil {
			t.Fatal(err)
		}
		c.SetReadDeadline(time.Now().Add(20 * time.Second))
		_, _, err := c.ReadMessage()
		if !websocket.IsCloseError(err, 1002) {
			t.Errorf("%s: got %v", name, err)
		}
		c.Close()
	}
}

// A message may be compressed as several streams, each of which ends with a final block.
func TestCompressedMessageOfTwoFinalBlocksIsWhole(t *testing.T) {
	hub := newHub(t, &grouphub.Options{Compression: true, Consumer: grouphub.Consumer{
		Receive: func(c *grouphub.Conn, m grouphub.Message) error { return c.Send(m.Data) },
	}})
	c := serve(t, hub).dialWith(&websocket.Dialer{EnableCompression: true}, "/")
	var packed bytes.Buffer
	for _, part := range []string{"hello ", "world"} {
		w, err := flate.NewWriter(&packed, flate.BestSpeed)
		if err != nil {
			t.Fatal(err)
		}
		w.Write([]byte(part))
		w.Close()
	}
	for range 2 {
		c.NetConn().Write(masked(0xc1, packed.String()))
		wantNext(t, c, "hello world")
		c.NetConn().Write(append(masked(0x41, packed.String()[:5]), masked(0x80, packed.String()[5:])...))
		wantNext(t, c, "hello world")
		c.NetConn().Write(masked(0x81, "plain"))
		wantNext(t, c, "plain")
	}
}
