//go:build unix

package load

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/e2e/eventsource"
)

// A jitterSetup is what the clients' process is told, in the environment.
type jitterSetup struct {
	Target       string // URL of the hub
	Streams      bool   // and not WebSockets
	Clients      int
	Cut, Offline time.Duration
}

// A jitterResult is what it says in the end.
type jitterResult struct {
	Delivered int // messages, each the next one of its client
	Cuts      int
	Replays   int // that had something to replay
	P50, P99  time.Duration
	Failed    int      // clients
	Errors    []string // of some of them
}

// jitterVariable has the setup where the test binary runs as the clients' process.
const jitterVariable = "GROUPHUB_JITTER_CLIENTS"

// runJitterClients is the clients' process. It says when all are connected, is told the number of
// each message that was sent, and says how it went.
func runJitterClients(told string) error {
	j := new(jitterClients)
	if err := json.Unmarshal([]byte(told), &j.setup); err != nil {
		return err
	}
	var ready, done sync.WaitGroup
	begin := make(chan struct{})
	places := make(chan struct{}, 64) // that connect at first, at once
	for range j.setup.Clients {
		ready.Add(1)
		done.Go(func() {
			var l link = new(socketLink)
			if j.setup.Streams {
				l = new(streamLink)
			}
			places <- struct{}{}
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
	fmt.Println("ready")
	close(begin)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		n, err := strconv.Atoi(lines.Text())
		if err != nil {
			return err
		}
		j.sent.Store(int64(n))
	}
	done.Wait()
	return json.NewEncoder(os.Stdout).Encode(j.result())
}

// jitterClients are the clients of one run.
type jitterClients struct {
	setup jitterSetup
	sent  atomic.Int64 // number of the last message

	mu        sync.Mutex
	delivered int
	cuts      int
	replays   []time.Duration // from the begin of a connection until all that was missed is there
	errors    []error
}

// open connects for the first time, and returns when the client knows its position.
func (j *jitterClients) open(l link) error {
	if err := l.connect(j.setup.Target); err != nil {
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
func (j *jitterClients) follow(l link) error {
	got, cuts := 0, 0
	var replays []time.Duration
	defer func() {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.delivered += got
		j.cuts += cuts
		j.replays = append(j.replays, replays...)
	}()
	life := rand.N(j.setup.Cut) // so that they are not all cut at once
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
		time.Sleep(j.setup.Offline) // the client is away
		life = j.setup.Cut
		missed, connected = int(j.sent.Load()), time.Now()
		if missed == got {
			missed = 0 // nothing to replay
		}
		if err := l.connect(j.setup.Target); err != nil {
			return err
		}
	}
}

func (j *jitterClients) fail(err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.errors = append(j.errors, err)
}

func (j *jitterClients) result() jitterResult {
	r := jitterResult{Delivered: j.delivered, Cuts: j.cuts, Replays: len(j.replays), Failed: len(j.errors)}
	for _, err := range j.errors[:min(len(j.errors), 5)] {
		r.Errors = append(r.Errors, err.Error())
	}
	if slices.Sort(j.replays); len(j.replays) > 0 {
		r.P50, r.P99 = j.replays[len(j.replays)/2], j.replays[len(j.replays)*99/100]
	}
	return r
}

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
