//go:build linux

package main

import (
	"fmt"
	"time"
)

// settleTimeout is how long events may take that are on their way when nothing more is sent.
const settleTimeout = 30 * time.Second

// complete waits until all clients have all that was sent to rooms with history, and to others.
func (f *fleet) complete() error {
	l, err := f.lacking(settleTimeout)
	if err == nil && len(l.Missing) > 0 {
		err = fmt.Errorf("%d events have not come, the first of them %+v", len(l.Missing), l.Missing[0])
	}
	return err
}

// A verdict is what has become of the events of a fleet.
type verdict struct {
	lost, doubled, told int
	resyncs             []int // how many clients have had how many
	rooms               map[int]RoomResyncs
}

// judge waits until all events have come, or are not going to.
func (f *fleet) judge(found Found) (v verdict, err error) {
	l, err := f.lacking(settleTimeout)
	if err != nil {
		return v, err
	}
	late, err := f.find()
	if err != nil {
		return v, err
	}
	v = verdict{doubled: found.Tally.Doubled + late.Tally.Doubled, told: found.Tally.Told + late.Tally.Told + l.Told, resyncs: l.Resyncs, rooms: l.Rooms}
	v.lost = len(l.Missing) + len(f.sure(found.Tally.Missing)) + len(f.sure(late.Tally.Missing))
	return v, nil
}
