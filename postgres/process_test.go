package postgres_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/postgres"
)

// The environment of a process that is a relay: the database of its outbox, and the Redis of
// its layer, which is empty if the layer is on the database, too.
const (
	relayDatabase = "GROUPHUB_TEST_RELAY_DATABASE"
	relayRedis    = "GROUPHUB_TEST_RELAY_REDIS"
)

// startRelayProcess starts an application that relays, and writes orders, in a process of its
// own, which can be killed.
func startRelayProcess(t testing.TB, database, redis string) *exec.Cmd {
	t.Helper()
	relay := exec.Command(os.Args[0])
	relay.Env = append(os.Environ(), relayDatabase+"="+database, relayRedis+"="+redis)
	relay.Stderr = os.Stderr
	if err := relay.Start(); err != nil {
		t.Fatal(err)
	}
	return relay
}

func kill(process *exec.Cmd) {
	process.Process.Kill()
	process.Wait()
}

// relayMain is such a process. It ends by being killed.
func relayMain() {
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, "relay:", err)
			os.Exit(1)
		}
	}
	pool, err := pgxpool.New(background, os.Getenv(relayDatabase))
	fail(err)
	to, err := newLayer(pool, os.Getenv(relayRedis))
	fail(err)
	outbox := newOutbox(pool)
	hub := grouphub.New(&grouphub.Options{Layer: to, Policy: chaosPolicy, Logger: quiet()})
	for range 2 {
		go func() {
			for {
				if _, err := writeOrder(hub, outbox, pool, 1<<40+rand.Int64N(1<<40)); err != nil {
					time.Sleep(20 * time.Millisecond) // the database is away
				}
			}
		}()
	}
	fail(outbox.Relay(background, to))
}

// newLayer connects to a layer on Redis, or without one to the layer on PostgreSQL.
func newLayer(pool *pgxpool.Pool, redis string) (grouphub.Layer, error) {
	if redis == "" {
		return postgres.NewLayer(background, pool, &postgres.LayerOptions{Logger: quiet()})
	}
	return grouphub.NewRedisLayer(redis, nil)
}
