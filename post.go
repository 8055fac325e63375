package grouphub

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/seed-29c60982/grouphub/internal/envelope"
)

// The client of an event stream sends its messages by POST, with the stream's token, to the
// path of the stream, on any hub of the layer. A hub that does not have the stream sends the
// message to the one that has, as a command, and waits for its answer.

// The names of headers and URL parameters of a POST. The parameters are for pages of other
// origins that want no preflight.
const (
	tokenHeader, tokenParameter = "Grouphub-Stream", "stream"
	seqHeader, seqParameter     = "Grouphub-Seq", "seq"
)

// A post is a message to an event stream.
type post struct {
	Channel string // of the stream
	Secret  string // of its token
	UserID  []byte // of who sends it; it need not be UTF-8
	Seq     uint64 // 0: none; otherwise that of the last message makes it a repeat
	Binary  bool
	Data    []byte

	Hub string // the name of the hub that waits for the answer
}

// servePost takes a message of an event stream's client.
func (e *endpoint) servePost(w http.ResponseWriter, r *http.Request) {
	h := e.hub
	if err := checkOrigin(r); err != nil {
		h.refuse(w, r, err, http.StatusForbidden)
		return
	}
	allowCrossOrigin(w, r)
	if server, _ := r.Context().Value(http.ServerContextKey).(*http.Server); server != nil && server.ReadTimeout == 0 {
		// A body that does not come would keep its connection for ever. The deadline is the
		// request's: net/http lifts it before the next one.
		http.NewResponseController(w).SetReadDeadline(time.Now().Add(h.options.PongTimeout))
	}
	p, err := readPostHeader(r)
	if err == nil {
		err = h.findStream(r.Context(), &p) // before a stranger's body takes memory
	}
	if err == nil {
		err = h.readPostBody(w, r, &p)
	}
	if err == nil {
		err = h.deliverPost(r.Context(), p)
	}
	switch reject := (*Reject)(nil); {
	case err == nil:
		w.WriteHeader(http.StatusNoContent)
	case r.Context().Err() != nil && !errors.As(err, &reject): // nobody waits for an answer
	case errors.Is(err, ErrUnavailable), errors.Is(err, ErrUncertain), errors.Is(err, ErrClosed):
		w.Header().Set("Retry-After", "1") // second
		h.refuse(w, r, err, http.StatusServiceUnavailable)
	default:
		h.refuse(w, r, err, http.StatusInternalServerError)
	}
}

// readPostHeader reads what comes before the message. Its errors are for the client.
func readPostHeader(r *http.Request) (p post, err error) {
	token, seq := r.Header.Get(tokenHeader), r.Header.Get(seqHeader)
	if r.URL.RawQuery != "" {
		query := r.URL.Query()
		if token == "" {
			token = query.Get(tokenParameter)
		}
		if seq == "" {
			seq = query.Get(seqParameter)
		}
	}
	if token == "" {
		return p, &Reject{http.StatusBadRequest, "a message needs the token of an event stream, in the header " + tokenHeader}
	}
	var ok bool
	if p.Channel, p.Secret, ok = strings.Cut(token, "."); !ok {
		return p, errNoStream
	}
	if seq != "" {
		if p.Seq, err = strconv.ParseUint(seq, 10, 64); err != nil {
			return p, &Reject{http.StatusBadRequest, seqHeader + " is " + quoted(seq) + ", and not a number"}
		}
	}
	user, _ := UserFrom(r.Context())
	p.UserID = []byte(user.ID)
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	p.Binary = kind == "application/octet-stream"
	return p, nil
}

// readPostBody reads the message. Its errors are for the client.
func (h *Hub) readPostBody(w http.ResponseWriter, r *http.Request, p *post) (err error) {
	p.Data, err = io.ReadAll(http.MaxBytesReader(w, r.Body, h.options.MaxMessageSize))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return &Reject{http.StatusRequestEntityTooLarge, fmt.Sprintf("a message of more than %d bytes", tooLarge.Limit)}
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &Reject{http.StatusRequestTimeout, "the message did not arrive in time"}
	case err != nil:
		return &Reject{http.StatusBadRequest, "the message did not arrive whole"}
	case !p.Binary && !utf8.Valid(p.Data):
		return &Reject{http.StatusBadRequest, "the text is not valid UTF-8"}
	}
	return nil
}

var (
	errNoStream    = &Reject{http.StatusGone, "there is no such event stream any more"}
	errOtherSender = &Reject{http.StatusForbidden, "the event stream is somebody else's"}
	errManyPosts   = &Reject{http.StatusTooManyRequests, "the messages before this one are still waiting"}
	errPastPost    = &Reject{http.StatusConflict, "a message with a higher number has come before this one: send one at a time"}
)

// findStream refuses a message for which there certainly is no stream, or not its sender's.
func (h *Hub) findStream(ctx context.Context, p *post) error {
	owner, _, ok := strings.Cut(p.Channel, "!")
	switch {
	case !ok || checkName("post", p.Channel) != nil:
		return errNoStream
	case owner == h.name:
		_, err := h.streamOf(p)
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, layerTimeout)
	defer cancel()
	there, err := h.hubLeases.mayBeThere(ctx, owner)
	if err == nil && !there {
		err = errNoStream
	}
	return err
}

// streamOf returns the connection of this hub that a message is for.
func (h *Hub) streamOf(p *post) (*Conn, error) {
	c := h.conn(p.Channel)
	switch {
	case c == nil || c.stream == nil:
		return nil, errNoStream
	case subtle.ConstantTimeCompare([]byte(p.Secret), []byte(c.stream.secret)) != 1:
		return nil, errOtherSender
	case string(p.UserID) != c.User().ID:
		return nil, errOtherSender
	}
	return c, nil
}

// deliverPost hands a message to the stream's connection, wherever findStream has found that, and
// returns when it is queued there.
func (h *Hub) deliverPost(ctx context.Context, p post) error {
	ctx, cancel := context.WithTimeout(ctx, layerTimeout)
	defer cancel()
	owner, _, _ := strings.Cut(p.Channel, "!")
	if owner == h.name {
		return h.queuePost(ctx, p)
	}
	p.Hub = h.name
	token, answer := rand.Text(), make(chan int, 1)
	h.answers.Store(token, answer)
	defer h.answers.Delete(token)
	body, err := json.Marshal(p)
	if err != nil {
		return err
	}
	command := &envelope.Envelope{Kind: envelope.Post, Name: token, Body: body}
	// It is not kept for a hub that is cut off: the client repeats it if no answer comes.
	if err := h.publish(ctx, hubTopic(owner), command.Encode(), Keep{}); err != nil {
		return err
	}
	select {
	case status := <-answer:
		return statusError(status)
	case <-ctx.Done():
		return fmt.Errorf("grouphub: post: no answer from the hub of the stream: %w: %w", ErrUnavailable, ctx.Err())
	case <-h.life.Done():
		return ErrUnavailable
	}
}

// statusError returns the error that a status of another hub stands for.
func statusError(status int) error {
	for _, err := range []*Reject{errNoStream, errOtherSender, errManyPosts, errPastPost} {
		if err.Status == status {
			return err
		}
	}
	if status == http.StatusNoContent {
		return nil
	}
	return ErrUnavailable
}

// takePost carries out another hub's post command.
func (h *Hub) takePost(env *envelope.Envelope) error {
	var p post
	if err := json.Unmarshal(env.Body, &p); err != nil {
		return fmt.Errorf("post of another hub: %w", err)
	}
	h.goroutines.Go(func() { // it may wait for its turn
		ctx, cancel := context.WithTimeout(h.life, layerTimeout)
		defer cancel()
		status := http.StatusNoContent
		var reject *Reject
		switch err := h.queuePost(ctx, p); {
		case errors.As(err, &reject):
			status = reject.Status
		case err != nil:
			status = http.StatusServiceUnavailable
		}
		answer := &envelope.Envelope{Kind: envelope.Answer, Name: env.Name, Number: status}
		// Without an answer the other hub's client sends the message again.
		_ = h.publish(ctx, hubTopic(p.Hub), answer.Encode(), Keep{})
	})
	return nil
}

// queuePost queues a message for the callbacks of a stream of this hub.
func (h *Hub) queuePost(ctx context.Context, p post) error {
	c, err := h.streamOf(&p)
	if err != nil {
		return err
	}
	if !c.stream.turn.TryLock() { // the client has not waited for the answer to its last message
		return errManyPosts
	}
	defer c.stream.turn.Unlock()
	switch {
	case p.Seq == 0:
	case p.Seq == c.stream.lastSeq:
		return nil // a repeat
	case p.Seq < c.stream.lastSeq:
		return errPastPost // a repeat, or one that was sent before the last had its answer, and is late
	}
	if limiter := c.stream.limiter; limiter != nil {
		if err := limiter.Wait(ctx); err != nil {
			return errManyPosts
		}
	}
	if receive := c.endpoint.consumer.Receive; receive != nil {
		m := Message{Data: p.Data, Binary: p.Binary}
		ok, full := c.strand.TryMessage(len(p.Data), func() {
			c.call("receive", func() error { return receive(c, m) })
		})
		if full {
			return errManyPosts
		} else if !ok {
			return errNoStream
		}
	}
	h.count.received.Add(1)
	if p.Seq != 0 {
		c.stream.lastSeq = p.Seq
	}
	return nil
}

// streamToken returns what a client needs for its messages.
func (c *Conn) streamToken() string { return c.channel + "." + c.stream.secret }

// isPreflight reports whether a browser asks if a page of another origin may send a request.
func isPreflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && r.Header.Get("Origin") != "" && r.Header.Get("Access-Control-Request-Method") != ""
}

// servePreflight answers a preflight.
func (e *endpoint) servePreflight(w http.ResponseWriter, r *http.Request) {
	if err := checkOrigin(r); err != nil {
		e.hub.answerRefused(w, r, err, http.StatusForbidden)
		return
	}
	allowCrossOrigin(w, r)
	header := w.Header()
	header.Set("Access-Control-Allow-Methods", "GET, POST")
	header.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, Last-Event-ID, "+tokenHeader+", "+seqHeader)
	header.Set("Access-Control-Max-Age", "600") // seconds
	w.WriteHeader(http.StatusNoContent)
}
