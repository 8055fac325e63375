package postgres

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/seed-29c60982/grouphub/layer"
)

const (
	// publishers is how many topics' publications go out at the same time.
	publishers = 32
	// leaderProof is how often a relay makes sure that it still leads while it publishes.
	leaderProof = time.Second
	// groupPrefix begins the topics of groups. What has another one is a command to hubs.
	groupPrefix = "g:"
)

// A row is one of the outbox.
type row struct {
	publication layer.Publication
	published   bool
}

// relayChunk publishes the rows of these keys and deletes those that went out. Those are
// deleted at the end of ctx, too: another relay would publish them again.
func (r *relay) relayChunk(ctx context.Context, keys []key) error {
	xids, ids := make([]string, len(keys)), make([]int64, len(keys))
	for i, k := range keys {
		xids[i], ids[i] = k.xid, k.id
	}
	rows, err := r.read(ctx, xids, ids)
	if err != nil {
		return err
	}
	failed := r.publishRows(ctx, rows)
	done := 0
	for i := range rows {
		if rows[i].published {
			xids[done], ids[done] = xids[i], ids[i]
			done++
		}
	}
	deleting, cancel := context.WithTimeout(context.WithoutCancel(ctx), queryTimeout)
	defer cancel()
	_, err = r.conn.Exec(deleting, `DELETE FROM grouphub_outbox o USING unnest($1::text[]::xid8[], $2::bigint[]) AS k (xid, id)
		WHERE o.xid = k.xid AND o.id = k.id`, xids[:done], ids[:done])
	return errors.Join(failed, err)
}

// read returns the rows of these keys, in their order. Nobody else deletes rows.
func (r *relay) read(ctx context.Context, xids []string, ids []int64) ([]row, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	found, err := r.conn.Query(ctx, `SELECT topic, payload, keep_count, keep_bytes, keep_life, keep_once
		FROM unnest($1::text[]::xid8[], $2::bigint[]) WITH ORDINALITY AS k (xid, id, n) JOIN grouphub_outbox o USING (xid, id)
		ORDER BY n`, xids, ids)
	if err != nil {
		return nil, err
	}
	rows, err := pgx.CollectRows(found, func(found pgx.CollectableRow) (row row, err error) {
		var topic, once []byte
		var life int64
		p := &row.publication
		err = found.Scan(&topic, &p.Payload, &p.Keep.Count, &p.Keep.Bytes, &life, &once)
		p.Topic, p.Keep.Life, p.Keep.Once = string(topic), time.Duration(life)*time.Millisecond, string(once)
		return row, err
	})
	if err == nil && len(rows) != len(ids) {
		err = errors.New("rows of the outbox have been deleted by somebody else")
	}
	return rows, err
}

// publishRows publishes the events of groups, each group's in their order and different
// groups' at the same time, and what is between them in its place. It returns when no call
// is under way any more. Once ctx has ended it begins no further one.
func (r *relay) publishRows(ctx context.Context, rows []row) error {
	for len(rows) > 0 && ctx.Err() == nil {
		n := 0
		for n < len(rows) && strings.HasPrefix(rows[n].publication.Topic, groupPrefix) {
			n++
		}
		if err := r.publishTopics(ctx, rows[:n]); err != nil {
			return err
		}
		if n < len(rows) {
			if err := r.publishTopics(ctx, rows[n:n+1]); err != nil {
				return err
			}
			n++
		}
		rows = rows[n:]
	}
	return nil
}

func (r *relay) publishTopics(ctx context.Context, rows []row) error {
	byTopic := make(map[string][]*row)
	var topics []string
	for i := range rows {
		topic := rows[i].publication.Topic
		if byTopic[topic] == nil {
			topics = append(topics, topic)
		}
		byTopic[topic] = append(byTopic[topic], &rows[i])
	}
	leading, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	work := make(chan []*row, len(topics))
	for _, topic := range topics {
		work <- byTopic[topic]
	}
	close(work)
	var running sync.WaitGroup
	for range min(publishers, len(topics)) {
		running.Go(func() {
			for rows := range work {
				for _, row := range rows {
					if err := r.publish(leading, row); err != nil {
						stop(err)
						return
					}
				}
			}
		})
	}
	finished := make(chan struct{})
	go func() {
		running.Wait()
		close(finished)
	}()
	proof := time.NewTicker(leaderProof)
	defer proof.Stop()
	for {
		select {
		case <-finished:
			if ctx.Err() != nil {
				return nil
			}
			return context.Cause(leading)
		case <-proof.C:
			if leading.Err() == nil {
				if err := r.prove(ctx); err != nil && ctx.Err() == nil {
					stop(err)
				}
			}
		}
	}
}

// publish publishes one row, however long that takes, until ctx ends. A call that is under
// way then is not interrupted, since nobody would know its end; layers end it after five
// seconds at the most.
func (r *relay) publish(ctx context.Context, row *row) error {
	for backoff := backoffMin; ctx.Err() == nil; backoff = min(2*backoff, backoffMax) {
		err := r.to.Publish(context.WithoutCancel(ctx), row.publication)
		if err == nil {
			row.published = true
			return nil
		}
		if errors.Is(err, layer.ErrClosed) {
			return err
		}
		if backoff == backoffMin || backoff == backoffMax {
			r.outbox.logger().Warn("grouphub: relay of the outbox waits for the layer", "topic", row.publication.Topic, "error", err)
		}
		sleep(ctx, backoff)
	}
	return context.Cause(ctx)
}

// prove returns an error if the session, and with it the lock, is gone. It is not interrupted:
// that would end the session.
func (r *relay) prove(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), queryTimeout)
	defer cancel()
	var token string
	err := r.conn.QueryRow(ctx, "SELECT coalesce(current_setting('grouphub.relay', true), '')").Scan(&token)
	if err == nil && token != r.token {
		err = errNotAlone
	}
	return err
}
