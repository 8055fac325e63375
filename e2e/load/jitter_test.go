//go:build unix

package load

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/e2e/eventsource"
)

// The test that AnyCable publishes has 10,000 clients, each cut every 15 s and offline for 2 s.
// With both ends in one process 9,000 are as many as 20,000 open files allow:
//
//	go test ./load -run Jitter -v -args -clients 9000 -cut 15s -offline 2s -pause 500ms
var (
	jitterClients = flag.Int("clients", 500, "clients of the jitter test")
	jitterCut     = flag.Duration("cut", 1500*time.Millisecond, "how long a connection of the jitter test lasts")
	jitterOffline = flag.Duration("offline", 200*time.Millisecond, "how long a client of the jitter test is away")
	jitterPause   = flag.Duration("pause", 50*time.Millisecond, "between two messages of the jitter test")
)

const jitterMessages = 120

// A link is one client's way to the hub. It comes back where it was.
type link interface {
	connect(target string) error
	next() (data string, err error) // of the next message of the hub that is an event
	cut()
}

type streamLink struct{ source eventsource.Source }

func (l *streamLink) connect(target string) error { return l.source.Connect(target) }
func (l *streamLink) cut()                        { l.source.Cut() }
func (l *streamLink) next() (string, error) {
	b, err := l.source.Next()
	if b.Name == "grouphub.position" {
		return `{"type":"grouphub.position"}`, err
	}
	if b.Name == "grouphub.open" {
		return l.next()
	}
	return b.Data, err
}

type socketLink struct {
	conn *websocket.Conn
	last string // position
}

func (l *socketLink) connect(target string) error {
	target = strings.Replace(target, "http", "ws", 1) + "/?resume="
	if l.last != "" {
		target += url.QueryEscape("all@" + l.last)
	}
	dialer := websocket.Dialer{ReadBufferSize: 512, WriteBufferSize: 128}
	conn, _, err := dialer.Dial(target, nil)
	l.conn = conn
	return err
}

func (l *socketLink) cut() {
	l.conn.Close()
}

func (l *socketLink) next() (string, error) {
	l.conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	_, data, err := l.conn.ReadMessage()
	var e grouphub.Event
	if err == nil && json.Unmarshal(data, &e) == nil && e.ID != "" {
		l.last = e.ID
	}
	return string(data), err
}

func TestJitterLosesAndRepeatsNothing(t *testing.T) {
	for name, newLink := range map[string]func() link{
		"WebSockets": func() link { return new(socketLink) },
		"streams":    func() link { return new(streamLink) },
	} {
		t.Run(name, func(t *testing.T) {
			raiseOpenFiles(t, 2**jitterClients+200)
			hub, target := serveHub(t, nil, 2*jitterMessages, "all")
			j := &jitter{target: target}
			var ready, done sync.WaitGroup
			begin := make(chan struct{})
			places := make(chan struct{}, 64) // that connect at first, at once
			for range *jitterClients {
				ready.Add(1)
				done.Go(func() {
					places <- struct{}{}
					l := newLink()
					err := j.open(l)
					<-places
					ready.Done()
					<-begin
					if err == nil {
						err = j.follow(l)
					}
					if err != nil {
						j.fail(err)
					}
				})
			}
			ready.Wait()
			close(begin)
			start := time.Now()
			for n := 1; n <= jitterMessages; n++ {
				if err := hub.GroupSend(t.Context(), "all", "number", n); err != nil {
					t.Error(err)
				}
				j.sent.Store(int64(n))
				time.Sleep(*jitterPause) // the load's rhythm, and no wait for anything
			}
			done.Wait()
			j.report(t, time.Since(start))
		})
	}
}

// A jitter is one run of the test.
type jitter struct {
	target string
	sent   atomic.Int64

	mu        sync.Mutex
	delivered int
	cuts      int
	replays   []time.Duration // from the begin of a connection until all that was missed is there
	errors    []error
}

// open connects for the first time, and returns when the client knows its position.
func (j *jitter) open(l link) error {
	if err := l.connect(j.target); err != nil {
		return err
	}
	data, err := l.next()
	if err == nil && !strings.Contains(data, "grouphub.position") {
		err = fmt.Errorf("the first message is %s", data)
	}
	return err
}

// follow reads all messages, each of which must be the next, and cuts the connection again
// and again.
func (j *jitter) follow(l link) error {
	got, cuts := 0, 0
	var replays []time.Duration
	defer func() {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.delivered += got
		j.cuts += cuts
		j.replays = append(j.replays, replays...)
	}()
	life := rand.N(*jitterCut) // so that they are not all cut at once
	missed, connected := 0, time.Now()
	for {
		var over atomic.Bool
		timer := time.AfterFunc(life, func() { over.Store(true); l.cut() })
		for {
			data, err := l.next()
			if err != nil {
				if timer.Stop() || !over.Load() {
					l.cut()
					return fmt.Errorf("after message %d: %w", got, err)
				}
				break
			}
			var e grouphub.Event
			var n int
			if err := json.Unmarshal([]byte(data), &e); err != nil {
				return fmt.Errorf("got %s: %w", data, err)
			}
			if e.Type == "grouphub.position" {
				continue
			}
			if err := e.Decode(&n); err != nil || e.Type != "number" || n != got+1 {
				timer.Stop()
				l.cut()
				return fmt.Errorf("got %s after message %d", data, got)
			}
			got = n
			if got == missed {
				replays = append(replays, time.Since(connected))
			}
			if got == jitterMessages {
				if timer.Stop() {
					l.cut()
				}
				return nil
			}
		}
		cuts++
		time.Sleep(*jitterOffline) // the client is away
		life = *jitterCut
		missed, connected = int(j.sent.Load()), time.Now()
		if missed == got {
			missed = 0 // nothing to replay
		}
		if err := l.connect(j.target); err != nil {
			return err
		}
	}
}

func (j *jitter) fail(err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.errors = append(j.errors, err)
}

func (j *jitter) report(t *testing.T, took time.Duration) {
	for _, err := range j.errors[:min(len(j.errors), 5)] {
		t.Error(err)
	}
	want := *jitterClients * jitterMessages
	if j.delivered != want {
		t.Errorf("%d of %d messages were delivered once; %d clients failed", j.delivered, want, len(j.errors))
	}
	slices.Sort(j.replays)
	if len(j.replays) == 0 {
		t.Fatal("nothing was replayed")
	}
	t.Logf("%d of %d messages, once each, in %v over %d cuts; %d replays, p50 %v, p99 %v", j.delivered, want,
		took.Round(time.Millisecond), j.cuts, len(j.replays), j.replays[len(j.replays)/2], j.replays[len(j.replays)*99/100])
}
