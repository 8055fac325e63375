package grouphub_test

import (
	"context"
	"testing"

	"github.com/seed-29c60982/grouphub"
	"github.com/seed-29c60982/grouphub/hubtest"
)

func TestMemoryLayer(t *testing.T) {
	hubtest.TestLayer(t, func(*testing.T) (a, b grouphub.Layer) {
		l := grouphub.NewMemoryLayer()
		return l, l
	})
}

func attach(t *testing.T, l grouphub.Layer, hub string, r grouphub.Receiver, topics ...string) grouphub.Subscription {
	t.Helper()
	s, err := l.Attach(hub, r)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Add(context.Background(), topics...); err != nil {
		t.Fatal(err)
	}
	return s
}

func publication(topic, payload string) grouphub.Publication {
	return grouphub.Publication{Topic: topic, Payload: []byte(payload)}
}
