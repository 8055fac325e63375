package grouphub_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

// What Accept reserves is given back in Disconnect, which only a connection gets.
func TestAcceptIsAskedOnlyWhenTheHandshakeIsValid(t *testing.T) {
	asked := 0
	hub := hubOf(t, grouphub.Consumer{Accept: func(*http.Request) error { asked++; return nil }})
	for name, change := range map[string]func(r *http.Request){
		"version":     func(r *http.Request) { r.Header.Set("Sec-WebSocket-Version", "7") },
		"no version":  func(r *http.Request) { r.Header.Del("Sec-WebSocket-Version") },
		"no key":      func(r *http.Request) { r.Header.Del("Sec-WebSocket-Key") },
		"a short key": func(r *http.Request) { r.Header.Set("Sec-WebSocket-Key", "c2hvcnQ=") },
		"no base64":   func(r *http.Request) { r.Header.Set("Sec-WebSocket-Key", "????????????????????????") },
		"method":      func(r *http.Request) { r.Method = http.MethodPost },
		"body":        func(r *http.Request) { r.ContentLength = 5 },
		"chunks":      func(r *http.Request) { r.ContentLength, r.TransferEncoding = -1, []string{"chunked"} },
		"no hijacker": func(*http.Request) {},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header = upgradeHeader()
		change(r)
		w := httptest.NewRecorder()
		hub.ServeHTTP(w, r)
		want := map[string]int{"method": 405, "no hijacker": 500}[name]
		if want == 0 {
			want = 400
		}
		if w.Code != want || w.Header().Get("Sec-WebSocket-Version") != "13" {
			t.Errorf("%s: got %d, %v", name, w.Code, w.Header())
		}
		wantOneLine(t, w.Body.String(), "")
	}
	if asked != 0 {
		t.Errorf("Accept was asked %d times", asked)
	}
	if n := hub.Stats().Rejected; n != 9 {
		t.Errorf("%d rejected", n)
	}
	hubtest.Dial(t, hub, "/").Close()
	if asked != 1 {
		t.Errorf("Accept was asked %d times for a valid handshake", asked)
	}
}

// A body would be taken for frames.
func TestUpgradeWithABodyIsRefused(t *testing.T) {
	s := serve(t, hubOf(t, grouphub.Consumer{}))
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := upgradeRaw(conn, "/", "Content-Length: 6\r\n\r\nframes"); err == nil || !strings.Contains(err.Error(), " 400 ") {
		t.Errorf("got %v", err)
	}
}

func TestSubprotocolsOnSeveralLinesCount(t *testing.T) {
	got := make(chan string, 1)
	lines := make(chan []string, 1)
	hub := hubOf(t, grouphub.Consumer{
		Subprotocols: []string{"v2"},
		Connect: func(c *grouphub.Conn) error {
			got <- c.Subprotocol()
			lines <- c.Request().Header["Sec-Websocket-Protocol"]
			return nil
		},
	})
	hubtest.Dial(t, hub, "/", hubtest.WithHeader(http.Header{"Sec-Websocket-Protocol": {"v0, v1", "v2"}}))
	if p := <-got; p != "v2" {
		t.Errorf("got %q", p)
	}
	if l := <-lines; len(l) != 2 {
		t.Errorf("the request has the lines %q", l)
	}
}

// This side compresses with a window of 32 KiB, which a client with a smaller one cannot
// inflate.
func TestCompressionIsNegotiatedOnlyAsItIsDone(t *testing.T) {
	s := serve(t, newHub(t, &grouphub.Options{Compression: true}))
	for offer, want := range map[string]bool{
		"permessage-deflate":                                                       true,
		"permessage-deflate; client_max_window_bits":                               true,
		"permessage-deflate;client_max_window_bits = \"10\"":                       true,
		"permessage-deflate; server_max_window_bits=15":                            true,
		"permessage-deflate; server_max_window_bits=10":                            false,
		"permessage-deflate; server_max_window_bits=10, permessage-deflate":        true,
		"permessage-deflate; server_max_window_bits":                               false,
		"permessage-deflate; client_max_window_bits=16":                            false,
		"permessage-deflate; server_no_context_takeover=1":                         false,
		"permessage-deflate; unheard_of":                                           false,
		"permessage-deflate; client_max_window_bits; client_max_window_bits":       false,
		"x-webkit-deflate-frame":                                                   false,
		"x-unknown; server_max_window_bits=8, permessage-deflate":                  true,
		"permessage-deflate; server_no_context_takeover; server_max_window_bits=8": false,
	} {
		conn, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
			"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Extensions: "+offer+"\r\n\r\n")
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		conn.Close()
		if err != nil || response.StatusCode != 101 {
			t.Fatalf("%s: %v, %v", offer, response, err)
		}
		if got := response.Header.Get("Sec-WebSocket-Extensions"); (got != "") != want {
			t.Errorf("%s: answered with %q", offer, got)
		}
	}
}
