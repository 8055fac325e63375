package grouphub

import (
	"bytes"
	"crypto/rand"
	"errors"
	"maps"
	mathrand "math/rand/v2"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/seed-29c60982/grouphub/internal/eventstream"
)

const (
	// maxComment is the longest pause between two comments, by which the client and the
	// proxies on the way see that a stream is alive.
	maxComment = 15 * time.Second
	// streamLife is how long a stream lasts before it is closed and goes on in the next one,
	// give or take a tenth: there are proxies that never tell that a client has gone.
	streamLife = time.Hour
)

// A stream is what a Conn has besides where its client gets an event stream.
type stream struct {
	// Static.
	secret  string        // the part of its token that nobody can guess
	cursors bool          // blocks carry a cursor; otherwise the client reads positions in the JSON
	resumes bool          // the request had a Last-Event-ID
	life    *time.Timer   // closes the stream in the end
	limiter *rate.Limiter // of the messages that are posted; nil: no limit

	turn    sync.Mutex // held by the post whose turn it is, while it waits for its rate
	lastSeq uint64     // of the last message; guarded by turn

	mu        sync.Mutex                // may be taken while the Conn's or a shard's is held, never the reverse
	begin     map[groupHash]cursorEntry // where the client wants to resume, from Last-Event-ID
	left      map[groupHash]bool        // groups that it has left since, while places are not whole
	places    streamPlaces
	connected time.Duration  // when Connect returned, as an uptime; 0 until then
	values    map[string]any // of Conn.Set
}

// asksForStream reports whether a request is that of an EventSource, or of another client
// that wants an event stream.
func asksForStream(r *http.Request) bool {
	return r.Method == http.MethodGet && slices.ContainsFunc(r.Header["Accept"], func(accept string) bool {
		return slices.ContainsFunc(strings.Split(accept, ","), wantsStream)
	})
}

// wantsStream reports whether a part of an Accept header names event streams. Whoever takes
// anything does not ask for one.
func wantsStream(accepted string) bool {
	kind, parameters, _ := mime.ParseMediaType(accepted)
	weight, err := strconv.ParseFloat(parameters["q"], 64)
	return kind == "text/event-stream" && (err != nil || weight > 0)
}

// serveStream answers a request with an event stream. Over HTTP/1.1 it returns when Connect
// has, as for a WebSocket; over HTTP/2, where nothing can be hijacked, when the stream ends.
func (e *endpoint) serveStream(w http.ResponseWriter, r *http.Request) {
	h := e.hub
	if eventstream.IsFinalID(lastEventID(r)) {
		h.answerRefused(w, r, errClosedForGood, 0)
		return
	}
	if !canHijack(w) && !canFlush(w) { // asked before Accept, as in checkHandshake
		h.cannotStream(w, r, errCannotStream)
		return
	}
	ctx := r.Context() // ends when the client has gone, which the connection's does not
	c, r := e.admit(w, r)
	if c == nil {
		return
	}
	c.stream = newStream(c, r)
	conn, relay, err := takeResponse(ctx, w, r.ProtoMajor)
	if err != nil {
		h.release(c)
		h.cannotStream(w, r, err)
		return
	}
	var head []byte
	if relay == nil { // otherwise net/http writes it
		head = newStreamHead(w.Header())
	}
	head = eventstream.AppendOpen(head, c.streamToken())
	c.outbox.InitStream(conn, h.streamLimitsFor(r.URL), (*connOwner)(c), head)
	h.register(c)
	h.streams.Add(1)
	c.connected = c.outbox.Code() == 0 // otherwise Shutdown has closed it
	h.count.accepted.Add(1)
	c.stream.life = time.AfterFunc(streamLife*9/10+mathrand.N(streamLife/5), func() {
		c.outbox.CloseWith(closeServiceRestart, "the stream goes on in the next one")
	})
	h.goroutines.Go(c.waitForStreamEnd)
	if relay == nil {
		c.connect()
		return
	}
	connected := make(chan struct{})
	h.callbacks.Go(func() {
		defer close(connected)
		c.connect()
	})
	relay.run()
	<-connected // what belongs to the request is alive in Connect
}

// errClosedForGood ends an EventSource.
var errClosedForGood = &Reject{http.StatusGone, "the stream was closed for good"}

var errCannotStream = errors.New("the server, or a middleware, can neither hijack nor flush")

// cannotStream answers a request for which the server, or a middleware, lacks something.
func (h *Hub) cannotStream(w http.ResponseWriter, r *http.Request, err error) {
	h.count.rejected.Add(1)
	h.logger().Error("grouphub: event stream", "error", err)
	h.answer(w, r, http.StatusInternalServerError, "this server cannot stream", err)
}

// waitForStreamEnd returns when the stream has ended. A client that says anything at all on
// the connection of its stream is none, and is cut off.
func (c *Conn) waitForStreamEnd() {
	defer c.hub.release(c)
	defer c.hub.streams.Add(-1)
	defer c.stream.life.Stop()
	n, _ := c.outbox.Read(make([]byte, 1)) // an error, or the client's end
	if n > 0 {
		c.outbox.Kill()
	}
	c.outbox.Close() // unless this side has closed: then Linger does
	c.end()
	c.outbox.Linger(false)
}

func newStream(c *Conn, r *http.Request) *stream {
	s := &stream{secret: rand.Text(), cursors: c.resume == nil, places: streamPlaces{whole: true}}
	if limit := c.hub.options.ReceiveRate; limit > 0 {
		s.limiter = rate.NewLimiter(rate.Limit(limit), c.hub.options.ReceiveBurst)
	}
	if id := lastEventID(r); id != "" {
		s.resumes = true
		s.begin, s.places.whole = parseCursor(id)
		// A cursor has all groups from the start, or a stream that is cut while Connect still
		// joins them would lose some.
		s.places.pending = slices.Collect(maps.Values(s.begin))
	}
	return s
}

// set and get are those of the Conn.
func (s *stream) set(key string, value any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.values == nil {
		s.values = make(map[string]any)
	}
	s.values[key] = value
}

func (s *stream) get(key string) (any, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	value, ok := s.values[key]
	return value, ok
}

// lastEventID returns what a client that comes back had last. A page that has to make a new
// EventSource can't set the header, so there is a parameter, too.
func lastEventID(r *http.Request) string {
	if id := r.Header.Get("Last-Event-ID"); id != "" {
		return id
	}
	if r.URL.RawQuery == "" {
		return ""
	}
	return r.URL.Query().Get("lastEventId")
}

// notForStreams are the headers that middleware may have set and that are not true of an
// event stream, or not of one whose head is written here.
var notForStreams = []string{"Accept-Ranges", "Cache-Control", "Connection", "Content-Encoding", "Content-Length",
	"Content-Type", "Date", "Etag", "Keep-Alive", "Last-Modified", "Trailer", "Transfer-Encoding", "Upgrade",
	"X-Accel-Buffering"}

// streamHeader sets the header of an event stream. What middleware has set stays, but for
// framing and encoding.
func streamHeader(header http.Header) {
	maps.DeleteFunc(header, func(name string, _ []string) bool { // however the name is written
		return slices.Contains(notForStreams, http.CanonicalHeaderKey(name))
	})
	header.Set("Content-Type", "text/event-stream")
	header.Set("Cache-Control", "no-cache, no-store, no-transform")
	header.Set("X-Accel-Buffering", "no") // or nginx delivers nothing
}

// newStreamHead returns the head of a response that has neither a length nor chunks, so that
// all members of a group can be given the same bytes.
func newStreamHead(header http.Header) []byte {
	streamHeader(header)
	var head bytes.Buffer // writing to which does not fail
	head.WriteString("HTTP/1.1 200 OK\r\nConnection: close\r\nDate: ")
	head.WriteString(time.Now().UTC().Format(http.TimeFormat))
	head.WriteString("\r\n")
	header.Write(&head)
	head.WriteString("\r\n")
	return head.Bytes()
}
