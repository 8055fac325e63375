package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	_ "modernc.org/sqlite"

	"github.com/seed-29c60982/grouphub/layer"
)

// A sqliteStore keeps orders in a file that this process alone has, with an outbox of its
// own: a table, a publisher that writes to it, and a relay that publishes and deletes.
type sqliteStore struct {
	db        *sql.DB
	committed chan struct{} // has room for one: there may be something to relay
}

const sqliteSchema = `
	PRAGMA journal_mode = WAL;
	CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, customer TEXT NOT NULL, item TEXT NOT NULL);
	CREATE TABLE IF NOT EXISTS outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, payload BLOB,
		keep_count INTEGER, keep_bytes INTEGER, keep_life INTEGER, keep_once TEXT);`

func openSQLite(file string) (*sqliteStore, error) {
	db, err := sql.Open("sqlite", file)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1) // one transaction at a time, so that ids have the order of commits
	if _, err := db.Exec(sqliteSchema); err != nil {
		db.Close()
		return nil, fmt.Errorf("open %s: %w", file, err)
	}
	return &sqliteStore{db: db, committed: make(chan struct{}, 1)}, nil
}

func (s *sqliteStore) Place(ctx context.Context, o order, send func(o order, via layer.Publisher) error) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	placed, err := tx.ExecContext(ctx, "INSERT INTO orders (customer, item) VALUES (?, ?)", o.Customer, o.Item)
	if err != nil {
		return err
	}
	if o.ID, err = placed.LastInsertId(); err != nil {
		return err
	}
	if err := send(o, sqlitePublisher{tx}); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	select {
	case s.committed <- struct{}{}:
	default: // the relay has not looked yet
	}
	return nil
}

// A sqlitePublisher is what grouphub.Via gets: it writes to the outbox in a transaction.
type sqlitePublisher struct{ tx *sql.Tx }

func (p sqlitePublisher) Publish(ctx context.Context, e layer.Publication) error {
	_, err := p.tx.ExecContext(ctx, "INSERT INTO outbox (topic, payload, keep_count, keep_bytes, keep_life, keep_once) VALUES (?, ?, ?, ?, ?, ?)",
		e.Topic, e.Payload, e.Keep.Count, e.Keep.Bytes, int64(e.Keep.Life), e.Keep.Once)
	return err
}

func (s *sqliteStore) Latest(ctx context.Context, n int) (latest []order, err error) {
	rows, err := s.db.QueryContext(ctx, "SELECT id, customer, item FROM orders ORDER BY id DESC LIMIT ?", n)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var o order
		if err := rows.Scan(&o.ID, &o.Customer, &o.Item); err != nil {
			return nil, err
		}
		latest = append(latest, o)
	}
	return latest, rows.Err()
}

// Relay looks after each commit, and every second for what an earlier process left behind or
// the layer did not take.
func (s *sqliteStore) Relay(ctx context.Context, to layer.Publisher) error {
	poll := time.NewTicker(time.Second)
	defer poll.Stop()
	for {
		if err := s.relayAll(to); errors.Is(err, layer.ErrClosed) {
			return err
		}
		select {
		case <-s.committed:
		case <-poll.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// relayAll publishes what waits, one after the other. What was published and not deleted,
// because the process was killed, goes out again: the row's key lets the layer know it.
func (s *sqliteStore) relayAll(to layer.Publisher) error {
	for {
		var id, life int64
		var e layer.Publication
		err := s.db.QueryRow("SELECT id, topic, payload, keep_count, keep_bytes, keep_life, keep_once FROM outbox ORDER BY id LIMIT 1").
			Scan(&id, &e.Topic, &e.Payload, &e.Keep.Count, &e.Keep.Bytes, &life, &e.Keep.Once)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		e.Keep.Life = time.Duration(life)
		if e.Keep.Once == "" && e.Keep.Count > 0 {
			e.Keep.Once = fmt.Sprint("outbox ", id)
		}
		if err := to.Publish(context.Background(), e); err != nil {
			return err
		}
		if _, err := s.db.Exec("DELETE FROM outbox WHERE id = ?", id); err != nil {
			return err
		}
	}
}

func (s *sqliteStore) Close() { s.db.Close() }
