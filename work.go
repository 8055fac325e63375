package grouphub

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Tasks are what a worker does with the events of a channel, by event type. "*" takes the
// types without an entry. An event's Group is empty.
type Tasks map[string]func(ctx context.Context, e Event) error

// workPause is how long a worker waits after a Receive that has failed.
const workPause = time.Second

// Work takes events from a named channel, as [Hub.Receive] does, and runs the task of each
// one's type, one at a time; several calls of Work, in one process or in many, share a
// channel's events. A task's error or panic, and an event without a task, is logged, and Work
// goes on: an event that was taken does not come back, so a task that must not be lost sends it
// again itself. Nor does one come that no worker has taken for 60 s, or [RedisOptions].QueueExpiry.
//
// Work goes on until ctx ends, and then returns ctx's error as soon as the task that runs has
// returned. Tasks get the same ctx; one that must come to its end uses context.WithoutCancel.
// A hub that is shut down ends Work with [ErrClosed], a wrong name with [ErrInvalidName], and
// no task at all is an error. A layer that is down is waited for.
func (h *Hub) Work(ctx context.Context, channel string, tasks Tasks) error {
	if len(tasks) == 0 {
		return fmt.Errorf("grouphub: work on %s: no tasks", quoted(channel))
	}
	for {
		if ctx.Err() != nil { // Receive may still find an event, which is somebody else's now
			return ctx.Err()
		}
		e, err := h.Receive(ctx, channel)
		switch {
		case err == nil:
			h.runTask(ctx, channel, tasks, e)
			continue
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, ErrClosed), errors.Is(err, ErrInvalidName):
			return fmt.Errorf("grouphub: work: %w", err)
		}
		h.logger().Error("grouphub: worker cannot receive, trying again", "channel", quoted(channel), "error", err)
		select {
		case <-time.After(workPause):
		case <-ctx.Done():
		case <-h.life.Done():
		}
	}
}

// runTask runs the task of an event.
func (h *Hub) runTask(ctx context.Context, channel string, tasks Tasks, e Event) {
	defer func() {
		if p := recover(); p != nil {
			h.logPanic(p, "task "+quoted(e.Type), channel)
		}
	}()
	task, ok := tasks[e.Type]
	if !ok {
		task, ok = tasks["*"]
	}
	if !ok {
		h.logger().Warn("grouphub: event without a task", "channel", quoted(channel), "type", quoted(e.Type))
		return
	}
	if err := task(ctx, e); err != nil {
		h.logger().Error("grouphub: task failed", "channel", quoted(channel), "type", quoted(e.Type), "error", err)
	}
}
