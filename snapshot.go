package grouphub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/seed-29c60982/grouphub/internal/envelope"
	"github.com/seed-29c60982/grouphub/internal/sequence"
)

const (
	// snapshotEvent is the type of the event that has a group's state.
	snapshotEvent = "snapshot"
	// loadTimeout is how long a load may take, with all its tries.
	loadTimeout = 10 * time.Second
	// loadPause is the time between the beginnings of two loads of a group, in which those who
	// come gather, so that many who come at once cost few loads.
	loadPause = 100 * time.Millisecond
)

// loadPauses are the times between the tries of a load.
var loadPauses = [...]time.Duration{100 * time.Millisecond, time.Second}

// A loader calls GroupPolicy.Snapshot for the members of one group on this hub, one load at a
// time. Whoever needs a snapshot takes a ticket, and a load that begins after that serves all
// who have one by then:
//
//	ticket 1 ──▶ load 1 begins ───────────────▶ snapshot 1, for ticket 1
//	                  tickets 2 ─┐
//	                  tickets 2 ─┴──────────────▶ load 2 begins ──▶ snapshot 2, for tickets 2
//
// The group's members learn of a load by deliveries in the order of its events. One says that
// the load begins: what comes before it in a shard's queue had happened when the function was
// called, so the snapshot has it. Another one has the snapshot, or says that there is none. So
// what is between the two is what a member gets after the snapshot.
type loader struct {
	hub   *Hub   // static
	group *group // static

	mu      sync.Mutex         // may be taken while any other lock is held
	begun   uint64             // number of the load that is made, or was last
	asked   uint64             // the highest ticket; a load is due while it is above begun
	waiting int                // tickets that were neither served nor given back
	running bool               // there is a goroutine that loads
	cancel  context.CancelFunc // ends the load that is under way; nil if none is

	last time.Time // when the last load began; owned by the goroutine
}

// ticket returns a ticket for the next load to begin, which it makes due.
func (l *loader) ticket() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting++
	return l.ticketLocked()
}

// renew returns a ticket in place of one that the caller has.
func (l *loader) renew() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ticketLocked()
}

func (l *loader) ticketLocked() uint64 {
	l.asked = l.begun + 1
	if !l.running {
		l.running = true
		l.hub.goroutines.Go(l.run)
	}
	return l.asked
}

// giveBack ends the use of a ticket. A load that nobody waits for any more is cancelled.
func (l *loader) giveBack() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting--; l.waiting == 0 && l.cancel != nil {
		l.cancel()
	}
}

// run loads until no load is due, or Shutdown has begun: then the connections of those who
// wait are about to be closed.
func (l *loader) run() {
	for {
		select { // the zero time is long ago
		case <-time.After(time.Until(l.last.Add(loadPause))):
		case <-l.hub.loads.Done():
		}
		ctx, cancel := context.WithTimeout(l.hub.loads, loadTimeout)
		number, due := l.next(ctx, cancel)
		if !due {
			cancel()
			return
		}
		d, err := l.load(ctx, number)
		if err != nil {
			d = l.failure(ctx, number, err)
		}
		cancel()
		if l.hub.loads.Err() == nil {
			l.group.send(d)
		}
	}
}

// next returns the number of the load that is to be made, which ends with ctx. It has the number
// before anything can end it, so that whoever comes then waits for another one. If no load is
// due, the goroutine ends.
func (l *loader) next(ctx context.Context, cancel context.CancelFunc) (number uint64, due bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.running = l.asked > l.begun && l.waiting > 0 && ctx.Err() == nil; !l.running {
		l.asked, l.cancel = l.begun, nil
		return 0, false
	}
	l.begun++
	l.cancel = cancel
	return l.begun, true
}

// load makes a load, and returns the delivery of its snapshot.
func (l *loader) load(ctx context.Context, number uint64) (d *delivery, err error) {
	// A function that does not end with its context is left alone, but there is no second one
	// beside it, also where the group has ended meanwhile, and has begun again.
	returned := make(chan struct{})
	for {
		other, busy := l.hub.loading.LoadOrStore(l.group.name, returned)
		if !busy {
			break
		}
		select {
		case <-other.(chan struct{}):
		case <-ctx.Done():
			return nil, errors.New("the last load has not returned")
		}
	}
	l.last = time.Now()
	at := l.begin(number)
	loaded := make(chan *envelope.Envelope, 1)
	failed := make(chan error, 1)
	l.hub.callbacks.Go(func() {
		env, err := (*envelope.Envelope)(nil), errLoadEnded
		defer func() {
			l.hub.loading.Delete(l.group.name)
			close(returned)
			if err != nil {
				failed <- err
			} else {
				loaded <- env
			}
		}()
		env, err = l.tryAll(ctx)
	})
	select {
	case env := <-loaded:
		d = &delivery{kind: deliverySnapshot, hub: l.hub, group: l.group, env: env, at: at, load: number}
		if at.Epoch != "" {
			d.id = sequence.ID(at)
		}
		return d, nil
	case err = <-failed:
		return nil, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// begin tells the members that a load begins. The position is where the group's history stands
// for them then, zero without history.
func (l *loader) begin(number uint64) (at Position) {
	begin := func(now Position) {
		at = now
		l.group.send(&delivery{kind: deliveryLoadBegins, hub: l.hub, group: l.group, env: noEnvelope, load: number})
	}
	if l.group.sequence != nil {
		l.group.sequence.Do(begin)
	} else {
		begin(Position{})
	}
	return at
}

// tryAll tries to load until that succeeds, or there are no tries left.
func (l *loader) tryAll(ctx context.Context) (env *envelope.Envelope, err error) {
	for try := 0; ; try++ {
		if env, err = l.try(ctx); err == nil || ctx.Err() != nil || try == len(loadPauses) {
			return env, err
		}
		select {
		case <-time.After(loadPauses[try]):
		case <-ctx.Done():
			return nil, err
		}
	}
}

var (
	// errNoSnapshot is in what a Join returns that has no snapshot.
	errNoSnapshot   = fmt.Errorf("%w: no snapshot", ErrUnavailable)
	errLoadPanicked = errors.New("the function has panicked")
	errLoadEnded    = errors.New("the function has ended its goroutine")
)

// try calls the policy's function, and makes an event of what it returns.
func (l *loader) try(ctx context.Context) (env *envelope.Envelope, err error) {
	defer func() {
		if p := recover(); p != nil {
			l.hub.logger().Error("grouphub: callback panicked", "callback", "snapshot", "group", quoted(l.group.name),
				"panic", p, "stack", string(debug.Stack()))
			env, err = nil, errLoadPanicked
		}
	}()
	value, err := l.group.policy.Snapshot(ctx, l.group.name)
	if err != nil {
		return nil, err
	}
	if value == nil { // the event has data also where the state is nothing
		value = json.RawMessage("null")
	}
	return envelope.NewEvent(l.group.name, snapshotEvent, value, l.hub.options.MaxEventSize)
}

// failure returns what tells those who wait for a load that there is no snapshot.
func (l *loader) failure(ctx context.Context, number uint64, err error) *delivery {
	if ctx.Err() != context.Canceled { // as when nobody waits for it any more
		l.hub.logger().Error("grouphub: snapshot failed", "group", quoted(l.group.name), "error", err)
	}
	return &delivery{kind: deliveryLoadFailed, hub: l.hub, group: l.group, env: noEnvelope, load: number,
		err: fmt.Errorf("%w: %w", errNoSnapshot, err)}
}
