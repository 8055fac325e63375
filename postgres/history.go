package postgres

import (
	"context"
	"math"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/seed-29c60982/grouphub/layer"
)

// History implements [layer.Layer]. It is one statement, which sees one state of the
// database.
func (l *Layer) History(ctx context.Context, topic string, after uint64) (layer.History, error) {
	var h layer.History
	err := l.call(ctx, "history of", topic, func(ctx context.Context, conn *pgxpool.Conn) (err error) {
		var begun bool
		if h, begun, err = readHistory(ctx, conn, topic, after); err != nil || begun {
			return err
		}
		if _, err = conn.Exec(ctx, "SELECT grouphub_begin($1, $2, $3)", []byte(topic), newWord(), newWord()); err != nil {
			return err
		}
		h, _, err = readHistory(ctx, conn, topic, after)
		return err
	})
	if err != nil {
		return layer.History{}, err
	}
	return h, nil
}

// Positions implements [layer.Positioner].
func (l *Layer) Positions(ctx context.Context, topics []string) ([]layer.Position, error) {
	positions := make([]layer.Position, len(topics))
	if len(topics) == 0 {
		return positions, nil
	}
	names := make([][]byte, len(topics))
	for i, topic := range topics {
		names[i] = []byte(topic)
	}
	found := make(map[string]layer.Position, len(topics))
	err := l.call(ctx, "positions beginning with that of", topics[0], func(ctx context.Context, conn *pgxpool.Conn) error {
		rows, err := conn.Query(ctx, "SELECT topic, epoch, last, nonce FROM grouphub_topics WHERE topic = ANY ($1)", names)
		if err != nil {
			return err
		}
		var topic []byte
		var at layer.Position
		_, err = pgx.ForEachRow(rows, []any{&topic, &at.Epoch, &at.Number, &at.Nonce}, func() error {
			found[string(topic)] = at
			return nil
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	for i, topic := range topics {
		positions[i] = found[topic]
	}
	return positions, nil
}

// readHistory also reports whether there is an epoch that will not end soon.
func readHistory(ctx context.Context, conn *pgxpool.Conn, topic string, after uint64) (h layer.History, begun bool, err error) {
	rows, err := conn.Query(ctx, `
		SELECT t.epoch, t.start, t.last, t.nonce, t.last > 0 OR t.until > now() + interval '1 hour',
			e.number, e.nonce, e.payload, extract(epoch FROM clock_timestamp() - e.kept)::float8
		FROM grouphub_topics t
		LEFT JOIN grouphub_events e ON e.topic = t.topic AND e.number >= t.first AND e.number > $2 AND t.kept_until > now()
		WHERE t.topic = $1 ORDER BY e.number`, []byte(topic), int64(min(after, math.MaxInt64)))
	if err != nil {
		return h, false, err
	}
	var number *int64
	var nonce *string
	var payload []byte
	var age *float64
	_, err = pgx.ForEachRow(rows, []any{&h.Epoch, &h.Start, &h.Last, &h.Nonce, &begun, &number, &nonce, &payload, &age}, func() error {
		if number != nil {
			h.Kept = append(h.Kept, layer.Publication{Topic: topic, Payload: payload,
				At:  layer.Position{Epoch: h.Epoch, Number: uint64(*number), Nonce: *nonce},
				Age: max(time.Duration(*age*float64(time.Second)), 0)})
		}
		return nil
	})
	return h, begun, err
}
