package layertest

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"

	"github.com/seed-29c60982/grouphub/layer"
)

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
		l.lease = func(ctx context.Context, topic, holder string, change layer.LeaseChange) (bool, error) {
			return l.inside.Lease(ctx, topic[:min(len(topic), 255)], holder, change)
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
