package grouphub

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"time"
)

// Options configure a Hub. The zero value of each field is its default, and the
// defaults are safe. New copies them.
type Options struct {
	// Layer connects this hub with others. If it is nil, the hub has a memory layer of its
	// own.
	// A layer given here is not closed by Shutdown and may serve several hubs.
	Layer Layer

	// Consumer is what ServeHTTP serves.
	Consumer Consumer

	// Policy says which groups keep history and presence. Every process that sends to
	// or joins a group must say the same of it, workers included. It is asked often and
	// concurrently. If it is nil, no group keeps anything.
	Policy func(group string) GroupPolicy

	// MaxMessageSize is how many bytes a client may send in one message, inflated
	// if it was compressed; more closes it with 1009. 0 means 64 KiB.
	MaxMessageSize int64

	// MaxEventSize is how many bytes an event's JSON may have, type and group
	// included; more is ErrTooLarge for its sender. 0 means 1 MiB.
	MaxEventSize int

	// MaxPending is how many bytes of frames may wait for a connection's socket, and how
	// many bytes of events for its callbacks, where a frame counts for up to 48 bytes more
	// than it has, and an event for 200. Past that the connection is closed with 1013. 0
	// means 1 MiB.
	MaxPending int

	// MaxConns is how many connections the hub has at the most; one more gets 503
	// with Retry-After, or as an event stream a close with 1013. 0 means no limit but that of
	// the process on open files.
	MaxConns int

	// ReceiveRate is how many messages per second are read from a client, averaged over
	// bursts of ReceiveBurst messages. One that sends faster is not closed: what it sends
	// waits in the network, before anything is inflated. Each part of a message that is sent
	// in several, and each ping or pong, counts as a message. 0: no limit, and a burst of
	// twice the rate.
	ReceiveRate  float64
	ReceiveBurst int

	// A client is sent a ping every PingInterval. One that sends nothing for PongTimeout is
	// given up, and so is one that takes no byte of what waits for it for WriteTimeout, which
	// may be noticed only after twice that time. A client has CloseTimeout to answer a close
	// frame, and WriteTimeout more if something waits to be written before that.
	//
	// 0 means 54 s, 60 s, 10 s and 5 s. If only one of PingInterval and PongTimeout is given,
	// the other is in proportion to it. All but the pings need a net.Conn that has
	// deadlines, which a channel of SSH, for one, has not.
	PingInterval, PongTimeout, WriteTimeout, CloseTimeout time.Duration

	// Compression offers permessage-deflate. It saves bandwidth for CPU: an event is
	// compressed once per hub, but each client's messages are inflated one by one.
	Compression bool

	// Refuse answers a request that the hub or a consumer refuses, with the status that it
	// would get, and the reason. If err is not a [*Reject], its text is not meant for clients.
	// Retry-After and Upgrade are set already where they belong. What Authenticate and other
	// middleware refuse, in front of the hub, is not among it. Of a refusal for a time, 503, an
	// event stream's client gets a stream that is closed at once, whatever Refuse writes: it
	// would not come back from anything else. If Refuse is nil, the answer is one line of text.
	Refuse func(w http.ResponseWriter, r *http.Request, status int, err error)

	// Logger gets what an operator should know. If it is nil, that is slog.Default() at
	// the time of each record.
	Logger *slog.Logger
}

// A GroupPolicy says what is kept of a group.
type GroupPolicy struct {
	History    int           // events kept, for those who join later or resume, in at most 16 × MaxEventSize bytes; 0: none
	HistoryTTL time.Duration // none is replayed that is older; 0: 5 min
	Presence   bool          // Members, Count and Online work

	// Snapshot, if it is not nil, loads the state that a member starts from. Join sends it as
	// an event of type "snapshot" before anything else, and so does whatever would send a
	// Resync: see [Conn.Join]. It runs once at a time for a group and hub, for all who wait,
	// and concurrently with itself for other groups. It may block, for ten seconds with all of
	// its three tries; its context ends then, with Shutdown, and when nobody waits any more.
	// What it returns is marshalled with encoding/json, and may be as large as an event.
	Snapshot func(ctx context.Context, group string) (any, error)

	// Announce tells the members who comes and goes, with events of type "presence", whose data
	// is {"joined":[…],"left":[…],"count":n}. A user joins with the first of its connections in the
	// group and leaves with the last, on all hubs together; a connection without a user counts
	// alone. Each is {"user":…,"channel":…,"info":…,"since":…}, without user and info where there
	// are none. The first event that a connection gets, within a second of its Join, also has
	// "members":[…], everybody there, if these are at most 1,000; its own joining is not told
	// again. Changes are gathered for up to a second. Who reconnects within 5 s has not left; the
	// members of a hub that has crashed have, within 90 s. A new Info alone, by SetUser, is no
	// coming and no going, and is not told. Announce implies Presence.
	//
	// A connection for which such an event was dropped, because it was behind in a group with Latest
	// keys or a Snapshot, is told anew who is there when it has caught up.
	//
	// The events go through the consumer's Events as any others, and have no place in a history.
	// Every member is written every change, so in a very large group they cost more than any
	// other event.
	Announce bool
}

// keep returns what a layer is to keep of a group with this policy.
func (p GroupPolicy) keep(maxEventSize int) Keep {
	bytes := 16 * min(maxEventSize, math.MaxInt/16)
	return Keep{Count: max(p.History, 0), Bytes: bytes, Life: cmp.Or(max(p.HistoryTTL, 0), 5*time.Minute)}
}

// withDefaults returns a copy, or an error for what contradicts itself.
func (o *Options) withDefaults() (Options, error) {
	var d Options
	if o != nil {
		d = *o
	}
	for name, value := range map[string]float64{
		"MaxMessageSize": float64(d.MaxMessageSize), "MaxEventSize": float64(d.MaxEventSize),
		"MaxPending": float64(d.MaxPending), "MaxConns": float64(d.MaxConns),
		"ReceiveRate": d.ReceiveRate, "ReceiveBurst": float64(d.ReceiveBurst),
		"PingInterval": float64(d.PingInterval), "PongTimeout": float64(d.PongTimeout),
		"WriteTimeout": float64(d.WriteTimeout), "CloseTimeout": float64(d.CloseTimeout),
	} {
		if !(value >= 0) { // NaN included
			return d, fmt.Errorf("%s is %v", name, value)
		}
	}
	d.MaxMessageSize = cmp.Or(d.MaxMessageSize, 64<<10)
	d.MaxEventSize = cmp.Or(d.MaxEventSize, 1<<20)
	d.MaxPending = cmp.Or(d.MaxPending, 1<<20)
	d.ReceiveBurst = cmp.Or(d.ReceiveBurst, max(1, int(2*d.ReceiveRate)))
	// One of the two alone moves the other along.
	if d.PongTimeout == 0 {
		d.PongTimeout = math.MaxInt64 // a PingInterval that means never has no tenth more
		if d.PingInterval < math.MaxInt64/10*9 {
			d.PongTimeout = max(60*time.Second, d.PingInterval/9*10)
		}
	}
	d.PingInterval = cmp.Or(d.PingInterval, d.PongTimeout/10*9)
	d.WriteTimeout = cmp.Or(d.WriteTimeout, 10*time.Second)
	d.CloseTimeout = cmp.Or(d.CloseTimeout, 5*time.Second)
	if d.PingInterval >= d.PongTimeout && d.PongTimeout != math.MaxInt64 {
		return d, fmt.Errorf("PingInterval %v is not shorter than PongTimeout %v", d.PingInterval, d.PongTimeout)
	}
	return d, nil
}
