package layertest

import (
	"context"
	"errors"

	"github.com/seed-29c60982/grouphub/layer"
)

var closeFaults = []fault{
	{"a Take that waits does not end with Close", "AfterCloseEverythingIsErrClosed", func(l *faultyLayer) {
		l.take = func(ctx context.Context, queue string) ([]byte, error) {
			message, err := l.inside.Take(ctx, queue)
			if errors.Is(err, layer.ErrClosed) {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return message, err
		}
	}},
	{"a second Close is no error", "AfterCloseEverythingIsErrClosed", func(l *faultyLayer) {
		l.close = func() error {
			l.inside.Close()
			return nil
		}
	}},
	{"Publish after Close does nothing and says nothing", "AfterCloseEverythingIsErrClosed", func(l *faultyLayer) {
		l.publish = func(ctx context.Context, p layer.Publication) error {
			if err := l.inside.Publish(ctx, p); !errors.Is(err, layer.ErrClosed) {
				return err
			}
			return nil
		}
	}},
	{"the first Close is an error", "EverythingAtOnce", func(l *faultyLayer) {
		l.close = func() error { return errors.Join(l.inside.Close(), errors.New("a goroutine is left")) }
	}},
}
