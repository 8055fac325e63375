package grouphub

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"github.com/olahol/melody"

	"github.com/seed-29c60982/grouphub/internal/outbox"
)

// An endpoint serves one consumer: the http.Handler that Hub.Handler returns. Its
// melody.Melody upgrades, and keeps each connection's session, its keys, and its closing;
// what is written goes through the connection's outbox.
type endpoint struct {
	hub       *Hub
	consumer  Consumer
	melody    *melody.Melody
	callsBack bool // the consumer has a Handle or a Resync, for which frames may have to wait: see order.go
	renders   bool // the consumer has a Render

	conditions bool // the consumer has an If
}

func newEndpoint(h *Hub, consumer Consumer) *endpoint {
	e := &endpoint{hub: h, consumer: consumer, melody: melody.New(), callsBack: consumer.Resync != nil}
	for _, handler := range consumer.Events {
		e.callsBack = e.callsBack || handler.kind == handlerHandle
		e.renders = e.renders || handler.kind == handlerRender
		e.conditions = e.conditions || handler.condition != nil
	}
	m := e.melody
	m.Config.MessageBufferSize = 0 // nothing is sent through melody's queue
	m.Upgrader.EnableCompression = h.options.Compression
	// The buffer is small, because every idle connection keeps one. The rest of a message
	// that is larger takes another read.
	m.Upgrader.ReadBufferSize = 128
	// Without a pool every connection would keep a write buffer. gorilla writes nothing but
	// control frames here, for which it has a buffer on the stack.
	m.Upgrader.WriteBufferPool = new(sync.Pool)
	m.Upgrader.Error = h.refuseHandshake
	// Both functions run on the connection's goroutine. When c.read has returned, melody reads
	// once more, fails too, and ends the session.
	m.HandleConnect(func(s *melody.Session) {
		c := connOf(s)
		c.session = s // before others learn of the connection
		h.register(c)
		c.connected = c.outbox.Code() == 0 // otherwise Shutdown has closed it
		s.Request = c.request.request      // in place of a changed one, which would stay in memory
		c.upgraded.Done()
		c.read(s.WebsocketConnection())
	})
	m.HandleDisconnect(func(s *melody.Session) { connOf(s).end() })
	return e
}

// connContext is a connection's context, by which a melody session knows its Conn.
type connContext struct {
	context.Context
	conn *Conn
}

// Value implements [context.Context]. The user is the connection's own: what is behind the
// context may be somebody else's, once the request is over.
func (c *connContext) Value(key any) any {
	if key != (userKey{}) {
		return c.Context.Value(key)
	}
	user := c.conn.user.current.Load()
	if user == &nobody {
		return nil
	}
	return user.User
}

func connOf(s *melody.Session) *Conn { return s.Request.Context().(*connContext).conn }

// ServeHTTP serves the consumer by a WebSocket or an event stream, whichever the client
// asks for, and takes the messages that clients of streams send.
func (e *endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case websocket.IsWebSocketUpgrade(r) && r.ProtoMajor == 1 && r.ProtoMinor >= 1:
		e.serveWebSocket(w, r)
	case asksForStream(r):
		e.serveStream(w, r)
	case r.Method == http.MethodPost:
		e.servePost(w, r)
	case isPreflight(r):
		e.servePreflight(w, r)
	default:
		e.servePlain(w, r)
	}
}

// servePlain answers a request that can be given nothing. A page is not told why its
// WebSocket was refused, and asks for the same URL once more, so that a GET is refused for
// the same reasons.
func (e *endpoint) servePlain(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet {
		c, _ := e.admit(w, r)
		if c == nil {
			return
		}
		c.cancel()
		e.hub.release(nil)
	}
	if r.ProtoMajor == 1 { // in HTTP/2 these make a response malformed
		w.Header().Set("Upgrade", "websocket")
		w.Header().Set("Connection", "Upgrade")
	}
	e.hub.answerRefused(w, r, &Reject{http.StatusUpgradeRequired,
		"connect with a WebSocket client, or with one that accepts text/event-stream"}, 0)
}

// serveWebSocket upgrades the request and returns when Connect has. The connection lives
// on in a goroutine of its own, so that net/http lets go of its buffers and what
// middleware does at a request's end is done.
func (e *endpoint) serveWebSocket(w http.ResponseWriter, r *http.Request) {
	h := e.hub
	if status, reason := checkHandshake(w, r); reason != nil {
		h.count.rejected.Add(1)
		h.refuseHandshake(w, r, status, reason)
		return
	}
	protocol := e.subprotocol(r)
	c, r := e.admit(w, r)
	if c == nil {
		return
	}
	e.answerSubprotocol(w.Header(), protocol)
	h.goroutines.goDeep(func() { c.serve(w, r) })
	// Upgrade may answer with an error of its own, so the handler waits for it.
	c.upgraded.Wait()
	if c.session == nil {
		h.count.rejected.Add(1)
		return
	}
	h.count.accepted.Add(1)
	c.connect()
}

// refuseHandshake answers an upgrade that cannot be granted. It implements gorilla's
// Upgrader.Error.
func (h *Hub) refuseHandshake(w http.ResponseWriter, r *http.Request, status int, reason error) {
	text := strings.TrimPrefix(reason.Error(), "websocket: ")
	if status < 500 { // the client's fault, and no error of this side's
		reason = &Reject{status, text}
	}
	logRefusal(h.logger(), r, reason)
	w.Header().Set("Sec-WebSocket-Version", "13")
	h.answer(w, r, status, text, reason)
}

// admit checks a request, and returns its connection, which has a seat of the hub, and its
// request. The connection is nil if the request was refused.
func (e *endpoint) admit(w http.ResponseWriter, r *http.Request) (*Conn, *http.Request) {
	h := e.hub
	if err := checkOrigin(r); err != nil {
		h.refuse(w, r, err, http.StatusForbidden)
		return nil, nil
	}
	allowCrossOrigin(w, r)
	resume := parseResume(r.URL.RawQuery)
	if resume.overflow {
		r = withoutParameter(r, "resume")
	}
	if err := checkRequestSize(r); err != nil {
		h.refuse(w, r, err, http.StatusRequestHeaderFieldsTooLarge)
		return nil, nil
	}
	if err := h.admit(); err != nil {
		w.Header().Set("Retry-After", "5") // seconds
		h.refuse(w, r, err, http.StatusServiceUnavailable)
		return nil, nil
	}
	if err := e.accept(r); err != nil {
		h.release(nil)
		h.refuse(w, r, err, http.StatusForbidden)
		return nil, nil
	}
	return e.newConn(r, resume)
}

// accept asks the consumer.
func (e *endpoint) accept(r *http.Request) (err error) {
	if e.consumer.Accept == nil {
		return nil
	}
	returned := false
	defer func() {
		if p := recover(); p != nil {
			e.hub.logPanic(p, "accept", "")
			err = &Reject{Status: http.StatusInternalServerError}
		} else if !returned { // by runtime.Goexit, which ends the handler's goroutine here
			e.hub.release(nil)
		}
	}()
	err = e.consumer.Accept(r)
	returned = true
	if err == nil && e.hub.alive() != nil { // Shutdown has given up waiting for Accept
		err = &Reject{http.StatusServiceUnavailable, "the server is shutting down"}
	}
	return err
}

// newConn returns a connection that is about to be upgraded, and its request.
func (e *endpoint) newConn(r *http.Request, resume resumeRequest) (*Conn, *http.Request) {
	h := e.hub
	c := &Conn{
		hub:      h,
		endpoint: e,
		channel:  string(strconv.AppendUint([]byte(h.name+"!"), h.lastConn.Add(1), 36)),
	}
	c.upgraded.Add(1)
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	c.ctx, c.cancel = &connContext{ctx, c}, cancel
	r = r.WithContext(c.ctx)
	r.Body = http.NoBody
	r.Header = withoutBearerProtocol(r.Header)
	c.request.keep(r)
	// The user is read now, because what is behind the context may end with the request.
	c.user.current.Store(&nobody)
	if user, ok := UserFrom(ctx); ok {
		info, err := marshalInfo(user)
		if err != nil {
			h.logger().Error("grouphub: user without info", "user", user.ID, "error", err)
		}
		c.user.current.Store(&knownUser{user, info, uptime()})
	}
	c.resume, c.wantsPositions = resume.ids, resume.ids != nil
	c.strand.Init((*connOwner)(c))
	return c, r
}

// serve upgrades the connection and reads from it until it ends.
func (c *Conn) serve(w http.ResponseWriter, r *http.Request) {
	defer func() {
		if c.session == nil {
			c.upgraded.Done()
		}
	}()
	defer c.hub.release(c)
	defer func() {
		// net/http recovers panics of handlers only.
		if p := recover(); p != nil {
			c.hub.logPanic(p, "connection", c.channel)
			if c.hijacked {
				c.outbox.Kill()
			}
			if c.session != nil {
				c.finish()
			}
		}
	}()
	// The error needs no answer: Upgrader.Error has given and logged one, or the client is gone.
	_ = c.endpoint.melody.HandleRequest(&upgradeWriter{w, c, c.hub.limitsFor(r.URL)}, forUpgrader(r))
	if c.hijacked {
		c.outbox.Linger(c.peerCode.Load() != 0)
	}
}

// An upgradeWriter gives melody the hijacked connection wrapped in its outbox.
type upgradeWriter struct {
	http.ResponseWriter
	conn   *Conn
	limits *outbox.Limits
}

// Hijack implements http.Hijacker, which gorilla asserts, by way of the
// ResponseController, which sees through middleware that only unwraps.
func (w *upgradeWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c := w.conn
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errCannotHijack, err)
	}
	c.outbox.Init(conn, w.limits, (*connOwner)(c))
	c.hijacked = true
	// The server's deadlines were for the request, and must not end the connection.
	conn.SetDeadline(time.Time{})
	return &c.outbox, rw, nil
}
