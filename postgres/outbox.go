package postgres

import (
	"cmp"
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/seed-29c60982/grouphub/layer"
)

// defaultPoll is how often a relay looks for what was committed.
const defaultPoll = 20 * time.Millisecond

// OutboxOptions say how an Outbox works. The zero value has the defaults.
type OutboxOptions struct {
	// Poll is how often Relay looks for what was committed; 0: 20 ms. A commit tells nobody,
	// since NOTIFY would have all commits of the server wait for one another. So an event
	// waits for half of this on the average, and then for the layer.
	Poll time.Duration

	// Logger is told of lost connections and of a layer that is down; nil: slog.Default() at
	// the time of each record.
	Logger *slog.Logger
}

// An Outbox has the publications that were written in transactions until they go out. In and
// InSQL write to it, and Relay publishes what was committed. All methods may be called
// concurrently, and by many processes for one database.
type Outbox struct {
	pool *pgxpool.Pool
	poll time.Duration
	log  *slog.Logger // nil: the default at the time of each record
}

// NewOutbox returns the outbox of a database that has the tables of [Schema]. The pool is
// only used by Relay, and remains the caller's.
func NewOutbox(pool *pgxpool.Pool, opts *OutboxOptions) *Outbox {
	if opts == nil {
		opts = &OutboxOptions{}
	}
	return &Outbox{pool: pool, poll: cmp.Or(max(opts.Poll, 0), defaultPoll), log: opts.Logger}
}

// In returns a publisher for grouphub.Via that writes to the outbox in a transaction. An
// event is one INSERT of one row: it takes no lock that another transaction waits for. An
// error is that of the INSERT, after which PostgreSQL refuses to commit.
func (o *Outbox) In(tx pgx.Tx) layer.Publisher {
	return publisher(func(ctx context.Context, args ...any) error {
		_, err := tx.Exec(ctx, insert, args...)
		return err
	})
}

// InSQL is [Outbox.In] for a transaction of database/sql, with any driver for PostgreSQL.
func (o *Outbox) InSQL(tx *sql.Tx) layer.Publisher {
	return publisher(func(ctx context.Context, args ...any) error {
		_, err := tx.ExecContext(ctx, insert, args...)
		return err
	})
}

const insert = `INSERT INTO grouphub_outbox (topic, payload, keep_count, keep_bytes, keep_life, keep_once)
	VALUES ($1, $2, $3, $4, $5, $6)`

// A publisher executes the INSERT with its arguments. These are encoded before it returns, so
// that nothing of a publication is kept.
type publisher func(ctx context.Context, args ...any) error

// Publish implements [layer.Publisher].
func (write publisher) Publish(ctx context.Context, p layer.Publication) error {
	once := p.Keep.Once
	if once == "" && p.Keep.Count > 0 {
		// The row's own key. A relay that was killed between publishing and deleting a row
		// leaves it to one that publishes it again.
		once = "outbox " + rand.Text()
	}
	payload := p.Payload
	if payload == nil {
		payload = []byte{} // nil is NULL
	}
	err := write(ctx, []byte(p.Topic), payload, int64(p.Keep.Count), int64(p.Keep.Bytes), p.Keep.Life.Milliseconds(), []byte(once))
	if err != nil {
		return fmt.Errorf("grouphub: write to the outbox, topic %q: %w", p.Topic, err)
	}
	return nil
}

func (o *Outbox) logger() *slog.Logger {
	if o.log != nil {
		return o.log
	}
	return slog.Default()
}
