package redis

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seed-29c60982/grouphub/internal/redistest"
	"github.com/seed-29c60982/grouphub/layer"
)

func TestNobodyWithoutAKeyRepeatsOrRenumbersAPublication(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	l := newTestLayer(t, s.URL(), Options{EncryptionKeys: []string{"key"}})
	one, two := attachHub(t, l, "topic", "other"), attachHub(t, newTestLayer(t, s.URL(), Options{EncryptionKeys: []string{"key"}}), "topic", "other")
	channel := l.key("topic", "topic")
	tap := s.Tap(channel)
	keep := layer.Keep{Count: 10, Life: time.Minute}
	mustPublish(t, l, "topic", "plain")
	plain := <-tap
	var numbered []string
	for _, payload := range []string{"one", "two"} {
		if err := l.Publish(t.Context(), kept("topic", payload, keep)); err != nil {
			t.Fatal(err)
		}
		numbered = append(numbered, <-tap)
	}
	position := func(message string) (string, string) {
		rest := message[len(message)-len(strings.SplitN(message, " ", 4)[3]):]
		return message[:len(message)-len(rest)], rest
	}
	positionOne, sealedOne := position(numbered[0])
	positionTwo, sealedTwo := position(numbered[1])
	epoch, _, _ := strings.Cut(positionOne, " ")
	forged := []string{
		plain, numbered[0], numbered[1], // as they are
		strings.Replace(numbered[0], " 1 ", " 3 ", 1),
		strings.Replace(numbered[0], " 1 ", " 4000000000000000 ", 1),
		strings.Replace(numbered[1], epoch, "\x03another", 1),
		sealedOne,           // without a position
		positionOne + plain, // with one
		positionTwo + sealedOne,
		positionOne + sealedTwo,
		positionTwo[:len(positionTwo)-1] + "x " + sealedTwo, // with another nonce
	}
	for _, message := range forged {
		s.Publish(channel, message)
		<-tap
	}
	s.Publish(l.key("topic", "other"), plain) // to another topic
	mustPublish(t, l, "topic", "last")
	for _, h := range []*testHub{one, two} {
		h.untilReceived("last")
		if got, _ := h.state(); !slices.Equal(got, []string{"plain", "one", "two", "last"}) {
			t.Errorf("received %q", got)
		}
	}
	if n, want := l.Discarded(), uint64(len(forged)+1); n != want {
		t.Errorf("%d are counted as discarded, want %d", n, want)
	}
}

func TestHubThatComesLaterTakesNothingOld(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	old := stamp{sender: 1, serial: 1, sealed: now.UnixMilli()}
	for _, c := range []struct {
		late time.Duration
		ok   bool
	}{{0, true}, {maxStampAge, true}, {-maxStampAge, true}, {maxStampAge + time.Second, false}, {-maxStampAge - time.Second, false}, {time.Hour, false}} {
		var f stampFilter
		if err := f.accept(old, now.Add(c.late)); (err == nil) != c.ok {
			t.Errorf("%v later: %v", c.late, err)
		}
	}
}

func TestStampsAreAcceptedOnceInAnyOrder(t *testing.T) {
	now := time.Now()
	var f stampFilter
	accept := func(sender, serial uint64) error {
		return f.accept(stamp{sender, serial, now.UnixMilli()}, now)
	}
	serials := []uint64{5, 3, 4, 1, 100, 2, 99, stampWindow + 3, stampWindow + 2, 5*stampWindow + 7, 4*stampWindow + 8}
	for _, sender := range []uint64{1, 2} { // each has numbers of its own
		for _, serial := range serials {
			if err := accept(sender, serial); err != nil {
				t.Errorf("%d of %d: %v", serial, sender, err)
			}
			if err := accept(sender, serial); !errors.Is(err, errRepeated) {
				t.Errorf("%d of %d again: %v, want errRepeated", serial, sender, err)
			}
		}
	}
	for _, serial := range append(serials, 6, 4*stampWindow+7) { // and whoever knows whether 6 was
		if accept(1, serial) == nil {
			t.Errorf("%d was accepted at the end", serial)
		}
	}
	later := now.Add(3 * maxStampAge)
	if err := f.accept(stamp{3, 1, later.UnixMilli()}, later); err != nil {
		t.Error(err)
	}
	if n := len(f.senders); n != 1 {
		t.Errorf("%d senders are known, want the one that is still there", n)
	}
}

func TestStampsAreCutFromAnything(t *testing.T) {
	s := stamper{sender: 7}
	for i := range uint64(3) {
		got, payload, err := cutStamp(append(s.next(nil), fmt.Sprint("payload", i)...))
		if err != nil || got.sender != 7 || got.serial != i+1 || string(payload) != fmt.Sprint("payload", i) || time.Since(time.UnixMilli(got.sealed)) > time.Minute {
			t.Errorf("%+v %q, %v", got, payload, err)
		}
	}
	for n := range stampSize {
		if _, _, err := cutStamp(bytes.Repeat([]byte{'x'}, n)); err == nil {
			t.Errorf("%d bytes are taken for a stamp", n)
		}
	}
}
