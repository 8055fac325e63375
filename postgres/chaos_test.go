package postgres_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
	"github.com/seed-29c60982/grouphub/internal/redistest"
	"github.com/seed-29c60982/grouphub/postgres"
	"github.com/seed-29c60982/grouphub/postgres/internal/postgrestest"
)

// An order is what a writer of TestWhatIsDeliveredIsWhatWasCommitted writes, and sends.
type order struct {
	ID    int64
	Group int
}

// The times of an order's transaction: before it began, and after its commit had returned.
type span struct{ begun, ended time.Duration }

// A ledger has the spans of all transactions, since nobody else knows what overlapped.
type ledger struct {
	start time.Time
	mu    sync.Mutex
	spans map[int64]*span
	last  int64
}

func (l *ledger) begin() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	l.spans[l.last] = &span{begun: time.Since(l.start), ended: 1 << 62}
	return l.last
}

func (l *ledger) end(id int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.spans[id].ended = time.Since(l.start)
}

// chaosGroups is how many groups the orders belong to.
const chaosGroups = 4

// write writes an order whose transaction the ledger knows.
func (l *ledger) write(hub *grouphub.Hub, outbox *postgres.Outbox, pool *pgxpool.Pool) error {
	id := l.begin()
	committed, err := writeOrder(hub, outbox, pool, id)
	if committed {
		l.end(id)
	}
	return err
}

// writeOrder writes an order and its event in one transaction, and commits it or does not.
func writeOrder(hub *grouphub.Hub, outbox *postgres.Outbox, pool *pgxpool.Pool, id int64) (committed bool, err error) {
	o := order{ID: id, Group: rand.IntN(chaosGroups)}
	tx, err := pool.Begin(background)
	if err != nil {
		return false, err
	}
	defer tx.Rollback(background)
	if err := hub.GroupSend(background, fmt.Sprint("orders ", o.Group), "order", o, grouphub.Via(outbox.In(tx))); err != nil {
		return false, err
	}
	if _, err := tx.Exec(background, "INSERT INTO orders (id, grp) VALUES ($1, $2)", o.ID, o.Group); err != nil {
		return false, err
	}
	if rand.IntN(100) == 0 {
		time.Sleep(50 * time.Millisecond) // some take long, and overlap many others
	}
	if rand.IntN(4) == 0 {
		return false, tx.Rollback(background)
	}
	err = tx.Commit(background)
	return err == nil, err
}

// chaosPolicy is that of the orders' groups.
func chaosPolicy(string) grouphub.GroupPolicy { return grouphub.GroupPolicy{History: 50_000} }

// TestWhatIsDeliveredIsWhatWasCommitted has 64 writers commit and roll back while the database
// is killed, and processes that relay and write as well. Every order that is in the database afterwards has arrived, once,
// no other has, and none came before one that was committed before it began.
func TestWhatIsDeliveredIsWhatWasCommitted(t *testing.T) {
	t.Run("to Redis, with the times of commits", func(t *testing.T) {
		testChaos(t, postgrestest.Start(t, "track_commit_timestamp=on"), redistest.Start(t).URL())
	})
	t.Run("to PostgreSQL, without", func(t *testing.T) {
		testChaos(t, postgrestest.Start(t), "")
	})
}

func testChaos(t *testing.T, server *postgrestest.Server, redis string) {
	const writers, kills = 64, 8
	url := server.NewDatabase()
	pool := postgrestest.NewPool(t, url, func(c *pgxpool.Config) { c.MaxConns = writers })
	if err := postgres.Migrate(background, pool); err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Exec(background, "CREATE TABLE orders (id bigint PRIMARY KEY, grp int)"); err != nil {
		t.Fatal(err)
	}
	outbox := newOutbox(pool)
	to, err := newLayer(pool, redis)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { to.Close() })
	hub := grouphub.New(&grouphub.Options{Layer: to, MaxPending: 64 << 20, Logger: quiet(),
		Policy: chaosPolicy,
		Consumer: grouphub.Consumer{
			Connect: func(c *grouphub.Conn) error { return c.Join(c.Request().URL.Query().Get("group")) },
			Events:  grouphub.Events{"*": grouphub.Forward()},
		}})
	t.Cleanup(func() { hub.Shutdown(background) })
	var clients []*hubtest.Client
	for g := range chaosGroups {
		clients = append(clients, hubtest.Dial(t, hub, fmt.Sprint("/?group=orders+", g)))
	}

	l := &ledger{start: time.Now(), spans: make(map[int64]*span)}
	writing, stop := context.WithCancel(background)
	var running sync.WaitGroup
	for range writers {
		running.Go(func() {
			for writing.Err() == nil {
				if l.write(hub, outbox, pool) != nil {
					sleep(writing, 20*time.Millisecond) // the database is away
				}
			}
		})
	}
	relays := []*exec.Cmd{startRelayProcess(t, url, redis), startRelayProcess(t, url, redis)}
	defer func() {
		for _, relay := range relays {
			kill(relay)
		}
	}()
	for i := range kills {
		time.Sleep(time.Duration(300+rand.IntN(700)) * time.Millisecond)
		if i%4 == 2 {
			server.Kill()
			server.Start()
			continue
		}
		kill(relays[i%2])
		relays[i%2] = startRelayProcess(t, url, redis)
	}
	stop()
	running.Wait()
	// The processes write until they are killed. One that only relays brings out what is left.
	for _, relay := range relays {
		kill(relay)
	}
	startRelay(t, outbox, to)
	eventually(t, func() bool { return waiting(t, pool) == 0 }, "rows are left behind")

	for g, client := range clients {
		var committed []int64
		rows, _ := pool.Query(background, "SELECT id FROM orders WHERE grp = $1", g)
		if committed, err = pgx.CollectRows(rows, pgx.RowTo[int64]); err != nil {
			t.Fatal(err)
		}
		l.expect(t, client, committed)
	}
	t.Logf("%d transactions here, and %d committed with those of killed processes", l.last, count(t, pool, "SELECT count(*) FROM orders"))
}

// expect reads what a client gets: exactly the orders that were committed.
func (l *ledger) expect(t *testing.T, client *hubtest.Client, committed []int64) {
	t.Helper()
	missing := make(map[int64]bool)
	for _, id := range committed {
		missing[id] = true
	}
	var latest time.Duration // that one of those before began
	for n := range committed {
		var o order
		if err := json.Unmarshal(client.ExpectEvent("order").Data, &o); err != nil {
			t.Fatal(err)
		}
		if !missing[o.ID] {
			t.Fatalf("event %d is of order %d, which came before or was not committed", n, o.ID)
		}
		delete(missing, o.ID)
		s := l.spans[o.ID]
		if s == nil {
			continue // of another process
		}
		if s.ended < latest {
			t.Fatalf("order %d came after one that began %v after its commit", o.ID, latest-s.ended)
		}
		latest = max(latest, s.begun)
	}
	client.ExpectNone(100 * time.Millisecond)
}

// sleep waits until ctx ends, or for d.
func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
