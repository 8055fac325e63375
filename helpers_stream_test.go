package grouphub_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/internal/eventstream"
)

// An eventSource reads event streams as a browser's EventSource does: it takes the id of a
// block once that is whole, and sends the last one when it comes back.
type eventSource struct {
	t      *testing.T
	way    http.RoundTripper // to the server; nil: any
	lastID string
	token  string
	body   *bufio.Reader
	cut    context.CancelFunc
	status int
}

// A streamBlock is an event of a stream. It has no name and no data if it could not be read.
type streamBlock struct{ name, data string }

// connect asks for the stream again.
func (s *eventSource) connect(url string) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s.cut = cancel
	s.t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Accept", "text/event-stream")
	if s.lastID != "" {
		r.Header.Set("Last-Event-ID", s.lastID)
	}
	way := s.way
	if way == nil {
		way = http.DefaultTransport
	}
	answer, err := way.RoundTrip(r)
	if err != nil {
		s.t.Fatal(err)
	}
	s.status, s.body = answer.StatusCode, bufio.NewReader(answer.Body)
}

// throughPipes returns a way to a handler that is no network, for use in a bubble.
func throughPipes(h http.Handler) http.RoundTripper {
	return &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		l := pipeListener{far, make(chan net.Conn, 1)}
		l.accept <- far
		close(l.accept)
		go http.Serve(l, h)
		return near, nil
	}}
}

// next returns the next block, and whether there was one.
func (s *eventSource) next() (b streamBlock, ok bool) {
	read, err := eventstream.ReadBlock(s.body, s.lastID)
	if err != nil {
		return b, false
	}
	s.lastID = read.ID
	if read.Name == eventstream.Open {
		s.token = read.Data
	}
	return streamBlock{read.Name, read.Data}, true
}

// expect returns the next block, which must have this name.
func (s *eventSource) expect(name string) streamBlock {
	s.t.Helper()
	b, ok := s.next()
	if !ok || b.name != name {
		s.t.Fatalf("got the block %+v, %v, want one named %q", b, ok, name)
	}
	return b
}

// event returns the next unnamed block as an event.
func (s *eventSource) event() (e grouphub.Event) {
	s.t.Helper()
	b := s.expect("")
	if err := json.Unmarshal([]byte(b.data), &e); err != nil {
		s.t.Fatalf("the block %+v is no event: %v", b, err)
	}
	return e
}

// post sends a message to a stream, and returns the status of the answer.
func post(t *testing.T, url, token, seq, text string) int {
	t.Helper()
	r, err := http.NewRequest("POST", url, strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Grouphub-Stream", token)
	}
	if seq != "" {
		r.Header.Set("Grouphub-Seq", seq)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	return answer.StatusCode
}

func newReader(r io.Reader) *bufio.Reader { return bufio.NewReader(r) }
