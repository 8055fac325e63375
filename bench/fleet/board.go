//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/rpc"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-29c60982/grouphub"
)

const (
	boardPrefix = "board:"
	// boardKeys is how many values a dashboard shows.
	boardKeys = 10
	// queryTime is how long the database takes to read a dashboard.
	queryTime = 20 * time.Millisecond
	// boardHistory is how many events a dashboard with an even number keeps. The others keep none.
	boardHistory = 20
)

func boardName(i int) string { return boardPrefix + strconv.Itoa(i) }

// A database has the values of the dashboards, which are numbered from 1 on. The worker has it, and
// changes it as a business does: first the value, then the event.
type database struct {
	stopping atomic.Bool

	mu     sync.Mutex
	values map[int][]uint32
}

// read returns a copy of a dashboard's values.
func (d *database) read(board int) []uint32 {
	d.mu.Lock()
	defer d.mu.Unlock()
	values := make([]uint32, boardKeys)
	copy(values, d.values[board])
	return values
}

func (d *database) increase(board, key int) uint32 {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.values == nil {
		d.values = make(map[int][]uint32)
	}
	if d.values[board] == nil {
		d.values[board] = make([]uint32, boardKeys)
	}
	d.values[board][key]++
	return d.values[board][key]
}

// Changes asks for changes of so many dashboards, in turn, until StopChanging.
type Changes struct {
	Boards int
	Rate   float64 // changes per second
}

// Change returns when it is stopped. One call at a time.
func (h *Hub) Change(c Changes, made *int) error {
	h.database.stopping.Store(false)
	began := time.Now()
	for ; !h.database.stopping.Load(); *made++ {
		time.Sleep(time.Until(began.Add(time.Duration(float64(*made) * float64(time.Second) / c.Rate))))
		if err := h.change(1+*made%c.Boards, *made/c.Boards%boardKeys); err != nil {
			return err
		}
	}
	return nil
}

// change sends an event until it has gone out: one that goes out twice does no harm.
func (h *Hub) change(board, key int) error {
	value := h.database.increase(board, key)
	for deadline := time.Now().Add(sendPatience); ; time.Sleep(sendPause) {
		err := h.hub.GroupSend(context.Background(), boardName(board), "value", []uint32{uint32(key), value}, grouphub.Latest(strconv.Itoa(key)))
		if err == nil || !errors.Is(err, grouphub.ErrUnavailable) && !errors.Is(err, grouphub.ErrUncertain) || time.Now().After(deadline) {
			return err
		}
	}
}

// StopChanging ends a Change.
func (h *Hub) StopChanging(_ int, _ *int) error {
	h.database.stopping.Store(true)
	return nil
}

// Board returns a dashboard's values.
func (h *Hub) Board(board int, values *[]uint32) error {
	time.Sleep(queryTime)
	*values = h.database.read(board)
	return nil
}

// A loader loads dashboards from the process that has the database.
type loader struct {
	address string
	connect func() (*rpc.Client, error)
	loads   atomic.Int64
}

func newLoader(address string) *loader {
	l := &loader{address: address}
	l.connect = sync.OnceValues(func() (*rpc.Client, error) { return rpc.DialHTTP("tcp", address) })
	return l
}

// load is the Snapshot of a dashboard.
func (l *loader) load(_ context.Context, group string) (any, error) {
	board, err := strconv.Atoi(strings.TrimPrefix(group, boardPrefix))
	if err != nil {
		return nil, err
	}
	l.loads.Add(1)
	client, err := l.connect()
	if err != nil {
		return nil, err
	}
	var values []uint32
	if err := client.Call("Hub.Board", board, &values); err != nil {
		return nil, fmt.Errorf("dashboard %d: %w", board, err)
	}
	return values, nil
}

// policy returns that of a dashboard.
func (l *loader) policy(group string) grouphub.GroupPolicy {
	p := grouphub.GroupPolicy{Snapshot: l.load}
	if board, _ := strconv.Atoi(strings.TrimPrefix(group, boardPrefix)); board%2 == 0 {
		p.History = boardHistory
	}
	return p
}
