package postgres

import (
	"context"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/seed-29c60982/grouphub/layer"
)

const (
	// probePeriod is how often a layer sends a notification to itself, over another
	// connection than the one that listens, and probeLimit how long that may take. Together
	// they are less than the 15 s within which a dead subscription is to be noticed.
	probePeriod = 4 * time.Second
	probeLimit  = 8 * time.Second
)

// A session is one connection that listens.
type session struct {
	ctx context.Context
	end context.CancelFunc
}

// listenAlways keeps a session until the layer is closed. It says how the first attempt has
// ended; if that is an error, it is the last one.
func (l *Layer) listenAlways(first chan<- error) {
	backoff := backoffMin
	for l.ctx.Err() == nil {
		begun := time.Now()
		err := l.listenOnce(func() {
			if first != nil {
				first <- nil
				first = nil
			}
		})
		if first != nil {
			first <- err
			return
		}
		if l.ctx.Err() != nil {
			return
		}
		l.logger().Warn("grouphub: postgres: the connection that listens has ended", "error", err)
		if time.Since(begun) > backoffMax {
			backoff = backoffMin
		}
		sleep(l.ctx, backoff/2+mathrand.N(backoff))
		backoff = min(2*backoff, backoffMax)
	}
}

// listenOnce listens until the connection ends. The server, too, ends one that takes nothing
// any more: notifications that somebody has not read are kept for all, and when they fill
// their queue no transaction with a notification can be committed.
func (l *Layer) listenOnce(began func()) error {
	ctx, cancel := context.WithCancel(l.ctx)
	defer cancel()
	conn, err := l.listenConnect(ctx)
	if err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		conn.Close(closing)
	}()
	s := &session{ctx: ctx, end: cancel}
	l.beginSession(s)
	began()
	for {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			l.endSession(s)
			return err
		}
		l.receive(n)
	}
}

func (l *Layer) listenConnect(ctx context.Context) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	config := l.listen.Copy()
	if l.prepare != nil {
		if err := l.prepare(ctx, config); err != nil {
			return nil, err
		}
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	statements := "SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3;" +
		"SET tcp_user_timeout = 10000; SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'idle_session_timeout'; LISTEN " + pgx.Identifier{l.channel}.Sanitize()
	if _, err := conn.PgConn().Exec(ctx, statements).ReadAll(); err != nil {
		conn.Close(ctx)
		return nil, err
	}
	return conn, nil
}

// beginSession notes that notifications arrive from now on, and tells the subscriptions of
// an earlier session what they may have missed.
func (l *Layer) beginSession(s *session) {
	l.mu.Lock()
	l.session = s
	l.sessions++
	close(l.changed)
	l.changed = make(chan struct{})
	for name := range l.takers {
		l.wakeLocked(name)
	}
	lost := make(map[*Subscription][]string)
	if l.sessions > 1 {
		for subscription := range l.subscriptions {
			lost[subscription] = subscription.activeLocked()
		}
	}
	l.mu.Unlock()
	for subscription, topics := range lost {
		subscription.lost(topics)
	}
}

// endSession ends a session if it is the present one; nil is any.
func (l *Layer) endSession(s *session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.session != nil && (s == nil || s == l.session) {
		l.session.end()
		l.session = nil
	}
}

// marker returns a notification that calls fn when it comes, and what forgets it. A session
// that begins before it has come closes the channel: it may have come while nothing listened.
func (l *Layer) marker(fn func()) (j *job, changed <-chan struct{}, forget func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lastMarker++
	n := l.lastMarker
	l.markers[n] = fn
	j = &job{head: fmt.Sprint("m ", l.name, " ", n), result: make(chan error, 1)}
	return j, l.changed, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.markers, n)
	}
}

// roundTrip sends a marker and waits until it has come back. fn is called in the listener's
// goroutine then: what was published before roundTrip was called has been received by then, and
// nothing that is published after it has returned.
func (l *Layer) roundTrip(ctx context.Context, fn func()) error {
	came := make(chan struct{})
	j, changed, forget := l.marker(func() {
		fn()
		close(came)
	})
	defer forget()
	if err := l.do(ctx, "send", "marker", j); err != nil {
		return err
	}
	select {
	case <-came:
		return nil
	case <-changed:
		return errInterrupted
	case <-ctx.Done():
		return ctx.Err()
	case <-l.ctx.Done():
		return layer.ErrClosed
	}
}

var errInterrupted = errors.New("the connection that listens has been replaced")

// probe ends a session over which nothing comes.
func (l *Layer) probe() {
	for sleep(l.ctx, probePeriod) {
		l.mu.Lock()
		s := l.session
		l.mu.Unlock()
		if s == nil {
			continue
		}
		ctx, cancel := context.WithTimeout(s.ctx, probeLimit)
		if err := l.roundTrip(ctx, func() {}); err != nil && s.ctx.Err() == nil {
			l.logger().Warn("grouphub: postgres: no notification arrives", "error", err)
			l.endSession(s)
		}
		cancel()
	}
}

var errNoSense = errors.New("a notification makes no sense")

// receive does what a notification says. It runs in the listener's goroutine alone, so that
// what is delivered keeps the order of commits.
func (l *Layer) receive(n *pgconn.Notification) {
	_, text, _ := strings.Cut(n.Payload, " ") // behind its tag
	kind, text, _ := strings.Cut(text, " ")
	name, rest, _ := strings.Cut(text, " ")
	switch kind {
	case "m":
		if number, err := strconv.ParseUint(rest, 10, 64); err == nil && name == l.name {
			l.mu.Lock()
			fn := l.markers[number]
			delete(l.markers, number)
			l.mu.Unlock()
			if fn != nil {
				fn()
			}
		}
		return
	case "w":
		l.mu.Lock()
		l.wakeLocked(name)
		l.mu.Unlock()
		return
	}
	topic, subscribers := l.subscribers(name)
	if len(subscribers) == 0 {
		return
	}
	p, err := l.publication(topic, kind, rest)
	for _, s := range subscribers {
		if err != nil {
			s.lost([]string{topic})
		} else {
			s.deliver(p)
		}
	}
	if err != nil && l.ctx.Err() == nil {
		l.logger().Warn("grouphub: postgres: a publication could not be read", "topic", topic, "error", err)
	}
}

// publication reads a notification, and the payload that it refers to.
func (l *Layer) publication(topic, kind, rest string) (p layer.Publication, err error) {
	p.Topic = topic
	var encoded string
	switch kind {
	case "p":
		encoded = rest
	case "l":
		return p, l.fetch(&p.Payload, "SELECT payload FROM grouphub_payloads WHERE id = $1", rest)
	case "k", "K":
		fields := strings.SplitN(rest, " ", 4)
		if len(fields) != 4 {
			return p, errNoSense
		}
		p.At.Nonce, p.At.Epoch = fields[0], fields[1]
		if p.At.Number, err = strconv.ParseUint(fields[2], 10, 63); err != nil {
			return p, errNoSense
		}
		if kind == "K" {
			return p, l.fetch(&p.Payload, "SELECT payload FROM grouphub_events WHERE topic = $1 AND number = $2 AND nonce = $3",
				[]byte(topic), int64(p.At.Number), p.At.Nonce)
		}
		encoded = fields[3]
	default:
		return p, errNoSense
	}
	p.Payload, err = encoding.DecodeString(encoded)
	return p, err
}

// fetch reads a payload that did not fit into its notification.
func (l *Layer) fetch(payload *[]byte, query string, args ...any) error {
	ctx, cancel := context.WithTimeout(l.ctx, callTimeout)
	defer cancel()
	return l.pool.QueryRow(ctx, query, args...).Scan(payload)
}

// subscribers returns who is subscribed to a topic, and the topic's name.
func (l *Layer) subscribers(name string) (topicName string, subscribers []*Subscription) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.topics[name]
	if t == nil {
		return "", nil
	}
	for _, m := range t.members {
		if m.active {
			subscribers = append(subscribers, m.subscription)
		}
	}
	return t.name, slices.Clip(subscribers)
}
