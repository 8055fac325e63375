package postgres

import (
	"context"
	_ "embed"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

//go:embed schema.sql
var schema string

// version is the comment that the schema gives the outbox.
const version = "grouphub 1"

// migrationLock is the key of the advisory lock under which the schema is changed: statements
// that create something fail where another process creates it at the same time.
const migrationLock = 0x67726f757068 // "grouph"

// Schema returns the SQL that makes the tables and the functions of this package, in the
// schema that comes first in the search path. It may be run again, and is for tools that
// migrate by themselves; [Migrate] runs it.
func Schema() string { return schema }

// Migrate brings the database to what this version of the package needs. If it is there
// already, Migrate changes nothing and needs no permission to create tables. Processes may
// call it at the same time.
func Migrate(ctx context.Context, pool *pgxpool.Pool) error {
	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if migrated(ctx, tx) {
			return nil
		}
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", int64(migrationLock)); err != nil {
			return err
		}
		_, err := tx.Conn().PgConn().Exec(ctx, schema).ReadAll()
		return err
	})
	if err != nil {
		return fmt.Errorf("grouphub: migrate: %w", err)
	}
	return nil
}

// migrated reports whether the schema is there in this version.
func migrated(ctx context.Context, tx pgx.Tx) bool {
	var comment string
	err := tx.QueryRow(ctx, "SELECT coalesce(obj_description(to_regclass('grouphub_outbox'), 'pg_class'), '')").Scan(&comment)
	return err == nil && comment == version
}
