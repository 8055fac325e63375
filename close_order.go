package grouphub

import (
	"context"
	"crypto/rand"
	"sync"
	"time"

	"github.com/seed-29c60982/grouphub/internal/envelope"
)

const (
	// closeMarkWait is how long a close waits for its mark, which is lost if the hub was cut
	// off when it was published.
	closeMarkWait = 2 * time.Second
	// closeMarkLife is how long a mark is remembered whose command has not come yet. It is
	// more than a hub needs to read the commands that it missed.
	closeMarkLife = time.Minute
)

// closeOrder brings a GroupClose of a group without history behind the events that were sent
// before it. The close is a command to all hubs, numbered and kept, so that none misses it.
// It takes another way than the group's events: in a Cluster, over another node. So a copy of
// it, the mark, is published like an event, and whatever comes of both carries the close out
// in the group's order:
//
//	command, then mark: when the mark comes
//	mark, then command: when the mark comes, and the command does nothing
//	command, and no mark within closeMarkWait: then, and the mark does nothing
//
// A mark has no age, as the command has: one for which a command waits is as old as that.
//
// In a group with history the command says after which position it comes.
type closeOrder struct {
	hub *Hub // static

	mu      sync.Mutex
	waiting map[string]waitingClose // for a mark, by its name
	marked  map[string]*time.Timer  // marks of what was carried out, until they are forgotten
}

// A waitingClose is a close whose mark has not come.
type waitingClose struct {
	timer      *time.Timer // until it is carried out without
	sentBefore time.Duration
}

// uptime is a clock that is never put back.
func uptime() time.Duration { return time.Since(processStart) }

var processStart = time.Now()

// mark gives a close that is to be published a name for its mark. The hub's own layer keeps
// the order by itself.
func (o *closeOrder) mark(env *envelope.Envelope) {
	if !o.hub.ownLayer {
		env.After = rand.Text()
	}
}

// publishMark publishes the mark of a close that has been published as a command. Without it
// the close waits in vain for a while, which is no reason to report an error, but for one of
// Via's publisher: a transaction that could not take the mark has failed.
func (o *closeOrder) publishMark(ctx context.Context, env *envelope.Envelope, options SendOption) error {
	if env.After == "" {
		return nil
	}
	err := o.hub.publishTo(ctx, o.hub.publisher(options), groupTopic(env.Name), env.Encode(), Keep{})
	if options.via == nil {
		return nil
	}
	return err
}

// command carries out a close that came as a command, now or in its time.
func (o *closeOrder) command(g *group, env *envelope.Envelope) {
	d := &delivery{hub: o.hub, group: g, env: env}
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case env.After == "":
		g.send(d)
	case o.marked[env.After] != nil: // it has been carried out
	case o.waiting[env.After].timer == nil:
		if o.waiting == nil {
			o.waiting = make(map[string]waitingClose)
		}
		o.waiting[env.After] = waitingClose{sentBefore: env.SentBefore, timer: time.AfterFunc(closeMarkWait, func() {
			if _, isFirst := o.carryOut(env.After); isFirst {
				g.send(d)
			}
		})}
	}
}

// carryOut notes that a close is carried out. It returns the command if that waits, and
// reports whether nothing came before, so that it is to be carried out at all.
func (o *closeOrder) carryOut(mark string) (command waitingClose, isFirst bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	command = o.waiting[mark]
	if command.timer != nil {
		command.timer.Stop()
		delete(o.waiting, mark)
	}
	if o.marked[mark] != nil {
		return command, false
	}
	if o.marked == nil {
		o.marked = make(map[string]*time.Timer)
	}
	o.marked[mark] = time.AfterFunc(closeMarkLife, func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		delete(o.marked, mark)
	})
	return command, true
}

// marks carries out a close whose mark has come among the group's events. A mark that comes
// again does nothing.
func (o *closeOrder) marks(g *group, env *envelope.Envelope) {
	command, isFirst := o.carryOut(env.After)
	if !isFirst {
		return
	}
	if env.SentBefore = uptime(); command.timer != nil {
		env.SentBefore = command.sentBefore
	}
	g.send(&delivery{hub: o.hub, group: g, env: env})
}

// end stops all timers. The hub has no connections any more.
func (o *closeOrder) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for mark, command := range o.waiting {
		command.timer.Stop()
		delete(o.waiting, mark)
	}
	for mark, timer := range o.marked {
		timer.Stop()
		delete(o.marked, mark)
	}
}
