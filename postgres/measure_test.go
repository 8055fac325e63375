package postgres_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
	"github.com/seed-29c60982/grouphub/internal/redistest"
	"github.com/seed-29c60982/grouphub/layer"
	"github.com/seed-29c60982/grouphub/postgres"
	"github.com/seed-29c60982/grouphub/postgres/internal/postgrestest"
)

// How long each round of a measurement takes, and how many there are of each kind: by default
// only so many that the tests show that the way works. The README says with how many its
// figures were measured, without the race detector.
var (
	round  = flag.Duration("round", 500*time.Millisecond, "how long a round of a measurement takes")
	rounds = flag.Int("rounds", 1, "how many rounds a measurement has of each kind")
)

const measureWriters = 64

// durations are latencies.
type durations []time.Duration

// at returns a percentile.
func (d durations) at(percent int) time.Duration {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return d[min(len(d)*percent/100, len(d)-1)]
}

// A result is one round's.
type result struct {
	perSecond float64
	p50, p99  time.Duration
}

// median returns the medians of rounds.
func median(results []result) (m result) {
	pick := func(value func(r result) float64) float64 {
		var values []float64
		for _, r := range results {
			values = append(values, value(r))
		}
		slices.Sort(values)
		return values[len(values)/2]
	}
	m.perSecond = pick(func(r result) float64 { return r.perSecond })
	m.p50 = time.Duration(pick(func(r result) float64 { return float64(r.p50) }))
	m.p99 = time.Duration(pick(func(r result) float64 { return float64(r.p99) }))
	return m
}

func (r result) String() string {
	return fmt.Sprintf("%6.0f/s  p50 %8v  p99 %8v", r.perSecond, r.p50.Round(10*time.Microsecond), r.p99.Round(10*time.Microsecond))
}

// measure has callers call fn for a round: each as fast as it can, or, if rate is not zero,
// so many calls a second together.
func measure(t *testing.T, callers int, rate float64, fn func(caller, call int) error) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(background, *round)
	defer cancel()
	var mu sync.Mutex
	var all durations
	var running sync.WaitGroup
	begun := time.Now()
	for caller := range callers {
		running.Go(func() {
			var own durations
			for call := 0; ctx.Err() == nil; call++ {
				if rate > 0 {
					due := time.Duration((float64(call) + float64(caller)/float64(callers)) * float64(callers) / rate * float64(time.Second))
					sleep(ctx, due-time.Since(begun))
				}
				started := time.Now()
				if err := fn(caller, call); err != nil {
					t.Error(err)
					return
				}
				own = append(own, time.Since(started))
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, own...)
		})
	}
	running.Wait()
	return result{float64(len(all)) / time.Since(begun).Seconds(), all.at(50), all.at(99)}
}

// A shop is a database with writers, an outbox with a relay, and a hub with a client for each
// of its groups, on a layer in memory.
type shop struct {
	t      *testing.T
	pool   *pgxpool.Pool
	outbox *postgres.Outbox
	hub    *grouphub.Hub
}

const shopGroups = 16

func newShop(t *testing.T, poll time.Duration) *shop {
	server := postgrestest.Start(t, "track_commit_timestamp=on", "shared_buffers=128MB")
	pool := postgrestest.NewPool(t, server.NewDatabase(), func(c *pgxpool.Config) { c.MaxConns = measureWriters + 8 })
	if err := postgres.Migrate(background, pool); err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Exec(background, `CREATE TABLE plain (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, topic bytea, payload bytea, created timestamptz DEFAULT clock_timestamp());
		CREATE TABLE accounts (id int PRIMARY KEY, balance int); INSERT INTO accounts SELECT n, 0 FROM generate_series(0, 63) n`); err != nil {
		t.Fatal(err)
	}
	memory := grouphub.NewMemoryLayer()
	t.Cleanup(func() { memory.Close() })
	s := &shop{t: t, pool: pool, outbox: postgres.NewOutbox(pool, &postgres.OutboxOptions{Poll: poll, Logger: quiet()})}
	s.hub = grouphub.New(&grouphub.Options{Layer: memory, MaxPending: 64 << 20, Policy: keeping, Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { return c.Join(c.Request().URL.Query().Get("group")) },
		Events:  grouphub.Events{"*": grouphub.Forward()},
	}})
	t.Cleanup(func() { s.hub.Shutdown(background) })
	startRelay(t, s.outbox, memory)
	return s
}

// transaction changes an account and then does something more.
func (s *shop) transaction(account int, more func(tx pgx.Tx) error) error {
	return pgx.BeginFunc(background, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(background, "UPDATE accounts SET balance = balance + 1 WHERE id = $1", account); err != nil {
			return err
		}
		return more(tx)
	})
}

var shopData = make([]int, 100) // 200 bytes of JSON

func (s *shop) withEvent(account, _ int) error {
	return s.transaction(account, func(tx pgx.Tx) error {
		return s.hub.GroupSend(background, fmt.Sprint("group ", account%shopGroups), "paid", shopData, grouphub.Via(s.outbox.In(tx)))
	})
}

func (s *shop) withRow(account, _ int) error {
	payload := make([]byte, 300)
	return s.transaction(account, func(tx pgx.Tx) error {
		_, err := tx.Exec(background, "INSERT INTO plain (topic, payload) VALUES ($1, $2)", []byte("g:group 12"), payload)
		return err
	})
}

// TestAnEventCostsACommitWhatARowCosts measures transactions with an event and with a plain
// INSERT of the same size in turn. It logs what they take, and does not judge it: on a busy
// machine both vary a lot.
func TestAnEventCostsACommitWhatARowCosts(t *testing.T) {
	for _, rate := range []float64{0, 2000} {
		t.Run(fmt.Sprintf("offered %v a second", rate), func(t *testing.T) {
			s := newShop(t, 0)
			var events, rows []result
			measure(t, measureWriters, rate, s.withEvent) // connects, and prepares statements
			measure(t, measureWriters, rate, s.withRow)
			for range *rounds {
				rows = append(rows, measure(t, measureWriters, rate, s.withRow))
				events = append(events, measure(t, measureWriters, rate, s.withEvent))
				eventually(t, func() bool { return waiting(t, s.pool) == 0 }, "rows are left behind")
			}
			row, event := median(rows), median(events)
			t.Logf("with a row    %v", row)
			t.Logf("with an event %v", event)
		})
	}
}

// TestAnEventArrivesWithinAPollOfItsCommit measures from the commit to a client's socket at
// 2,000 transactions a second.
func TestAnEventArrivesWithinAPollOfItsCommit(t *testing.T) {
	for _, poll := range []time.Duration{10 * time.Millisecond, 20 * time.Millisecond} {
		s := newShop(t, poll)
		begun := time.Now()
		var committed sync.Map // when, by number
		var received atomic.Int64
		var arrivals durations
		client := hubtest.Dial(t, s.hub, "/?group=group+0")
		var reading sync.WaitGroup
		reading.Go(func() {
			for {
				var e grouphub.Event
				var number int64
				if err := client.Next().Decode(&e); err != nil || e.Type == "end" {
					return
				}
				arrived := time.Now()
				if json.Unmarshal(e.Data, &number) == nil {
					eventually(t, func() bool { _, ok := committed.Load(number); return ok }, "no commit")
					at, _ := committed.Load(number)
					arrivals = append(arrivals, max(arrived.Sub(at.(time.Time)), 0))
					received.Add(1)
				}
			}
		})
		var sent atomic.Int64
		r := measure(t, measureWriters, 2000, func(account, call int) error {
			if account%shopGroups != 0 {
				return s.withEvent(account, call)
			}
			number := sent.Add(1)
			err := s.transaction(account, func(tx pgx.Tx) error {
				return s.hub.GroupSend(background, "group 0", "paid", number, grouphub.Via(s.outbox.In(tx)))
			})
			committed.Store(number, time.Now())
			return err
		})
		eventually(t, func() bool { return received.Load() == sent.Load() }, "events are missing")
		send := func() error { return s.hub.GroupSend(background, "group 0", "end", nil) }
		if err := send(); err != nil {
			t.Fatal(err)
		}
		reading.Wait()
		t.Logf("poll %v, %v for %v: from commit to socket p50 %v, p99 %v", poll, r, time.Since(begun).Round(time.Second),
			arrivals.at(50).Round(10*time.Microsecond), arrivals.at(99).Round(10*time.Microsecond))
	}
}

// TestTheLayerBesideRedis measures both layers, from Publish to Deliver.
func TestTheLayerBesideRedis(t *testing.T) {
	newRedis := func(args ...string) layer.Layer {
		l, err := grouphub.NewRedisLayer(redistest.Start(t, args...).URL(), nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l
	}
	newPostgres := func(settings ...string) layer.Layer {
		l := newPostgresLayer(t, postgrestest.Start(t, settings...).NewDatabase(), nil)
		t.Cleanup(func() { l.Close() })
		return l
	}
	layers := []struct {
		name string
		layer.Layer
	}{
		{"PostgreSQL", newPostgres()},
		{"PostgreSQL, synchronous_commit=off", newPostgres("synchronous_commit=off")},
		{"Redis, appendfsync always", newRedis("--appendonly", "yes", "--appendfsync", "always")},
		{"Redis, nothing on disk", newRedis()},
	}
	keeps := []struct {
		name string
		layer.Keep
	}{{"plain", layer.Keep{}}, {"history", layer.Keep{Count: 100, Life: time.Minute}}}
	type kind struct{ layer, keep int }
	fast, slow := make(map[kind][]result), make(map[kind][]result)
	payload := make([]byte, 200)
	for range *rounds {
		for i, l := range layers {
			for j, keep := range keeps {
				topic := fmt.Sprint("topic", len(fast[kind{i, j}]), j)
				fast[kind{i, j}] = append(fast[kind{i, j}], measure(t, 64, 0, func(caller, _ int) error {
					return l.Publish(background, layer.Publication{Topic: fmt.Sprint(topic, caller%16), Payload: payload, Keep: keep.Keep})
				}))
				r := &deliveries{came: make(chan struct{}, 1)}
				s, err := l.Attach(topic, r)
				if err != nil {
					t.Fatal(err)
				}
				if err := s.Add(background, topic); err != nil {
					t.Fatal(err)
				}
				slow[kind{i, j}] = append(slow[kind{i, j}], measure(t, 1, 250, func(int, int) error {
					err := l.Publish(background, layer.Publication{Topic: topic, Payload: payload, Keep: keep.Keep})
					<-r.came
					return err
				}))
				s.Close()
			}
		}
	}
	for i, l := range layers {
		for j, keep := range keeps {
			k := kind{i, j}
			t.Logf("%-34s %-7s  64 callers %v   at 250/s to Deliver p50 %v p99 %v", l.name, keep.name, median(fast[k]),
				median(slow[k]).p50.Round(10*time.Microsecond), median(slow[k]).p99.Round(10*time.Microsecond))
		}
	}
}

// deliveries is a receiver that tells of each delivery.
type deliveries struct {
	listener
	came chan struct{}
}

func (d *deliveries) Deliver(layer.Publication) { d.came <- struct{}{} }
