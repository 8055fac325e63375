// Package redis is the channel layer on Redis: grouphub.RedisLayer, whose documentation
// says what is promised. Here is how the parts divide the work.
//
// A [Layer] sends every command but subscriptions through its pipelines, or in a Cluster
// through lanes. A [Subscription] keeps the books of what one hub is subscribed to; its
// links, connections to Redis, do as the books say, and note there what the server
// confirms. In a Cluster with sharded pub/sub a router assigns topics to the links of
// their nodes. For each queue that somebody waits for, a taker takes messages and hands
// them over.
package redis

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/seed-29c60982/grouphub/layer"
)

const (
	defaultTimeout   = 5 * time.Second // of whatever has a context
	dialTimeout      = 5 * time.Second
	writeTimeout     = 3 * time.Second // how long a server may be silent when asked; it is asked after a second
	defaultHeartbeat = 5 * time.Second // how often a subscription proves itself by a message to itself
	backoffMin       = 50 * time.Millisecond
	backoffMax       = 2 * time.Second
	demotedPoll      = time.Second            // how often a replica is asked whether it is none any more
	closeGrace       = 500 * time.Millisecond // for connections to end in good order
	unsubscribeDelay = time.Second            // how much later than Remove
	pipelines        = 2                      // one gathers commands while the server is busy with the other's
	batchSize        = 512                    // commands, or channels, sent at once
	queueLease       = 15 * time.Second       // longer than to take, hand over and remove a message
	queuePoll        = time.Second
)

// Options are grouphub.RedisOptions, field by field, and what only tests set.
type Options struct {
	Prefix         string
	EncryptionKeys []string
	Sharded        bool
	QueueCapacity  int
	QueueExpiry    time.Duration
	Logger         *slog.Logger
	Client         func(*rueidis.ClientOption)

	// Heartbeat is how often a subscription proves itself, and how often the server's role
	// is asked for; 0: 5 s. Tests use less.
	Heartbeat time.Duration
	// CallTimeout is how long a call may take that has a context; 0: 5 s. Tests use less.
	CallTimeout time.Duration
}

// A Layer is the inside of a grouphub.RedisLayer.
type Layer struct {
	// Static after construction.
	client      rueidis.Client
	option      rueidis.ClientOption // as the client has it
	connections *connections
	sealer      *sealer
	stamper     stamper
	prefix      string
	sharded     bool
	cluster     bool
	capacity    int
	expiry      time.Duration
	heartbeat   time.Duration
	callTimeout time.Duration
	log         *slog.Logger // nil: the default at the time of each record

	ctx     context.Context // ends with the layer
	cancel  context.CancelFunc
	running sync.WaitGroup // every goroutine of the layer
	taking  sync.WaitGroup // of these, the takers; not added to once closed
	jobs    chan *job      // to the pipelines
	posts   chan *job      // likewise, and taken first
	lanes   lanes          // in their place in a Cluster

	demoted atomic.Bool   // the server is a replica: nothing is sent
	suspect chan struct{} // has room for one: the role has to be asked for now

	discarded  atomic.Uint64 // payloads that could not be opened
	discarding sync.Once     // logs the first of them

	mu            sync.Mutex
	closed        bool
	subscriptions map[*Subscription]struct{}
	takers        map[string]*taker // by queue
	wakes         *Subscription     // to what wakes takers; nil before the first
}

// New connects to Redis.
func New(url string, opts Options) (*Layer, error) {
	l, option, err := prepare(url, opts)
	if err != nil {
		return nil, err
	}
	if err := l.start(option); err != nil {
		return nil, err
	}
	return l, nil
}

// prepare returns a layer that has no connection yet, and what start is to connect with.
func prepare(url string, opts Options) (*Layer, rueidis.ClientOption, error) {
	var option rueidis.ClientOption
	prefix := cmp.Or(opts.Prefix, "grouphub")
	if strings.ContainsAny(prefix, "{}") {
		return nil, option, fmt.Errorf("grouphub: redis prefix %q contains a brace", prefix)
	}
	if opts.QueueCapacity < 0 || opts.QueueExpiry < 0 {
		return nil, option, fmt.Errorf("grouphub: negative queue capacity %d or expiry %v", opts.QueueCapacity, opts.QueueExpiry)
	}
	sealer, err := newSealer(opts.EncryptionKeys)
	if err != nil {
		return nil, option, err
	}
	if url != "" || opts.Client == nil {
		// What the parser complains of may be a part of the password.
		if option, err = rueidis.ParseURL(url); err != nil {
			return nil, option, errors.New("grouphub: invalid redis URL: want redis://user:password@host:port/db, rediss://… or unix:///path?db=n, special characters escaped")
		}
	}
	if opts.Client != nil {
		opts.Client(&option)
	}
	l := &Layer{
		sealer:        sealer,
		stamper:       stamper{sender: mathrand.Uint64()},
		prefix:        prefix,
		sharded:       opts.Sharded,
		capacity:      cmp.Or(opts.QueueCapacity, 100),
		expiry:        min(cmp.Or(opts.QueueExpiry, 60*time.Second), maxLife),
		heartbeat:     cmp.Or(opts.Heartbeat, defaultHeartbeat),
		callTimeout:   cmp.Or(opts.CallTimeout, defaultTimeout),
		log:           opts.Logger,
		suspect:       make(chan struct{}, 1),
		jobs:          make(chan *job, 2*batchSize),
		posts:         make(chan *job, 2*batchSize),
		subscriptions: make(map[*Subscription]struct{}),
		takers:        make(map[string]*taker),
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.connections = newConnections(&option)
	return l, option, nil
}

// start connects, and starts what sends commands. It is called once.
func (l *Layer) start(option rueidis.ClientOption) error {
	if err := l.connect(option); err != nil {
		l.cancel()
		return fmt.Errorf("%w: connect to redis at %s: %w", layer.ErrUnavailable, strings.Join(option.InitAddress, ", "), err)
	}
	if !l.cluster {
		l.running.Go(func() { l.watchRole(l.heartbeat) })
	}
	if l.cluster {
		l.lanes.bySlot = make(map[uint16][]*job)
	} else {
		for range pipelines {
			l.running.Go(l.pipeline)
		}
	}
	return nil
}

// connect makes the client. Many steps have a timeout of their own; that of all
// together is the dialer's end.
func (l *Layer) connect(option rueidis.ClientOption) error {
	option.DisableCache = true
	option.DisableRetry = true // a retry can duplicate
	option.AlwaysPipelining = true
	option.PipelineMultiplex = -1
	option.Dialer.Timeout = cmp.Or(option.Dialer.Timeout, dialTimeout)
	option.ConnWriteTimeout = cmp.Or(option.ConnWriteTimeout, writeTimeout)
	// An announced failover can be missed.
	option.Sentinel.TopologyRefreshInterval = cmp.Or(option.Sentinel.TopologyRefreshInterval, defaultHeartbeat)
	option.Dialer.KeepAlive = cmp.Or(option.Dialer.KeepAlive, rueidis.DefaultTCPKeepAlive)
	l.option = option
	timeout := time.AfterFunc(dialTimeout, l.connections.close)
	client, err := rueidis.NewClient(option)
	if err == nil {
		l.client = client
		l.cluster = client.Mode() == rueidis.ClientModeCluster
		err = l.checkServers(l.connections.ctx)
	}
	if (!timeout.Stop() || err != nil) && client != nil {
		client.Close()
	}
	if l.connections.ctx.Err() != nil {
		return fmt.Errorf("no answer within %v", dialTimeout)
	}
	if err != nil {
		l.connections.close()
		return err
	}
	return nil
}

// logger returns where the layer logs at present.
func (l *Layer) logger() *slog.Logger {
	if l.log != nil {
		return l.log
	}
	return slog.Default()
}

// key names what belongs to a topic or queue. In a Cluster all that belongs to one of
// them is in one slot, which is computed from what is within the braces.
func (l *Layer) key(kind, name string) string {
	return l.prefix + ":" + kind + ":{" + braceEscaper.Replace(name) + "}"
}

var braceEscaper = strings.NewReplacer("%", "%25", "}", "%7D")

// Attach implements [layer.Layer].
func (l *Layer) Attach(hub string, r layer.Receiver) (layer.Subscription, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, fmt.Errorf("%w: attach %q", layer.ErrClosed, hub)
	}
	return l.subscribeLocked("topic", hub, r), nil
}

// Publish implements [layer.Layer].
func (l *Layer) Publish(ctx context.Context, p layer.Publication) error {
	channel := l.key("topic", p.Topic)
	if p.Keep.Count > 0 {
		return l.publishKept(ctx, p, channel)
	}
	_, err := l.do(ctx, "publish to", p.Topic, l.publish(channel, l.sealPublication(channel, "", p.Payload)))
	return err
}

// publish returns the command. PUBLISH has no key, and rueidis would send it to any
// node: through one node of a Cluster, those of a topic keep their order.
func (l *Layer) publish(channel string, sealed []byte) rueidis.Completed {
	message := rueidis.BinaryString(sealed)
	if l.sharded {
		return l.client.B().Spublish().Channel(channel).Message(message).Build()
	}
	return l.client.B().Publish().Channel(channel).Message(message).Build().SetSlot(channel)
}

// heartbeatTo returns the command that publishes a heartbeat. It brings the time of the server
// that keeps the publications of the session's topics, which in a Cluster is known with sharded
// channels alone.
func (l *Layer) heartbeatTo(channel string, clock *clock) rueidis.Completed {
	if l.cluster && !l.sharded {
		return l.publish(channel, nil)
	}
	return l.client.B().Eval().Script(beat.source).Numkeys(1).Key(channel).Arg(clock.send(), l.publishCommand()).Build()
}

// open returns what was sealed for this key, perhaps as a part of the slice, which nobody
// uses afterwards; or it counts it as discarded: others may write to Redis, too, and one bad
// payload must not trouble anybody.
func (l *Layer) open(key string, sealed []byte) ([]byte, bool) {
	payload, err := l.sealer.open(key, sealed)
	if err != nil {
		l.discard(key, err)
		return nil, false
	}
	return payload, true
}

func (l *Layer) discard(key string, err error) {
	l.discarded.Add(1)
	l.discarding.Do(func() {
		l.logger().Error("grouphub: discarded what came through redis; further ones are not logged", "key", key, "error", err)
	})
}

// Discarded returns how many payloads could not be opened.
func (l *Layer) Discarded() uint64 { return l.discarded.Load() }

// Close implements [layer.Layer].
func (l *Layer) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return fmt.Errorf("%w: close the redis layer", layer.ErrClosed)
	}
	l.closed = true
	var subscriptions []*Subscription
	for s := range l.subscriptions {
		subscriptions = append(subscriptions, s)
	}
	for _, k := range l.takers {
		notify(k.wake)
	}
	l.mu.Unlock()
	// What was handed over is removed first: it would be handed over again.
	taken := make(chan struct{})
	l.running.Go(func() {
		l.taking.Wait()
		close(taken)
	})
	select {
	case <-taken:
	case <-time.After(closeGrace):
	}
	l.cancel()
	l.lanes.close()
	// Connections end in good order, unless the server does not answer.
	force := time.AfterFunc(closeGrace, l.connections.close)
	defer force.Stop()
	for _, s := range subscriptions {
		s.Close()
	}
	// The client of a Cluster would close its nodes in the background.
	for _, node := range l.client.Nodes() {
		node.Close()
	}
	l.client.Close()
	l.connections.close()
	l.running.Wait()
	return nil
}
