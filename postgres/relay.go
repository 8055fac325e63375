package postgres

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/puddle/v2"

	"github.com/seed-29c60982/grouphub/layer"
)

const (
	// leaderLock is the key of the advisory lock that the relay has that works. It is taken
	// together with a hash of the schema's name, so that two outboxes of a database each
	// have their own.
	leaderLock = 0x67727068 // "grph"
	// leaderPoll is how often those that do not work try to.
	leaderPoll = 500 * time.Millisecond
	// queryTimeout is how long the database may take to answer a relay.
	queryTimeout = 10 * time.Second
	backoffMin   = 50 * time.Millisecond
	backoffMax   = 2 * time.Second

	mostKeys   = 100_000 // that are read at a time, in the order of commits
	chunkRows  = 512     // that are published, and then deleted, at a time
	chunkBytes = 4 << 20 // of their payloads, but for a single larger one
)

// Relay publishes what was committed until ctx ends, and then returns nil: the publications
// of one topic one after the other, in an order that does not contradict that of
// transactions that did not overlap; with track_commit_timestamp=on it is the order of
// commits. Those of different topics go out at the same time, but for what is no event of a
// group, a GroupClose for instance: that comes after all that was committed before it.
//
// Of many relays for one outbox, in one process or in many, one works, and another one takes
// over when it ends or loses its connection. Each holds one connection of the pool. It must
// lead to PostgreSQL directly or by a pooler in session mode: an advisory lock needs a
// session.
//
// While the layer or the database is down, Relay goes on trying and logs that. It returns an
// error only if the layer or the pool was closed. A publication whose end is unknown is
// repeated, and so are those of the last second before a crash of the database; in a group with history it is delivered once all the same, by a key of its own,
// which layers remember for [layer.OnceLife].
func (o *Outbox) Relay(ctx context.Context, to layer.Publisher) error {
	backoff := backoffMin
	for ctx.Err() == nil {
		begun := time.Now()
		err := o.relay(ctx, to)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, layer.ErrClosed), errors.Is(err, puddle.ErrClosedPool):
			return fmt.Errorf("grouphub: relay: %w", err)
		}
		o.logger().Error("grouphub: relay of the outbox interrupted", "error", err)
		if time.Since(begun) > backoffMax {
			backoff = backoffMin
		}
		sleep(ctx, backoff/2+mathrand.N(backoff))
		backoff = min(2*backoff, backoffMax)
	}
	return nil
}

// sleep waits, and reports whether ctx has not ended.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// relay waits until it leads on a connection of its own, and works until that is lost. The
// connection is closed and not given back: it has the lock, and settings of its own.
func (o *Outbox) relay(ctx context.Context, to layer.Publisher) error {
	pooled, err := o.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		pooled.Conn().Close(closing)
		pooled.Release()
	}()
	r := &relay{outbox: o, to: to, conn: pooled.Conn(), token: rand.Text()}
	if err := r.prepare(ctx); err != nil {
		return err
	}
	for {
		leads, err := r.tryLead(ctx)
		if err != nil {
			return err
		}
		if leads {
			break
		}
		if !sleep(ctx, leaderPoll) {
			return nil
		}
	}
	for {
		begun := time.Now()
		if err := r.round(ctx); err != nil || ctx.Err() != nil {
			return err
		}
		sleep(ctx, max(o.poll-time.Since(begun), 0))
	}
}

// A relay is one connection's attempt to lead, and its work while it does.
type relay struct {
	outbox  *Outbox
	to      layer.Publisher
	conn    *pgx.Conn
	token   string // proves that the session is still the same
	commits bool   // track_commit_timestamp is on

	// The last snapshot all of whose rows have been published. A row that is not among
	// them is of a transaction that was under way then, or began later.
	from     string   // its xmax: all later transactions; "0" before there is one
	underWay []string // its xip: those that were under way
}

// prepare makes the session the relay's own. A server that does not hear from the relay ends
// the session, and with it the lock. It deletes rows without waiting for the disk, which
// writers wait for as well: after a crash of the server some come back, and go out again as
// what is uncertain does.
func (r *relay) prepare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	_, err := r.conn.Exec(ctx, `SELECT set_config('grouphub.relay', $1, false),
		set_config('tcp_keepalives_idle', '5', false), set_config('tcp_keepalives_interval', '2', false),
		set_config('tcp_keepalives_count', '3', false), set_config('tcp_user_timeout', '10000', false),
		set_config('enable_seqscan', 'off', false), set_config('statement_timeout', '0', false),
		set_config('synchronous_commit', 'off', false)`,
		r.token)
	return err
}

// errNotAlone means that the session is shared, and with it the lock.
var errNotAlone = errors.New("the relay's connection is not a session of its own: it needs a direct connection or a pooler in session mode")

// tryLead tries to become the one that works.
func (r *relay) tryLead(ctx context.Context) (leads bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	var token, tracked string
	err = r.conn.QueryRow(ctx, `SELECT pg_try_advisory_lock($1, hashtext(current_schema())),
		coalesce(current_setting('grouphub.relay', true), ''), current_setting('track_commit_timestamp')`, int32(leaderLock)).Scan(&leads, &token, &tracked)
	if err == nil && token != r.token {
		return false, errNotAlone
	}
	r.commits, r.from = tracked == "on", "0"
	return leads, err
}

// A key is that of a row that waits.
type key struct {
	xid  string
	id   int64
	size int // of the payload
}

// round publishes what waits, once.
func (r *relay) round(ctx context.Context) error {
	keys, snapshot, err := r.keys(ctx)
	if err != nil {
		return err
	}
	for rest := keys; len(rest) > 0; {
		n, size := 0, 0
		for n < len(rest) && n < chunkRows && (n == 0 || size+rest[n].size <= chunkBytes) {
			size += rest[n].size
			n++
		}
		if err := r.relayChunk(ctx, rest[:n]); err != nil || ctx.Err() != nil {
			return err
		}
		rest = rest[n:]
	}
	if len(keys) == mostKeys {
		return nil // there may be more of them
	}
	r.from, r.underWay, err = parseSnapshot(snapshot)
	return err
}

// keys returns which rows wait that the last snapshot did not have, in the order in which
// they go out, and the snapshot that has them. That one transaction was committed before
// another one began shows in their ids and in their times. The order of those that
// overlapped only shows in the times.
func (r *relay) keys(ctx context.Context) (keys []key, snapshot string, err error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout+time.Minute) // a day's rows are sorted
	defer cancel()
	rows, err := r.conn.Query(ctx, keysQuery[r.commits], r.from, r.underWay, mostKeys)
	if err != nil {
		return nil, "", err
	}
	var k key
	var xid *string
	var id *int64
	var size *int
	var token string
	_, err = pgx.ForEachRow(rows, []any{&snapshot, &token, &xid, &id, &size}, func() error {
		if token != r.token {
			return errNotAlone
		}
		if xid != nil {
			k = key{*xid, *id, *size}
			keys = append(keys, k)
		}
		return nil
	})
	return keys, snapshot, err
}

// keysQuery is the query of keys, with the times of commits and without. It has one row, with
// nothing but the snapshot, if no row waits.
var keysQuery = func() map[bool]string {
	queries := make(map[bool]string)
	for commits, order := range map[bool]string{true: "pg_xact_commit_timestamp(xmin)", false: "NULL::timestamptz"} {
		queries[commits] = strings.ReplaceAll(`
			SELECT s.snapshot::text, coalesce(current_setting('grouphub.relay', true), ''), r.xid::text, r.id, r.size
			FROM (SELECT pg_current_snapshot() AS snapshot) s LEFT JOIN LATERAL (
				SELECT xid, id, octet_length(payload) AS size, ORDER AS committed FROM grouphub_outbox
					WHERE xid >= $1::text::xid8
				UNION ALL
				SELECT xid, id, octet_length(payload) AS size, ORDER AS committed FROM grouphub_outbox
					WHERE xid = ANY ($2::text[]::xid8[])
				ORDER BY committed NULLS FIRST, id LIMIT $3
			) r ON true`, "ORDER AS", order+" AS")
	}
	return queries
}()

// parseSnapshot reads the text of a pg_snapshot, "xmin:xmax:xip,…".
func parseSnapshot(text string) (xmax string, xip []string, err error) {
	fields := strings.Split(text, ":")
	if len(fields) != 3 {
		return "", nil, fmt.Errorf("snapshot %q makes no sense", text)
	}
	if fields[2] != "" {
		xip = strings.Split(fields[2], ",")
	}
	return fields[1], xip, nil
}
