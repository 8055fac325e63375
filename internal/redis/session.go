package redis

import (
	"context"
	"crypto/rand"
	"slices"
	"strings"
	"time"

	"github.com/redis/rueidis"

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
	client     rueidis.DedicatedClient
	gate       *gate.Gate
	heartbeats string // the channel that they come through
	ended      <-chan error

	beat          *time.Ticker
	silence       *time.Timer      // fires when heartbeats have not come through
	unsubscribing <-chan time.Time // nil while nothing is unused
}

// serve connects, subscribes to all topics of the link, and follows their changes until
// the connection ends.
func (k *link) serve() (wasUp bool, err error) {
	address, node := k.connectTo()
	if node == nil {
		return false, errNoNode
	}
	client, _ := node.Dedicate()
	defer client.Close()
	s := &session{link: k, address: address, client: client, heartbeats: k.heartbeatChannel(), gate: k.begin()}
	defer func() { wasUp = k.end() }()
	defer s.gate.Shut()
	s.ended = client.SetPubSubHooks(rueidis.PubSubHooks{OnMessage: s.message, OnSubscription: s.confirmation})
	for _, result := range s.command(true, [][]string{{s.heartbeats}}) {
		if err := result.Error(); err != nil {
			return false, err
		}
	}
	notify(k.wake)
	heartbeat := k.s.layer.Heartbeat
	s.beat = time.NewTicker(heartbeat)
	defer s.beat.Stop()
	s.silence = time.NewTimer(patience(heartbeat))
	defer s.silence.Stop()
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

// next waits for something to happen, and does what it calls for. An error ends the
// session.
func (s *session) next() error {
	select {
	case <-s.link.ctx.Done():
		return s.link.ctx.Err()
	case err := <-s.ended:
		return err
	case <-s.link.wake:
		return s.subscribe()
	case <-s.unsubscribing:
		return s.unsubscribe()
	case <-s.beat.C:
		return s.sendHeartbeat()
	case <-s.link.beaten:
		s.silence.Reset(patience(s.link.s.layer.Heartbeat))
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
	l.post(l.publish(s.heartbeats, nil))
	return nil
}

// message passes on a publication. It is called by the connection's reader.
func (s *session) message(m rueidis.PubSubMessage) {
	if m.Channel == s.heartbeats {
		notify(s.link.beaten)
	} else if s.gate.Enter() {
		defer s.gate.Leave()
		s.link.deliver(m.Channel, m.Message)
	}
}

// confirmation passes on what the server says of a channel. It is called by the
// connection's reader.
func (s *session) confirmation(c rueidis.PubSubSubscription) {
	if !s.gate.Enter() {
		return
	}
	defer s.gate.Leave()
	switch c.Kind {
	case "subscribe", "ssubscribe":
		s.link.confirmed(c.Channel)
	case "sunsubscribe":
		s.link.givenAway(c.Channel)
	}
}

// subscribe sends what is pending, whose confirmations arrive by themselves, and tells the
// receiver of the gaps that have ended.
func (s *session) subscribe() error {
	for {
		batch := s.link.takePending()
		if len(batch) == 0 {
			break
		}
		groups, channels := s.link.bySlot(batch)
		for i, result := range s.command(true, channels) {
			err := result.Error()
			if answer, ok := rueidis.IsRedisErr(err); ok {
				err = s.link.refused(groups[i], answer)
			}
			if err != nil {
				return err
			}
		}
	}
	if s.unsubscribing == nil && s.link.hasUnused() {
		s.unsubscribing = time.After(unsubscribeDelay)
	}
	if lost := s.link.healed(); len(lost) > 0 && s.gate.Enter() {
		defer s.gate.Leave()
		s.link.s.receiver.Lost(lost)
	}
	return nil
}

// unsubscribe ends the subscription to what is still unused, or tries again later.
func (s *session) unsubscribe() error {
	s.unsubscribing = nil
	safe, err := s.mayUnsubscribe()
	if err != nil {
		return err
	}
	if !safe {
		s.unsubscribing = time.After(unsubscribeDelay)
		return nil
	}
	for batch := range slices.Chunk(s.link.takeUnused(), batchSize) {
		_, channels := s.link.bySlot(batch)
		for _, result := range s.command(false, channels) {
			if err := result.NonRedisError(); err != nil {
				return err
			}
		}
		s.link.left(batch)
	}
	return nil
}

// mayUnsubscribe reports whether the server answers PING as rueidis needs it: it sends
// one behind each UNSUBSCRIBE, and what it does not expect there ends the process with a
// panic. A server whose disk is full, for one, answers with an error.
func (s *session) mayUnsubscribe() (bool, error) {
	ctx, cancel := context.WithTimeout(s.link.ctx, callTimeout)
	defer cancel()
	err := s.client.Do(ctx, s.client.B().Ping().Build()).Error()
	if answer, ok := rueidis.IsRedisErr(err); ok {
		return strings.HasPrefix(answer.Error(), "NOPERM"), nil // this one it expects
	}
	return err == nil, err
}

// command subscribes to each list of channels, or unsubscribes from it, and returns the
// first answer about each.
func (s *session) command(subscribe bool, lists [][]string) []rueidis.RedisResult {
	ctx, cancel := context.WithTimeout(s.link.ctx, callTimeout)
	defer cancel()
	var commands []rueidis.Completed
	for _, channels := range lists {
		switch b, sharded := s.client.B(), s.link.s.layer.sharded; {
		case subscribe && sharded:
			commands = append(commands, b.Ssubscribe().Channel(channels...).Build())
		case subscribe:
			commands = append(commands, b.Subscribe().Channel(channels...).Build())
		case sharded:
			commands = append(commands, b.Sunsubscribe().Channel(channels...).Build())
		default:
			commands = append(commands, b.Unsubscribe().Channel(channels...).Build())
		}
	}
	return s.client.DoMulti(ctx, commands...)
}
