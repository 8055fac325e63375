package grouphub_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub"
)

func TestRedisKeepsNoMoreBytesThanItMay(t *testing.T) {
	onRedis(t, func(t *testing.T, url string) {
		for name, keys := range map[string][]string{"plain": nil, "sealed": {"key"}} {
			l := redisLayer(t, url, &grouphub.RedisOptions{Prefix: name, EncryptionKeys: keys})
			keep := grouphub.Keep{Count: 1000, Bytes: 100_000, Life: time.Minute}
			most := 0
			for i := range 200 {
				payload := fmt.Sprintf("%04d", i) + strings.Repeat("x", 37*i%5000)
				if err := l.Publish(t.Context(), kept("topic", payload, keep)); err != nil {
					t.Fatal(err)
				}
				if i%7 != 0 && i != 199 {
					continue
				}
				h, err := l.History(t.Context(), "topic", 0)
				if err != nil {
					t.Fatal(err)
				}
				if h.Last != uint64(i)+1 || string(h.Kept[len(h.Kept)-1].Payload) != payload {
					t.Fatalf("the last of %d is not kept: %d", i+1, h.Last)
				}
				bytes := 0
				for j, p := range h.Kept {
					bytes += len(p.Payload)
					if want := h.Last - uint64(len(h.Kept)-1-j); p.At.Number != want {
						t.Fatalf("number %d, want %d", p.At.Number, want)
					}
				}
				if most = max(most, bytes); bytes > keep.Bytes {
					t.Errorf("%d bytes of %d are kept", bytes, len(h.Kept))
				}
				if len(h.Kept) <= i && bytes < keep.Bytes/2 {
					t.Errorf("only %d bytes of %d are kept", bytes, len(h.Kept))
				}
			}
			if most < keep.Bytes*9/10 {
				t.Errorf("%d bytes are kept at most", most)
			}
			// What is larger than all that may be kept is there until the next.
			for _, payload := range []string{strings.Repeat("x", 2*keep.Bytes), "small"} {
				if err := l.Publish(t.Context(), kept("topic", payload, keep)); err != nil {
					t.Fatal(err)
				}
				if got := payloadsOf(t, l, "topic"); len(got) != 1 || got[0] != payload {
					t.Errorf("kept %.100q, want the last alone", got)
				}
			}
		}
	})
}

func TestRedisKeepsTheCountOfWhatIsSmall(t *testing.T) {
	onRedis(t, func(t *testing.T, url string) {
		l := redisLayer(t, url, nil)
		keep := grouphub.Keep{Count: 10, Bytes: 5000, Life: time.Minute}
		for i := range 1000 { // many times more than what is kept in bytes, but not at once
			if err := l.Publish(t.Context(), kept("topic", fmt.Sprintf("%020d", i), keep)); err != nil {
				t.Fatal(err)
			}
			if i%50 == 49 {
				if got := payloadsOf(t, l, "topic"); len(got) < keep.Count {
					t.Fatalf("%d are kept of %d", len(got), i+1)
				}
			}
		}
	})
}
