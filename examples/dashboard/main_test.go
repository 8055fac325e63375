package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
	"github.com/seed-29c60982/grouphub/internal/leak"
)

// TestMain fails the suite if a goroutine outlives it.
func TestMain(m *testing.M) { leak.Check(m) }

func newHub(t *testing.T) *grouphub.Hub {
	hub := grouphub.New(newOptions())
	t.Cleanup(func() {
		if err := hub.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return hub
}

// decode returns the data of an event.
func decode[T any](t *testing.T, e grouphub.Event) (v T) {
	t.Helper()
	if err := e.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestWhoEntersGetsAllValuesAndThenWhatChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := newHub(t)
		client := hubtest.Dial(t, routes(hub), "/ws")
		if all := decode[[]reading](t, client.ExpectEvent("snapshot")); len(all) != len(sensors) {
			t.Errorf("the snapshot has %d values, want %d", len(all), len(sensors))
		}
		ctx, stop := context.WithCancel(t.Context())
		go measure(ctx, hub)
		defer stop()
		for i := range 3 * len(sensors) {
			want := sensors[i%len(sensors)].name
			if got := decode[reading](t, client.ExpectEvent("reading")).Name; got != want {
				t.Errorf("change %d is of %s, want %s", i, got, want)
			}
		}
	})
}

func TestTheSlowReaderGetsTheLastValueOfEachAndIsNotClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := newHub(t)
		slow := hubtest.Dial(t, routes(hub), "/ws/slow")
		slow.ExpectEvent("snapshot")
		ctx, stop := context.WithCancel(t.Context())
		go measure(ctx, hub)
		// A minute has 12,000 events, of which it gets 240.
		const round = 250 * time.Millisecond * 8
		for began := time.Now(); time.Since(began) < time.Minute; {
			r := decode[reading](t, slow.ExpectEvent("reading"))
			if age := time.Since(r.At); age > round+slowness {
				t.Fatalf("%s is %v old, want at most one value of each before it", r.Name, age)
			}
		}
		stop()
		ended := time.Now()
		synctest.Wait()
		// The last event of each is what it ends with.
		last := map[string]time.Time{}
		for range len(sensors) {
			r := decode[reading](t, slow.ExpectEvent("reading"))
			last[r.Name] = r.At
		}
		for _, s := range sensors {
			if age := ended.Sub(last[s.name]); age > 9*pause {
				t.Errorf("the last value of %s was measured %v before the end", s.name, age)
			}
		}
		if n := hub.Stats().Superseded; n < 11000 {
			t.Errorf("%d events were superseded, want nearly all of 12,000", n)
		}
	})
}

func TestFirstLineSaysWhereAndTheEndIsClean(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	out, in := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, "127.0.0.1:0", "", true, in)
		in.Close()
	}()
	first, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.Get(regexp.MustCompile(`http://\S+`).FindString(first))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(response.Body)
	response.Body.Close()
	if err != nil || string(body) != string(page) {
		t.Errorf("%q leads to %d bytes (error %v), not to the page", first, len(body), err)
	}
	http.DefaultClient.CloseIdleConnections()
	stop()
	if err := <-ended; err != nil {
		t.Errorf("run: %v", err)
	}
}

func TestBusyPortIsAnErrorThatNamesIt(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	err = run(t.Context(), busy.Addr().String(), "", true, io.Discard)
	if err == nil || !strings.Contains(err.Error(), busy.Addr().String()) {
		t.Errorf("run on a busy port: %v", err)
	}
}

func TestWrongRedisURLIsAnError(t *testing.T) {
	if err := run(t.Context(), "127.0.0.1:0", "http://", false, io.Discard); err == nil {
		t.Error("a URL that is no Redis's was taken")
	}
}
