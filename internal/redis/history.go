package redis

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/seed-29c60982/grouphub/layer"
)

const (
	onceLife = layer.OnceLife
	// countLife is how much longer than the last publication the count is kept: while
	// it is there, the epoch stays the same.
	countLife = 24 * time.Hour
	// unusedLife is how long an epoch is kept in which nothing was published, if nobody asks
	// for it.
	unusedLife = time.Hour
	// maxLife is forever: what Redis computes from it does not overflow.
	maxLife = 10 * 365 * 24 * time.Hour
	// maxWord is how long an epoch or a nonce may be that came through Redis.
	maxWord = 64
)

// historyKeys returns the two keys of one slot that have what is kept of a topic: the count,
// "<epoch> <number> <bytes> <nonce> <start>", and a stream of the messages that were
// published, in which the id of number n is n-0. An epoch begins with the first publication
// or the first reader that finds no count. The nonce is that of the number; the start is
// that of number 0, and empty if no reader began the epoch. Numbers go up to 2^53, and the
// scripts format them by hand: Lua's own conversion prints them exactly to 1e14 only. The
// stream is trimmed with "~", which is a tenth cheaper than exactly.
//
// The bytes are those of the stream's payloads, as they are sealed, or more: what MAXLEN
// trims is not subtracted. Only past the limit are they counted again, and then the stream
// is trimmed to three quarters of it, so that what counting costs is spread over many
// publications.
func (l *Layer) historyKeys(topic string) []string {
	return []string{l.key("count", topic), l.key("stream", topic)}
}

func (l *Layer) onceKey(topic, once string) string { return l.key("once", topic) + ":" + once }

// publishKept seals, numbers, keeps and publishes.
func (l *Layer) publishKept(ctx context.Context, p layer.Publication, channel string) error {
	nonce := newWord()
	sealed := l.sealPublication(channel, nonce, p.Payload)
	keys := l.historyKeys(p.Topic)
	if p.Keep.Once != "" {
		keys = append(keys, l.onceKey(p.Topic, p.Keep.Once))
	}
	life := min(max(p.Keep.Life, time.Millisecond), maxLife)
	_, err := l.run(ctx, "publish to", p.Topic, historyPublish, keys, []string{nonce, rueidis.BinaryString(sealed),
		strconv.Itoa(p.Keep.Count), milliseconds(life), milliseconds(life + countLife), milliseconds(onceLife), l.publishCommand(), channel, strconv.Itoa(max(p.Keep.Bytes, 0))})
	return err
}

// publishCommand returns the name of the command that publishes.
func (l *Layer) publishCommand() string {
	if l.sharded {
		return "SPUBLISH"
	}
	return "PUBLISH"
}

// History implements [layer.Layer]. What cannot be opened is left out, and counted as
// discarded.
func (l *Layer) History(ctx context.Context, topic string, after uint64) (layer.History, error) {
	args := []string{strconv.FormatUint(min(after, math.MaxUint64-1)+1, 10) + "-0", milliseconds(countLife), milliseconds(unusedLife), newWord(), newWord()}
	result, err := l.run(ctx, "history of", topic, historyRead, l.historyKeys(topic), args)
	if err != nil {
		return layer.History{}, err
	}
	h, err := l.readHistory(topic, result)
	if err != nil {
		return layer.History{}, fmt.Errorf("%w: history of %q: %w", layer.ErrUnavailable, topic, err)
	}
	return h, nil
}

func (l *Layer) readHistory(topic string, result rueidis.RedisResult) (h layer.History, err error) {
	answer, err := result.ToArray()
	if err != nil || len(answer) == 0 {
		return h, err
	}
	count, err := answer[0].ToString()
	if err != nil {
		return h, err
	}
	var ok bool
	if h, ok = cutCount(count); !ok {
		return layer.History{}, fmt.Errorf("count %q makes no sense", count)
	}
	entries, err := answer[1].ToArray()
	if err != nil {
		return layer.History{}, err
	}
	now, err := answer[2].AsInt64()
	if err != nil {
		return layer.History{}, err
	}
	channel := l.key("topic", topic)
	for _, entry := range entries {
		if pair, _ := entry.ToArray(); len(pair) == 2 { // id, and what it has
			if fields, _ := pair[1].ToArray(); len(fields) == 2 { // a name and its value
				message, _ := fields[1].ToString()
				if p, kept, ok := l.openPublication(channel, []byte(message), nil); ok && p.At.Epoch == h.Epoch {
					p.Topic, p.Age = topic, max(time.Duration(now)*time.Millisecond-kept, 0)
					h.Kept = append(h.Kept, p)
				}
			}
		}
	}
	return h, nil
}

// cutCount reads "<epoch> <number> <bytes> <nonce> <start>", of which older versions wrote
// less. The bytes are the scripts' alone.
func cutCount(count string) (h layer.History, ok bool) {
	fields := append(strings.Split(count, " "), "", "", "", "")
	last, err := strconv.ParseUint(fields[1], 10, 64)
	if err != nil || len(fields[1]) > 16 || !isWord(fields[0]) {
		return layer.History{}, false
	}
	return layer.History{Epoch: fields[0], Last: last, Nonce: fields[3], Start: fields[4]}, true
}

// newWord returns what nobody can guess, for an epoch or a nonce.
func newWord() string { return rand.Text()[:12] }

var errNoPosition = errors.New("numbered, and the number makes no sense")

// cutPosition reads "<epoch> <number> <nonce> <milliseconds since 1970> " and returns what
// follows.
func cutPosition(message []byte) (at layer.Position, kept time.Duration, rest []byte, ok bool) {
	epoch, rest, _ := bytes.Cut(message, []byte{' '})
	digits, rest, _ := bytes.Cut(rest, []byte{' '})
	nonce, rest, _ := bytes.Cut(rest, []byte{' '})
	millis, rest, ok := bytes.Cut(rest, []byte{' '})
	number, err := strconv.ParseUint(string(digits), 10, 63)
	kept, timeErr := parseMillis(string(millis))
	at = layer.Position{Epoch: string(epoch), Number: number, Nonce: string(nonce)}
	if !ok || err != nil || timeErr != nil || number == 0 || !isWord(at.Epoch) || !isWord(at.Nonce) {
		return layer.Position{}, 0, nil, false
	}
	return at, kept, rest, true
}

// parseMillis reads a time that the server has written, as what has passed since 1970.
func parseMillis(s string) (time.Duration, error) {
	millis, err := strconv.ParseUint(s, 10, 43) // which no year before 2200 exceeds
	return time.Duration(millis) * time.Millisecond, err
}

// isWord reports whether s is of letters and digits alone, which what becomes part of
// an id has to be.
func isWord(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return 0 < len(s) && len(s) <= maxWord
}
