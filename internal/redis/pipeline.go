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

	"github.com/seed-29c60982/grouphub/internal/fault"
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
		return rueidis.RedisResult{}, fmt.Errorf("%w: %s %q", fault.ErrClosed, operation, name)
	}
	if err := ctx.Err(); err != nil { // below, it might go out all the same
		return fail(fault.ErrUnavailable, err)
	}
	job := jobs.Get().(*job)
	job.command = command
	job.state.Store(jobWaiting)
	job.timer.Reset(callTimeout)
	var ended error
	select {
	case l.jobs <- job:
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
			ended = fault.ErrClosed
		}
	case <-ctx.Done():
		ended = ctx.Err()
	case <-job.timer.C:
		ended = context.DeadlineExceeded
	case <-l.ctx.Done():
		ended = fault.ErrClosed
	}
	kind := fault.ErrUncertain
	if job.state.CompareAndSwap(jobWaiting, jobLeft) {
		kind = fault.ErrUnavailable
	}
	return fail(kind, ended)
}

// post sends a command for whose answer nobody waits. It goes before all that wait: a
// heartbeat says that the connection works, not that there is little to do.
func (l *Layer) post(command rueidis.Completed) {
	select {
	case l.posts <- &job{command: command, result: make(chan rueidis.RedisResult, 1)}:
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
		return fault.ErrUnavailable
	default:
		return fault.ErrUncertain
	}
}

// pipeline sends what is waiting, all at once, then what has come meanwhile. There are
// several: whoever waits for an answer before his next command keeps his order.
func (l *Layer) pipeline() {
	jobs := make([]*job, 0, batchSize)
	commands := make([]rueidis.Completed, 0, batchSize)
	broken := false // the last batch ended without an answer
	for {
		clear(jobs)
		jobs, commands = jobs[:0], commands[:0]
		add := func(job *job) {
			if job.state.CompareAndSwap(jobWaiting, jobTaken) {
				jobs, commands = append(jobs, job), append(commands, job.command)
			}
		}
		select {
		case job := <-l.posts:
			add(job)
		case job := <-l.jobs:
			add(job)
		case <-l.ctx.Done():
			return
		}
		runtime.Gosched() // those whom the last batch woke may have more
		for _, waiting := range []chan *job{l.posts, l.jobs} {
			for more := true; more && len(jobs) < batchSize; {
				select {
				case job := <-waiting:
					add(job)
				default:
					more = false
				}
			}
		}
		if len(jobs) == 0 {
			continue
		}
		var results []rueidis.RedisResult
		ctx, cancel := context.WithTimeout(l.ctx, callTimeout)
		// After a failure it is worth a round trip to know that nothing was sent. In a
		// Cluster it would be some node's answer, not that of the nodes concerned.
		if broken && !l.cluster {
			if err := l.client.Do(ctx, l.client.B().Ping().Build()).NonRedisError(); err != nil {
				for range jobs {
					results = append(results, rueidis.NewErrorResult(notSent{err}))
				}
			}
		}
		if results == nil {
			results = l.client.DoMulti(ctx, commands...)
		}
		cancel()
		broken = false
		for i, job := range jobs {
			if results[i].NonRedisError() != nil {
				broken = true
			}
			job.result <- results[i]
		}
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
