package memory

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-29c60982/grouphub/layer"
)

func TestTimerThatIsLateDropsNothingThatIsNew(t *testing.T) {
	l := New()
	keep := layer.Keep{Count: 10, Life: time.Hour}
	publish(t, l, "old", keep)
	topic := l.topics["topic"]
	old := topic.history
	// The timer fires, and before it has the lock something is kept for another hour.
	publish(t, l, "new", keep)
	l.expire(topic, old, "topic")
	if h := history(t, l); len(h.Kept) != 2 {
		t.Errorf("kept %d, want 2", len(h.Kept))
	}
	// Its history is gone when it has the lock, and another one is there.
	topic.history = nil
	publish(t, l, "another", keep)
	l.expire(topic, old, "topic")
	if h := history(t, l); len(h.Kept) != 1 || h.Epoch == old.Epoch {
		t.Errorf("kept %d of epoch %s, want 1 of another than %s", len(h.Kept), h.Epoch, old.Epoch)
	}
	topic.history = nil
	l.expire(topic, old, "topic")
}

func TestOnceOutlivesAShortHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New()
		keep := layer.Keep{Count: 10, Life: time.Minute, Once: "order 17"}
		publish(t, l, "a", keep)
		time.Sleep(2 * time.Minute)
		if publish(t, l, "a", keep); history(t, l).Last != 1 {
			t.Error("published again after two minutes")
		}
		time.Sleep(4 * time.Minute)
		if publish(t, l, "a", keep); history(t, l).Last != 2 {
			t.Error("not published after six minutes, when the key may be used again")
		}
		l.Close()
	})
}

func TestCountOutlivesWhatIsKeptByADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New()
		publish(t, l, "a", layer.Keep{Count: 10, Life: time.Minute, Once: "key"})
		first := history(t, l)
		time.Sleep(23 * time.Hour)
		if h := history(t, l); len(h.Kept) > 0 || h.Last != 1 || h.Epoch != first.Epoch {
			t.Errorf("after 23 hours: %+v", h)
		}
		time.Sleep(2 * time.Hour)
		if h := history(t, l); h.Last != 0 || h.Epoch == first.Epoch {
			t.Errorf("after 25 hours: %+v", h)
		}
		time.Sleep(unusedLife + time.Second) // that was the beginning of another epoch
		if topics, _ := l.InUse(); topics > 0 {
			t.Errorf("%d topics are left", topics)
		}
		l.Close()
	})
}

func TestHistoryIsBoundedInBytes(t *testing.T) {
	l := New()
	keep := layer.Keep{Count: 100, Life: time.Hour, Bytes: 100}
	for range 10 {
		publish(t, l, string(bytes.Repeat([]byte("x"), 40)), keep)
	}
	if h := history(t, l); len(h.Kept) != 2 || h.Kept[1].At.Number != 10 {
		t.Errorf("kept %d, want the last 2 of 10", len(h.Kept))
	}
	publish(t, l, string(bytes.Repeat([]byte("x"), 200)), keep)
	if h := history(t, l); len(h.Kept) != 1 || h.Kept[0].At.Number != 11 {
		t.Errorf("kept %d, want the last one, large as it is", len(h.Kept))
	}
	for range 200 {
		publish(t, l, "", keep)
	}
	if h := history(t, l); len(h.Kept) != 100 || h.Last != 211 {
		t.Errorf("kept %d up to %d, want 100 up to 211", len(h.Kept), h.Last)
	}
	l.Close()
}
