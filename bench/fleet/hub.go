//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/rpc"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/bench/internal/measure"
	"github.com/seed-29c60982/grouphub/bench/internal/wire"
)

// A hubSetup is what a hub's process is told.
type hubSetup struct {
	Store   storeKind
	URL     string // of the store
	History int    // events that rooms keep; 0: none

	Announce bool // rooms tell who comes and goes

	Database string // control address of the process that has the dashboards; empty: there are none
}

// An address is where a process of the fleet listens. It prints this when it is ready.
type address struct{ WebSocket, Control string }

// maxConns is how many connections a hub takes, of which each is a file: a process has 20,000 of them.
const maxConns = 19_000

const roomPrefix = "room:"

func roomName(i int) string { return roomPrefix + strconv.Itoa(i) }

// serveHub is the process of one hub. It ends when its standard input does.
func serveHub(told string) error {
	var s hubSetup
	if err := json.Unmarshal([]byte(told), &s); err != nil {
		return err
	}
	logger := slog.New(slog.DiscardHandler) // what goes wrong is meant to, or the clients notice it
	h := new(Hub)
	layer, err := s.Store.layer(s.URL, logger, &h.traffic)
	if err != nil {
		return err
	}
	boards := newLoader(s.Database)
	hub := grouphub.New(&grouphub.Options{
		Layer:  layer,
		Logger: logger,
		// Whoever comes beyond this is refused and goes elsewhere, as if all files were used nobody could
		// come in at all.
		MaxConns: maxConns,
		Policy: func(group string) grouphub.GroupPolicy {
			switch {
			case strings.HasPrefix(group, roomPrefix):
				return grouphub.GroupPolicy{History: s.History, Announce: s.Announce}
			case strings.HasPrefix(group, boardPrefix):
				return boards.policy(group)
			}
			return grouphub.GroupPolicy{}
		},
	})
	mux := http.NewServeMux()
	mux.Handle("GET /ws/{first}/{count}/{board}", grouphub.Authenticate(userOf)(hub.Handler(grouphub.Consumer{
		Connect: joinGroups,
		Receive: grouphub.ReceiveAs(func(c *grouphub.Conn, n int) error {
			return c.Send(fmt.Appendf(nil, `{"type":"answer","data":%d}`, n))
		}),
		Events: grouphub.Events{"event": grouphub.Forward(), "presence": grouphub.Forward(),
			"value": grouphub.Forward(), "snapshot": grouphub.Forward()},
	})))
	h.hub, h.server, h.boards = hub, &http.Server{Handler: mux}, boards
	return serveBoth(h.server, "Hub", h)
}

// serveBoth serves connections with one listener and commands with another, until standard input
// ends. Without a server there are commands alone.
func serveBoth(server *http.Server, name string, commands any) error {
	failed := make(chan error, 3)
	var at address
	if server != nil {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		at.WebSocket = listener.Addr().String()
		go func() {
			if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
				failed <- err
			}
		}()
	}
	control, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	at.Control = control.Addr().String()
	receiver := rpc.NewServer()
	if err := receiver.RegisterName(name, commands); err != nil {
		return err
	}
	go func() { failed <- http.Serve(control, receiver) }()
	go func() { _, err := io.Copy(io.Discard, os.Stdin); failed <- err }()
	if err := json.NewEncoder(os.Stdout).Encode(at); err != nil {
		return err
	}
	return <-failed
}

// userOf takes the user's name from the URL. Without one the connection is anonymous.
func userOf(r *http.Request) (grouphub.User, error) {
	return grouphub.User{ID: r.URL.Query().Get("user")}, nil
}

// joinGroups joins the rooms of the URL, so many from the first one on, and the dashboard.
func joinGroups(c *grouphub.Conn) error {
	var numbers [3]int
	for i, name := range []string{"first", "count", "board"} {
		var err error
		if numbers[i], err = strconv.Atoi(c.PathValue(name)); err != nil {
			return err
		}
	}
	for i := range numbers[1] {
		if err := c.Join(roomName(numbers[0] + i)); err != nil {
			return err
		}
	}
	if board := numbers[2]; board > 0 {
		return c.Join(boardName(board))
	}
	return nil
}

// Hub is what the driver tells a hub's process.
type Hub struct {
	hub     *grouphub.Hub
	server  *http.Server
	sender  sender
	traffic traffic
	boards  *loader

	database database // of the worker
}

// Usage is what the process has used, and what its hub has now.
type Usage struct {
	CPU        time.Duration
	Stats      grouphub.Stats
	Goroutines int
	Loads      int64 // of dashboards

	Sent, Received int64 // bytes, if the store does not count them
}

// Usage reports without side effects.
func (h *Hub) Usage(_ int, u *Usage) (err error) {
	u.Stats, u.Goroutines = h.hub.Stats(), runtime.NumGoroutine()
	u.Loads = h.boards.loads.Load()
	u.Sent, u.Received = h.traffic.sent.Load(), h.traffic.received.Load()
	u.CPU, err = measure.CPUTime()
	return err
}

// Heap collects garbage and returns the bytes that are live.
func (h *Hub) Heap(_ int, bytes *int64) error {
	runtime.GC()
	runtime.GC() // what finalizers have let go of
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	*bytes = int64(s.HeapAlloc)
	return nil
}

// Stop shuts the hub down as a deployed program does at SIGTERM, and returns how long it took.
func (h *Hub) Stop(limit time.Duration, took *time.Duration) error {
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := h.server.Shutdown(ctx); err != nil { // the listener; it neither closes nor waits for WebSockets
		return err
	}
	err := h.hub.Shutdown(ctx)
	*took = time.Since(began)
	return err
}

// closeServiceRestart tells a client to come back, which may be to another process.
const closeServiceRestart = 1012

// Shed closes so many connections, which come back to any hub. This is what docs/scaling.md advises
// for a hub that has more than its part.
func (h *Hub) Shed(n int, _ *int) error {
	for c := range h.hub.Conns() {
		if n--; n < 0 {
			return nil
		}
		if err := c.Close(closeServiceRestart, "please reconnect"); err != nil && !errors.Is(err, grouphub.ErrClosed) {
			return err
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

// Logout closes a user's connections on all hubs, and returns when it was asked to.
func (h *Hub) Logout(user string, at *int64) error {
	*at = measure.Now()
	return h.hub.GroupClose(context.Background(), grouphub.UserGroup(user), closeLoggedOut, "logged out")
}

const closeLoggedOut = 4401

// Count says how many are in a room, on all hubs.
func (h *Hub) Count(room int, n *int) (err error) {
	*n, err = h.hub.Count(context.Background(), roomName(room))
	return err
}

// A Publication asks for events to Groups rooms, from First on, in turn.
type Publication struct {
	First, Groups int
	Events        int     // in all; 0: until StopSending
	Rate          float64 // events per second
}

// A Sending is what became of a Publication.
type Sending struct {
	Numbers     []uint32 // the last number of each room, from First on
	Uncertain   []Event  // may have gone out
	Unavailable int      // calls that failed before anything went out, and were repeated
}

// An Event is one of a room's.
type Event struct {
	Room   int
	Number uint32
}

// Send returns when all events have been sent. One call at a time.
func (h *Hub) Send(p Publication, s *Sending) error { return h.sender.send(h.hub, p, s) }

// StopSending ends a Send that has no number of events.
func (h *Hub) StopSending(_ int, _ *int) error {
	h.sender.stop()
	return nil
}

// event is what rooms are sent.
func event(due int64, number uint32) json.RawMessage { return wire.NewEvent(due, number) }
