package grouphub_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/seed-29c60982/grouphub"
)

func TestWorkRunsTheTaskOfEachEventAndGoesOnAfterFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged safeBuffer
		hub := grouphub.New(&grouphub.Options{Logger: slog.New(slog.NewTextHandler(&logged, nil))})
		defer hub.Shutdown(background)
		ctx, stop := context.WithCancel(background)
		var ran []string
		worked := make(chan error)
		go func() {
			worked <- hub.Work(ctx, "jobs", grouphub.Tasks{
				"note":  func(_ context.Context, e grouphub.Event) error { ran = append(ran, string(e.Data)); return nil },
				"fail":  func(context.Context, grouphub.Event) error { return errors.New("the disk is full") },
				"panic": func(context.Context, grouphub.Event) error { panic("out of range") },
			})
		}()
		for i, event := range []string{"note", "fail", "panic", "unknown", "note"} {
			if err := hub.Send(background, "jobs", event, i); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		stop()
		if err := <-worked; err != context.Canceled {
			t.Errorf("%v, want the context's error", err)
		}
		if got := strings.Join(ran, " "); got != "0 4" {
			t.Errorf("ran %s", got)
		}
		for _, part := range []string{"the disk is full", "out of range", "work_test.go", "event without a task"} {
			if !strings.Contains(logged.String(), part) {
				t.Errorf("%q is not logged: %s", part, logged.String())
			}
		}
	})
}

func TestWorkReturnsWhenTheTaskThatRunsHas(t *testing.T) {
	hub := newHub(t, nil)
	ctx, stop := context.WithCancel(background)
	begun, release, worked := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		worked <- hub.Work(ctx, "jobs", grouphub.Tasks{"*": func(ctx context.Context, _ grouphub.Event) error {
			close(begun)
			<-ctx.Done()
			<-release
			return nil
		}})
	}()
	if err := hub.Send(background, "jobs", "any", nil); err != nil {
		t.Fatal(err)
	}
	<-begun
	stop()
	select {
	case err := <-worked:
		t.Fatalf("%v while the task runs", err)
	default:
	}
	close(release)
	if err := <-worked; err != context.Canceled {
		t.Errorf("%v, want the context's error", err)
	}
}

func TestWorkEndsWithTheHubAndRefusesWhatMakesNoSense(t *testing.T) {
	hub := newHub(t, &grouphub.Options{Logger: quiet()})
	tasks := grouphub.Tasks{"*": func(context.Context, grouphub.Event) error { return nil }}
	if err := hub.Work(background, "line\nbreak", tasks); !errors.Is(err, grouphub.ErrInvalidName) {
		t.Errorf("%v, want ErrInvalidName", err)
	}
	if err := hub.Work(background, "jobs", nil); err == nil || !strings.Contains(err.Error(), `"jobs"`) {
		t.Errorf("%v, want an error that names the channel", err)
	}
	worked := make(chan error)
	go func() { worked <- hub.Work(background, "jobs", tasks) }()
	hub.Shutdown(background)
	if err := <-worked; !errors.Is(err, grouphub.ErrClosed) {
		t.Errorf("%v, want ErrClosed", err)
	}
}

// A task that hands on what it cannot finish would otherwise get it back at once, for ever.
func TestWorkTakesNothingOnceItsContextHasEnded(t *testing.T) {
	hub := newHub(t, nil)
	ctx, stop := context.WithCancel(t.Context())
	ran := 0
	send := func(ctx context.Context) {
		if err := hub.Send(ctx, "jobs", "job", ran); err != nil {
			t.Fatal(err)
		}
	}
	send(ctx)
	err := hub.Work(ctx, "jobs", grouphub.Tasks{"job": func(ctx context.Context, _ grouphub.Event) error {
		if ran++; ran <= 100 {
			stop()
			send(context.WithoutCancel(ctx))
		}
		return nil
	}})
	if ran != 1 || !errors.Is(err, context.Canceled) {
		t.Fatalf("%d tasks ran, and Work returned %v; want one, and that the context has ended", ran, err)
	}
	if _, err := hub.Receive(t.Context(), "jobs"); err != nil {
		t.Errorf("what was handed on: %v", err)
	}
}
