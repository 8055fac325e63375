package grouphub

import (
	"testing"
	"time"
)

func TestALossIsNotedWithoutWaitingForThoseWhoAreWrittenTo(t *testing.T) {
	q := newQuietGroup(t)
	client, member := q.dial(false)
	if err := member.Join("g"); err != nil {
		t.Fatal(err)
	}
	q.send(1)
	q.receive(client, 1)
	g := q.group("g")
	g.first.lock() // as if a batch were written
	noted := make(chan struct{})
	go func() {
		g.sequence.Resync()
		close(noted)
	}()
	select {
	case <-noted:
	case <-time.After(20 * time.Second):
		t.Error("a loss is not noted while a batch is written")
	}
	g.first.mu.Unlock()
	client.SetReadDeadline(time.Now().Add(20 * time.Second))
	var e Event
	if err := client.ReadJSON(&e); err != nil || e.Type != "resync" || e.Group != "g" {
		t.Errorf("got %+v, %v", e, err)
	}
}
