package grouphub_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

// Programs outside this repository compile against what is written here: each name, each
// signature and the type of each field. The file tests nothing that runs.

// hub.go
var (
	_ func(*grouphub.Options) *grouphub.Hub                   = grouphub.New
	_ func(*grouphub.Hub, http.ResponseWriter, *http.Request) = (*grouphub.Hub).ServeHTTP
	_ func(*grouphub.Hub, grouphub.Consumer) http.Handler     = (*grouphub.Hub).Handler
	_ func(*grouphub.Hub, context.Context) error              = (*grouphub.Hub).Shutdown
	_ func(*grouphub.Hub, context.Context) error              = (*grouphub.Hub).Ping
	_ func(*grouphub.Hub) grouphub.Stats                      = (*grouphub.Hub).Stats
	_ http.Handler                                            = (*grouphub.Hub)(nil)
)

// The fields of GroupPolicy, and their types.
var _ = func(n int, d time.Duration, yes bool, snapshot func(ctx context.Context, group string) (any, error)) grouphub.GroupPolicy {
	return grouphub.GroupPolicy{History: n, HistoryTTL: d, Presence: yes, Announce: yes, Snapshot: snapshot}
}

// The fields of Options, and their types.
var _ = func(
	layer grouphub.Layer, consumer grouphub.Consumer, policy func(string) grouphub.GroupPolicy,
	n int, long int64, rate float64, d time.Duration, yes bool, logger *slog.Logger,
) *grouphub.Options {
	return &grouphub.Options{
		Layer: layer, Consumer: consumer, Policy: policy,
		MaxMessageSize: long, MaxEventSize: n, MaxPending: n, MaxConns: n,
		ReceiveRate: rate, ReceiveBurst: n,
		PingInterval: d, PongTimeout: d, WriteTimeout: d, CloseTimeout: d,
		Compression: yes, Logger: logger,
	}
}

// Those of Stats.
var _ = func(now int, count uint64, up bool) grouphub.Stats {
	return grouphub.Stats{
		Conns: now, Groups: now, Accepted: count, Rejected: count,
		Received: count, Published: count, Delivered: count, Dropped: count,
		SlowClosed: count, Resyncs: count, Recovered: count, PolicyMismatch: count,
		LayerUp: up,
	}
}

// group.go
var (
	_ func(h *grouphub.Hub, ctx context.Context, group, channel string) error                                              = (*grouphub.Hub).GroupAdd
	_ func(h *grouphub.Hub, ctx context.Context, group, channel string) error                                              = (*grouphub.Hub).GroupDiscard
	_ func(h *grouphub.Hub, ctx context.Context, group, event string, data any, opts ...grouphub.SendOption) error         = (*grouphub.Hub).GroupSend
	_ func(h *grouphub.Hub, ctx context.Context, group string, code int, reason string, opts ...grouphub.SendOption) error = (*grouphub.Hub).GroupClose
	_ func(h *grouphub.Hub, ctx context.Context, group string) ([]grouphub.Member, error)                                  = (*grouphub.Hub).Members
	_ func(h *grouphub.Hub, ctx context.Context, channel, event string, data any) error                                    = (*grouphub.Hub).Send
	_ func(h *grouphub.Hub, ctx context.Context, channel string) (grouphub.Event, error)                                   = (*grouphub.Hub).Receive
	_ func(h *grouphub.Hub, ctx context.Context, group string) (string, error)                                             = (*grouphub.Hub).Position
	_ func(channels ...string) grouphub.SendOption                                                                         = grouphub.Except
	_ func(ids ...string) grouphub.SendOption                                                                              = grouphub.ExceptUser
	_ func(session string) grouphub.SendOption                                                                             = grouphub.OnlySession
	_ func(key string) grouphub.SendOption                                                                                 = grouphub.Once
	_ struct {
		Channel, UserID string
		Info            json.RawMessage
		Since           time.Time
	} = grouphub.Member{}
	_ func(h *grouphub.Hub, ctx context.Context, group string) (int, error)   = (*grouphub.Hub).Count
	_ func(h *grouphub.Hub, ctx context.Context, userID string) (bool, error) = (*grouphub.Hub).Online
)

// These are distinct types: two cases of one type do not compile.
var _ = func(v any) {
	switch v.(type) {
	case grouphub.SendOption, grouphub.JoinOption, grouphub.EventHandler, hubtest.DialOption:
	}
}

// conn.go
var (
	_ = grouphub.Consumer{
		Accept:       (func(*http.Request) error)(nil),
		Connect:      (func(*grouphub.Conn) error)(nil),
		Receive:      (func(*grouphub.Conn, grouphub.Message) error)(nil),
		Disconnect:   (func(ctx context.Context, c *grouphub.Conn, code int))(nil),
		Resync:       (func(*grouphub.Conn, []string))(nil),
		Events:       grouphub.Events(nil),
		Subprotocols: []string(nil),
	}
	_ struct {
		Data   []byte
		Binary bool
	} = grouphub.Message{}
	_ struct {
		Status int
		Reason string
	} = grouphub.Reject{}
	_ struct {
		Code   int
		Reason string
	} = grouphub.CloseError{}
	_ error = (*grouphub.Reject)(nil)
	_ error = (*grouphub.CloseError)(nil)

	_ func(m grouphub.Message, v any) error                                                    = grouphub.Message.Decode
	_ func(func(*grouphub.Conn, time.Time) error) func(*grouphub.Conn, grouphub.Message) error = grouphub.ReceiveAs[time.Time]
	_ func(c *grouphub.Conn) string                                                            = (*grouphub.Conn).Channel
	_ func(c *grouphub.Conn) *grouphub.Hub                                                     = (*grouphub.Conn).Hub
	_ func(c *grouphub.Conn) *http.Request                                                     = (*grouphub.Conn).Request
	_ func(c *grouphub.Conn, name string) string                                               = (*grouphub.Conn).PathValue
	_ func(c *grouphub.Conn) context.Context                                                   = (*grouphub.Conn).Context
	_ func(c *grouphub.Conn) grouphub.User                                                     = (*grouphub.Conn).User
	_ func(c *grouphub.Conn, key string, value any)                                            = (*grouphub.Conn).Set
	_ func(c *grouphub.Conn, key string) (any, bool)                                           = (*grouphub.Conn).Get
	_ func(c *grouphub.Conn) string                                                            = (*grouphub.Conn).Subprotocol
	_ func(c *grouphub.Conn, data []byte) error                                                = (*grouphub.Conn).Send
	_ func(c *grouphub.Conn, data []byte) error                                                = (*grouphub.Conn).SendBinary
	_ func(c *grouphub.Conn, v any) error                                                      = (*grouphub.Conn).SendJSON
	_ func(c *grouphub.Conn, group string, opts ...grouphub.JoinOption) error                  = (*grouphub.Conn).Join
	_ func(c *grouphub.Conn, group string) error                                               = (*grouphub.Conn).Leave
	_ func(c *grouphub.Conn) []string                                                          = (*grouphub.Conn).Groups
	_ func(c *grouphub.Conn, code int, reason string) error                                    = (*grouphub.Conn).Close
	_ func(n int) grouphub.JoinOption                                                          = grouphub.Last
	_ func(id string) grouphub.JoinOption                                                      = grouphub.After
)

// event.go
var (
	_ struct {
		Type  string          `json:"type"`
		Group string          `json:"group,omitempty"`
		ID    string          `json:"id,omitempty"`
		Data  json.RawMessage `json:"data,omitempty"`
	} = grouphub.Event{}
	_ map[string]grouphub.EventHandler                                       = grouphub.Events(nil)
	_ func(e grouphub.Event, v any) error                                    = grouphub.Event.Decode
	_ func() grouphub.EventHandler                                           = grouphub.Forward
	_ func(func(grouphub.Event) ([]byte, error)) grouphub.EventHandler       = grouphub.Render
	_ func(func(*grouphub.Conn, grouphub.Event) error) grouphub.EventHandler = grouphub.Handle
	_ func(func(grouphub.Event) ([]byte, error)) grouphub.EventHandler       = grouphub.RenderBinary
	_ func() grouphub.EventHandler                                           = grouphub.Ignore

	_ func(grouphub.EventHandler, func(*grouphub.Conn, grouphub.Event) bool) grouphub.EventHandler = grouphub.EventHandler.If
	_ func(func(*grouphub.Conn, time.Time) error) grouphub.EventHandler                            = grouphub.HandleAs[time.Time]
)

// Layers.
var (
	_ func() *grouphub.MemoryLayer                                                = grouphub.NewMemoryLayer
	_ func(url string, opts *grouphub.RedisOptions) (*grouphub.RedisLayer, error) = grouphub.NewRedisLayer
	_ grouphub.Layer                                                              = (*grouphub.MemoryLayer)(nil)
	_ grouphub.Layer                                                              = (*grouphub.RedisLayer)(nil)
	_                                                                             = grouphub.RedisOptions{
		Prefix:         string(""),
		EncryptionKeys: []string(nil),
		Sharded:        bool(false),
		QueueCapacity:  int(0),
		QueueExpiry:    time.Duration(0),
		Client:         (func(*rueidis.ClientOption))(nil),
	}
)

// middleware.go and client.go
var (
	_ struct {
		ID      string
		Session string
		Info    any
		Data    any
		Expires time.Time
	} = grouphub.User{}
	_ func(func(*http.Request) (grouphub.User, error)) func(http.Handler) http.Handler                      = grouphub.Authenticate
	_ func(context.Context) (grouphub.User, bool)                                                           = grouphub.UserFrom
	_ func(*grouphub.Hub, context.Context, string, func(grouphub.Event), ...grouphub.JoinOption) error      = (*grouphub.Hub).Subscribe
	_ func(*grouphub.Hub, context.Context, string, time.Time) error                                         = (*grouphub.Hub).Renew
	_ func(*grouphub.Conn, grouphub.User) error                                                             = (*grouphub.Conn).SetUser
	_ func(func(context.Context, string) (grouphub.User, error)) func(*http.Request) (grouphub.User, error) = grouphub.Bearer
	_ func(context.Context, grouphub.User) context.Context                                                  = grouphub.WithUser
	_ func(userID string) string                                                                            = grouphub.UserGroup
	_ func(patterns ...string) func(http.Handler) http.Handler                                              = grouphub.AllowOrigins
	_ func() http.Handler                                                                                   = grouphub.ClientJS
)

// Errors.
var _ = []error{
	grouphub.ErrClosed, grouphub.ErrInvalidName, grouphub.ErrTooLarge, grouphub.ErrQueueFull,
	grouphub.ErrNoPresence, grouphub.ErrUnavailable, grouphub.ErrUncertain,
}

// hubtest
var (
	_ func(t testing.TB, h http.Handler, path string, opts ...hubtest.DialOption) *hubtest.Client = hubtest.Dial
	_ func(t testing.TB, h http.Handler, path string, opts ...hubtest.DialOption) *http.Response  = hubtest.DialRefused
	_ func(http.Header) hubtest.DialOption                                                        = hubtest.WithHeader
	_ func(grouphub.User) hubtest.DialOption                                                      = hubtest.WithUser
	_ func(c *hubtest.Client, v any)                                                              = (*hubtest.Client).Send
	_ func(c *hubtest.Client) grouphub.Message                                                    = (*hubtest.Client).Next
	_ func(c *hubtest.Client, v any)                                                              = (*hubtest.Client).Expect
	_ func(c *hubtest.Client, event string) grouphub.Event                                        = (*hubtest.Client).ExpectEvent
	_ func(c *hubtest.Client, event string) grouphub.Event                                        = (*hubtest.Client).SkipTo
	_ func(c *hubtest.Client, d time.Duration)                                                    = (*hubtest.Client).ExpectNone
	_ func(c *hubtest.Client, code int)                                                           = (*hubtest.Client).ExpectClose
	_ func(c *hubtest.Client)                                                                     = (*hubtest.Client).Close
	_ func(t *testing.T, newPair func(t *testing.T) (a, b grouphub.Layer))                        = hubtest.TestLayer
)
