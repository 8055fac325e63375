package main

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/layer"
	"github.com/seed-29c60982/grouphub/postgres"
)

// A postgresStore keeps orders in PostgreSQL, with the outbox of package postgres.
type postgresStore struct {
	pool   *pgxpool.Pool
	outbox *postgres.Outbox
}

// openPostgres also returns the layer that the processes with this database share.
func openPostgres(ctx context.Context, url string) (store, grouphub.Layer, error) {
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		return nil, nil, err
	}
	events, err := postgres.NewLayer(ctx, pool, nil) // this migrates, the outbox too
	if err != nil {
		pool.Close()
		return nil, nil, err
	}
	if _, err := pool.Exec(ctx, `CREATE TABLE IF NOT EXISTS orders (
		id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer text NOT NULL, item text NOT NULL)`); err != nil {
		events.Close()
		pool.Close()
		return nil, nil, err
	}
	return &postgresStore{pool, postgres.NewOutbox(pool, nil)}, events, nil
}

func (s *postgresStore) Place(ctx context.Context, o order, send func(o order, via layer.Publisher) error) error {
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, "INSERT INTO orders (customer, item) VALUES ($1, $2) RETURNING id", o.Customer, o.Item).Scan(&o.ID)
		if err != nil {
			return err
		}
		return send(o, s.outbox.In(tx))
	})
}

func (s *postgresStore) Latest(ctx context.Context, n int) ([]order, error) {
	rows, err := s.pool.Query(ctx, "SELECT id, customer, item FROM orders ORDER BY id DESC LIMIT $1", n)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[order])
}

func (s *postgresStore) Relay(ctx context.Context, to layer.Publisher) error {
	return s.outbox.Relay(ctx, to)
}

func (s *postgresStore) Close() { s.pool.Close() }
