package redis

import (
	"context"
	"errors"
	"fmt"
	"strings"
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
	timer := time.NewTimer(defaultTimeout)
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
	if l.demoted.Load() {
		return fail(layer.ErrUnavailable, errReplica)
	}
	if err := ctx.Err(); err != nil { // below, it might go out all the same
		return fail(layer.ErrUnavailable, err)
	}
	job := jobs.Get().(*job)
	job.command = command
	job.state.Store(jobWaiting)
	job.timer.Reset(l.callTimeout)
	ended := l.submit(ctx, job)
	if ended == nil {
		select {
		case result := <-job.result:
			jobs.Put(job)
			if err := result.Error(); err != nil && !rueidis.IsRedisNil(err) {
				if answer, ok := rueidis.IsRedisErr(err); ok && strings.HasPrefix(answer.Error(), "READONLY") {
					notify(l.suspect)
				}
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
