package redis

// A topic is one that a subscription has added, or is about to. It exists while it is used,
// and outlives that for as long as its link is subscribed to its channel. Everything here
// is guarded by Subscription.mu.
//
// Its state says how far the subscription on its link has come:
//
//	idle → requested             SUBSCRIBE was sent
//	requested → confirmed        the server has confirmed it
//	requested → idle             the server has refused it
//	confirmed → leaving          it is not used any more, and UNSUBSCRIBE was sent
//	leaving → idle               the server has done so
//	leaving → confirmed          the server has refused to
//	all but leaving → idle       its node has given the slot away
//	all → idle                   the connection has ended
type topic struct {
	name, channel string
	added         bool      // an Add has returned, and no Remove since
	waiters       []*waiter // of each Add that has not
	link          *link
	state         topicState
	gap           topicGap
}

type topicState int

const (
	stateIdle      topicState = iota // to be subscribed to if it is used
	stateRequested                   // perhaps in force
	stateConfirmed                   // publications arrive
	stateLeaving                     // being unsubscribed from, whether it is used or not
)

// A topicGap says whether there was a time at which publications of a topic did not arrive,
// though it had been added, and whose end still has to be told to the receiver.
type topicGap int

const (
	gapNone  topicGap = iota
	gapStart          // it was added without waiting and has not been in force yet: nothing to tell
	gapLoss           // it was in force, and was interrupted: the receiver's Lost names it
)

func (t *topic) used() bool { return t.added || len(t.waiters) > 0 }

// setState keeps count of the topics that are not confirmed, for those who wait and for the
// link.
func (t *topic) setState(state topicState) {
	d := 0
	if t.state == stateConfirmed {
		d++
	}
	if state == stateConfirmed {
		d--
	}
	t.state = state
	for _, wait := range t.waiters {
		if wait.missing += d; wait.missing == 0 {
			notify(wait.changed)
		}
	}
	if t.gap != gapNone {
		t.link.addMissing(d)
	}
}

// setGap keeps count of the gaps, and of what is missing until all of them end, for the
// link.
func (t *topic) setGap(gap topicGap) {
	d := 0
	if t.gap != gapNone {
		d--
	}
	if gap != gapNone {
		d++
	}
	t.gap = gap
	if d == 0 {
		return
	}
	t.link.gaps += d
	if t.state != stateConfirmed {
		t.link.addMissing(d)
	}
}

// interrupt notes that the subscription has ended by itself.
func (t *topic) interrupt() {
	wasConfirmed := t.state == stateConfirmed
	t.setState(stateIdle)
	if wasConfirmed && t.used() {
		t.setGap(gapLoss)
	}
}

// move gives an idle topic to a link, which is to subscribe to it.
func (t *topic) move(to *link) {
	gap := t.gap
	t.setGap(gapNone)
	t.link = to
	t.setGap(gap)
	to.pending = append(to.pending, t)
	notify(to.wake)
	if to == to.s.unrouted {
		notify(to.s.reroute)
	}
}
