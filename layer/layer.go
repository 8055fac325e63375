// Package layer says what carries events between hubs. A hub hands its publications to a
// [Layer] and hears of others' through a [Receiver]; both only know topics and bytes, so a
// layer can be built on anything that keeps this package's promises. Package layertest
// checks whether it does.
//
// Applications need this package only to build a layer of their own or a [Publisher]:
// package grouphub has the layers for one process and for Redis.
package layer

import (
	"context"
	"errors"
	"time"
)

// Errors that a layer returns, wrapped with what it was doing. Package grouphub has them
// under the same names.
var (
	// ErrClosed means that the layer, or the hub or connection above it, has ended.
	ErrClosed = errors.New("grouphub: closed")
	// ErrQueueFull means that a queue holds as many messages as it may. The message was
	// not added.
	ErrQueueFull = errors.New("grouphub: queue full")
	// ErrUnavailable means that the layer is down: nothing went out, and sending again is
	// safe.
	ErrUnavailable = errors.New("grouphub: layer unavailable")
	// ErrUncertain means that the layer broke before it answered: the publication or the
	// message may or may not have gone out.
	ErrUncertain = errors.New("grouphub: layer broke before it answered")
)

// A Layer carries publications between hubs, in one process or in many, and keeps
// the named channels. grouphub.NewMemoryLayer and
// grouphub.NewRedisLayer make one; layertest.Test checks another.
//
// Topics, queue names and the holders of leases are opaque strings of 1 to 300 bytes. Except
// for Attach and Close, every method but Take ends when its context does, or after five
// seconds, whichever is first. No method repeats what may already have taken effect: an
// error that is [ErrUnavailable] says that nothing happened and nothing will, one that is
// [ErrUncertain] that it may have, and the caller decides. All methods may be called
// concurrently. A layer keeps no slice it is given after the call has returned, unless it
// copied it, and changes none. After Close every method returns [ErrClosed], and nothing is
// delivered any more.
//
// A hub does not stake its callers on this: it leaves a call alone that has not returned in
// time, with [ErrUncertain] or, where the call only asks, [ErrUnavailable]. So whatever a
// layer does late must do no harm. Only Attach, Remove and Up are called as they are.
type Layer interface {
	// Attach makes a hub known under a name that no other hub has, and subscribes
	// it to the topic of that name. It does not wait for a server: while there is
	// none, the layer goes on trying. The receiver is called until the
	// subscription is closed.
	Attach(hub string, r Receiver) (Subscription, error)

	Publisher

	// History returns what is kept of a topic after a number, oldest first. It is one
	// consistent view: all that is kept from after+1 to Last. If the topic has no epoch, its
	// first one begins, so that a position from before the first publication says which
	// store it is from. An epoch that nothing was published in may end after an hour in
	// which nobody has asked for it. The slice Kept is the caller's; nobody changes the
	// payloads in it.
	History(ctx context.Context, topic string, after uint64) (History, error)

	// Lease changes what a holder keeps for a topic, and reports whether it did: a change
	// that does not fit the version that is kept changes nothing. It costs what changes, and
	// not what is kept.
	Lease(ctx context.Context, topic, holder string, change LeaseChange) (bool, error)

	// Leases returns what is kept for a topic, by holder. A lease whose version is the one
	// that the caller knows of this holder comes without its fields, which are not read
	// either. What is returned is the caller's.
	Leases(ctx context.Context, topic string, known map[string]uint64) (map[string]Lease, error)

	// Append adds a message to a queue, or returns ErrQueueFull. Every queue of a layer
	// holds the same number of messages, and no more, however many callers append at the
	// same time.
	Append(ctx context.Context, queue string, message []byte) error

	// Take waits for a message and removes it from the queue: each message goes to
	// one caller. A message that is appended while a caller waits goes to one in a moment,
	// and not only when a poll is due. Take ends only with a message, its context, or
	// Close; while the layer is down it waits. A message that it does not return, because
	// its context has ended, stays in the queue. The slice is the caller's.
	Take(ctx context.Context, queue string) ([]byte, error)

	// Close ends every subscription and lets go of every connection and goroutine
	// before it returns. It is called once, by whoever made the layer; a second Close
	// returns ErrClosed.
	Close() error
}

// A Positioner is a Layer that says of many topics at once how far they are. A layer need not be
// one. A hub compares its groups with history every 20 seconds, because the loss of a topic's last
// publication shows no other way. It asks a Positioner for all of them together, and reads only the
// histories of those that are not where the hub is. With any other layer it reads all of them.
type Positioner interface {
	// Positions returns the last position of each topic, in the order of the topics: the Epoch, Last
	// and Nonce of a History that was read at one moment after the call began. It is the zero
	// Position where the topic has no epoch, or where its position cannot be learned at present. An
	// error says that none can be learned. Unlike History, Positions changes nothing: no epoch begins,
	// and none lives longer. There may be no topics, and a topic may come more than once. What
	// is returned is the caller's.
	Positions(ctx context.Context, topics []string) ([]Position, error)
}

// A Publisher takes publications. It is the part of a Layer that sending to a group needs.
type Publisher interface {
	// Publish hands the publication to every hub that is subscribed to its topic,
	// the sender's own included, and returns once it can no longer be lost on the
	// sender's side. Publications of one goroutine to one topic, each after the
	// last returned nil, arrive in that order; subscribers of one topic on one
	// layer all see the same order of what they see. Publications with equal payloads are
	// each delivered.
	Publish(ctx context.Context, p Publication) error
}

// A Publication is a message for the subscribers of a topic.
type Publication struct {
	Topic   string
	Payload []byte
	Keep    Keep     // for Publish: whether it is numbered and kept
	At      Position // for Deliver and History: where it stands; zero if it was not kept

	// Age says, for History, how long ago it was kept, by the clock of whoever keeps it, as it
	// was when the history was read. A hub replays nothing that is older than Keep.Life. For
	// Deliver it is how long ago it was kept at least, as far as the layer can tell, and else 0: a
	// connection may have stood still for a while.
	Age time.Duration
}

// Keep makes Publish number a publication and keep it, in one step with handing it
// to the subscribers, so that all of them see the publications of a topic in the order
// of their numbers, though perhaps with gaps.
type Keep struct {
	Count int           // of publications of the topic that are kept at least, and not many more; 0: this one is not
	Bytes int           // of their payloads together: beyond it the oldest go, perhaps down to three quarters of it, but never the newest; 0: no limit
	Life  time.Duration // how long they are kept after the last of them
	Once  string        // if not empty: within OnceLife of a publication with the same key, do nothing
}

// OnceLife is how long a layer remembers a Keep's Once.
const OnceLife = 5 * time.Minute

// A Position says where a kept publication stands in its topic. Numbers begin at 1 and
// leave none out within an epoch; 0 is the position before the first one. The epoch changes
// when the count began anew: the server has lost its data, or nothing was sent for a day at
// least. No two stores have an epoch in common, so it is random, or made of something that
// is. The nonce is the position's own and cannot be guessed: a server that loses its last
// publications gives their numbers out again, and a client proves by the nonce that the
// position was given to it.
//
// Clients get a position as an event's id, and return it to resume. So that the id can be
// read again, Epoch and Nonce are 1 to 64 letters, digits, '-' and '_' of ASCII: a hub
// answers an id with anything else in it with a Resync, every time.
type Position struct {
	Epoch  string
	Number uint64
	Nonce  string
}

// A History is what a layer keeps of a topic.
type History struct {
	Epoch string // empty only if there is none and the layer cannot write at present
	Start string // the nonce of number 0; may be empty in an epoch that began with a publication
	Last  uint64 // the number given out last, 0 if none was
	Nonce string // of Last
	Kept  []Publication
}

// A Lease is what a holder keeps for a topic: fields that end together, unless the holder
// prolongs them. A layer that runs out of room forgets all of a lease, or nothing of it.
type Lease struct {
	Version uint64            // after the last change, as its holder counts: from 1 to 2^53
	Fields  map[string][]byte // by names of 1 to 300 bytes, which are opaque
}

// A LeaseChange is a change of a lease. Versions keep changes apart that overtake each other: one
// that was given up with ErrUncertain may take effect after the next, and does nothing then.
type LeaseChange struct {
	// After is the version that is changed: if there is another one, or none, nothing
	// changes. With 0 the change replaces the lease, unless a later Version is kept.
	After uint64

	// Version is that of the lease after the change. If it is the same as After, the lease
	// is prolonged, and nothing else.
	Version uint64

	// Life is how long all of the lease is kept from now on. With 0 it ends, whether there is one
	// or not, unless a later Version is kept.
	Life time.Duration

	Set    map[string][]byte // new fields, and new values of old ones
	Remove []string          // names of fields, which need not be there
}

// A Receiver is a hub's side of its subscription. A layer never calls Ready or
// Deliver of one topic concurrently; calls for different topics may be concurrent.
type Receiver interface {
	// Ready waits until there is room for another publication of the topic, or
	// until ctx ends, whose error it then returns. Only a layer whose publisher
	// can wait asks; the others just deliver.
	Ready(ctx context.Context, topic string) error

	// Deliver hands a publication over. It never blocks, and keeps the payload,
	// which nobody may change afterwards. Where there is no room the publication
	// is dropped, and the hub treats the topic as it does after Lost.
	Deliver(p Publication)

	// Lost says that publications of these topics may have been lost since they were
	// subscribed to; after an interruption they are all, the hub's own included. What was
	// kept of them can be found in History. It is called once the subscription is in force
	// again, so that whoever now asks for the present state misses nothing. It never
	// blocks. The slice is the receiver's.
	Lost(topics []string)
}

// A Subscription is what a hub hears of its layer. Its methods may be called
// concurrently.
type Subscription interface {
	// Add subscribes to topics and returns once every publication that is sent
	// from now on will be delivered. What was published before Add was called is not
	// delivered. Adding a topic twice is the same as once. On an error the topics that
	// were not subscribed to before are not afterwards.
	Add(ctx context.Context, topics ...string) error

	// Remove ends the subscription to topics. It never blocks: the layer forgets
	// them now or a little later, and until then may still deliver. An Add that
	// is called after Remove has returned wins.
	Remove(topics ...string)

	// Up reports whether publications arrive at present.
	Up() bool

	// Close detaches the hub. After it has returned, the receiver is not called.
	Close() error
}
