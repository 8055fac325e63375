package layertest

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/seed-29c60982/grouphub/layer"
)

func concatFaults() []fault {
	return slices.Concat(publishFaults, subscriptionFaults, historyFaults, leaseFaults, queueFaults, closeFaults)
}

var publishFaults = []fault{
	{"every other publication is dropped", "OneSendersOrderHolds", func(l *faultyLayer) {
		n := 0
		l.publish = func(ctx context.Context, p layer.Publication) error {
			if n++; n%2 == 0 {
				return nil
			}
			return l.inside.Publish(ctx, p)
		}
	}},
	{"one of two subscribers gets it", "PublishReachesEverySubscriber", func(l *faultyLayer) {
		var mu sync.Mutex
		delivered := make(map[string]bool)
		l.deliver(func(deliver func(layer.Publication), p layer.Publication) {
			mu.Lock()
			first := !delivered[string(p.Payload)]
			delivered[string(p.Payload)] = true
			mu.Unlock()
			if first {
				deliver(p)
			}
		})
	}},
	{"publications overtake each other", "OneSendersOrderHolds", func(l *faultyLayer) {
		var waiting *layer.Publication
		l.publish = func(ctx context.Context, p layer.Publication) error {
			if waiting == nil && string(p.Payload) == "17" {
				p.Payload = bytes.Clone(p.Payload)
				waiting = &p
				return nil
			}
			err := l.inside.Publish(ctx, p)
			if waiting != nil {
				l.inside.Publish(ctx, *waiting)
				waiting = nil
			}
			return err
		}
	}},
	{"subscribers see different orders", "SubscribersOfOneLayerSeeOneOrder", func(l *faultyLayer) {
		receivers := 0
		l.attach = func(hub string, r layer.Receiver) (layer.Subscription, error) {
			receivers++
			if receivers != 2 {
				return l.inside.Attach(hub, r)
			}
			var waiting *layer.Publication
			return l.inside.Attach(hub, &faultyReceiver{r, func(deliver func(layer.Publication), p layer.Publication) {
				switch {
				case waiting == nil:
					waiting = &p
				case waiting.Topic == p.Topic && string(waiting.Payload)[0] != string(p.Payload)[0]:
					deliver(p)
					deliver(*waiting)
					waiting = nil
				default:
					deliver(*waiting)
					waiting = &p
				}
			}})
		}
	}},
	{"one receiver is called twice at the same time", "SubscribersOfOneLayerSeeOneOrder", func(l *faultyLayer) {
		l.deliver(func(deliver func(layer.Publication), p layer.Publication) {
			go deliver(p)
			deliver(p)
		})
	}},
	{"payloads are cut at a zero byte", "PayloadsAreOpaqueAndTheSlicesBelongToTheirOwners", func(l *faultyLayer) {
		l.publish = func(ctx context.Context, p layer.Publication) error {
			p.Payload, _, _ = bytes.Cut(p.Payload, []byte{0})
			return l.inside.Publish(ctx, p)
		}
	}},
	{"the sender's payload is kept", "PayloadsAreOpaqueAndTheSlicesBelongToTheirOwners", func(l *faultyLayer) {
		var mu sync.Mutex
		sent := make(map[string][]byte) // what each sender still has in its hands
		l.publish = func(ctx context.Context, p layer.Publication) error {
			mu.Lock()
			sent[string(p.Payload)] = p.Payload
			mu.Unlock()
			return l.inside.Publish(ctx, p)
		}
		l.history = func(ctx context.Context, topic string, after uint64) (layer.History, error) {
			h, err := l.inside.History(ctx, topic, after)
			for i := range h.Kept {
				h.Kept[i].Payload = sent[string(h.Kept[i].Payload)]
			}
			return h, err
		}
	}},
	{"names are compared without regard to case", "NamesAreOpaque", func(l *faultyLayer) {
		l.appendTo = func(ctx context.Context, queue string, message []byte) error {
			return l.inside.Append(ctx, strings.ToLower(queue), message)
		}
		l.take = func(ctx context.Context, queue string) ([]byte, error) {
			return l.inside.Take(ctx, strings.ToLower(queue))
		}
	}},
	{"long names are cut", "NamesAreOpaque", func(l *faultyLayer) {
		l.lease = func(ctx context.Context, topic, holder string, value []byte, life time.Duration) (bool, error) {
			return l.inside.Lease(ctx, topic[:min(len(topic), 255)], holder, value, life)
		}
	}},
	{"identical publications at the same time are merged", "IdenticalPublicationsAreEachDelivered", func(l *faultyLayer) {
		var last string
		l.deliver(func(deliver func(layer.Publication), p layer.Publication) {
			if last == string(p.Payload) {
				return
			}
			last = string(p.Payload)
			deliver(p)
		})
	}},
	{"ErrUnavailable for a publication that went out", "WhatIsUnavailableHasNotGoneOut", func(l *faultyLayer) {
		l.publish = func(ctx context.Context, p layer.Publication) error {
			return errors.Join(l.inside.Publish(context.WithoutCancel(ctx), p), unavailable(ctx))
		}
	}},
	{"ErrUnavailable for a message that is in the queue", "WhatIsUnavailableHasNotGoneOut", func(l *faultyLayer) {
		l.appendTo = func(ctx context.Context, queue string, message []byte) error {
			return errors.Join(l.inside.Append(ctx, queue, message), unavailable(ctx))
		}
	}},
	{"a call has no limit of five seconds", "PublishWithoutRoomEndsAfterFiveSeconds", func(l *faultyLayer) {
		l.publish = func(ctx context.Context, p layer.Publication) error {
			for {
				err := l.inside.Publish(ctx, p)
				if err == nil || ctx.Err() != nil {
					return err
				}
			}
		}
	}},
	{"a call does not end with its context", "CallsEndWithTheirContext", func(l *faultyLayer) {
		l.publish = func(ctx context.Context, p layer.Publication) error {
			return l.inside.Publish(context.WithoutCancel(ctx), p)
		}
	}},
	{"an error that does not wrap the context's", "CallsEndWithTheirContext", func(l *faultyLayer) {
		l.publish = func(ctx context.Context, p layer.Publication) error {
			if l.inside.Publish(ctx, p) != nil {
				return layer.ErrUnavailable
			}
			return nil
		}
	}},
	{"a publication that failed reaches those with room", "PublishThatFailedReachesNobody", func(l *faultyLayer) {
		var receivers []layer.Receiver
		attach := l.attach
		l.attach = func(hub string, r layer.Receiver) (layer.Subscription, error) {
			receivers = append(receivers, r)
			return attach(hub, r)
		}
		l.publish = func(ctx context.Context, p layer.Publication) error {
			err := l.inside.Publish(ctx, p)
			if err != nil {
				receivers[0].Deliver(p)
			}
			return err
		}
	}},
}

// unavailable returns ErrUnavailable if the context has ended.
func unavailable(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return errors.Join(layer.ErrUnavailable, ctx.Err())
}

var subscriptionFaults = []fault{
	{"Attach does not subscribe to the hub's own topic", "AttachSubscribesToTheHubsOwnTopic", func(l *faultyLayer) {
		l.subscribe(func(s *faultySubscription) { s.inside.Remove(s.hub) })
		l.subscribe(func(s *faultySubscription) {
			s.add = func(ctx context.Context, topics ...string) error {
				return s.inside.Add(ctx, slices.DeleteFunc(topics, func(topic string) bool { return topic == s.hub })...)
			}
		})
	}},
	{"Add returns before it is in force", "AddedMeansThatNothingLaterIsMissed", func(l *faultyLayer) {
		l.subscribe(func(s *faultySubscription) {
			s.add = func(ctx context.Context, topics ...string) error {
				time.AfterFunc(time.Millisecond, func() { s.inside.Add(ctx, topics...) })
				return nil
			}
		})
	}},
	{"Add delivers what was published before it", "PublishWithoutSubscribersIsNoError", func(l *faultyLayer) {
		last := make(map[string]layer.Publication)
		l.publish = func(ctx context.Context, p layer.Publication) error {
			last[p.Topic] = p
			return l.inside.Publish(ctx, p)
		}
		l.subscribe(func(s *faultySubscription) {
			s.add = func(ctx context.Context, topics ...string) error {
				err := s.inside.Add(ctx, topics...)
				for _, topic := range topics {
					if p, ok := last[topic]; ok {
						s.receiver.Deliver(p)
					}
				}
				return err
			}
		})
	}},
	{"Add takes a thousand topics at most", "AddTakesManyTopics", func(l *faultyLayer) {
		l.subscribe(func(s *faultySubscription) {
			s.add = func(ctx context.Context, topics ...string) error {
				return s.inside.Add(ctx, topics[:min(len(topics), 1000)]...)
			}
		})
	}},
	{"a topic that is added twice needs two removals", "AddTwiceIsTheSameAsOnce", func(l *faultyLayer) {
		l.subscribe(func(s *faultySubscription) {
			added := make(map[string]int)
			s.add = func(ctx context.Context, topics ...string) error {
				for _, topic := range topics {
					added[topic]++
				}
				return s.inside.Add(ctx, topics...)
			}
			s.remove = func(topics ...string) {
				for _, topic := range topics {
					if added[topic]--; added[topic] <= 0 {
						s.inside.Remove(topic)
					}
				}
			}
		})
	}},
	{"an Add that failed leaves a subscription", "AddThatFailedLeavesNothing", func(l *faultyLayer) {
		l.subscribe(func(s *faultySubscription) {
			s.add = func(ctx context.Context, topics ...string) error {
				return errors.Join(s.inside.Add(ctx, topics...), unavailable(ctx))
			}
		})
	}},
	{"a late Remove undoes the Add after it", "AddAfterRemoveWins", func(l *faultyLayer) {
		l.subscribe(func(s *faultySubscription) {
			var due []string
			s.remove = func(topics ...string) { due = topics }
			s.add = func(ctx context.Context, topics ...string) error {
				err := s.inside.Add(ctx, topics...)
				s.inside.Remove(due...)
				due = nil
				return err
			}
		})
	}},
	{"Remove does nothing", "RemoveEndsDeliverySoon", func(l *faultyLayer) {
		l.subscribe(func(s *faultySubscription) { s.remove = func(...string) {} })
	}},
	{"Up is true after Close", "UpWhilePublicationsArrive", func(l *faultyLayer) {
		l.subscribe(func(s *faultySubscription) { s.up = func() bool { return true } })
	}},
	{"a subscription delivers after Close", "SubscriptionThatIsClosedIsSilent", func(l *faultyLayer) {
		l.subscribe(func(s *faultySubscription) {
			s.close = func() error {
				time.AfterFunc(time.Second, func() { s.inside.Close() })
				return nil
			}
		})
	}},
}

var historyFaults = []fault{
	{"the history includes the number it should begin after", "HistoryBeginsAfterANumber", func(l *faultyLayer) {
		l.history = func(ctx context.Context, topic string, after uint64) (layer.History, error) {
			return l.inside.History(ctx, topic, max(after, 1)-1)
		}
	}},
	{"what is not kept is numbered, too", "KeptAndOthersOfOneSenderKeepTheirOrder", func(l *faultyLayer) {
		l.publish = func(ctx context.Context, p layer.Publication) error {
			p.Keep.Count, p.Keep.Life = max(p.Keep.Count, 1), max(p.Keep.Life, time.Minute)
			return l.inside.Publish(ctx, p)
		}
	}},
	{"a publication has another position in the history", "KeptPublicationsAreNumberedInTheirOrder", func(l *faultyLayer) {
		l.deliver(func(deliver func(layer.Publication), p layer.Publication) {
			if p.At.Number%7 == 0 {
				p.At.Number++
			}
			deliver(p)
		})
	}},
	{"fewer are kept than Count", "HistoryKeepsAsManyAsItWasTold", func(l *faultyLayer) {
		// It trims only now and then, but then to half of what it should keep.
		l.publish = func(ctx context.Context, p layer.Publication) error {
			return l.inside.Publish(ctx, p)
		}
		l.history = func(ctx context.Context, topic string, after uint64) (layer.History, error) {
			h, err := l.inside.History(ctx, topic, after)
			if n := int(h.Last % 8); len(h.Kept) > 5+n {
				h.Kept = h.Kept[len(h.Kept)-5-n:]
			}
			return h, err
		}
	}},
	{"Count is no limit", "HistoryKeepsAsManyAsItWasTold", func(l *faultyLayer) {
		l.publish = func(ctx context.Context, p layer.Publication) error {
			if p.Keep.Count > 0 {
				p.Keep.Count = 10_000
			}
			return l.inside.Publish(ctx, p)
		}
	}},
	{"Bytes is ignored", "HistoryIsBoundedInBytes", func(l *faultyLayer) {
		l.publish = func(ctx context.Context, p layer.Publication) error {
			p.Keep.Bytes = 0
			return l.inside.Publish(ctx, p)
		}
	}},
	{"Bytes is a limit of one publication", "HistoryIsBoundedInBytes", func(l *faultyLayer) {
		l.publish = func(ctx context.Context, p layer.Publication) error {
			if len(p.Payload) <= p.Keep.Bytes {
				p.Keep.Bytes = 0
			}
			return l.inside.Publish(ctx, p)
		}
	}},
	{"what is kept never ends", "HistoryEndsWithItsLifeAndTheNumbersGoOn", func(l *faultyLayer) {
		l.publish = func(ctx context.Context, p layer.Publication) error {
			p.Keep.Life = time.Hour
			return l.inside.Publish(ctx, p)
		}
	}},
	{"the count ends with what is kept", "HistoryEndsWithItsLifeAndTheNumbersGoOn", func(l *faultyLayer) {
		l.history = func(ctx context.Context, topic string, after uint64) (layer.History, error) {
			h, err := l.inside.History(ctx, topic, after)
			if len(h.Kept) == 0 {
				h = layer.History{}
			}
			for i := range h.Kept {
				h.Kept[i].At.Number -= h.Kept[0].At.Number - 1
			}
			h.Last = uint64(len(h.Kept))
			return h, err
		}
	}},
	{"Last is ahead of what is kept", "HistoryIsOneViewWhileOthersPublish", func(l *faultyLayer) {
		l.history = func(ctx context.Context, topic string, after uint64) (layer.History, error) {
			before, _ := l.inside.History(ctx, topic, after)
			time.Sleep(time.Microsecond)
			h, err := l.inside.History(ctx, topic, after)
			h.Kept = before.Kept
			return h, err
		}
		l.publish = func(ctx context.Context, p layer.Publication) error {
			time.Sleep(time.Microsecond)
			return l.inside.Publish(ctx, p)
		}
	}},
	{"the history's slice is the layer's own", "HistoryBelongsToItsCaller", func(l *faultyLayer) {
		var shared layer.History
		l.history = func(ctx context.Context, topic string, after uint64) (h layer.History, err error) {
			if shared.Last == 0 {
				shared, err = l.inside.History(ctx, topic, after)
			}
			return shared, err
		}
	}},
	{"Once is ignored", "PublishTakesAKeyOnce", func(l *faultyLayer) {
		l.publish = func(ctx context.Context, p layer.Publication) error {
			p.Keep.Once = ""
			return l.inside.Publish(ctx, p)
		}
	}},
	{"a key is remembered for all topics", "PublishTakesAKeyOnce", func(l *faultyLayer) {
		var mu sync.Mutex
		sent := make(map[string]bool)
		l.publish = func(ctx context.Context, p layer.Publication) error {
			mu.Lock()
			defer mu.Unlock()
			if key := p.Keep.Once; key != "" && sent[key] {
				return nil
			}
			sent[p.Keep.Once] = true
			return l.inside.Publish(ctx, p)
		}
	}},
	{"a key is remembered for two seconds", "AKeyIsRememberedForMinutes", func(l *faultyLayer) {
		l.publish = func(ctx context.Context, p layer.Publication) error {
			if p.Keep.Once != "" {
				p.Keep.Once += time.Now().Truncate(2 * time.Second).String()
			}
			return l.inside.Publish(ctx, p)
		}
	}},
	{"the epoch is the same everywhere", "NoTwoStoresHaveAnEpochInCommon", func(l *faultyLayer) {
		l.positions(func(at *layer.Position) { at.Epoch = "epoch" })
	}},
	{"the nonce is the same for all", "PositionsFitIntoAnID", func(l *faultyLayer) {
		l.positions(func(at *layer.Position) { at.Nonce = "nonce" })
	}},
	{"an epoch has a full stop", "PositionsFitIntoAnID", func(l *faultyLayer) {
		l.positions(func(at *layer.Position) { at.Epoch = "1.2" })
	}},
	{"an epoch is too long for an id", "PositionsFitIntoAnID", func(l *faultyLayer) {
		l.positions(func(at *layer.Position) { at.Epoch = strings.Repeat("e", 250) })
	}},
}

// positions changes the position of all that is kept.
func (l *faultyLayer) positions(change func(at *layer.Position)) {
	l.deliver(func(deliver func(layer.Publication), p layer.Publication) {
		if p.At != (layer.Position{}) {
			change(&p.At)
		}
		deliver(p)
	})
	history := l.history
	l.history = func(ctx context.Context, topic string, after uint64) (layer.History, error) {
		h, err := history(ctx, topic, after)
		for i := range h.Kept {
			change(&h.Kept[i].At)
			h.Epoch = h.Kept[i].At.Epoch
		}
		return h, err
	}
}

var leaseFaults = []fault{
	{"a lease that is not there is prolonged", "LeasesBelongToTheirTopicsAndHolders", func(l *faultyLayer) {
		l.lease = func(ctx context.Context, topic, holder string, value []byte, life time.Duration) (bool, error) {
			_, err := l.inside.Lease(ctx, topic, holder, value, life)
			return err == nil, err
		}
	}},
	{"the end of a lease that is not there is an error", "LeasesBelongToTheirTopicsAndHolders", func(l *faultyLayer) {
		l.lease = func(ctx context.Context, topic, holder string, value []byte, life time.Duration) (bool, error) {
			leases, _ := l.inside.Leases(ctx, topic)
			ok, err := l.inside.Lease(ctx, topic, holder, value, life)
			if _, held := leases[holder]; life == 0 && !held {
				ok = false
			}
			return ok, err
		}
	}},
	{"the topics have their leases in common", "LeasesBelongToTheirTopicsAndHolders", func(l *faultyLayer) {
		l.lease = func(ctx context.Context, _, holder string, value []byte, life time.Duration) (bool, error) {
			return l.inside.Lease(ctx, "all", holder, value, life)
		}
		l.leases = func(ctx context.Context, _ string) (map[string][]byte, error) { return l.inside.Leases(ctx, "all") }
	}},
	{"a lease never ends", "LeaseEndsUnlessItIsProlonged", func(l *faultyLayer) {
		l.lease = func(ctx context.Context, topic, holder string, value []byte, life time.Duration) (bool, error) {
			return l.inside.Lease(ctx, topic, holder, value, max(life, min(life, 1)*time.Hour))
		}
	}},
	{"a lease is not prolonged", "LeaseEndsUnlessItIsProlonged", func(l *faultyLayer) {
		l.lease = func(ctx context.Context, topic, holder string, value []byte, life time.Duration) (bool, error) {
			if value == nil && life > 0 {
				leases, err := l.inside.Leases(ctx, topic)
				_, ok := leases[holder]
				return ok, err
			}
			return l.inside.Lease(ctx, topic, holder, value, life)
		}
	}},
}

var queueFaults = []fault{
	{"messages come newest first", "QueueKeepsItsOrder", func(l *faultyLayer) {
		stacks := make(map[string][][]byte)
		l.appendTo = func(_ context.Context, queue string, message []byte) error {
			stacks[queue] = append(stacks[queue], bytes.Clone(message))
			return nil
		}
		l.take = func(_ context.Context, queue string) ([]byte, error) {
			last := len(stacks[queue]) - 1
			message := stacks[queue][last]
			stacks[queue] = stacks[queue][:last]
			return message, nil
		}
	}},
	{"a message is taken twice", "QueueGivesEachMessageToOneTaker", func(l *faultyLayer) {
		l.take = func(ctx context.Context, queue string) ([]byte, error) {
			message, err := l.inside.Take(ctx, queue)
			if string(message) == "17" {
				l.inside.Append(ctx, queue, message)
			}
			return message, err
		}
	}},
	{"a taker that waits is not woken", "QueueWakesATakerThatWaits", func(l *faultyLayer) {
		l.take = func(ctx context.Context, queue string) ([]byte, error) {
			return l.inside.Take(ctx, "nobody's "+queue)
		}
	}},
	{"a taker that waits polls every second", "QueueWakesATakerAtOnce", func(l *faultyLayer) {
		l.take = func(ctx context.Context, queue string) ([]byte, error) {
			message, err := l.inside.Take(ctx, queue)
			if err == nil {
				time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second)))
			}
			return message, err
		}
	}},
	{"a queue has no capacity", "QueueIsFullAtItsCapacity", func(l *faultyLayer) {
		l.appendTo = func(ctx context.Context, queue string, message []byte) error {
			if err := l.inside.Append(ctx, queue, message); !errors.Is(err, layer.ErrQueueFull) {
				return err
			}
			return nil
		}
	}},
	{"many that append at once exceed the capacity", "QueueHoldsNoMoreWhenManyAppend", func(l *faultyLayer) {
		var mu sync.Mutex
		length := make(map[string]int)
		l.appendTo = func(_ context.Context, queue string, _ []byte) error {
			mu.Lock()
			full := length[queue] >= 100
			mu.Unlock()
			time.Sleep(time.Microsecond) // between looking and adding
			if full {
				return layer.ErrQueueFull
			}
			mu.Lock()
			length[queue]++
			mu.Unlock()
			return nil
		}
	}},
	{"a taker that leaves takes a message with it", "QueueLosesNothingWhenATakerLeaves", func(l *faultyLayer) {
		l.take = func(ctx context.Context, queue string) ([]byte, error) {
			message, err := l.inside.Take(ctx, queue)
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			return message, err
		}
	}},
	{"the sender's message is kept", "QueueMessagesBelongToTheirOwners", func(l *faultyLayer) {
		var kept [][]byte
		l.appendTo = func(_ context.Context, _ string, message []byte) error {
			kept = append(kept, message)
			return nil
		}
		l.take = func(context.Context, string) ([]byte, error) {
			message := kept[0]
			kept = kept[1:]
			return message, nil
		}
	}},
}

var closeFaults = []fault{
	{"a Take that waits does not end with Close", "AfterCloseEverythingIsErrClosed", func(l *faultyLayer) {
		l.take = func(ctx context.Context, queue string) ([]byte, error) {
			message, err := l.inside.Take(ctx, queue)
			if errors.Is(err, layer.ErrClosed) {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return message, err
		}
	}},
	{"a second Close is no error", "AfterCloseEverythingIsErrClosed", func(l *faultyLayer) {
		l.close = func() error {
			l.inside.Close()
			return nil
		}
	}},
	{"Publish after Close does nothing and says nothing", "AfterCloseEverythingIsErrClosed", func(l *faultyLayer) {
		l.publish = func(ctx context.Context, p layer.Publication) error {
			if err := l.inside.Publish(ctx, p); !errors.Is(err, layer.ErrClosed) {
				return err
			}
			return nil
		}
	}},
	{"the first Close is an error", "EverythingAtOnce", func(l *faultyLayer) {
		l.close = func() error { return errors.Join(l.inside.Close(), errors.New("a goroutine is left")) }
	}},
}
