package grouphub_test

import (
	"context"
	"testing"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

// A gatedLayer is a faulty one whose histories are read when the test says so.
type gatedLayer struct {
	faultyLayer
	reading func(topic string) // called before a history is returned
}

func newGatedLayer(reading func(topic string)) *gatedLayer {
	return &gatedLayer{faultyLayer{MemoryLayer: grouphub.NewMemoryLayer()}, reading}
}

func (l *gatedLayer) History(ctx context.Context, topic string, after uint64) (grouphub.History, error) {
	history, err := l.faultyLayer.History(ctx, topic, after)
	l.reading(topic)
	return history, err
}

func TestGroupCloseComesAfterTheEventsThatWaitForTheHistory(t *testing.T) {
	gate := make(chan struct{})
	close(gate)
	layer := newGatedLayer(func(topic string) {
		if topic == "g:g" {
			<-gate
		}
	})
	hub := historyHub(t, layer)
	c := hubtest.Dial(t, hub, "/g?resume=")
	c.ExpectEvent("grouphub.position")
	gate = make(chan struct{})
	layer.setFault(func(grouphub.Publication) []grouphub.Publication { return nil })
	sendNumbers(t, hub, "g", 1, 1)
	layer.setFault(nil)
	sendNumbers(t, hub, "g", 2, 2) // and 1 is missing
	if err := hub.GroupClose(background, "g", 4000, "bye"); err != nil {
		t.Fatal(err)
	}
	close(gate)
	expectNumbers(t, c, 1, 2)
	c.ExpectClose(4000)
}

func TestAHubDoesNotObeyWhatWasSaidBeforeItsTime(t *testing.T) {
	layer := newGatedLayer(func(string) {})
	one := newHub(t, &grouphub.Options{Layer: layer.MemoryLayer})
	if err := one.GroupClose(background, "all", 4000, "old"); err != nil {
		t.Fatal(err)
	}
	begun, gate := make(chan struct{}, 1), make(chan struct{})
	layer.reading = func(topic string) {
		if topic == "c:all" {
			begun <- struct{}{}
			<-gate
		}
	}
	two := newHub(t, &grouphub.Options{Layer: layer, Consumer: noteConsumer})
	<-begun
	old := hubtest.Dial(t, two, "/")
	close(gate)
	send(t, two, "all", "note", 1)
	old.ExpectEvent("note")
	// By the time that a new one is obeyed, an old one would have been.
	if err := one.GroupClose(background, "all", 4001, "new"); err != nil {
		t.Fatal(err)
	}
	old.ExpectClose(4001)
}
