package model_test

import (
	"context"
	"errors"
	"fmt"

	"log/slog"
	"maps"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/internal/leak"
	"github.com/seed-29c60982/grouphub/layer"
)

var quiet = slog.New(slog.DiscardHandler)

func TestMain(m *testing.M) { leak.Check(m) }

const (
	hubs     = 3
	keys     = 8 // of each group, with a writer each
	pending  = 64 << 10
	patience = 60 * time.Second
)

// groups are those of the model: their names say what is kept of them.
var groups = []string{"plain", "kept", "long"}

// history is how many events of a group are kept.
var history = map[string]int{"kept": 10, "long": 1000}

// A database has a version of each key of each group.
type database struct {
	mu     sync.Mutex
	dice   *dice
	groups map[string]map[string]int
	faults atomic.Bool // loads are slow, and fail
	loads  atomic.Int64
}

func newDatabase(dice *dice) *database {
	d := &database{dice: dice, groups: make(map[string]map[string]int)}
	for _, group := range groups {
		d.groups[group] = make(map[string]int)
	}
	return d
}

func (d *database) set(group, key string, version int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.groups[group][key] = version
}

func (d *database) read(group string) map[string]int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.groups[group])
}

// load is a GroupPolicy.Snapshot.
func (d *database) load(ctx context.Context, group string) (any, error) {
	d.loads.Add(1)
	if d.faults.Load() {
		pause := func() { d.dice.pause(20 * time.Millisecond) }
		pause()
		state := d.read(group)
		defer pause()
		switch d.dice.below(20) {
		case 0:
			return nil, errors.New("no database")
		case 1:
			panic("a bug")
		}
		return state, nil
	}
	return d.read(group), nil
}

// A change is what an event says.
type change struct {
	Key     string `json:"key"`
	Version int    `json:"version"`
	Padding string `json:"padding,omitempty"`
}

// A site is a hub behind a server that is there for as long as the hub is.
type site struct {
	hub    *grouphub.Hub
	server *httptest.Server
}

// A world has hubs, a database, and writers and clients that use them.
type world struct {
	t     *testing.T
	db    *database
	dice  *dice
	layer func(hub int) grouphub.Layer // for a new hub; the world closes it if it is a Redis layer
	ofHub [hubs]*atomic.Pointer[site]

	calm       atomic.Bool // no faults, no cuts
	violations atomic.Int64
}

func newWorld(t *testing.T, layer func(hub int) grouphub.Layer) *world {
	dice := newDice()
	t.Logf("-model.seed %d", dice.seed)
	w := &world{t: t, db: newDatabase(dice), dice: dice, layer: layer}
	for i := range w.ofHub {
		w.ofHub[i] = new(atomic.Pointer[site])
		w.ofHub[i].Store(w.open(i))
	}
	t.Cleanup(func() {
		for i := range w.ofHub {
			w.close(w.ofHub[i].Load())
		}
	})
	return w
}

func (w *world) violation(format string, args ...any) {
	if w.violations.Add(1) <= 10 {
		w.t.Errorf(format, args...)
	}
}

func (w *world) open(i int) *site {
	hub := grouphub.New(&grouphub.Options{
		Layer: w.layer(i), MaxPending: pending, CloseTimeout: 100 * time.Millisecond, WriteTimeout: time.Second,
		Logger: quiet,
		Policy: func(group string) grouphub.GroupPolicy {
			return grouphub.GroupPolicy{History: history[group], Snapshot: w.db.load}
		},
	})
	text := func(e grouphub.Event) ([]byte, error) { // without the id
		return fmt.Appendf(nil, `{"type":%q,"group":%q,"data":%s}`, e.Type, e.Group, e.Data), nil
	}
	send := grouphub.Handle(func(c *grouphub.Conn, e grouphub.Event) error {
		if !w.calm.Load() && w.dice.below(100) == 0 {
			w.dice.pause(50 * time.Millisecond)
		}
		data, err := text(e)
		if err != nil {
			return err
		}
		return c.Send(data)
	})
	mux := map[string]grouphub.Events{
		"forward": {"*": grouphub.Forward()},
		"render":  {"*": grouphub.Render(text)},
		"handle":  {"*": send},
		"mixed":   {"snapshot": send, "set": grouphub.Forward()},
		"turned":  {"snapshot": grouphub.Forward(), "set": send},
	}
	server := httptest.NewServer(route(hub, mux))
	return &site{hub, server}
}

func (w *world) close(s *site) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := s.hub.Shutdown(ctx); err != nil {
		w.violation("Shutdown: %v", err)
	}
	s.server.CloseClientConnections()
	s.server.Close()
}

// restart puts another hub in the place of one.
func (w *world) restart(i int) {
	old := w.ofHub[i].Load()
	w.ofHub[i].Store(w.open(i))
	w.close(old)
}

func (w *world) anySite() *site { return w.ofHub[w.dice.below(hubs)].Load() }

// write changes one key until the world is calm. Half of the events replace what waits of the
// key. A send whose end is unknown is repeated, as
// is one to a hub that has ended.
func (w *world) write(group, key string, version *int) {
	for !w.calm.Load() {
		*version++
		w.db.set(group, key, *version)
		c := change{Key: key, Version: *version}
		if w.dice.below(20) == 0 {
			c.Padding = strings.Repeat("x", w.dice.below(16<<10))
		}
		var opts []grouphub.SendOption
		if w.dice.below(2) == 0 {
			opts = append(opts, grouphub.Latest(key))
		}
		for {
			err := w.anySite().hub.GroupSend(context.Background(), group, "set", c, opts...)
			if err == nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		w.dice.pause(20 * time.Millisecond)
	}
}

// A lossyLayer loses what it should deliver for a time, and tells then.
type lossyLayer struct {
	grouphub.Layer
	mu       sync.Mutex
	losing   bool
	lost     map[string]bool
	receiver grouphub.Receiver
}

func (l *lossyLayer) Attach(hub string, r grouphub.Receiver) (grouphub.Subscription, error) {
	l.receiver = r
	return l.Layer.Attach(hub, lossyReceiver{r, l})
}

// lose loses what comes until end is called.
func (l *lossyLayer) lose() (end func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.losing, l.lost = true, make(map[string]bool)
	return func() {
		l.mu.Lock()
		l.losing = false
		topics := make([]string, 0, len(l.lost))
		for topic := range l.lost {
			topics = append(topics, topic)
		}
		l.mu.Unlock()
		l.receiver.Lost(topics)
	}
}

type lossyReceiver struct {
	grouphub.Receiver
	layer *lossyLayer
}

func (r lossyReceiver) Deliver(p layer.Publication) {
	r.layer.mu.Lock()
	losing := r.layer.losing
	if losing {
		r.layer.lost[p.Topic] = true
	}
	r.layer.mu.Unlock()
	if !losing {
		r.Receiver.Deliver(p)
	}
}
