package redis

import (
	"crypto/rand"
	"errors"
	"slices"
	"time"

	"github.com/seed-29c60982/grouphub/internal/gate"
)

// A session is one connection of a link: it subscribes to what is pending there,
// unsubscribes from what is unused, and proves by heartbeats that publications arrive. Its
// life is one loop, serve, in one goroutine, which alone sends on the connection. What the
// server says is noted by the connection's reader.
//
//	connecting ──▶ subscribing ──▶ up ──▶ ended
//	                  ▲             │
//	                  └─────────────┘ a topic that was interrupted is missing again
//
// Every state can end in the last one: by an error, by silence, or with the link. Which of
// the middle two it is, link.up says.
type session struct {
	link       *link
	address    string // of its node
	conn       *subscriber
	gate       *gate.Gate
	heartbeats string        // the channel that they come through
	listening  chan struct{} // has room for one: the server has confirmed that channel
	clock      clock
	ended      chan error // has room for one: why the connection ended

	beat        *time.Ticker
	silence     *time.Timer // fires when heartbeats have not come through
	unsubscribe *time.Timer // fires when it is time to look for what is unused
	looking     bool        // the timer runs
}

// serve connects, subscribes to all topics of the link, and follows their changes until
// the connection ends.
func (k *link) serve() (wasUp bool, err error) {
	address, ok := k.connectTo()
	if !ok {
		return false, errNoNode
	}
	if k.s.layer.demoted.Load() {
		return false, errReplica
	}
	conn, err := k.s.layer.newSubscriber(k.ctx, address)
	if err != nil {
		return false, err
	}
	if isReplica(conn.role) && !k.s.layer.cluster {
		conn.conn.Close()
		notify(k.s.layer.suspect)
		return false, errReplica
	}
	heartbeat := k.s.layer.heartbeat
	s := &session{link: k, address: address, conn: conn, heartbeats: k.heartbeatChannel(), gate: k.begin(), ended: make(chan error, 1), listening: make(chan struct{}, 1),
		beat: time.NewTicker(heartbeat), silence: time.NewTimer(patience(heartbeat)), unsubscribe: time.NewTimer(unsubscribeDelay)}
	s.unsubscribe.Stop()
	defer s.beat.Stop()
	defer s.silence.Stop()
	defer s.unsubscribe.Stop()
	defer func() { wasUp = k.end() }()
	defer s.gate.Shut()
	defer conn.conn.Close()
	k.s.layer.running.Go(func() { s.end(conn.read(s.message, s.confirmed, s.givenAway)) })
	if err := conn.send(&request{name: s.subscribeName(), channels: []string{s.heartbeats}, done: s.heartbeatAnswered}); err != nil {
		return false, err
	}
	notify(k.wake)
	for err == nil {
		err = s.next()
	}
	return false, err
}

// patience is how long a session may be silent: two heartbeats, and most of the time until
// the third.
func patience(heartbeat time.Duration) time.Duration { return heartbeat * 13 / 5 }

// heartbeatChannel returns a channel for the heartbeats of a session, of a slot that the
// node has.
func (k *link) heartbeatChannel() string {
	k.s.mu.Lock()
	defer k.s.mu.Unlock()
	for {
		channel := k.s.layer.key("beat", rand.Text())
		if k.node == "" || k.ctx.Err() != nil || k.s.owners[k.s.layer.slot(channel)] == k.node {
			return channel
		}
	}
}

// end has the session end with an error. It never blocks.
func (s *session) end(err error) {
	select {
	case s.ended <- err:
	default: // it ends already
	}
}

// next waits for something to happen, and does what it calls for. An error ends the
// session.
func (s *session) next() error {
	select {
	case <-s.link.ctx.Done():
		return s.link.ctx.Err()
	case err := <-s.ended:
		return err
	case <-s.link.wake:
		return s.subscribePending()
	case <-s.unsubscribe.C:
		return s.unsubscribeUnused()
	case <-s.beat.C:
		return s.sendHeartbeat()
	case <-s.listening: // what comes at once may be late already
		return s.sendHeartbeat()
	case <-s.link.beaten:
		s.silence.Reset(patience(s.link.s.layer.heartbeat))
		return nil
	case <-s.silence.C:
		return errSilent
	}
}

// sendHeartbeat publishes what has to come back through the subscription.
func (s *session) sendHeartbeat() error {
	l := s.link.s.layer
	if l.client.Nodes()[s.address] == nil { // after a failover, perhaps
		return errNoNode
	}
	if s.conn.overdue(s.link.s.layer.callTimeout) {
		return errSilent
	}
	l.post(l.heartbeatTo(s.heartbeats, &s.clock))
	return s.conn.refresh(s.end)
}

// message passes on a publication. It is called by the connection's reader.
func (s *session) message(channel string, payload []byte) {
	if channel == s.heartbeats {
		s.clock.receive(payload, time.Now())
		notify(s.link.beaten)
	} else if s.gate.Enter() {
		defer s.gate.Leave()
		s.link.deliver(channel, payload, &s.clock)
	}
}

// confirmed notes that the server has subscribed to a channel. It is called by the
// connection's reader.
func (s *session) confirmed(channel string) {
	if s.gate.Enter() {
		defer s.gate.Leave()
		s.link.confirmed(channel)
	}
}

// givenAway notes that a channel's slot has moved to another node. It is called by the
// connection's reader.
func (s *session) givenAway(channel string) {
	if s.gate.Enter() {
		defer s.gate.Leave()
		s.link.givenAway(channel)
	}
}

// heartbeatAnswered ends the session if it may not hear its own heartbeats.
func (s *session) heartbeatAnswered(answer reply) {
	if answer.isError() {
		s.end(errors.New(string(answer.text)))
	} else {
		notify(s.listening)
	}
}

// subscribePending sends what is pending, whose confirmations arrive by themselves, and
// tells the receiver of the gaps that have ended.
func (s *session) subscribePending() error {
	for batch := s.link.takePending(); len(batch) > 0; batch = s.link.takePending() {
		err := s.send(s.subscribeName(), batch, func(topics []*topic, answer reply) {
			if answer.isError() && s.gate.Enter() {
				defer s.gate.Leave()
				if err := s.link.refused(topics, refusal(answer.text)); err != nil {
					s.end(err)
				}
			}
		})
		if err != nil {
			return err
		}
	}
	if s.link.hasUnused() {
		s.lookLater()
	}
	if lost := s.link.healed(); len(lost) > 0 && s.gate.Enter() {
		defer s.gate.Leave()
		s.link.s.receiver.Lost(lost)
	}
	return nil
}

// lookLater has the session look for what is unused after a while.
func (s *session) lookLater() {
	if !s.looking {
		s.looking = true
		s.unsubscribe.Reset(unsubscribeDelay)
	}
}

// unsubscribeUnused ends the subscription to what is still unused. Where the server refuses,
// busy or out of disk, the topics stay unused, and it is asked again.
func (s *session) unsubscribeUnused() error {
	s.looking = false
	for batch := range slices.Chunk(s.link.takeUnused(), batchSize) {
		err := s.send(s.unsubscribeName(), batch, func(topics []*topic, answer reply) {
			if !s.gate.Enter() {
				return
			}
			defer s.gate.Leave()
			if answer.isError() && !refusal(answer.text).isElsewhere() {
				s.link.stayed(topics)
			} else {
				s.link.left(topics)
			}
		})
		if err != nil {
			return err
		}
	}
	if s.link.hasUnused() {
		s.lookLater()
	}
	return nil
}

// send sends a command about topics: in a Cluster one for each slot.
func (s *session) send(name string, topics []*topic, done func(topics []*topic, answer reply)) error {
	var requests []*request
	for _, group := range s.link.bySlot(topics) {
		channels := make([]string, len(group))
		for i, t := range group {
			channels[i] = t.channel
		}
		requests = append(requests, &request{name: name, channels: channels, done: func(answer reply) { done(group, answer) }})
	}
	return s.conn.send(requests...)
}

func (s *session) subscribeName() string {
	if s.link.s.layer.sharded {
		return ssubscribeName
	}
	return subscribeName
}

func (s *session) unsubscribeName() string {
	if s.link.s.layer.sharded {
		return sunsubscribeName
	}
	return unsubscribeName
}
