package postgres

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/seed-29c60982/grouphub/layer"
)

const (
	batchRows  = 256     // notifications of a transaction
	batchBytes = 4 << 20 // of their payloads, but for a single larger one
	// mostNotified is how long a notification may be. PostgreSQL takes less than 8,000 bytes,
	// and adds a tag and a number to what is counted here.
	mostNotified = 7900
	// repeats is how often a batch is tried that the server undid, since it would have waited
	// for another transaction that waited for it.
	repeats = 3
)

// A job is a notification on its way to the server. Whoever moves its state first, from
// jobWaiting, decides what becomes of it.
type job struct {
	publication layer.Publication // what is to be kept, if its count is not zero; the payload is the job's own
	head, tail  string            // of the notification; between them, what is kept has its epoch and number
	largeID     string            // refers to a payload that does not fit; empty: it does, or is kept
	state       atomic.Int32
	result      chan error // has room for one, so that a batcher never waits
}

const (
	jobWaiting = iota
	jobTaken   // by a batcher: it may take effect
	jobLeft    // by its caller: it will not be sent
)

var encoding = base64.RawStdEncoding

// encodeName returns a topic or a queue as notifications have it.
func encodeName(name string) string { return encoding.EncodeToString([]byte(name)) }

// newJob makes a publication's notification. Behind its tag it is one of
//
//	p topic payload
//	l topic id                            a payload that does not fit
//	k topic nonce epoch number payload
//	K topic nonce epoch number            likewise, to be found by its number
//	m layer number                        a marker
//	w queue                               wakes takers
func newJob(p layer.Publication) *job {
	j := &job{result: make(chan error, 1)}
	topic := encodeName(p.Topic)
	fits := len(topic)+encoding.EncodedLen(len(p.Payload))+100 < mostNotified
	if fits {
		j.tail = encoding.EncodeToString(p.Payload)
	}
	switch {
	case p.Keep.Count > 0:
		j.publication = p
		j.publication.Payload = append([]byte{}, p.Payload...)
		kind := "k "
		if !fits {
			kind = "K "
		}
		j.publication.At = layer.Position{Epoch: newWord(), Nonce: newWord()} // the epoch is for a topic without one
		j.head = kind + topic + " " + j.publication.At.Nonce + " "
	case fits:
		j.head = "p " + topic + " "
	default:
		j.publication.Payload = bytes.Clone(p.Payload)
		j.largeID = newWord() + newWord()
		j.head, j.tail = "l "+topic+" ", j.largeID
	}
	return j
}

// Publish implements [layer.Layer].
func (l *Layer) Publish(ctx context.Context, p layer.Publication) error {
	return l.do(ctx, "publish to", p.Topic, newJob(p))
}

// do hands a job to the batchers and waits for its end, no longer than ctx and callTimeout
// allow. In errors, the operation and the name say what it was for.
func (l *Layer) do(ctx context.Context, operation, name string, j *job) error {
	if l.ctx.Err() != nil {
		return fmt.Errorf("%w: %s %q", layer.ErrClosed, operation, name)
	}
	if err := ctx.Err(); err != nil { // below, it might go out all the same
		return fmt.Errorf("%w: %s %q: %w", layer.ErrUnavailable, operation, name, err)
	}
	timer := time.NewTimer(callTimeout)
	defer timer.Stop()
	var ended error
	select {
	case l.jobs <- j:
		select {
		case err := <-j.result:
			if err != nil {
				return fmt.Errorf("%w: %s %q: %w", kindOf(err), operation, name, err)
			}
			return nil
		case <-ctx.Done():
			ended = ctx.Err()
		case <-timer.C:
			ended = context.DeadlineExceeded
		case <-l.ctx.Done():
			ended = layer.ErrClosed
		}
	case <-ctx.Done():
		ended = ctx.Err()
	case <-timer.C:
		ended = context.DeadlineExceeded
	case <-l.ctx.Done():
		ended = layer.ErrClosed
	}
	kind := layer.ErrUncertain
	if j.state.CompareAndSwap(jobWaiting, jobLeft) {
		kind = layer.ErrUnavailable
	}
	return fmt.Errorf("%w: %s %q: %w", kind, operation, name, ended)
}

// batch sends what waits, all at once, until the layer is closed.
func (l *Layer) batch() {
	for {
		var batch []*job
		select {
		case j := <-l.jobs:
			batch = append(batch, j)
		case <-l.ctx.Done():
			return
		}
		for size := len(batch[0].publication.Payload); len(batch) < batchRows && size < batchBytes; {
			select {
			case j := <-l.jobs:
				batch = append(batch, j)
				size += len(j.publication.Payload) + len(j.tail)
				continue
			default:
			}
			break
		}
		l.sendBatch(batch)
	}
}

// sendBatch sends the jobs that are still wanted in one transaction.
func (l *Layer) sendBatch(batch []*job) {
	ctx, cancel := context.WithTimeout(l.ctx, callTimeout)
	defer cancel()
	finish := func(err error) {
		for _, j := range batch {
			j.result <- err
		}
	}
	conn, err := l.pool.Acquire(ctx)
	if err != nil {
		finish(&notSent{err})
		return
	}
	defer conn.Release()
	batch = slices.DeleteFunc(batch, func(j *job) bool { return !j.state.CompareAndSwap(jobWaiting, jobTaken) })
	if len(batch) == 0 {
		return
	}
	// Transactions lock topics in one order, so that no two wait for each other.
	slices.SortStableFunc(batch, func(a, b *job) int { return strings.Compare(a.publication.Topic, b.publication.Topic) })
	args := batchArgs(l.channel, batch)
	for try := 0; ; try++ {
		_, err = conn.Exec(ctx, "SELECT grouphub_publish($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)", args...)
		if try == repeats || !undone(err) {
			break
		}
	}
	l.noteError(err)
	finish(err)
}

// batchArgs returns the arguments of grouphub_publish.
func batchArgs(channel string, batch []*job) []any {
	n := len(batch)
	heads, tails, epochs, nonces := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	topics, payloads, onces := make([][]byte, n), make([][]byte, n), make([][]byte, n)
	counts, sizes, lives := make([]int64, n), make([]int64, n), make([]int64, n)
	largeIDs, largePayloads := []string{}, [][]byte{}
	for i, j := range batch {
		heads[i], tails[i] = j.head, j.tail
		topics[i], payloads[i], onces[i] = []byte{}, []byte{}, []byte{}
		if j.largeID != "" {
			largeIDs, largePayloads = append(largeIDs, j.largeID), append(largePayloads, j.publication.Payload)
		}
		if p := &j.publication; p.Keep.Count > 0 {
			topics[i], payloads[i], onces[i] = []byte(p.Topic), p.Payload, onceKey(p.Keep.Once)
			counts[i], sizes[i], lives[i] = int64(p.Keep.Count), int64(max(p.Keep.Bytes, 0)), milliseconds(p.Keep.Life)
			epochs[i], nonces[i] = p.At.Epoch, p.At.Nonce
		}
	}
	return []any{channel, heads, tails, topics, payloads, counts, sizes, lives, onces, layer.OnceLife.Milliseconds(), epochs, nonces, largeIDs, largePayloads}
}

// onceKey returns a key as the table has it: as long as an index takes it.
func onceKey(once string) []byte {
	if len(once) > 2*sha256.Size {
		sum := sha256.Sum256([]byte(once))
		return sum[:]
	}
	return []byte(once)
}

// notSent is the error of what was given up before any of it was sent.
type notSent struct{ error }

func (e *notSent) Unwrap() error { return e.error }

// undone reports whether the server has undone a transaction that may succeed if it is
// tried again: a deadlock, or a conflict of two.
func undone(err error) bool {
	var answer *pgconn.PgError
	return errors.As(err, &answer) && (answer.Code == "40P01" || answer.Code == "40001")
}

// kindOf tells whether a statement that ended with this error can have taken effect. An error
// that is an answer undoes the transaction, but the end of the server or of the session is no
// answer.
func kindOf(err error) error {
	var answer *pgconn.PgError
	var unsent *notSent
	var dial *pgconn.ConnectError
	switch {
	case errors.As(err, &unsent), errors.As(err, &dial), pgconn.SafeToRetry(err):
		return layer.ErrUnavailable
	case errors.As(err, &answer) && !strings.HasPrefix(answer.Code, "57P") && cmp.Or(answer.SeverityUnlocalized, answer.Severity) == "ERROR":
		return layer.ErrUnavailable
	default:
		return layer.ErrUncertain
	}
}

// noteError has the layer connect anew to a server that has become a standby.
func (l *Layer) noteError(err error) {
	var answer *pgconn.PgError
	if errors.As(err, &answer) && answer.Code == "25006" { // read_only_sql_transaction
		l.pool.Reset()
		l.endSession(nil)
	}
}
