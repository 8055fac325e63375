package postgres

import (
	"bytes"
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/seed-29c60982/grouphub/layer"
)

// Lease implements [layer.Layer].
func (l *Layer) Lease(ctx context.Context, topic, holder string, change layer.LeaseChange) (bool, error) {
	fields, values, remove := [][]byte{}, [][]byte{}, [][]byte{}
	for name, value := range change.Set {
		fields, values = append(fields, []byte(name)), append(values, append([]byte{}, value...))
	}
	for _, name := range change.Remove {
		remove = append(remove, []byte(name))
	}
	life := int64(0)
	if change.Life > 0 {
		life = milliseconds(change.Life)
	}
	var changed bool
	err := l.call(ctx, "lease", topic, func(ctx context.Context, conn *pgxpool.Conn) error {
		return conn.QueryRow(ctx, "SELECT grouphub_lease($1, $2, $3, $4, $5, $6, $7, $8)", []byte(topic), []byte(holder),
			int64(change.After), int64(change.Version), life, fields, values, remove).Scan(&changed)
	})
	return err == nil && changed, err
}

// Leases implements [layer.Layer].
func (l *Layer) Leases(ctx context.Context, topic string, known map[string]uint64) (map[string]layer.Lease, error) {
	holders, versions := [][]byte{}, []int64{}
	for holder, version := range known {
		holders, versions = append(holders, []byte(holder)), append(versions, int64(version))
	}
	leases := make(map[string]layer.Lease)
	err := l.call(ctx, "leases of", topic, func(ctx context.Context, conn *pgxpool.Conn) error {
		rows, err := conn.Query(ctx, `
			SELECT l.holder, l.version, k.holder IS NOT NULL, f.field, f.value
			FROM grouphub_leases l
			LEFT JOIN unnest($2::bytea[], $3::bigint[]) AS k (holder, version) ON k.holder = l.holder AND k.version = l.version
			LEFT JOIN grouphub_lease_fields f ON k.holder IS NULL AND f.topic = l.topic AND f.holder = l.holder
			WHERE l.topic = $1 AND l.until > clock_timestamp()`, []byte(topic), holders, versions)
		if err != nil {
			return err
		}
		var holder, field, value []byte
		var version int64
		var same bool
		_, err = pgx.ForEachRow(rows, []any{&holder, &version, &same, &field, &value}, func() error {
			lease, ok := leases[string(holder)]
			if !ok {
				lease.Version = uint64(version)
				if !same {
					lease.Fields = make(map[string][]byte)
				}
				leases[string(holder)] = lease
			}
			if field != nil {
				lease.Fields[string(field)] = bytes.Clone(value)
			}
			return nil
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	return leases, nil
}
