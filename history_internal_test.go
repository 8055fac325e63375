package grouphub

import (
	"context"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-29c60982/grouphub/internal/envelope"
	"github.com/seed-29c60982/grouphub/internal/leak"
	"github.com/seed-29c60982/grouphub/internal/sequence"
)

// A quietGroup is a hub whose connections join g themselves when the test says so.
type quietGroup struct {
	*Hub
	t     *testing.T
	url   string
	conns chan *Conn
}

func newQuietGroup(t *testing.T) *quietGroup {
	q := &quietGroup{t: t, conns: make(chan *Conn, 1)}
	q.Hub = New(&Options{Compression: true, Policy: func(string) GroupPolicy { return GroupPolicy{History: 10} },
		Consumer: Consumer{
			Connect: func(c *Conn) error { q.conns <- c; return nil },
			Events:  Events{"n": Forward()},
		}})
	s := httptest.NewServer(q.Hub)
	q.url = "ws" + strings.TrimPrefix(s.URL, "http")
	t.Cleanup(func() {
		q.Shutdown(context.Background())
		s.Close()
	})
	return q
}

func (q *quietGroup) dial(compressed bool) (*websocket.Conn, *Conn) {
	q.t.Helper()
	client, _, err := (&websocket.Dialer{EnableCompression: compressed}).Dial(q.url, nil)
	if err != nil {
		q.t.Fatal(err)
	}
	q.t.Cleanup(func() { client.Close() })
	return client, <-q.conns
}

// join begins a Join that asks for the last event, and returns when that has read it and waits
// for somebody with the connection's lock.
func (q *quietGroup) join(c *Conn) (joined <-chan error) {
	done := make(chan error, 1)
	go func() { done <- c.Join("g", Last(1)) }()
	waits := func(stack string) bool {
		return strings.Contains(stack, "(*Conn).pushPiece") && strings.Contains(stack, "[sync.Mutex.Lock")
	}
	for !slices.ContainsFunc(leak.Others(), waits) {
		time.Sleep(time.Millisecond)
	}
	return done
}

// send sends an event, and fails if that does not end.
func (q *quietGroup) send(n int) {
	q.t.Helper()
	sent := make(chan error, 1)
	go func() { sent <- q.GroupSend(context.Background(), "g", "n", n) }()
	select {
	case err := <-sent:
		if err != nil {
			q.t.Fatal(err)
		}
	case <-time.After(20 * time.Second):
		q.t.Fatal("the event waits")
	}
}

// receive expects an event.
func (q *quietGroup) receive(client *websocket.Conn, n int) {
	q.t.Helper()
	client.SetReadDeadline(time.Now().Add(20 * time.Second))
	var e Event
	if err := client.ReadJSON(&e); err != nil || string(e.Data) != strconv.Itoa(n) {
		q.t.Fatalf("got %+v, %v, want %d", e, err, n)
	}
}

func TestEventsDoNotWaitForAReplayThatIsComposed(t *testing.T) {
	q := newQuietGroup(t)
	first, member := q.dial(false)
	if err := member.Join("g"); err != nil {
		t.Fatal(err)
	}
	q.send(1)
	q.receive(first, 1)
	// Whoever composes the event for a compressed connection waits for this.
	kept := q.group("g").sequence.Next(&sequence.Replay{Last: 1}, replayPiece, pieceSize).Values[0]
	composing, proceed := make(chan struct{}), make(chan struct{})
	go kept.forward.Frame(true, func() []byte {
		close(composing)
		<-proceed
		return kept.env.Text(kept.id)
	})
	<-composing
	second, newcomer := q.dial(true)
	joined := q.join(newcomer)
	for n := 2; n <= 20; n++ {
		q.send(n)
		q.receive(first, n)
	}
	close(proceed)
	if err := <-joined; err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= 20; n++ { // what came meanwhile was held back
		q.receive(second, n)
	}
	q.send(21)
	q.receive(first, 21)
	q.receive(second, 21)
}

func TestEventsDoNotWaitForAJoinThatWaitsForTheMembers(t *testing.T) {
	q := newQuietGroup(t)
	first, member := q.dial(false)
	if err := member.Join("g"); err != nil {
		t.Fatal(err)
	}
	q.send(1)
	q.receive(first, 1)
	second, newcomer := q.dial(false)
	shard := &q.group("g").first
	shard.lock() // as while a batch is pushed to many
	joined := q.join(newcomer)
	for n := 2; n <= 20; n++ {
		q.send(n)
	}
	shard.mu.Unlock()
	if err := <-joined; err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= 20; n++ {
		if n > 1 {
			q.receive(first, n)
		}
		q.receive(second, n)
	}
}

func TestAMemberThatLeavesWhileItsEventsAreHeldBackGetsNone(t *testing.T) {
	q := newQuietGroup(t)
	_, c := q.dial(false)
	g := q.acquireGroup("g")
	defer q.releaseGroup(g)
	m := &membership{group: g}
	g.add(c, m, liveSoon)
	for n := range 3 {
		d := &delivery{hub: q.Hub, group: g, env: &envelope.Envelope{Kind: envelope.Event, Name: "n", Body: []byte("{}")}}
		g.send(d)
		for g.queued.Load() > 0 { // the shard holds it
			time.Sleep(time.Millisecond)
		}
		m.shard.lock()
		if len(m.held) != n+1 {
			t.Errorf("%d events are held back, want %d", len(m.held), n+1)
		}
		m.shard.mu.Unlock()
	}
	m.shard.remove(m)
	if m.held != nil || g.size() != 0 {
		t.Errorf("%d events are held back for one of %d members", len(m.held), g.size())
	}
}
