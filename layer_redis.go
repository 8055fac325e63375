package grouphub

import (
	"context"
	"log/slog"
	"time"

	"github.com/redis/rueidis"

	"github.com/seed-29c60982/grouphub/internal/redis"
	"github.com/seed-29c60982/grouphub/layer"
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
	// sealed under one of them is discarded; without keys, what is sealed. So is a
	// publication that a hub has received before, or that was sealed more than five
	// minutes ago by the clock of its sender, so that nobody without a key can publish
	// it again.
	EncryptionKeys []string

	// Sharded uses SSUBSCRIBE and SPUBLISH, and needs Redis 7. In a Cluster it is the
	// better choice: a publication stays on one node. Without it, it goes to all, and
	// where the connection between two of them breaks, nobody is told what was lost. Then a
	// publication can also be late on its way between nodes: one from just before a
	// subscription may still arrive, and while a slot moves, one can overtake another.
	// Groups with history are put in order by their numbers.
	Sharded bool

	QueueCapacity int           // messages that may wait on one named channel; 0: 100
	QueueExpiry   time.Duration // how long they do; 0: 60 s

	// Logger is where the layer says that a connection was lost, that the server has
	// become a replica, and that something it received was discarded; nil means
	// slog.Default() at the time of each record.
	Logger *slog.Logger

	// Lazy makes NewRedisLayer return at once, whether there is a server or not, so that a
	// program can start before its Redis. Until the layer has connected, which it tries for as
	// long as it takes, Stats.LayerUp is false, Receive waits, and what needs the server ends
	// with [ErrUnavailable]; a replica, or a password that is refused, is logged then, and
	// tried again. A URL that cannot be parsed is an error of NewRedisLayer all the same.
	Lazy bool

	// Client is given the options that the URL stands for, and may change them: TLS,
	// Sentinel, the nodes of a Cluster, credentials, how to dial. With Lazy, it is called
	// before each attempt to connect. Afterwards the layer sets
	// what it cannot do without: no client-side cache, no retries, one connection to a node.
	Client func(*rueidis.ClientOption)
}

// A RedisLayer connects the hubs of many processes through Redis: a single server, one
// with Sentinel, or a Cluster. Each attached hub has a subscriber connection of its own,
// and the layer has one connection to each node for everything else. A call ends with its
// context, also while other calls wait for a server that is frozen, and a frozen node of a
// Cluster does not delay calls that concern topics on other nodes.
//
// Whenever a subscription was interrupted, the receiver's Lost names every topic
// concerned, as soon as they are subscribed again. The layer reconnects for as long as
// it takes. A connection that is silently dead is noticed within 15 seconds. So is a server
// that has become a replica while its name or address leads to another one: the layer
// connects anew, and calls end with ErrUnavailable until it has. What was published on the
// old server before that may have reached nobody elsewhere.
//
// A message of a queue is delivered again if the process that took it ended, or lost its
// connection, before it had confirmed that it handed the message over. A message may
// therefore reach a second caller.
//
// Close waits for up to half a second for what was just handed over to be removed. In a
// Cluster, rueidis may keep a goroutine for a few seconds after it.
type RedisLayer struct {
	Layer
	positioner layer.Positioner // the same
	discarded  func() uint64    // how many payloads could not be opened
}

// NewRedisLayer connects to Redis and returns a layer, or says within five seconds what
// is wrong; a replica and a Redis before 5.0 are. The URL is
// redis://user:password@host:port/db, rediss:// for TLS, or unix:///path?db=n; more nodes
// of a Cluster are added as ?addr=host:port, and the nodes of Sentinel with
// ?master_set=name. It may be empty if opts.Client says all.
func NewRedisLayer(url string, opts *RedisOptions) (*RedisLayer, error) {
	if opts == nil {
		opts = &RedisOptions{}
	}
	o := redis.Options{
		Prefix:         opts.Prefix,
		EncryptionKeys: opts.EncryptionKeys,
		Sharded:        opts.Sharded,
		QueueCapacity:  opts.QueueCapacity,
		QueueExpiry:    opts.QueueExpiry,
		Logger:         opts.Logger,
		Client:         opts.Client,
	}
	if opts.Lazy {
		l, err := redis.NewLazy(url, o)
		if err != nil {
			return nil, err
		}
		return &RedisLayer{l, l, l.Discarded}, nil
	}
	l, err := redis.New(url, o)
	if err != nil {
		return nil, err
	}
	return &RedisLayer{l, l, l.Discarded}, nil
}

// Positions implements [layer.Positioner].
func (l *RedisLayer) Positions(ctx context.Context, topics []string) ([]Position, error) {
	return l.positioner.Positions(ctx, topics)
}
