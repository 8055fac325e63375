package hubtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-29c60982/grouphub"
)

// maxUnsent is how many messages a server may leave unread before Send fails.
const maxUnsent = 10_000

// A Client is a connection to the handler under test, by a WebSocket or an event stream. It reads all the time, so
// that the server never waits for the test, and stores what it has read, in order, for
// Next and the Expect methods. A hub can still be faster than it is, as with any client:
// if the hub sends more than Options.MaxPending bytes at once, it may close the connection
// with 1013.
type Client struct {
	// Static after construction.
	t        testing.TB
	path     string
	conn     conn
	outgoing chan outgoing  // read by write, so that Send does not wait for the server
	ended    chan struct{}  // closed by read when the connection has ended
	running  sync.WaitGroup // the goroutines of read and write

	mu       sync.Mutex
	received []grouphub.Message
	err      error         // how the connection ended; set before ended is closed
	changed  chan struct{} // closed and replaced when received grows
	closing  bool          // Close was called
}

// An outgoing message is a data frame, or the close frame.
type outgoing struct {
	opcode int
	data   []byte
}

func newClient(t testing.TB, path string, conn conn) *Client {
	c := &Client{
		t: t, path: path, conn: conn,
		outgoing: make(chan outgoing, maxUnsent), ended: make(chan struct{}), changed: make(chan struct{}),
	}
	c.running.Go(c.read)
	c.running.Go(c.write)
	return c
}

// read stores messages until the connection ends.
func (c *Client) read() {
	defer close(c.ended)
	defer c.conn.Close() // so that write, if it is blocked, returns
	for {
		opcode, data, err := c.conn.ReadMessage()
		c.mu.Lock()
		if err != nil {
			c.err = err
			c.mu.Unlock()
			return
		}
		c.received = append(c.received, grouphub.Message{Data: data, Binary: opcode == websocket.BinaryMessage})
		close(c.changed)
		c.changed = make(chan struct{})
		c.mu.Unlock()
	}
}

// write writes what Send and Close hand to it, until the connection ends.
func (c *Client) write() {
	for {
		select {
		case m := <-c.outgoing:
			if c.conn.WriteMessage(m.opcode, m.data) != nil {
				return // read gets an error too, and reports it
			}
		case <-c.ended:
			return
		}
	}
}

// Send sends v: a string as a text message, a []byte as a binary one, and anything
// else as JSON in a text message. It does not wait until the server has read it.
func (c *Client) Send(v any) {
	c.t.Helper()
	m := outgoing{opcode: websocket.TextMessage}
	switch v := v.(type) {
	case string:
		m.data = []byte(v)
	case []byte:
		m = outgoing{websocket.BinaryMessage, bytes.Clone(v)}
	default:
		var err error
		if m.data, err = json.Marshal(v); err != nil {
			c.fatalf("Send(%T): %v", v, err)
		}
	}
	select {
	case <-c.ended:
		c.fatalf("Send(%s): %s", quote(m.data), c.end())
	default:
	}
	select {
	case c.outgoing <- m:
	default:
		c.fatalf("Send(%s): the server has not read the %d messages before it", quote(m.data), maxUnsent)
	}
}

// Next waits for the next message.
func (c *Client) Next() grouphub.Message {
	c.t.Helper()
	return c.must("Next", timeout)
}

// Expect waits for the next message, which must be v. A string is compared with a
// text message, and a []byte with a message of either kind, byte for byte. Anything
// else is compared as JSON: the order of keys and white space mean nothing.
func (c *Client) Expect(v any) {
	c.t.Helper()
	m := c.must(fmt.Sprintf("Expect(%s)", describe(v)), timeout)
	switch want := v.(type) {
	case []byte:
		if !bytes.Equal(m.Data, want) {
			c.fatalf("Expect: got %s, want %s", show(m), quote(want))
		}
	case string:
		if m.Binary || string(m.Data) != want {
			c.fatalf("Expect: got %s, want text %s", show(m), quote([]byte(want)))
		}
	default:
		marshalled, err := json.Marshal(v)
		if err != nil {
			c.fatalf("Expect(%T): %v", v, err)
		}
		got, err := decode(m.Data)
		if m.Binary || err != nil {
			c.fatalf("Expect: got %s, want JSON %s", show(m), quote(marshalled))
		}
		decoded, err := decode(marshalled)
		if err != nil {
			c.fatalf("Expect(%T): %v", v, err)
		}
		if lines := differences("$", got, decoded); len(lines) > 0 {
			c.fatalf("Expect: got %s, want %s\n%s", show(m), quote(marshalled), strings.Join(lines[:min(len(lines), 10)], "\n"))
		}
	}
}

// ExpectEvent waits for the next message, which must be an event of the given type,
// as Forward sends it: a text message with a JSON object whose "type" it is.
func (c *Client) ExpectEvent(event string) grouphub.Event {
	c.t.Helper()
	m := c.must(fmt.Sprintf("ExpectEvent(%q)", event), timeout)
	var e grouphub.Event
	if err := json.Unmarshal(m.Data, &e); m.Binary || err != nil || e.Type != event {
		c.fatalf("ExpectEvent(%q): got %s", event, show(m))
	}
	return e
}

// SkipTo waits for the next event of the given type, as Forward sends it, and skips whatever
// comes before it.
func (c *Client) SkipTo(event string) grouphub.Event {
	c.t.Helper()
	deadline := time.Now().Add(timeout)
	for skipped := 0; ; skipped++ {
		m, err := c.next(time.Until(deadline))
		if err == nil && time.Now().After(deadline) {
			err = errTimeout
		}
		if err != nil {
			c.fatalf("SkipTo(%q): %v, after %d other messages", event, err, skipped)
		}
		var e grouphub.Event
		if json.Unmarshal(m.Data, &e) == nil && !m.Binary && e.Type == event {
			return e
		}
	}
}

// ExpectNone makes sure that for as long as d no message comes and the connection stays
// open. It takes all of d, except in a synctest bubble, so wait for something else where
// you can.
func (c *Client) ExpectNone(d time.Duration) {
	c.t.Helper()
	switch m, err := c.next(d); {
	case err == nil:
		c.fatalf("ExpectNone(%v): got %s", d, show(m))
	case !errors.Is(err, errTimeout):
		c.fatalf("ExpectNone(%v): %v", d, err)
	}
}

// ExpectClose waits until the server closes the connection, which must be with the given
// code: 1005 stands for a close frame without a code, and 1006 for a connection that was
// cut without a close frame. The test fails if a message came before the close that no
// call has returned yet.
func (c *Client) ExpectClose(code int) {
	c.t.Helper()
	m, err := c.next(timeout)
	if err == nil {
		c.fatalf("ExpectClose(%d): got %s", code, show(m))
	}
	var closed *websocket.CloseError
	if !errors.As(err, &closed) || closed.Code != code {
		c.fatalf("ExpectClose(%d): %v", code, err)
	}
}

// Close closes the connection with code 1000, after everything that was sent before, and
// returns when the server has answered the close. What the consumer does after that, such
// as Disconnect, may take longer. A second Close does nothing.
func (c *Client) Close() {
	c.mu.Lock()
	first := !c.closing
	c.closing = true
	c.mu.Unlock()
	if first {
		select {
		case c.outgoing <- outgoing{websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")}:
		default:
		}
	}
	select {
	case <-c.ended:
	case <-time.After(timeout):
		c.conn.Close()
	}
	c.running.Wait()
}

var errTimeout = errors.New("nothing came")

// next waits up to d for a message. An error other than errTimeout says how the connection
// ended, and comes after the last message.
func (c *Client) next(d time.Duration) (grouphub.Message, error) {
	expired := time.NewTimer(d)
	defer expired.Stop()
	for last := false; ; {
		c.mu.Lock()
		if len(c.received) > 0 {
			m := c.received[0]
			c.received = c.received[1:]
			c.mu.Unlock()
			return m, nil
		}
		changed, err := c.changed, c.err
		c.mu.Unlock()
		switch {
		case err != nil:
			return grouphub.Message{}, c.end()
		case last:
			return grouphub.Message{}, fmt.Errorf("%w for %v", errTimeout, d)
		}
		select {
		case <-changed:
		case <-c.ended:
		case <-expired.C:
			last = true
		}
	}
}

// must returns the next message, and fails the test if none comes.
func (c *Client) must(operation string, d time.Duration) grouphub.Message {
	c.t.Helper()
	m, err := c.next(d)
	if err != nil {
		c.fatalf("%s: %v", operation, err)
	}
	return m
}

// end returns an error that says how the connection ended.
func (c *Client) end() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var closed *websocket.CloseError
	switch {
	case c.closing:
		return fmt.Errorf("the connection was closed by this client: %w", c.err)
	case !errors.As(c.err, &closed):
		return fmt.Errorf("the connection broke: %w", c.err)
	case closed.Code == websocket.CloseAbnormalClosure:
		return fmt.Errorf("the connection was cut without a close frame: %w", c.err)
	}
	return fmt.Errorf("the connection was closed: %w", c.err)
}

// fatalf fails the test with the path of the connection.
func (c *Client) fatalf(format string, args ...any) {
	c.t.Helper()
	c.t.Fatalf("hubtest: %s: %s", c.path, fmt.Sprintf(format, args...))
}

// show describes a message in one line.
func show(m grouphub.Message) string {
	if m.Binary {
		return "binary " + quote(m.Data)
	}
	return "text " + quote(m.Data)
}

// describe describes in one line what a test expects.
func describe(v any) string {
	switch v := v.(type) {
	case []byte:
		return quote(v)
	case string:
		return quote([]byte(v))
	}
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprintf("%T", v)
	}
	return quote(data)
}

// quote returns data in quotes, cut short, so that a failure stays readable.
func quote(data []byte) string {
	const most = 500
	if len(data) > most {
		return fmt.Sprintf("%#q… (%d bytes)", data[:most], len(data))
	}
	return fmt.Sprintf("%#q", data)
}

// compact returns the JSON of a decoded value, cut short.
func compact(v any) string {
	const most = 100
	data, _ := json.Marshal(v) // a value that was decoded can be encoded
	if len(data) > most {
		return fmt.Sprintf("%s… (%d bytes)", data[:most], len(data))
	}
	return string(data)
}

// decode decodes exactly one JSON value. Numbers stay as they are written, because a
// float64 would make different ones equal.
func decode(data []byte) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("more than one JSON value")
	}
	return v, nil
}

// differences compares two decoded JSON values, and returns a line for each place
// where they differ.
func differences(path string, got, want any) (lines []string) {
	switch w := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			break
		}
		keys := maps.Clone(w)
		maps.Copy(keys, g)
		for _, key := range slices.Sorted(maps.Keys(keys)) {
			at := path + "." + key
			gv, inGot := g[key]
			wv, inWant := w[key]
			switch {
			case !inGot:
				lines = append(lines, fmt.Sprintf("\t%s: missing, want %s", at, compact(wv)))
			case !inWant:
				lines = append(lines, fmt.Sprintf("\t%s: got %s, want none", at, compact(gv)))
			default:
				lines = append(lines, differences(at, gv, wv)...)
			}
		}
		return lines
	case []any:
		g, ok := got.([]any)
		if !ok || len(g) != len(w) {
			break
		}
		for i := range w {
			lines = append(lines, differences(fmt.Sprintf("%s[%d]", path, i), g[i], w[i])...)
		}
		return lines
	}
	if !reflect.DeepEqual(got, want) {
		lines = append(lines, fmt.Sprintf("\t%s: got %s, want %s", path, compact(got), compact(want)))
	}
	return lines
}
