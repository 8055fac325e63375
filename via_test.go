package grouphub_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

// A transaction is a publisher for Via that keeps what it gets until it is committed.
type transaction struct {
	kept []grouphub.Publication
	err  error // of each Publish
}

func (tx *transaction) Publish(_ context.Context, p grouphub.Publication) error {
	if tx.err != nil {
		return tx.err
	}
	p.Payload = bytes.Clone(p.Payload)
	tx.kept = append(tx.kept, p)
	return nil
}

func (tx *transaction) commit(t *testing.T, to grouphub.Layer) {
	t.Helper()
	for _, p := range tx.kept {
		if err := to.Publish(background, p); err != nil {
			t.Fatal(err)
		}
	}
}

func TestViaHandsThePublicationToThePublisherInsteadOfTheLayer(t *testing.T) {
	layer := grouphub.NewMemoryLayer()
	hub := newHub(t, &grouphub.Options{Layer: layer, Consumer: noteConsumer, Policy: keeping(10)})
	c := hubtest.Dial(t, hub, "/")
	tx := &transaction{}
	send(t, hub, "all", "note", 1, grouphub.Via(tx), grouphub.Once("key"))
	send(t, hub, "all", "note", 2)
	expectData(t, c, 2)
	if len(tx.kept) != 1 || tx.kept[0].Keep.Count == 0 || tx.kept[0].Keep.Once != "key" {
		t.Fatalf("the publisher got %+v, want one publication that is kept, with its key", tx.kept)
	}
	if n := hub.Stats().Published; n != 1 {
		t.Errorf("Published is %d, want only what went to the layer", n)
	}
	tx.commit(t, layer)
	tx.commit(t, layer) // as a relay does that did not hear of its success
	send(t, hub, "all", "note", 3)
	expectData(t, c, 1, 3)
}

func TestViaReturnsThePublishersError(t *testing.T) {
	hub := newHub(t, nil)
	broken := errors.New("the transaction was rolled back")
	if err := hub.GroupSend(background, "all", "note", 1, grouphub.Via(&transaction{err: broken})); !errors.Is(err, broken) {
		t.Errorf("GroupSend: %v, want the publisher's error", err)
	}
	if err := hub.GroupClose(background, "all", 4401, "", grouphub.Via(&transaction{err: broken})); !errors.Is(err, broken) {
		t.Errorf("GroupClose: %v, want the publisher's error", err)
	}
	defer func() {
		if recover() == nil {
			t.Error("Via of a nil publisher does not panic")
		}
	}()
	grouphub.Via(nil)
}

func TestViaBringsAGroupCloseBehindTheEventsBeforeIt(t *testing.T) {
	for name, policy := range map[string]func(string) grouphub.GroupPolicy{"history": keeping(10), "none": nil} {
		t.Run(name, func(t *testing.T) {
			layer := grouphub.NewMemoryLayer()
			hub := newHub(t, &grouphub.Options{Layer: layer, Consumer: noteConsumer, Policy: policy})
			c := hubtest.Dial(t, hub, "/")
			tx := &transaction{}
			send(t, hub, "all", "note", 1, grouphub.Via(tx))
			if err := hub.GroupClose(background, "all", 4401, "logged out", grouphub.Via(tx)); err != nil {
				t.Fatal(err)
			}
			send(t, hub, "all", "note", 2)
			expectData(t, c, 2)
			tx.commit(t, layer)
			expectData(t, c, 1)
			c.ExpectClose(4401)
		})
	}
}
