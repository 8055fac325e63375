package postgres_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/seed-29c60982/grouphub/layer"
	"github.com/seed-29c60982/grouphub/postgres"
	"github.com/seed-29c60982/grouphub/postgres/internal/postgrestest"
)

// A listener is a receiver that notes what it gets.
type listener struct {
	mu   sync.Mutex
	got  []string // payloads
	lost int      // calls of Lost
}

func (*listener) Ready(context.Context, string) error { return nil }

func (r *listener) Deliver(p layer.Publication) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got = append(r.got, string(p.Payload))
}

func (r *listener) Lost([]string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lost++
}

func (r *listener) received(payload string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Contains(r.got, payload)
}

func (r *listener) losses() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lost
}

// attach subscribes a listener to a topic.
func attach(t testing.TB, l layer.Layer, topic string) (*listener, layer.Subscription) {
	t.Helper()
	r := &listener{}
	s, err := l.Attach("hub", r)
	if err == nil {
		err = s.Add(background, topic)
	}
	if err != nil {
		t.Fatal(err)
	}
	return r, s
}

func TestASubscriptionThatIsSilentlyDeadIsNoticed(t *testing.T) {
	t.Parallel()
	server := postgrestest.Start(t)
	url := server.NewDatabase()
	proxy := postgrestest.StartProxy(t, server.Address())
	l := newPostgresLayer(t, url, &postgres.LayerOptions{ListenURL: strings.Replace(url, server.Address(), proxy.Address(), 1)})
	defer l.Close()
	r, s := attach(t, l, "topic")
	publish(t, l, "topic", "before")
	eventually(t, func() bool { return r.received("before") }, "not delivered")
	proxy.Freeze()
	begun := time.Now()
	publish(t, l, "topic", "silence")
	eventually(t, func() bool { return r.losses() > 0 && s.Up() }, "not noticed")
	if took := time.Since(begun); took > 15*time.Second {
		t.Errorf("noticed after %v, want 15 s at the most", took)
	}
	publish(t, l, "topic", "after")
	eventually(t, func() bool { return r.received("after") }, "not delivered")
}

func TestALayerFollowsAFailover(t *testing.T) {
	t.Parallel()
	primary := postgrestest.Start(t, "fsync=off")
	url := primary.NewDatabase()
	standby := primary.Standby()
	hosts := strings.Replace(url, primary.Address(), primary.Address()+","+standby.Address(), 1) + "&target_session_attrs=read-write"
	l := newPostgresLayer(t, hosts, nil)
	defer l.Close()
	r, s := attach(t, l, "topic")
	publish(t, l, "topic", "before")
	eventually(t, func() bool { return r.received("before") }, "not delivered")
	primary.Kill()
	eventually(t, func() bool { return !s.Up() }, "still up")
	standby.Promote()
	eventually(t, func() bool { return s.Up() && r.losses() > 0 }, "not up again")
	eventually(t, func() bool {
		return l.Publish(background, layer.Publication{Topic: "topic", Payload: []byte("after"), Keep: layer.Keep{Count: 1, Life: time.Minute}}) == nil
	}, "not published")
	eventually(t, func() bool { return r.received("after") }, "not delivered")
}

// behind returns a URL that leads through a pooler. Prepared statements do not work there.
func behind(pooler string, server *postgrestest.Server, url string) string {
	return strings.Replace(url, server.Address(), pooler, 1) + "&default_query_exec_mode=exec"
}

func TestALayerBesideAPoolerListensDirectly(t *testing.T) {
	server := postgrestest.Start(t)
	url := server.NewDatabase()
	pooled := behind(server.StartPgbouncer(t, 4), server, url)
	l := newPostgresLayer(t, pooled, &postgres.LayerOptions{ListenURL: url})
	defer l.Close()
	r, _ := attach(t, l, "topic")
	publish(t, l, "topic", "plain")
	if err := l.Publish(background, layer.Publication{Topic: "topic", Payload: []byte("kept"), Keep: layer.Keep{Count: 1, Life: time.Minute, Once: "once"}}); err != nil {
		t.Fatal(err)
	}
	large := strings.Repeat("large", 10_000)
	publish(t, l, "topic", large)
	eventually(t, func() bool { return r.received(large) && r.received("plain") && r.received("kept") }, "not delivered")
	if h, err := l.History(background, "topic", 0); err != nil || len(h.Kept) != 1 {
		t.Errorf("History: %+v, %v", h, err)
	}
	if err := l.Append(background, "queue", []byte("message")); err != nil {
		t.Fatal(err)
	}
	if message, err := l.Take(background, "queue"); err != nil || string(message) != "message" {
		t.Errorf("Take: %q, %v", message, err)
	}
	if ok, err := l.Lease(background, "topic", "holder", layer.LeaseChange{Version: 1, Life: time.Minute, Set: map[string][]byte{"a": {1}}}); !ok || err != nil {
		t.Errorf("Lease: %v, %v", ok, err)
	}
	if leases, err := l.Leases(background, "topic", map[string]uint64{"other": 1}); err != nil || len(leases["holder"].Fields) != 1 {
		t.Errorf("Leases: %v, %v", leases, err)
	}

	pool := postgrestest.NewPool(t, pooled)
	outbox, to := newOutbox(postgrestest.NewPool(t, url)), newRecorder(t)
	startRelay(t, outbox, to)
	inTransaction(t, pool, func(tx pgx.Tx) { publish(t, outbox.In(tx), "g:topic", "committed") })
	to.expect("g:topic", "committed")
}

func TestALayerThatOnlyHearsAPoolerSaysSo(t *testing.T) {
	server := postgrestest.Start(t)
	pool := postgrestest.NewPool(t, behind(server.StartPgbouncer(t, 4), server, server.NewDatabase()))
	l, err := postgres.NewLayer(background, pool, nil)
	if err == nil {
		l.Close()
		t.Fatal("NewLayer returns no error though no notification arrives")
	}
	if !strings.Contains(err.Error(), "ListenURL") {
		t.Errorf("NewLayer: %v, want what is to be done", err)
	}
}

func TestARelayThatSharesItsSessionDoesNotGoOn(t *testing.T) {
	server := postgrestest.Start(t)
	pool := postgrestest.NewPool(t, behind(server.StartPgbouncer(t, 1), server, server.NewDatabase()))
	if err := postgres.Migrate(background, pool); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return log.Write(p)
	}), nil))
	outbox := postgres.NewOutbox(pool, &postgres.OutboxOptions{Logger: logger})
	startRelay(t, outbox, newRecorder(t))
	startRelay(t, outbox, newRecorder(t))
	eventually(t, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return strings.Contains(log.String(), "session mode")
	}, "it is not noticed")
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestNothingThatHasEndedIsKept(t *testing.T) {
	url := postgrestest.Start(t).NewDatabase()
	l := newPostgresLayer(t, url, &postgres.LayerOptions{QueueExpiry: time.Millisecond})
	defer l.Close()
	pool := postgrestest.NewPool(t, url)
	for i := range 50 {
		p := layer.Publication{Topic: fmt.Sprint("topic", i%5), Payload: []byte("x"), Keep: layer.Keep{Count: 100, Life: time.Millisecond, Once: fmt.Sprint(i)}}
		if err := l.Publish(background, p); err != nil {
			t.Fatal(err)
		}
	}
	publish(t, l, "topic", strings.Repeat("large", 10_000))
	if err := l.Append(background, "queue", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if ok, err := l.Lease(background, "topic", "holder", layer.LeaseChange{Version: 1, Life: time.Millisecond, Set: map[string][]byte{"a": {1}}}); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if _, err := l.History(background, "nothing", 0); err != nil {
		t.Fatal(err)
	}
	tables := []string{"topics", "events", "once", "payloads", "queues", "leases", "lease_fields"}
	for _, table := range tables {
		if n := count(t, pool, "SELECT count(*) FROM grouphub_"+table); n == 0 {
			t.Errorf("grouphub_%s is empty, and nothing is tested", table)
		}
	}
	// The hours and minutes of these are not waited for.
	for _, statement := range []string{"UPDATE grouphub_once SET until = now()", "UPDATE grouphub_payloads SET until = now()",
		"SELECT grouphub_sweep()", "UPDATE grouphub_topics SET until = now()", "SELECT grouphub_sweep()"} {
		if _, err := pool.Exec(background, statement); err != nil {
			t.Fatal(err)
		}
	}
	for _, table := range tables {
		if n := count(t, pool, "SELECT count(*) FROM grouphub_"+table); n != 0 {
			t.Errorf("%d rows are left in grouphub_%s", n, table)
		}
	}
}

func TestHistoryKeepsFewRowsMoreThanItIsTold(t *testing.T) {
	url := postgrestest.Start(t, "fsync=off").NewDatabase()
	l := newPostgresLayer(t, url, nil)
	defer l.Close()
	pool := postgrestest.NewPool(t, url)
	for range 500 {
		for topic, keep := range map[string]layer.Keep{"count": {Count: 10, Life: time.Minute}, "bytes": {Count: 1000, Bytes: 1000, Life: time.Minute}} {
			if err := l.Publish(background, layer.Publication{Topic: topic, Payload: make([]byte, 50), Keep: keep}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for topic, most := range map[string]int{"count": 10 + 16, "bytes": 20 + 16} {
		if n := count(t, pool, "SELECT count(*) FROM grouphub_events WHERE topic = $1", []byte(topic)); n > most {
			t.Errorf("%d rows are kept of %q, want %d at the most", n, topic, most)
		}
	}
}

func TestWhereALargePayloadIsGoneThereIsALoss(t *testing.T) {
	server := postgrestest.Start(t)
	url := server.NewDatabase()
	l := newPostgresLayer(t, url, nil)
	defer l.Close()
	r, _ := attach(t, l, "topic")
	pool := postgrestest.NewPool(t, url, func(c *pgxpool.Config) { c.MaxConns = 1 })
	// A publication whose payload is not there, as after a crash of the server.
	if _, err := pool.Exec(background, "SELECT pg_notify('grouphub public', '1 l dG9waWM gone')"); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return r.losses() == 1 }, "no loss is told")
	publish(t, l, "topic", "after")
	eventually(t, func() bool { return r.received("after") }, "not delivered")
}

func TestTheCallersPoolStaysOpen(t *testing.T) {
	pool := postgrestest.NewPool(t, postgrestest.Start(t).NewDatabase())
	l, err := postgres.NewLayer(background, pool, &postgres.LayerOptions{Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := pool.Ping(background); err != nil {
		t.Error(err)
	}
}
