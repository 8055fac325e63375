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

-- What the layer keeps. All of it has an end, and is deleted some time after it.

-- Of each topic with history: how far its numbers have come. Numbers from first to last are
-- kept, until kept_until. The row itself, and with it the epoch, ends at until.
CREATE TABLE IF NOT EXISTS grouphub_topics (
	topic      bytea       PRIMARY KEY,
	epoch      text        NOT NULL,
	start      text        NOT NULL, -- the nonce of number 0
	nonce      text        NOT NULL, -- of last
	first      bigint      NOT NULL,
	last       bigint      NOT NULL,
	total      bigint      NOT NULL, -- bytes of all payloads of the epoch
	kept_until timestamptz NOT NULL,
	until      timestamptz NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE IF NOT EXISTS grouphub_events (
	topic   bytea       NOT NULL,
	number  bigint      NOT NULL,
	nonce   text        NOT NULL,
	payload bytea       NOT NULL,
	total   bigint      NOT NULL, -- the topic's total before this one
	kept    timestamptz NOT NULL,
	PRIMARY KEY (topic, number)
) WITH (autovacuum_vacuum_scale_factor = 0.05);

-- The keys that may not be used again yet. A relay that was interrupted goes by them, so they
-- have to outlive a crash.
CREATE TABLE IF NOT EXISTS grouphub_once (
	topic bytea       NOT NULL,
	key   bytea       NOT NULL,
	until timestamptz NOT NULL,
	PRIMARY KEY (topic, key)
);
CREATE INDEX IF NOT EXISTS grouphub_once_until ON grouphub_once (until);

-- What follows need not outlive a crash of the server, and is not written to its log.

-- Payloads that are too large for a notification, and not kept.
CREATE UNLOGGED TABLE IF NOT EXISTS grouphub_payloads (
	id      text        PRIMARY KEY,
	payload bytea       NOT NULL,
	until   timestamptz NOT NULL
);

CREATE UNLOGGED TABLE IF NOT EXISTS grouphub_queues (
	queue   bytea       NOT NULL,
	id      bigint      GENERATED ALWAYS AS IDENTITY,
	message bytea       NOT NULL,
	until   timestamptz NOT NULL,
	PRIMARY KEY (queue, id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- What holders keep for topics: presence. Fields belong to a lease and end with it.
CREATE UNLOGGED TABLE IF NOT EXISTS grouphub_leases (
	topic   bytea       NOT NULL,
	holder  bytea       NOT NULL,
	version bigint      NOT NULL,
	until   timestamptz NOT NULL,
	PRIMARY KEY (topic, holder)
) WITH (fillfactor = 50);

CREATE UNLOGGED TABLE IF NOT EXISTS grouphub_lease_fields (
	topic  bytea NOT NULL,
	holder bytea NOT NULL,
	field  bytea NOT NULL,
	value  bytea NOT NULL,
	PRIMARY KEY (topic, holder, field)
);

-- grouphub_keep numbers a publication and keeps it. It returns epoch and number, or nothing
-- if the key was used before.
CREATE OR REPLACE FUNCTION grouphub_keep(p_topic bytea, p_payload bytea, p_count bigint, p_bytes bigint,
	p_life interval, p_once bytea, p_once_life interval, p_epoch text, p_nonce text,
	OUT p_kept_epoch text, OUT p_number bigint) LANGUAGE plpgsql AS $$
DECLARE
	v_now   timestamptz := clock_timestamp();
	v_first bigint;
	v_total bigint; -- before this one
	v_base  bigint; -- the total before the first that is kept
BEGIN
	IF octet_length(p_once) > 0 THEN
		-- The topic is locked first, so that no two transactions wait for each other.
		PERFORM FROM grouphub_topics WHERE topic = p_topic FOR UPDATE;
		IF NOT FOUND THEN
			INSERT INTO grouphub_topics VALUES (p_topic, p_epoch, '', '', 1, 0, 0, '-infinity', v_now + interval '2 hours')
				ON CONFLICT (topic) DO UPDATE SET until = grouphub_topics.until;
		END IF;
		INSERT INTO grouphub_once AS o VALUES (p_topic, p_once, v_now + p_once_life)
			ON CONFLICT (topic, key) DO UPDATE SET until = excluded.until WHERE o.until <= v_now;
		IF NOT FOUND THEN
			RETURN;
		END IF;
	END IF;
	INSERT INTO grouphub_topics AS t
		VALUES (p_topic, p_epoch, '', p_nonce, 1, 1, octet_length(p_payload), v_now + p_life, v_now + greatest(p_life, '1 day'))
		ON CONFLICT (topic) DO UPDATE SET
			nonce      = excluded.nonce,
			first      = CASE WHEN t.kept_until <= v_now THEN t.last + 1 ELSE greatest(t.first, t.last + 2 - p_count) END,
			last       = t.last + 1,
			total      = t.total + octet_length(p_payload),
			kept_until = excluded.kept_until,
			until      = excluded.until
		RETURNING t.epoch, t.last, t.first, t.total - octet_length(p_payload)
		INTO p_kept_epoch, p_number, v_first, v_total;
	INSERT INTO grouphub_events VALUES (p_topic, p_number, p_nonce, p_payload, v_total, v_now);
	IF p_bytes > 0 THEN
		SELECT total INTO v_base FROM grouphub_events WHERE topic = p_topic AND number = v_first;
		IF v_total + octet_length(p_payload) - v_base > p_bytes THEN
			-- Down to three quarters, so that this is not to be done each time.
			SELECT coalesce(min(number), p_number) INTO v_first FROM grouphub_events
				WHERE topic = p_topic AND number > v_first AND total >= v_total + octet_length(p_payload) - p_bytes * 3 / 4;
			UPDATE grouphub_topics SET first = v_first WHERE topic = p_topic;
		END IF;
	END IF;
	IF p_number % 16 = 0 OR p_bytes > 0 AND octet_length(p_payload) > p_bytes / 16 THEN
		DELETE FROM grouphub_events WHERE topic = p_topic AND number < v_first;
	END IF;
END $$;

-- grouphub_publish publishes many at once: each is a notification of its own, with a tag,
-- since PostgreSQL merges those of a transaction that are equal. What has a count is kept
-- first; a key that was used before leaves it out. Topics come in their order, so that no
-- two transactions wait for each other.
CREATE OR REPLACE FUNCTION grouphub_publish(p_channel text, p_heads text[], p_tails text[], p_topics bytea[], p_payloads bytea[],
	p_counts bigint[], p_bytes bigint[], p_lives bigint[], p_onces bytea[], p_once_life bigint, p_epochs text[], p_nonces text[],
	p_large_ids text[], p_large_payloads bytea[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	v_epoch  text;
	v_number bigint;
BEGIN
	IF cardinality(p_large_ids) > 0 THEN
		INSERT INTO grouphub_payloads SELECT id, payload, clock_timestamp() + '1 minute' FROM unnest(p_large_ids, p_large_payloads) AS l (id, payload);
	END IF;
	FOR i IN 1 .. cardinality(p_heads) LOOP
		IF p_counts[i] = 0 THEN
			PERFORM pg_notify(p_channel, i || ' ' || p_heads[i] || p_tails[i]);
			CONTINUE;
		END IF;
		SELECT p_kept_epoch, p_number INTO v_epoch, v_number FROM grouphub_keep(p_topics[i], p_payloads[i], p_counts[i], p_bytes[i],
			p_lives[i] * interval '1 millisecond', p_onces[i], p_once_life * interval '1 millisecond', p_epochs[i], p_nonces[i]);
		IF v_number IS NOT NULL THEN
			PERFORM pg_notify(p_channel, i || ' ' || p_heads[i] || v_epoch || ' ' || v_number || ' ' || p_tails[i]);
		END IF;
	END LOOP;
END $$;

-- grouphub_begin gives a topic an epoch if it has none, and more time to one in which
-- nothing was published.
CREATE OR REPLACE FUNCTION grouphub_begin(p_topic bytea, p_epoch text, p_start text) RETURNS void LANGUAGE sql AS $$
	INSERT INTO grouphub_topics AS t VALUES (p_topic, p_epoch, p_start, p_start, 1, 0, 0, '-infinity', now() + interval '2 hours')
		ON CONFLICT (topic) DO UPDATE SET until = excluded.until WHERE t.last = 0
$$;

-- grouphub_append adds a message to a queue and wakes who waits for one, unless it is full.
CREATE OR REPLACE FUNCTION grouphub_append(p_queue bytea, p_message bytea, p_capacity bigint, p_life bigint, p_channel text, p_wake text)
	RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_advisory_xact_lock(1735549300, hashtext(encode(p_queue, 'hex'))); -- two at once count the same
	IF (SELECT count(*) FROM (SELECT FROM grouphub_queues WHERE queue = p_queue AND until > clock_timestamp() LIMIT p_capacity) held) >= p_capacity THEN
		RETURN false;
	END IF;
	INSERT INTO grouphub_queues (queue, message, until) VALUES (p_queue, p_message, clock_timestamp() + p_life * interval '1 millisecond');
	PERFORM pg_notify(p_channel, p_wake);
	RETURN true;
END $$;

-- grouphub_lease changes a lease as layer.LeaseChange says.
CREATE OR REPLACE FUNCTION grouphub_lease(p_topic bytea, p_holder bytea, p_after bigint, p_version bigint, p_life bigint,
	p_fields bytea[], p_values bytea[], p_remove bytea[]) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	v_version  bigint;
	v_until    timestamptz;
	v_replaces boolean := p_after = 0 OR p_life = 0;
BEGIN
	-- The row is made if need be, so that there is one to lock.
	INSERT INTO grouphub_leases AS l VALUES (p_topic, p_holder, 0, '-infinity')
		ON CONFLICT (topic, holder) DO UPDATE SET until = l.until RETURNING version, until INTO v_version, v_until;
	IF v_until <= clock_timestamp() THEN
		v_version := 0;
		DELETE FROM grouphub_lease_fields WHERE topic = p_topic AND holder = p_holder;
	END IF;
	IF v_replaces AND v_version > p_version OR NOT v_replaces AND v_version <> p_after THEN
		IF v_version = 0 THEN
			DELETE FROM grouphub_leases WHERE topic = p_topic AND holder = p_holder;
		END IF;
		RETURN false;
	END IF;
	IF v_replaces THEN
		DELETE FROM grouphub_lease_fields WHERE topic = p_topic AND holder = p_holder;
	END IF;
	IF p_life = 0 THEN
		DELETE FROM grouphub_leases WHERE topic = p_topic AND holder = p_holder;
		RETURN true;
	END IF;
	INSERT INTO grouphub_lease_fields SELECT p_topic, p_holder, s.field, s.value FROM unnest(p_fields, p_values) AS s (field, value)
		ON CONFLICT (topic, holder, field) DO UPDATE SET value = excluded.value;
	DELETE FROM grouphub_lease_fields WHERE topic = p_topic AND holder = p_holder AND field = ANY (p_remove);
	UPDATE grouphub_leases SET version = p_version, until = clock_timestamp() + p_life * interval '1 millisecond'
		WHERE topic = p_topic AND holder = p_holder;
	RETURN true;
END $$;

-- grouphub_sweep deletes what has ended.
CREATE OR REPLACE FUNCTION grouphub_sweep() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF NOT pg_try_advisory_xact_lock(1735549299) THEN
		RETURN; -- another process does it
	END IF;
	WITH ended AS (
		UPDATE grouphub_topics t SET first = t.last + 1, kept_until = '-infinity' FROM (
			SELECT topic FROM grouphub_topics WHERE kept_until <= now() AND kept_until > '-infinity' LIMIT 1000 FOR UPDATE SKIP LOCKED
		) AS e WHERE t.topic = e.topic RETURNING t.topic, t.last
	) DELETE FROM grouphub_events e USING ended WHERE e.topic = ended.topic AND e.number <= ended.last;
	DELETE FROM grouphub_topics WHERE topic IN (
		SELECT topic FROM grouphub_topics WHERE until <= now() AND kept_until <= now() AND first > last LIMIT 1000 FOR UPDATE SKIP LOCKED);
	DELETE FROM grouphub_once WHERE until <= now();
	DELETE FROM grouphub_payloads WHERE until <= now();
	DELETE FROM grouphub_queues WHERE until <= now();
	WITH ended AS (DELETE FROM grouphub_leases WHERE until <= now() RETURNING topic, holder)
		DELETE FROM grouphub_lease_fields f USING ended WHERE f.topic = ended.topic AND f.holder = ended.holder;
END $$;

-- Says which version this is; Migrate looks for it.
COMMENT ON TABLE grouphub_outbox IS 'grouphub 1';
