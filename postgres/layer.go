package postgres

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/seed-29c60982/grouphub/layer"
)

const (
	callTimeout = 5 * time.Second // of whatever has a context
	layerConns  = 8               // of a layer, beside the one that listens
	batchers    = 2               // one gathers publications while the server is busy with the other's
	sweepPeriod = 10 * time.Second
	maxLife     = 10 * 365 * 24 * time.Hour // what PostgreSQL computes from it does not overflow
)

// LayerOptions say how a Layer works. The zero value has the defaults.
type LayerOptions struct {
	// ListenURL is where the layer listens for notifications; empty: where the pool leads. It
	// has to be PostgreSQL itself if the pool leads to a pooler, since a pooler that gives a
	// connection to another client after each transaction passes no notifications on.
	ListenURL string

	QueueCapacity int           // messages waiting on one named channel; 0: 100
	QueueExpiry   time.Duration // 0: 60 s

	// Logger is told of lost connections; nil: slog.Default() at the time of each record.
	Logger *slog.Logger
}

// A Layer carries the events of grouphub's hubs over PostgreSQL. It implements
// [layer.Layer], for hubs that share one database.
//
// Every hub's process gets every publication: PostgreSQL hands a notification to whoever
// listens, and the layer picks those of its topics. That is fit for some thousand
// publications a second, and for some tens of processes.
type Layer struct {
	// Static after construction.
	pool     *pgxpool.Pool // the layer's own
	listen   *pgx.ConnConfig
	prepare  func(context.Context, *pgx.ConnConfig) error // nil, or called before the listener connects
	channel  string                                       // of all notifications
	name     string                                       // nobody else's
	capacity int
	expiry   time.Duration
	log      *slog.Logger // nil: the default at the time of each record

	ctx     context.Context // ends with the layer
	cancel  context.CancelFunc
	running sync.WaitGroup // every goroutine of the layer; grows under mu, and not once closed
	jobs    chan *job      // to the batchers

	mu            sync.Mutex // no receiver is called, and nothing is sent, while it is held
	closed        bool
	session       *session      // what listens at present; nil: nothing does
	sessions      uint64        // how many there have been
	changed       chan struct{} // closed and replaced when a session begins
	subscriptions map[*Subscription]struct{}
	topics        map[string]*topic // by their names as notifications have them
	markers       map[uint64]func() // called when a marker of the layer's own comes
	lastMarker    uint64
	takers        map[string]map[chan struct{}]struct{} // that wait, by queue as notifications name it
}

// NewLayer connects to the database of a pool, migrates it, and returns once notifications
// arrive, or an error within five seconds. The layer has connections of its own, by the
// pool's configuration: one that listens and eight at the most for the rest, so that it does
// not wait for transactions that wait for it. The pool remains the caller's, and may be
// closed.
//
// With several hosts in the pool's URL and target_session_attrs=read-write, the layer goes
// where the primary is. An interruption is a Lost for every topic; what groups with history
// missed is read from the database.
func NewLayer(ctx context.Context, pool *pgxpool.Pool, opts *LayerOptions) (*Layer, error) {
	if opts == nil {
		opts = &LayerOptions{}
	}
	if opts.QueueCapacity < 0 || opts.QueueExpiry < 0 {
		return nil, fmt.Errorf("grouphub: negative queue capacity %d or expiry %v", opts.QueueCapacity, opts.QueueExpiry)
	}
	config := pool.Config()
	config.MaxConns, config.MinConns, config.MinIdleConns = layerConns, 0, 0
	l := &Layer{
		listen:        config.ConnConfig.Copy(),
		prepare:       config.BeforeConnect,
		name:          rand.Text(),
		capacity:      cmp.Or(opts.QueueCapacity, 100),
		expiry:        min(cmp.Or(opts.QueueExpiry, 60*time.Second), maxLife),
		log:           opts.Logger,
		jobs:          make(chan *job, 2*batchRows),
		changed:       make(chan struct{}),
		subscriptions: make(map[*Subscription]struct{}),
		topics:        make(map[string]*topic),
		markers:       make(map[uint64]func()),
		takers:        make(map[string]map[chan struct{}]struct{}),
	}
	if opts.ListenURL != "" {
		listen, err := pgx.ParseConfig(opts.ListenURL)
		if err != nil {
			return nil, fmt.Errorf("grouphub: invalid ListenURL: %w", err)
		}
		l.listen, l.prepare = listen, nil
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	var err error
	if l.pool, err = pgxpool.NewWithConfig(l.ctx, config); err != nil {
		l.cancel()
		return nil, fmt.Errorf("grouphub: connect to postgres: %w", err)
	}
	if err := l.connect(ctx); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// connect migrates, starts the layer's goroutines, and waits until notifications arrive.
func (l *Layer) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := Migrate(ctx, l.pool); err != nil {
		return fmt.Errorf("%w: %w", layer.ErrUnavailable, err)
	}
	var schema string
	if err := l.pool.QueryRow(ctx, "SELECT current_schema()").Scan(&schema); err != nil {
		return fmt.Errorf("%w: connect to postgres: %w", layer.ErrUnavailable, err)
	}
	l.channel = "grouphub " + schema
	l.channel = strings.ToValidUTF8(l.channel[:min(len(l.channel), 63)], "") // as long as a name may be
	first := make(chan error, 1)
	l.running.Go(func() { l.listenAlways(first) })
	for range batchers {
		l.running.Go(l.batch)
	}
	l.running.Go(l.probe)
	l.running.Go(l.sweep)
	select {
	case err := <-first:
		if err != nil {
			return fmt.Errorf("%w: listen to postgres: %w", layer.ErrUnavailable, err)
		}
	case <-ctx.Done():
		return fmt.Errorf("%w: listen to postgres: %w", layer.ErrUnavailable, ctx.Err())
	}
	if err := l.roundTrip(ctx, func() {}); err != nil {
		return fmt.Errorf("%w: no notification arrives; if the pool leads to a pooler, LayerOptions.ListenURL has to lead to PostgreSQL itself: %w", layer.ErrUnavailable, err)
	}
	return nil
}

// Attach implements [layer.Layer].
func (l *Layer) Attach(hub string, r layer.Receiver) (layer.Subscription, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, fmt.Errorf("%w: attach %q", layer.ErrClosed, hub)
	}
	s := &Subscription{layer: l, receiver: r, topics: make(map[string]*membership)}
	l.subscriptions[s] = struct{}{}
	m := s.membershipLocked(hub)
	m.added, m.active = true, true
	return s, nil
}

// Close implements [layer.Layer].
func (l *Layer) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return fmt.Errorf("%w: close the postgres layer", layer.ErrClosed)
	}
	l.closed = true
	var subscriptions []*Subscription
	for s := range l.subscriptions {
		subscriptions = append(subscriptions, s)
	}
	l.mu.Unlock()
	l.cancel()
	for _, s := range subscriptions {
		s.Close()
	}
	l.running.Wait()
	l.pool.Close()
	return nil
}

// start runs a goroutine of the layer, unless that is closed.
func (l *Layer) start(fn func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.running.Go(fn)
	return true
}

// sweep deletes what has ended, now and then.
func (l *Layer) sweep() {
	for sleep(l.ctx, sweepPeriod) {
		ctx, cancel := context.WithTimeout(l.ctx, sweepPeriod)
		if _, err := l.pool.Exec(ctx, "SELECT grouphub_sweep()"); err != nil && l.ctx.Err() == nil {
			l.logger().Warn("grouphub: postgres: what has ended could not be deleted", "error", err)
		}
		cancel()
	}
}

func (l *Layer) logger() *slog.Logger {
	if l.log != nil {
		return l.log
	}
	return slog.Default()
}

// newWord returns what nobody can guess, for an epoch or a nonce.
func newWord() string { return rand.Text()[:12] }

// milliseconds returns a life as the functions of the schema take it.
func milliseconds(life time.Duration) int64 {
	return min(max(life, time.Millisecond), maxLife).Milliseconds()
}
