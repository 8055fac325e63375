package grouphub

import (
	"strconv"
	"sync"
	"time"

	"github.com/seed-29c60982/grouphub/internal/envelope"
)

// maxLostEpochs is how many lost epochs a hub remembers. One more, and it forgets them all.
const maxLostEpochs = 100

// lostEpochs are the epochs of the shared commands that have ended while this hub or another
// one was cut off: the server came back without its data. What was sent in them last may be
// lost for some hubs and not for others, so every hub tells the others how far it has seen
// them. One that has seen less than another has lost commands.
type lostEpochs struct {
	hub *Hub // static

	mu     sync.Mutex
	epochs map[string]lostEpoch // by name
}

type lostEpoch struct {
	ended     bool   // also for this hub, which has seen it up to here
	here      uint64 // the last command that this hub has seen
	elsewhere uint64 // the last one that another hub has seen
}

// lostHere notes how far this hub has seen an epoch that was lost, and tells the others. It
// never blocks.
func (l *lostEpochs) lostHere(last Position) {
	if last.Number > 0 {
		l.hub.goroutines.Go(func() { l.tell(last) })
	}
	l.update(last.Epoch, func(e *lostEpoch) { e.ended, e.here = true, max(e.here, last.Number) })
}

// tell says to all hubs how far this one has seen an epoch, as soon as the layer is up.
func (l *lostEpochs) tell(last Position) {
	env := &envelope.Envelope{Kind: envelope.Seen, Name: last.Epoch, Body: strconv.AppendUint(nil, last.Number, 10)}
	for l.hub.publish(l.hub.life, controlTopic, env.Encode(), controlKeep) != nil {
		select {
		case <-time.After(controlRetry):
		case <-l.hub.life.Done():
			return
		}
	}
}

// seenElsewhere notes how far another hub has seen an epoch. It never blocks.
func (l *lostEpochs) seenElsewhere(env *envelope.Envelope) {
	if number, err := strconv.ParseUint(string(env.Body), 10, 64); err == nil {
		l.update(env.Name, func(e *lostEpoch) { e.elsewhere = max(e.elsewhere, number) })
	}
}

func (l *lostEpochs) update(epoch string, change func(*lostEpoch)) {
	l.mu.Lock()
	e, known := l.epochs[epoch]
	if !known && len(l.epochs) >= maxLostEpochs || l.epochs == nil {
		l.epochs = make(map[string]lostEpoch)
	}
	change(&e)
	lost := e.ended && e.elsewhere > e.here
	if lost {
		e.here = e.elsewhere // once is enough
	}
	l.epochs[epoch] = e
	l.mu.Unlock()
	if lost {
		l.hub.sharedCommandsLost()
	}
}
