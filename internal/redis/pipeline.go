package redis

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/seed-29c60982/grouphub/layer"
)

// job is a command on its way to Redis. Whoever moves its state first, from
// jobWaiting, decides what becomes of it.
type job struct {
	command rueidis.Completed
	result  chan rueidis.RedisResult // holds one, so that a pipeline never waits
	timer   *time.Timer
	state   atomic.Int32
}

const (
	jobWaiting = iota
	jobTaken   // by a pipeline: it may take effect
	jobLeft    // by its caller: it will not be sent
)

var jobs = sync.Pool{New: func() any {
	timer := time.NewTimer(callTimeout)
	return &job{result: make(chan rueidis.RedisResult, 1), timer: timer}
}}

// notSent is the error of a job that was given up before any of it was written.
type notSent struct{ error }

func (e notSent) Unwrap() error { return e.error }

// do sends a command, no longer than ctx and callTimeout allow, and returns the answer.
// Everything that is not a subscription goes this way, and every command has a key.
// rueidis has contexts, too, but may keep a caller for seconds after they have ended.
// In errors, the operation and the name say what the command was for.
func (l *Layer) do(ctx context.Context, operation, name string, command rueidis.Completed) (rueidis.RedisResult, error) {
	fail := func(kind, err error) (rueidis.RedisResult, error) {
		return rueidis.RedisResult{}, fmt.Errorf("%w: %s %q: %w", kind, operation, name, err)
	}
	if l.ctx.Err() != nil {
		return rueidis.RedisResult{}, fmt.Errorf("%w: %s %q", layer.ErrClosed, operation, name)
	}
	if err := ctx.Err(); err != nil { // below, it might go out all the same
		return fail(layer.ErrUnavailable, err)
	}
	job := jobs.Get().(*job)
	job.command = command
	job.state.Store(jobWaiting)
	job.timer.Reset(callTimeout)
	ended := l.submit(ctx, job)
	if ended == nil {
		select {
		case result := <-job.result:
			jobs.Put(job)
			if err := result.Error(); err != nil && !rueidis.IsRedisNil(err) {
				return fail(l.kindOf(err), err)
			}
			return result, nil
		case <-ctx.Done():
			ended = ctx.Err()
		case <-job.timer.C:
			ended = context.DeadlineExceeded
		case <-l.ctx.Done():
			ended = layer.ErrClosed
		}
	}
	kind := layer.ErrUncertain
	if job.state.CompareAndSwap(jobWaiting, jobLeft) {
		kind = layer.ErrUnavailable
		job.command = rueidis.Completed{} // it may lie there for a while
	}
	return fail(kind, ended)
}

// submit waits until there is room for a job.
func (l *Layer) submit(ctx context.Context, job *job) error {
	if l.cluster {
		l.enqueue(job)
		return nil
	}
	select {
	case l.jobs <- job:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-job.timer.C:
		return context.DeadlineExceeded
	case <-l.ctx.Done():
		return layer.ErrClosed
	}
}

// post sends a command for whose answer nobody waits. It goes before all that wait: a
// heartbeat says that the connection works, not that there is little to do.
func (l *Layer) post(command rueidis.Completed) {
	job := &job{command: command, result: make(chan rueidis.RedisResult, 1)}
	if l.cluster {
		l.enqueue(job)
		return
	}
	select {
	case l.posts <- job:
	default: // what is so far behind is lost anyway
	}
}

// kindOf tells whether a command that ended with this error can have taken effect.
func (l *Layer) kindOf(err error) error {
	var dial dialError
	var unsent notSent
	_, answered := rueidis.IsRedisErr(err)
	switch {
	case answered, errors.As(err, &dial), errors.As(err, &unsent), errors.Is(err, rueidis.ErrNoSlot):
		return layer.ErrUnavailable
	default:
		return layer.ErrUncertain
	}
}

// pipeline sends what is waiting, all at once, then what has come meanwhile. There are
// several: whoever waits for an answer before his next command keeps his order.
func (l *Layer) pipeline() {
	var b batch
	broken := false // the last batch ended without an answer
	for {
		b.reset()
		select {
		case job := <-l.posts:
			b.add(job)
		case job := <-l.jobs:
			b.add(job)
		case <-l.ctx.Done():
			return
		}
		runtime.Gosched() // those whom the last batch woke may have more
		for _, waiting := range []chan *job{l.posts, l.jobs} {
			for more := true; more && len(b.jobs) < batchSize; {
				select {
				case job := <-waiting:
					b.add(job)
				default:
					more = false
				}
			}
		}
		if len(b.jobs) == 0 {
			continue
		}
		ctx, cancel := context.WithTimeout(l.ctx, callTimeout)
		var err error
		if broken { // it is worth a round trip to know that nothing was sent
			err = l.client.Do(ctx, l.client.B().Ping().Build()).NonRedisError()
		}
		if err != nil {
			b.fail(notSent{err})
		} else {
			broken = !b.send(ctx, l.client)
		}
		cancel()
	}
}

// A batch is what is sent at once.
type batch struct {
	jobs     []*job
	commands []rueidis.Completed
}

func (b *batch) reset() {
	clear(b.jobs)
	b.jobs, b.commands = b.jobs[:0], b.commands[:0]
}

// add takes a job, unless its caller has left it.
func (b *batch) add(job *job) {
	if job.state.CompareAndSwap(jobWaiting, jobTaken) {
		b.jobs, b.commands = append(b.jobs, job), append(b.commands, job.command)
	}
}

func (b *batch) fail(err error) {
	for _, job := range b.jobs {
		job.result <- rueidis.NewErrorResult(err)
	}
}

// send hands out the answers, and reports whether there was one to each command.
func (b *batch) send(ctx context.Context, client rueidis.Client) bool {
	answered := true
	for i, result := range client.DoMulti(ctx, b.commands...) {
		answered = answered && result.NonRedisError() == nil
		b.jobs[i].result <- result
	}
	return answered
}

// lanes are for a Cluster what pipelines are for a server: one for each slot, which lives
// as long as it has jobs. A slot is always on one node, so that a node which does not
// answer holds up nothing that others have; rueidis joins again what goes to one of them.
type lanes struct {
	mu     sync.Mutex
	closed bool // no lane is opened any more
	bySlot map[uint16][]*job
}

func (ls *lanes) close() {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.closed = true
}

// enqueue leaves a job to the lane of its slot.
func (l *Layer) enqueue(job *job) {
	slot := job.command.Slot()
	l.lanes.mu.Lock()
	defer l.lanes.mu.Unlock()
	waiting, open := l.lanes.bySlot[slot]
	if !open && l.lanes.closed {
		return // its caller finds the layer closed
	}
	l.lanes.bySlot[slot] = append(waiting, job)
	if !open {
		l.running.Go(func() { l.lane(slot) })
	}
}

// lane sends the jobs of a slot until there are no more.
func (l *Layer) lane(slot uint16) {
	var b batch
	for {
		runtime.Gosched() // as in pipeline
		b.reset()
		l.lanes.mu.Lock()
		waiting := l.lanes.bySlot[slot]
		for len(waiting) > 0 && len(b.jobs) < batchSize {
			b.add(waiting[0])
			waiting[0] = nil
			waiting = waiting[1:]
		}
		l.lanes.bySlot[slot] = waiting
		if len(b.jobs) == 0 {
			delete(l.lanes.bySlot, slot)
		}
		l.lanes.mu.Unlock()
		if len(b.jobs) == 0 {
			return
		}
		ctx, cancel := context.WithTimeout(l.ctx, callTimeout)
		b.send(ctx, l.client)
		cancel()
	}
}

// script is a script that is sent by its hash, and in full where that is unknown.
type script struct {
	sha, source string
}

func newScript(source string) script {
	sum := sha1.Sum([]byte(source))
	return script{hex.EncodeToString(sum[:]), source}
}

// run runs the script on keys of one slot. It may have run even if there is an error,
// see do; an error that Redis answered with says that it changed nothing.
func (l *Layer) run(ctx context.Context, operation, name string, script script, keys, args []string) (rueidis.RedisResult, error) {
	count, deadline := int64(len(keys)), time.Now().Add(callTimeout)
	result, err := l.do(ctx, operation, name, l.client.B().Evalsha().Sha1(script.sha).Numkeys(count).Key(keys...).Arg(args...).Build())
	if answer := (*rueidis.RedisError)(nil); errors.As(err, &answer) && answer.IsNoScript() {
		ctx, cancel := context.WithDeadline(ctx, deadline) // for both together
		defer cancel()
		return l.do(ctx, operation, name, l.client.B().Eval().Script(script.source).Numkeys(count).Key(keys...).Arg(args...).Build())
	}
	return result, err
}
