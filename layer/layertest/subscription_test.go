package layertest

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/seed-29c60982/grouphub/layer"
)

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
