// Package postgres binds events to commits: an [Outbox] has what was sent in a transaction of
// PostgreSQL, and sends it if, and only if, that commits. It also has a [Layer], for hubs that
// share a database and no Redis.
//
//	outbox := postgres.NewOutbox(pool, nil)
//	go outbox.Relay(ctx, layer) // in every process, or in one
//	...
//	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
//		if _, err := tx.Exec(ctx, "UPDATE orders SET paid = true WHERE id = $1", id); err != nil {
//			return err
//		}
//		return hub.GroupSend(ctx, "order:7", "order.paid", id, grouphub.Via(outbox.In(tx)))
//	})
//
// # What the package promises
//
//   - The commit is the send. The event goes out if, and only if, the transaction commits, also
//     if the process dies right after. It goes out once in a group with history; in one without,
//     a relay or a database that is killed may have the last events sent twice.
//   - One order for each group, which does not contradict that of transactions that did not
//     overlap. With track_commit_timestamp=on it is the order of commits.
//   - Nothing in the caller's transaction takes a lock that other writers wait for, and an open
//     transaction delays no other's events.
//   - It works with every layer. [Outbox.Relay] outlives lost connections, holds one connection
//     of its pool, and returns nil when its context ends.
//   - Once the relay has caught up, no row is left behind.
//
// [NewLayer] migrates, leaves the caller's pool open, and has queues of 100 messages that live
// for 60 seconds, unless its options say otherwise. After an interruption of its connections
// it calls Lost, as every layer does; a silent death of the one that listens is noticed within
// 15 seconds.
//
// The module's README says what has to be set up, and what to watch.
package postgres
