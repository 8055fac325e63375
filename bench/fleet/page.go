//go:build linux

package main

import (
	"encoding/json"
	"fmt"
)

// A page shows a dashboard to a client.
type page struct {
	values []uint32
	resume string // id of the last event, or of the position after a Join
	shown  bool   // it is up to date: it has had a snapshot or what it had missed, since the client is connected
}

// hear takes a message of the dashboard.
func (p *page) hear(message []byte) error {
	var m struct {
		Type, ID string
		Data     json.RawMessage
	}
	if err := json.Unmarshal(message, &m); err != nil {
		return fmt.Errorf("a page got %.80q: %w", message, err)
	}
	if m.ID != "" {
		p.resume = m.ID
	}
	switch m.Type {
	case "snapshot":
		p.values, p.shown = p.values[:0], true
		return json.Unmarshal(m.Data, &p.values)
	case "grouphub.position":
		p.shown = true
		return nil
	case "value":
		var change [2]uint32
		if err := json.Unmarshal(m.Data, &change); err != nil {
			return err
		}
		if int(change[0]) < len(p.values) {
			p.values[change[0]] = change[1]
			return nil
		}
	}
	return fmt.Errorf("a page with %d values got %.80q", len(p.values), message)
}

// behind reports whether the page shows less than the dashboard had.
func (p *page) behind(values []uint32) bool {
	for key, value := range values {
		if key >= len(p.values) || p.values[key] < value {
			return true
		}
	}
	return false
}
