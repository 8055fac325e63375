package postgres_test

import (
	"context"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/postgres"
	"github.com/seed-29c60982/grouphub/postgres/internal/postgrestest"
)

// pay is the first block of the README.
func pay(ctx context.Context, pool *pgxpool.Pool, hub *grouphub.Hub, layer grouphub.Layer, id int) error {
	outbox := postgres.NewOutbox(pool, nil)
	go outbox.Relay(ctx, layer) // in every process, or in one: of many that run, one works

	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "UPDATE orders SET paid = true WHERE id = $1", id); err != nil {
			return err
		}
		return hub.GroupSend(ctx, "order:7", "order.paid", id, grouphub.Via(outbox.In(tx)))
	})
	return err
}

// newHubOnPostgres is the second.
func newHubOnPostgres(ctx context.Context, pool *pgxpool.Pool) (*grouphub.Hub, error) {
	layer, err := postgres.NewLayer(ctx, pool, nil)
	hub := grouphub.New(&grouphub.Options{Layer: layer})
	return hub, err
}

var _, _ = pay, newHubOnPostgres

func TestTheBlocksOfTheReadmeCompileAndRun(t *testing.T) {
	read := func(file string) string {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	oneSpace := func(s string) string { return strings.Join(strings.Fields(s), " ") }
	code, readme := oneSpace(read("readme_test.go")), read("README.md")
	pool := migratedPool(t, postgrestest.Start(t))
	found := map[string]int{}
	for _, block := range regexp.MustCompile("(?s)```(go|sql)\n(.*?)```").FindAllStringSubmatch(readme, -1) {
		found[block[1]]++
		switch block[1] {
		case "go":
			if !strings.Contains(code, oneSpace(block[2])) {
				t.Errorf("not compiled:\n%s", block[2])
			}
		case "sql":
			if _, err := pool.Exec(background, block[2]); err != nil {
				t.Errorf("%v:\n%s", err, block[2])
			}
		}
	}
	if found["go"] < 2 || found["sql"] < 2 {
		t.Errorf("found %v", found)
	}
}
