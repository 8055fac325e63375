package postgres_test

import (
	"bytes"
	"database/sql"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
	"github.com/seed-29c60982/grouphub/layer"
	"github.com/seed-29c60982/grouphub/postgres"
	"github.com/seed-29c60982/grouphub/postgres/internal/postgrestest"
)

// keeping is the policy of groups with history.
func keeping(string) grouphub.GroupPolicy { return grouphub.GroupPolicy{History: 1000} }

func TestTheCommitIsTheSend(t *testing.T) {
	pool := migratedPool(t, postgrestest.Start(t))
	memory := grouphub.NewMemoryLayer()
	t.Cleanup(func() { memory.Close() })
	hub := grouphub.New(&grouphub.Options{Layer: memory, Policy: keeping, Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { return c.Join("orders") },
		Events:  grouphub.Events{"*": grouphub.Forward()},
	}})
	t.Cleanup(func() { hub.Shutdown(background) })
	client := hubtest.Dial(t, hub, "/")
	outbox := newOutbox(pool)
	startRelay(t, outbox, memory)

	tx, err := pool.Begin(background)
	if err != nil {
		t.Fatal(err)
	}
	if err := hub.GroupSend(background, "orders", "order.paid", 1, grouphub.Via(outbox.In(tx))); err != nil {
		t.Fatal(err)
	}
	client.ExpectNone(100 * time.Millisecond)
	if err := tx.Rollback(background); err != nil {
		t.Fatal(err)
	}
	inTransaction(t, pool, func(tx pgx.Tx) {
		for i := range 3 {
			if err := hub.GroupSend(background, "orders", "order.paid", 2+i, grouphub.Via(outbox.In(tx))); err != nil {
				t.Error(err)
			}
		}
		if err := hub.GroupClose(background, "orders", 4401, "paid", grouphub.Via(outbox.In(tx))); err != nil {
			t.Error(err)
		}
	})
	for i := range 3 {
		if e := client.ExpectEvent("order.paid"); string(e.Data) != fmt.Sprint(2+i) {
			t.Fatalf("got %s, want %d", e.Data, 2+i)
		}
	}
	client.ExpectClose(4401)
	eventually(t, func() bool { return waiting(t, pool) == 0 }, "a row is left behind")
	if n := hub.Stats().Published; n != 0 {
		t.Errorf("%d events count as Published, want none", n)
	}
}

func TestAPublicationGoesThroughTheOutboxUnchanged(t *testing.T) {
	url := postgrestest.Start(t).NewDatabase()
	pool := postgrestest.NewPool(t, url)
	if err := postgres.Migrate(background, pool); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	outbox, to := newOutbox(pool), newRecorder(t)
	keep := layer.Keep{Count: 10, Bytes: 1 << 20, Life: 90 * time.Second, Once: "a\x00\xff"}
	payloads := [][]byte{nil, {0}, []byte("\xff\xfe"), bytes.Repeat([]byte("large "), 300_000)}
	inTransaction(t, pool, func(tx pgx.Tx) {
		for _, payload := range payloads {
			payload := bytes.Clone(payload)
			if err := outbox.In(tx).Publish(background, layer.Publication{Topic: "g:\x00\xff", Payload: payload, Keep: keep}); err != nil {
				t.Fatal(err)
			}
			clear(payload) // the publisher copies what it keeps
		}
	})
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	if err := outbox.InSQL(tx).Publish(background, layer.Publication{Topic: "g:sql", Keep: layer.Keep{Count: 1, Life: time.Minute}}); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	startRelay(t, outbox, to)
	to.expect("g:sql", "")
	eventually(t, func() bool { return waiting(t, pool) == 0 }, "rows are left behind")
	if len(to.got) != len(payloads)+1 {
		t.Fatalf("got %d publications, want %d", len(to.got), len(payloads)+1)
	}
	i := 0 // the groups' order beside each other is free
	for _, p := range to.got {
		if p.Topic == "g:sql" {
			if p.Keep.Once == "" {
				t.Error("a publication that is kept has no key of its own")
			}
			continue
		}
		if p.Topic != "g:\x00\xff" || !bytes.Equal(p.Payload, payloads[i]) || p.Keep != keep {
			t.Errorf("publication %d is %q, %d bytes, %+v", i, p.Topic, len(p.Payload), p.Keep)
		}
		i++
	}
}

func TestEventsOfOneGroupGoOutInTheOrderOfCommits(t *testing.T) {
	pool := migratedPool(t, postgrestest.Start(t, "track_commit_timestamp=on"))
	outbox, to := newOutbox(pool), newRecorder(t)
	slow, err := pool.Begin(background)
	if err != nil {
		t.Fatal(err)
	}
	publish(t, outbox.In(slow), "g:topic", "committed last")
	var want []string
	for i := range 20 {
		inTransaction(t, pool, func(tx pgx.Tx) {
			nested, err := tx.Begin(background) // a savepoint has an id of its own
			if err != nil {
				t.Fatal(err)
			}
			publish(t, outbox.In(nested), "g:topic", fmt.Sprint(i))
			if err := nested.Commit(background); err != nil {
				t.Fatal(err)
			}
		})
		want = append(want, fmt.Sprint(i))
	}
	if err := slow.Commit(background); err != nil {
		t.Fatal(err)
	}
	startRelay(t, outbox, to)
	to.expect("g:topic", append(want, "committed last")...)
}

func TestAnOpenTransactionDelaysNoOthersEvents(t *testing.T) {
	for _, setting := range []string{"on", "off"} {
		t.Run("track_commit_timestamp="+setting, func(t *testing.T) {
			pool := migratedPool(t, postgrestest.Start(t, "track_commit_timestamp="+setting))
			outbox, to := newOutbox(pool), newRecorder(t)
			startRelay(t, outbox, to)
			open, err := pool.Begin(background)
			if err != nil {
				t.Fatal(err)
			}
			defer open.Rollback(background)
			publish(t, outbox.In(open), "g:topic", "open")
			for i := range 5 {
				inTransaction(t, pool, func(tx pgx.Tx) { publish(t, outbox.In(tx), "g:topic", fmt.Sprint(i)) })
				to.expect("g:topic", []string{"0", "1", "2", "3", "4"}[:i+1]...)
			}
			if err := open.Commit(background); err != nil {
				t.Fatal(err)
			}
			to.expect("g:topic", "0", "1", "2", "3", "4", "open")
			eventually(t, func() bool { return waiting(t, pool) == 0 }, "rows are left behind")
		})
	}
}

func TestOfManyRelaysOneWorks(t *testing.T) {
	pool := migratedPool(t, postgrestest.Start(t))
	outbox := newOutbox(pool)
	var recorders []*recorder
	var stops []func()
	for range 3 {
		to := newRecorder(t)
		recorders = append(recorders, to)
		stops = append(stops, startRelay(t, outbox, to))
	}
	// working returns which relay publishes what is written next.
	working := func(payload string) (found int) {
		inTransaction(t, pool, func(tx pgx.Tx) { publish(t, outbox.In(tx), "g:topic", payload) })
		found = -1
		eventually(t, func() bool {
			for i, to := range recorders {
				if slices.Contains(to.payloads("g:topic"), payload) {
					found = i
				}
			}
			return found >= 0
		}, "no relay publishes "+payload)
		return found
	}
	first := working("0")
	for i := range 20 {
		if other := working(fmt.Sprint("more ", i)); other != first {
			t.Fatalf("relay %d publishes beside relay %d", other, first)
		}
	}
	stops[first]()
	second := working("1")
	if second == first {
		t.Fatal("a relay that has ended publishes")
	}
	if n := pool.Stat().AcquiredConns(); n > 2 {
		t.Errorf("two relays hold %d connections", n)
	}
}

func TestARelayRepeatsUntilTheLayerIsBackAndKeepsTheOrder(t *testing.T) {
	pool := migratedPool(t, postgrestest.Start(t))
	outbox, to := newOutbox(pool), newRecorder(t)
	var mu sync.Mutex
	failures := map[string]int{"1": 2, "3": 3}
	to.before = func(p layer.Publication) error {
		mu.Lock()
		defer mu.Unlock()
		if failures[string(p.Payload)] > 0 {
			failures[string(p.Payload)]--
			return fmt.Errorf("%w: not yet", []error{layer.ErrUnavailable, layer.ErrUncertain}[failures[string(p.Payload)]%2])
		}
		return nil
	}
	inTransaction(t, pool, func(tx pgx.Tx) {
		for i := range 5 {
			publish(t, outbox.In(tx), "g:topic", fmt.Sprint(i))
			publish(t, outbox.In(tx), fmt.Sprint("g:", i), "x")
		}
	})
	startRelay(t, outbox, to)
	to.expect("g:topic", "0", "1", "2", "3", "4")
	eventually(t, func() bool { return waiting(t, pool) == 0 }, "rows are left behind")
}

func TestARelayOutlivesLostConnections(t *testing.T) {
	server := postgrestest.Start(t)
	pool := migratedPool(t, server)
	outbox, to := newOutbox(pool), newRecorder(t)
	startRelay(t, outbox, to)
	for i := range 3 {
		inTransaction(t, pool, func(tx pgx.Tx) { publish(t, outbox.In(tx), fmt.Sprint("g:", i), "x") })
		to.expect(fmt.Sprint("g:", i), "x")
		if i == 1 {
			server.Kill()
			server.Start()
			pool.Reset()
		}
		count(t, pool, "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()")
		pool.Reset()
	}
}

func TestARelayEndsWithAClosedLayer(t *testing.T) {
	pool := migratedPool(t, postgrestest.Start(t))
	outbox := newOutbox(pool)
	memory := grouphub.NewMemoryLayer()
	memory.Close()
	inTransaction(t, pool, func(tx pgx.Tx) { publish(t, outbox.In(tx), "g:topic", "x") })
	if err := outbox.Relay(background, memory); err == nil {
		t.Error("Relay to a layer that is closed returns nil")
	}
	if waiting(t, pool) != 1 {
		t.Error("what could not be published is gone")
	}
}

func TestWhatComesAfterAGroupsEventsIsNotPublishedBeforeThem(t *testing.T) {
	pool := migratedPool(t, postgrestest.Start(t))
	outbox, to := newOutbox(pool), newRecorder(t)
	to.before = func(p layer.Publication) error {
		time.Sleep(time.Duration(len(p.Payload)) * 5 * time.Millisecond) // the earlier, the longer
		return nil
	}
	inTransaction(t, pool, func(tx pgx.Tx) {
		publish(t, outbox.In(tx), "g:a", "12345678")
		publish(t, outbox.In(tx), "g:b", "1234")
		publish(t, outbox.In(tx), "command", "12")
		publish(t, outbox.In(tx), "g:c", "")
	})
	startRelay(t, outbox, to)
	to.expect("g:c", "")
	var topics []string
	for _, p := range to.got {
		topics = append(topics, p.Topic)
	}
	if want := []string{"g:b", "g:a", "command", "g:c"}; !slices.Equal(topics, want) {
		t.Errorf("published to %q, want %q", topics, want)
	}
}

func TestMigrateTwiceAndAtTheSameTime(t *testing.T) {
	server := postgrestest.Start(t)
	pool := postgrestest.NewPool(t, server.NewDatabase())
	var migrating sync.WaitGroup
	for range 8 {
		migrating.Go(func() {
			if err := postgres.Migrate(background, pool); err != nil {
				t.Error(err)
			}
		})
	}
	migrating.Wait()
	if _, err := pool.Exec(background, postgres.Schema()); err != nil {
		t.Errorf("the schema is not idempotent: %v", err)
	}
	// Whoever may only use the tables can migrate what is there.
	if _, err := pool.Exec(background, `CREATE ROLE app LOGIN; REVOKE CREATE ON SCHEMA public FROM PUBLIC`); err != nil {
		t.Fatal(err)
	}
	app := postgrestest.NewPool(t, strings.Replace(pool.Config().ConnString(), "postgres@", "app@", 1))
	if err := postgres.Migrate(background, app); err != nil {
		t.Error(err)
	}
}

func TestARelayThatIsADayBehindCatchesUp(t *testing.T) {
	const transactions, each = 40, 5000
	pool := migratedPool(t, postgrestest.Start(t, "track_commit_timestamp=on"))
	outbox, to := newOutbox(pool), newRecorder(t)
	for i := range transactions {
		if _, err := pool.Exec(background, `INSERT INTO grouphub_outbox (topic, payload, keep_count, keep_bytes, keep_life, keep_once)
			SELECT convert_to('g:' || n % 50, 'UTF8'), convert_to(($1 * $2 + n)::text, 'UTF8'), 0, 0, 0, '' FROM generate_series(0, $2 - 1) n`, i, each); err != nil {
			t.Fatal(err)
		}
	}
	begun := time.Now()
	startRelay(t, outbox, to)
	eventually(t, func() bool { return waiting(t, pool) == 0 }, "rows are left behind")
	t.Logf("%d rows in %v", transactions*each, time.Since(begun))
	next := make(map[string]int)
	for _, p := range to.got {
		number, _ := strconv.Atoi(string(p.Payload))
		if number < next[p.Topic] {
			t.Fatalf("%s: %d came after %d", p.Topic, number, next[p.Topic])
		}
		next[p.Topic] = number
	}
	if len(to.got) != transactions*each {
		t.Errorf("%d were published, want %d", len(to.got), transactions*each)
	}
}
