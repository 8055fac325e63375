package grouphub_test

import (
	"slices"
	"testing"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

// waitingNotes returns a consumer whose connections join the groups, and in which "note" is
// rendered when a token has come.
func waitingNotes(tokens <-chan struct{}, resync func(*grouphub.Conn, []string), groups ...string) grouphub.Consumer {
	return grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error {
			for _, group := range groups {
				if err := c.Join(group); err != nil {
					return err
				}
			}
			return nil
		},
		Resync: resync,
		Events: grouphub.Events{"note": grouphub.Render(func(e grouphub.Event) ([]byte, error) { <-tokens; return e.Data, nil })},
	}
}

func TestResyncComesBetweenTheEventsBeforeTheLossAndThoseBehindIt(t *testing.T) {
	layer, tokens := newBluntLayer(), make(chan struct{})
	hub := newHub(t, &grouphub.Options{Layer: layer, Consumer: waitingNotes(tokens, nil, "all")})
	c := hubtest.Dial(t, hub, "/")
	send(t, hub, "all", "note", 1)
	send(t, hub, "all", "note", 2)
	layer.receiver.Lost([]string{"g:all"})
	send(t, hub, "all", "note", 3)
	late := hubtest.Dial(t, hub, "/") // it has missed nothing
	send(t, hub, "all", "note", 4)
	close(tokens)
	for _, want := range []string{"1", "2", `{"type":"resync","group":"all"}`, "3", "4"} {
		c.Expect(want)
	}
	late.Expect("4")
}

func TestResyncOfSeveralGroupsIsOneBehindTheEventsOfEach(t *testing.T) {
	layer, tokens := newBluntLayer(), make(chan struct{})
	hub := newHub(t, &grouphub.Options{Layer: layer})
	told, resync := resyncs()
	c := hubtest.Dial(t, hub.Handler(waitingNotes(tokens, resync, "a", "b", "c")), "/")
	witness := hubtest.Dial(t, hub.Handler(waitingNotes(nil, nil, "a")), "/")
	send(t, hub, "b", "note", 1)
	layer.receiver.Lost([]string{"g:a", "g:b"})
	witness.Expect(`{"type":"resync","group":"a"}`) // who is in no other group waits for none
	if n := hub.Stats().Resyncs; n != 1 || len(told) > 0 {
		t.Errorf("%d Resyncs and %d calls while an event of one of the groups waits", n, len(told))
	}
	close(tokens)
	c.Expect("1")
	if groups := <-told; !slices.Equal(groups, []string{"a", "b"}) || len(told) > 0 {
		t.Errorf("Resync of %q and %d more, want a and b, once", groups, len(told))
	}
}

func TestResyncComesBehindTheHandleCallsBeforeIt(t *testing.T) {
	layer, tokens := newFaultyLayer(), make(chan struct{}, 100)
	hub := newHub(t, &grouphub.Options{Layer: layer, Policy: keeping(5), Consumer: grouphub.Consumer{
		Connect: func(c *grouphub.Conn) error { return c.Join("g") }, Events: mixed(tokens)}})
	c := hubtest.Dial(t, hub, "/")
	send(t, hub, "g", "slow", 1)
	layer.setFault(loseAll)
	sendNumbers(t, hub, "g", 2, 20)
	layer.setFault(nil)
	sendNumbers(t, hub, "g", 21, 21)
	eventually(t, func() bool { return hub.Stats().Resyncs == 1 }, "no Resync")
	tokens <- struct{}{}
	expectData(t, c, 1)
	c.Expect(`{"type":"resync","group":"g"}`)
	expectNumbers(t, c, 17, 21)
}

func TestResyncOfSeveralGroupsIsToldOfThoseThatTheConnectionHasNotLeftMeanwhile(t *testing.T) {
	layer, tokens := newBluntLayer(), make(chan struct{})
	hub := newHub(t, &grouphub.Options{Layer: layer})
	told, resync := resyncs()
	consumer, left := waitingNotes(tokens, resync, "a", "b"), make(chan struct{})
	consumer.Receive = func(c *grouphub.Conn, m grouphub.Message) error { defer close(left); return c.Leave(string(m.Data)) }
	c := hubtest.Dial(t, hub.Handler(consumer), "/")
	send(t, hub, "b", "note", 1)
	layer.receiver.Lost([]string{"g:a", "g:b"})
	c.Send("b")
	<-left
	close(tokens)
	if groups := <-told; !slices.Equal(groups, []string{"a"}) {
		t.Errorf("Resync of %q, want a", groups)
	}
}
