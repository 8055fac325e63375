package redis

import (
	"context"
	"runtime"

	"github.com/redis/rueidis"
)

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
		ctx, cancel := context.WithTimeout(l.ctx, l.callTimeout)
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
	if !answered {
		b.commands = nil // rueidis may still be writing them
	}
	return answered
}
