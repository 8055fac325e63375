package postgres_test

import (
	"context"
	"log/slog"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/seed-29c60982/grouphub/internal/leak"
	"github.com/seed-29c60982/grouphub/layer"
	"github.com/seed-29c60982/grouphub/postgres"
	"github.com/seed-29c60982/grouphub/postgres/internal/postgrestest"
)

// TestMain fails the suite if a goroutine outlives it. In a process that startRelayProcess has
// started it is a relay.
func TestMain(m *testing.M) {
	if os.Getenv(relayDatabase) != "" {
		relayMain()
		return
	}
	leak.Check(m)
}

var background = context.Background()

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// eventually polls a condition that gives no signal.
func eventually(t testing.TB, condition func() bool, what string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("timed out: ", what)
		}
	}
}

// migratedPool returns a pool for a new database that has the schema.
func migratedPool(t testing.TB, s *postgrestest.Server) *pgxpool.Pool {
	t.Helper()
	pool := postgrestest.NewPool(t, s.NewDatabase())
	if err := postgres.Migrate(background, pool); err != nil {
		t.Fatal(err)
	}
	return pool
}

func newOutbox(pool *pgxpool.Pool) *postgres.Outbox {
	return postgres.NewOutbox(pool, &postgres.OutboxOptions{Logger: quiet()})
}

// startRelay runs a relay until stop is called or the test ends.
func startRelay(t testing.TB, outbox *postgres.Outbox, to layer.Publisher) (stop func()) {
	ctx, cancel := context.WithCancel(background)
	ended := make(chan error, 1)
	go func() { ended <- outbox.Relay(ctx, to) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Relay: %v, want nil when its context ends", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// A recorder is a publisher that notes what it gets.
type recorder struct {
	mu       sync.Mutex
	got      []layer.Publication
	underway map[string]bool
	t        testing.TB

	before func(p layer.Publication) error // nil, or called first: an error is what Publish returns
	after  func(p layer.Publication) error // nil, or called last, likewise
}

func newRecorder(t testing.TB) *recorder {
	return &recorder{t: t, underway: make(map[string]bool)}
}

func (r *recorder) Publish(_ context.Context, p layer.Publication) error {
	r.mu.Lock()
	if r.underway[p.Topic] {
		r.t.Errorf("two publications to %q at the same time", p.Topic)
	}
	r.underway[p.Topic] = true
	r.mu.Unlock()
	var err error
	if r.before != nil {
		err = r.before(p)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.underway, p.Topic)
	if err != nil {
		return err
	}
	r.got = append(r.got, p)
	if r.after != nil {
		return r.after(p)
	}
	return nil
}

// payloads returns what was published to a topic.
func (r *recorder) payloads(topic string) (payloads []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.got {
		if p.Topic == topic {
			payloads = append(payloads, string(p.Payload))
		}
	}
	return payloads
}

func (r *recorder) expect(topic string, want ...string) {
	r.t.Helper()
	eventually(r.t, func() bool { return len(r.payloads(topic)) >= len(want) }, "waiting for "+topic)
	if got := r.payloads(topic); !slices.Equal(got, want) {
		r.t.Fatalf("%s got %.300q, want %.300q", topic, got, want)
	}
}

// inTransaction runs fn in a transaction that is committed.
func inTransaction(t testing.TB, pool *pgxpool.Pool, fn func(tx pgx.Tx)) {
	t.Helper()
	tx, err := pool.Begin(background)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(background)
	fn(tx)
	if err := tx.Commit(background); err != nil {
		t.Fatal(err)
	}
}

func publish(t testing.TB, to layer.Publisher, topic, payload string) {
	t.Helper()
	if err := to.Publish(background, layer.Publication{Topic: topic, Payload: []byte(payload)}); err != nil {
		t.Fatal(err)
	}
}

// count returns what a query for a number returns.
func count(t testing.TB, pool *pgxpool.Pool, query string, args ...any) (n int) {
	t.Helper()
	if err := pool.QueryRow(background, query, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func waiting(t testing.TB, pool *pgxpool.Pool) int {
	t.Helper()
	return count(t, pool, "SELECT count(*) FROM grouphub_outbox")
}
