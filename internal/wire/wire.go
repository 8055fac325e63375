// Package wire holds what grouphub and the insides of its layers tell each other. The
// types are those of the same names in grouphub, which says what they mean.
package wire

import (
	"context"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// OnceLife is how long a layer remembers a Keep's Once.
const OnceLife = 5 * time.Minute

type Publication struct {
	Topic   string
	Payload []byte
	Keep    Keep
	At      Position
}

type Keep struct {
	Count int
	Bytes int
	Life  time.Duration
	Once  string
}

type Position struct {
	Epoch  string
	Number uint64
	Nonce  string
}

// ID returns the position as clients see it. To them it is opaque.
func (p Position) ID() string {
	return p.Epoch + "." + strconv.FormatUint(p.Number, 36) + "." + p.Nonce
}

// ParsePosition reads an ID, which a stranger may have made up.
func ParsePosition(id string) (p Position, ok bool) {
	fields := strings.Split(id, ".")
	if len(id) > 255 || len(fields) != 3 {
		return p, false
	}
	number, err := strconv.ParseUint(fields[1], 36, 63)
	return Position{Epoch: fields[0], Number: number, Nonce: fields[2]}, err == nil
}

// ParseResume reads a URL's resume parameters, group@id. It returns the id for each group, nil
// if there are no such parameters.
func ParseResume(u *url.URL) map[string]string {
	if u.RawQuery == "" { // as it is nearly always
		return nil
	}
	query := u.Query()
	if !query.Has("resume") {
		return nil
	}
	ids := make(map[string]string)
	for _, v := range query["resume"] {
		if i := strings.LastIndexByte(v, '@'); i > 0 { // an id has none
			ids[v[:i]] = v[i+1:]
		}
	}
	return ids
}

type History struct {
	Epoch string
	Last  uint64
	Kept  []Publication
}

type Receiver interface {
	Ready(ctx context.Context, topic string) error
	Deliver(p Publication)
	Lost(topics []string)
}

// A Layer is the inside of a grouphub.Layer.
type Layer interface {
	Attach(hub string, r Receiver) (Subscription, error)
	Publish(ctx context.Context, p Publication) error
	History(ctx context.Context, topic string, after uint64) (History, error)
	Lease(ctx context.Context, topic, holder string, value []byte, life time.Duration) (bool, error)
	Leases(ctx context.Context, topic string) (map[string][]byte, error)
	Append(ctx context.Context, queue string, message []byte) error
	Take(ctx context.Context, queue string) ([]byte, error)
	Close() error
}

type Subscription interface {
	Add(ctx context.Context, topics ...string) error
	Remove(topics ...string)
	Up() bool
	Close() error
}

// Convert returns what one makes of each element.
func Convert[A, B any](from []A, one func(A) B) []B {
	to := make([]B, len(from))
	for i, a := range from {
		to[i] = one(a)
	}
	return to
}
