package postgres

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/seed-29c60982/grouphub/layer"
)

// call runs fn with a connection, no longer than callTimeout allows, and waits for its end
// until ctx ends. The statements are not interrupted then: that would cost the connection.
// In errors, the operation and the name say what it was for.
func (l *Layer) call(ctx context.Context, operation, name string, fn func(ctx context.Context, conn *pgxpool.Conn) error) error {
	if err := ctx.Err(); err != nil && l.ctx.Err() == nil {
		return fmt.Errorf("%w: %s %q: %w", layer.ErrUnavailable, operation, name, err)
	}
	var state atomic.Int32
	result := make(chan error, 1)
	started := l.start(func() {
		ctx, cancel := context.WithTimeout(l.ctx, callTimeout)
		defer cancel()
		conn, err := l.pool.Acquire(ctx)
		if err != nil {
			result <- &notSent{err}
			return
		}
		defer conn.Release()
		if state.CompareAndSwap(jobWaiting, jobTaken) {
			err := fn(ctx, conn)
			l.noteError(err)
			result <- err
		}
	})
	if !started {
		return fmt.Errorf("%w: %s %q", layer.ErrClosed, operation, name)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var ended error
	select {
	case err := <-result:
		if err == nil {
			return nil
		}
		if l.ctx.Err() != nil {
			return fmt.Errorf("%w: %s %q: %w", layer.ErrClosed, operation, name, err)
		}
		return fmt.Errorf("%w: %s %q: %w", kindOf(err), operation, name, err)
	case <-ctx.Done():
		ended = ctx.Err()
	case <-l.ctx.Done():
		ended = layer.ErrClosed
	}
	kind := layer.ErrUncertain
	if state.CompareAndSwap(jobWaiting, jobLeft) {
		kind = layer.ErrUnavailable
	}
	return fmt.Errorf("%w: %s %q: %w", kind, operation, name, ended)
}
