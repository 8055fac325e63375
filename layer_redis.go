package grouphub

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

const (
	redisDialTimeout = 5 * time.Second
	// redisWriteTimeout is how long a connection may go without an answer. A frozen
	// server is noticed after this and the second that rueidis waits before it asks.
	redisWriteTimeout = 3 * time.Second
	// redisHeartbeat is how often a subscription is proven by a message to itself; two
	// of them missing, and three seconds of grace, end its connection.
	redisHeartbeat   = 5 * time.Second
	redisBackoffMin  = 50 * time.Millisecond
	redisBackoffMax  = 2 * time.Second
	redisCloseGrace  = 500 * time.Millisecond
	redisQueueLease  = 15 * time.Second // longer than taking, handing over and confirming may take
	redisQueuePoll   = time.Second
	redisUnsubscribe = time.Second // how much later than Remove
	redisBatch       = 512         // commands or channels sent at once
)

// RedisOptions adjust a [RedisLayer]. Every process of an application needs the same,
// but for the order of EncryptionKeys and for Client.
type RedisOptions struct {
	// Prefix begins every key and channel; "" means "grouphub". Applications that
	// share a server need different ones, even in different databases: Redis has one
	// space of channels for all of them. It may not contain { or }.
	Prefix string

	// EncryptionKeys keep what passes through Redis from whoever can read it there:
	// payloads and messages are sealed with AES-256-GCM, names are not. The first key
	// encrypts, all decrypt. A key is a string that nobody can guess, such as what
	// "openssl rand -base64 32" prints; a password is not. To change it, add the new
	// one behind the old one everywhere, then swap them everywhere, then drop the old
	// one; do so before it has sealed four billion messages. With keys, what is not
	// sealed under one of them is discarded; without keys, what is sealed.
	EncryptionKeys []string

	// Sharded uses SSUBSCRIBE and SPUBLISH, which in a Cluster go to one node instead
	// of to all. It needs Redis 7.
	Sharded bool

	QueueCapacity int           // messages that may wait on one named channel; 0: 100
	QueueExpiry   time.Duration // how long they do; 0: 60 s

	// Client is given what the URL says and has the last word: TLS, Sentinel, the
	// nodes of a Cluster, credentials. What the layer cannot do without it sets
	// afterwards: no client-side cache, no retries, one connection per node.
	Client func(*rueidis.ClientOption)
}

// A RedisLayer connects the hubs of many processes through Redis: a single server, one
// with Sentinel, or a Cluster. Each attached hub has a subscriber connection of its own,
// each layer one for everything else. Its methods do not wait for one another's
// contexts: a server that is frozen keeps nobody longer than he asked for.
//
// Whenever a subscription was interrupted, the receiver's Lost names every topic
// concerned, as soon as they are subscribed again. The layer reconnects for as long as
// it takes. A connection that is silently dead is noticed within 15 seconds.
//
// Messages of a queue are redelivered when the process that took them ended, or lost
// its connection, before it had handed them over: perhaps to a second caller.
//
// In a Cluster, rueidis may keep a goroutine for a few seconds after Close.
type RedisLayer struct {
	// Static after construction.
	client    rueidis.Client
	dialer    *redisDialer
	sealer    *sealer
	prefix    string
	sharded   bool
	cluster   bool
	capacity  int
	expiry    time.Duration
	heartbeat time.Duration // tests shorten it

	ctx     context.Context // ends with the layer
	cancel  context.CancelFunc
	running sync.WaitGroup // every goroutine of the layer
	jobs    chan *redisJob // to the pipeline

	discarded  atomic.Uint64 // payloads that could not be opened
	discarding sync.Once     // logs the first of them

	mu            sync.Mutex
	closed        bool
	subscriptions map[*redisSubscription]struct{}
	queues        map[string]*redisQueue // those with takers
	wakes         *redisSubscription     // to what wakes takers; nil before the first
}

// NewRedisLayer connects to Redis and returns a layer, or says within five seconds what
// is wrong. The URL is redis://user:password@host:port/db, rediss:// for TLS, or
// unix:///path?db=n; more nodes of a Cluster are added as ?addr=host:port, and the
// nodes of Sentinel with ?master_set=name. It may be empty if opts.Client says all.
func NewRedisLayer(url string, opts *RedisOptions) (*RedisLayer, error) {
	if opts == nil {
		opts = &RedisOptions{}
	}
	prefix := opts.Prefix
	if prefix == "" {
		prefix = "grouphub"
	}
	if strings.ContainsAny(prefix, "{}") {
		return nil, fmt.Errorf("grouphub: redis prefix %q contains a brace", prefix)
	}
	if opts.QueueCapacity < 0 || opts.QueueExpiry < 0 {
		return nil, fmt.Errorf("grouphub: negative queue capacity %d or expiry %v", opts.QueueCapacity, opts.QueueExpiry)
	}
	sealer, err := newSealer(opts.EncryptionKeys)
	if err != nil {
		return nil, err
	}
	var option rueidis.ClientOption
	if url != "" || opts.Client == nil {
		// What the parser complains of may be a part of the password.
		if option, err = rueidis.ParseURL(url); err != nil {
			return nil, errors.New("grouphub: invalid redis URL: want redis://user:password@host:port/db, rediss://… or unix:///path?db=n, special characters escaped")
		}
	}
	if opts.Client != nil {
		opts.Client(&option)
	}
	l := &RedisLayer{
		sealer:        sealer,
		prefix:        prefix,
		sharded:       opts.Sharded,
		capacity:      opts.QueueCapacity,
		expiry:        opts.QueueExpiry,
		heartbeat:     redisHeartbeat,
		jobs:          make(chan *redisJob, 2*redisBatch),
		subscriptions: make(map[*redisSubscription]struct{}),
		queues:        make(map[string]*redisQueue),
	}
	if l.capacity == 0 {
		l.capacity = defaultQueueCapacity
	}
	if l.expiry == 0 {
		l.expiry = defaultQueueExpiry
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.dialer = newRedisDialer(&option)
	if err := l.connect(option); err != nil {
		l.cancel()
		return nil, fmt.Errorf("%w: connect to redis at %s: %w", ErrUnavailable, strings.Join(option.InitAddress, ", "), err)
	}
	l.cluster = l.client.Mode() == rueidis.ClientModeCluster
	l.running.Go(l.pipeline)
	return l, nil
}

// connect makes the client. Many steps have a timeout of their own; that of all
// together is the dialer's end.
func (l *RedisLayer) connect(option rueidis.ClientOption) error {
	option.DisableCache = true
	option.DisableRetry = true // a retry can duplicate
	option.AlwaysPipelining = true
	option.PipelineMultiplex = -1
	if option.Dialer.Timeout == 0 {
		option.Dialer.Timeout = redisDialTimeout
	}
	if option.ConnWriteTimeout == 0 {
		option.ConnWriteTimeout = redisWriteTimeout
	}
	if option.Sentinel.TopologyRefreshInterval == 0 {
		option.Sentinel.TopologyRefreshInterval = redisHeartbeat // an announced failover can be missed
	}
	timeout := time.AfterFunc(redisDialTimeout, l.dialer.close)
	client, err := rueidis.NewClient(option)
	if !timeout.Stop() && err == nil {
		client.Close()
	}
	if l.dialer.ctx.Err() != nil {
		return fmt.Errorf("no answer within %v", redisDialTimeout)
	}
	if err != nil {
		l.dialer.close()
		return err
	}
	l.client = client
	return nil
}

// key names what belongs to a topic or queue. In a Cluster all that belongs to one of
// them is in one slot, which is computed from what is within the braces.
func (l *RedisLayer) key(kind, name string) string {
	return l.prefix + ":" + kind + ":{" + braceEscaper.Replace(name) + "}"
}

var braceEscaper = strings.NewReplacer("%", "%25", "}", "%7D")

// Attach implements [Layer].
func (l *RedisLayer) Attach(hub string, r Receiver) (Subscription, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, fmt.Errorf("%w: attach %q", ErrClosed, hub)
	}
	return l.subscribeLocked("topic", hub, r), nil
}

// Publish implements [Layer].
func (l *RedisLayer) Publish(ctx context.Context, p Publication) error {
	channel := l.key("topic", p.Topic)
	_, err := l.do(ctx, "publish to", p.Topic, l.publish(channel, l.sealer.seal(channel, p.Payload)))
	return err
}

// publish returns the command. PUBLISH has no key, and rueidis would send it to any
// node: through one node of a Cluster, those of a topic keep their order.
func (l *RedisLayer) publish(channel string, sealed []byte) rueidis.Completed {
	message := rueidis.BinaryString(sealed)
	if l.sharded {
		return l.client.B().Spublish().Channel(channel).Message(message).Build()
	}
	return l.client.B().Publish().Channel(channel).Message(message).Build().SetSlot(channel)
}

// open returns what was sealed for this key, or counts it as discarded: others may
// write to Redis, too, and one bad payload must not trouble anybody.
func (l *RedisLayer) open(key, sealed string) ([]byte, bool) {
	payload, err := l.sealer.open(key, sealed)
	if err != nil {
		l.discarded.Add(1)
		l.discarding.Do(func() {
			slog.Error("grouphub: discarded what came through redis; further ones are not logged", "key", key, "error", err)
		})
		return nil, false
	}
	return payload, true
}

// Close implements [Layer].
func (l *RedisLayer) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return fmt.Errorf("%w: close the redis layer", ErrClosed)
	}
	l.closed = true
	var subscriptions []*redisSubscription
	for s := range l.subscriptions {
		subscriptions = append(subscriptions, s)
	}
	l.mu.Unlock()
	l.cancel()
	// Connections end in good order, unless the server does not answer.
	force := time.AfterFunc(redisCloseGrace, l.dialer.close)
	defer force.Stop()
	for _, s := range subscriptions {
		s.Close()
	}
	// The client of a Cluster would close its nodes in the background.
	for _, node := range l.client.Nodes() {
		node.Close()
	}
	l.client.Close()
	l.dialer.close()
	l.running.Wait()
	return nil
}

// redisDialer makes every connection of a layer, so that all of them, and the attempts
// to make one, end when the layer does: rueidis offers no context for that.
type redisDialer struct {
	dial   func(context.Context, string, *net.Dialer, *tls.Config) (net.Conn, error)
	ctx    context.Context
	cancel context.CancelFunc

	mu    sync.Mutex
	conns map[*redisConn]struct{}
}

// redisConn is a connection that its dialer can close.
type redisConn struct {
	net.Conn
	dialer *redisDialer
}

// redisDialError tells that nothing was sent.
type redisDialError struct{ error }

func (e redisDialError) Unwrap() error { return e.error }

// newRedisDialer puts a dialer into the options, on top of what is there.
func newRedisDialer(option *rueidis.ClientOption) *redisDialer {
	d := &redisDialer{dial: option.DialCtxFn, conns: make(map[*redisConn]struct{})}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	if d.dial == nil {
		d.dial = func(ctx context.Context, address string, dialer *net.Dialer, config *tls.Config) (net.Conn, error) {
			if config != nil {
				return (&tls.Dialer{NetDialer: dialer, Config: config}).DialContext(ctx, "tcp", address)
			}
			return dialer.DialContext(ctx, "tcp", address)
		}
	}
	option.DialCtxFn = d.dialContext
	return d
}

func (d *redisDialer) dialContext(ctx context.Context, address string, dialer *net.Dialer, config *tls.Config) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(d.ctx, cancel)()
	conn, err := d.dial(ctx, address, dialer, config)
	if err != nil {
		return nil, redisDialError{err}
	}
	c := &redisConn{conn, d}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.ctx.Err(); err != nil {
		conn.Close()
		return nil, redisDialError{err}
	}
	d.conns[c] = struct{}{}
	return c, nil
}

// Close implements [net.Conn].
func (c *redisConn) Close() error {
	c.dialer.mu.Lock()
	delete(c.dialer.conns, c)
	c.dialer.mu.Unlock()
	return c.Conn.Close()
}

// close ends every connection and every attempt to make one.
func (d *redisDialer) close() {
	d.cancel()
	d.mu.Lock()
	conns := d.conns
	d.conns = nil
	d.mu.Unlock()
	for c := range conns {
		c.Conn.Close()
	}
}
