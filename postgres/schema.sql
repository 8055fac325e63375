-- What grouphub keeps in PostgreSQL. Running it again changes nothing.

-- Publications that wait to go out. A transaction writes one row and takes no lock that
-- another one waits for. The transaction's id comes first in the key, because a relay asks
-- for the rows of transactions that its last snapshot did not have, and never walks over
-- what it has deleted.
CREATE TABLE IF NOT EXISTS grouphub_outbox (
	xid        xid8        NOT NULL DEFAULT pg_current_xact_id(),
	id         bigint      GENERATED ALWAYS AS IDENTITY,
	topic      bytea       NOT NULL,
	payload    bytea       NOT NULL,
	keep_count bigint      NOT NULL, -- what follows is layer.Keep
	keep_bytes bigint      NOT NULL,
	keep_life  bigint      NOT NULL, -- milliseconds
	keep_once  bytea       NOT NULL,
	created    timestamptz NOT NULL DEFAULT clock_timestamp(),
	PRIMARY KEY (xid, id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

COMMENT ON TABLE grouphub_outbox IS 'grouphub 1';
