// Package lease keeps the leases by which a hub tells others what it has.
package lease

import (
	"context"
	"time"

	"github.com/seed-29c60982/grouphub/internal/track"
)

const (
	// life is how long the values of a hub that has crashed are still read.
	life = 60 * time.Second
	// pause is how long changes of one value are gathered.
	pause = 50 * time.Millisecond
	// maxTurns is how many leases are written at the same time, and renewed: many, or those
	// of one slow server would hold up the others'.
	maxTurns = 512
	// lastWords is how long the last ones may take.
	lastWords = 5 * time.Second
)

// A Keeper writes values as leases when they have changed, and renews them.
type Keeper struct {
	ctx      context.Context // ends when only last words are left
	words    context.Context // ends when nothing more is to be said
	endWords context.CancelFunc
	lease    func(ctx context.Context, name string, value []byte, life time.Duration) (bool, error)
	value    func(name string) []byte

	changes, renewals track.Changes
}

// New returns a keeper that runs on a group's goroutines until ctx ends. The function lease
// is a layer's, and value returns what is to be kept under a name, nil if there is nothing.
func New(ctx context.Context, group *track.Group,
	lease func(ctx context.Context, name string, value []byte, life time.Duration) (bool, error),
	value func(name string) []byte,
) *Keeper {
	k := &Keeper{ctx: ctx, lease: lease, value: value}
	k.words, k.endWords = context.WithCancel(context.WithoutCancel(ctx))
	turns := make(chan struct{}, maxTurns)
	k.changes = track.Changes{Group: group, Handle: k.write, Turns: turns, Pause: pause, Ended: ctx.Done()}
	k.renewals = track.Changes{Group: group, Handle: k.renew, Turns: turns, Pause: pause, Ended: ctx.Done()}
	return k
}

// Changed has a value written. It never blocks.
func (k *Keeper) Changed(name string) { k.changes.Add(name) }

// Renew prolongs a lease: that must not cost what the value does. One that is gone is
// written anew. It never blocks.
func (k *Keeper) Renew(name string) { k.renewals.Add(name) }

// End gives what is still to be written until ctx ends, but not more than five seconds.
// The caller calls release when all is.
func (k *Keeper) End(ctx context.Context) (release func()) {
	ctx, release = context.WithTimeout(ctx, lastWords)
	context.AfterFunc(ctx, k.endWords)
	return release
}

func (k *Keeper) write(name string) (ok bool) {
	value, life := k.value(name), life
	if value == nil {
		value, life = []byte{}, 0
	}
	_, err := k.lease(k.words, name, value, life)
	return err == nil || k.ctx.Err() != nil // at the end there is one try
}

func (k *Keeper) renew(name string) (ok bool) {
	there, err := k.lease(k.ctx, name, nil, life)
	if err == nil && !there {
		k.Changed(name)
	}
	return err == nil || k.ctx.Err() != nil
}
