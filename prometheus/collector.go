// Package prometheus shows what a grouphub.Hub counts to Prometheus.
//
//	registry.MustRegister(prometheus.NewCollector(hub, nil))
//
// It is a module of its own, so that programs without Prometheus do not depend on its client.
package prometheus

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/seed-29c60982/grouphub"
)

// A metric is one number of a hub's Stats.
type metric struct {
	name, help string
	kind       prometheus.ValueType
	value      func(grouphub.Stats) float64
}

var metrics = []metric{
	{"connections", "Connections that are open, event streams included.", prometheus.GaugeValue,
		func(s grouphub.Stats) float64 { return float64(s.Conns) }},
	{"streams", "Connections that are open event streams.", prometheus.GaugeValue,
		func(s grouphub.Stats) float64 { return float64(s.Streams) }},
	{"groups", "Groups that have members on this hub.", prometheus.GaugeValue,
		func(s grouphub.Stats) float64 { return float64(s.Groups) }},
	{"layer_up", "Whether events from other hubs arrive: 1, or 0 while the layer is away.", prometheus.GaugeValue,
		func(s grouphub.Stats) float64 {
			if s.LayerUp {
				return 1
			}
			return 0
		}},
	{"connections_accepted_total", "Connections that were made.", prometheus.CounterValue,
		func(s grouphub.Stats) float64 { return float64(s.Accepted) }},
	{"connections_rejected_total", "Requests that were refused, for connections and messages of streams.", prometheus.CounterValue,
		func(s grouphub.Stats) float64 { return float64(s.Rejected) }},
	{"connections_slow_closed_total", "Connections that were closed because they could not keep up.", prometheus.CounterValue,
		func(s grouphub.Stats) float64 { return float64(s.SlowClosed) }},
	{"messages_received_total", "Messages that clients sent.", prometheus.CounterValue,
		func(s grouphub.Stats) float64 { return float64(s.Received) }},
	{"events_published_total", "Events of this hub that the layer accepted.", prometheus.CounterValue,
		func(s grouphub.Stats) float64 { return float64(s.Published) }},
	{"events_delivered_total", "Frames that were queued to connections.", prometheus.CounterValue,
		func(s grouphub.Stats) float64 { return float64(s.Delivered) }},
	{"events_dropped_total", "Frames and events that did not reach a connection that should have had them, and payloads that made no sense.", prometheus.CounterValue,
		func(s grouphub.Stats) float64 { return float64(s.Dropped) }},
	{"events_superseded_total", "Events that a later one with the same Latest key has replaced before they were sent.", prometheus.CounterValue,
		func(s grouphub.Stats) float64 { return float64(s.Superseded) }},
	{"events_recovered_total", "Events that were missed, and found in a group's history.", prometheus.CounterValue,
		func(s grouphub.Stats) float64 { return float64(s.Recovered) }},
	{"events_unhandled_total", "Events that a connection's consumer has no handler for.", prometheus.CounterValue,
		func(s grouphub.Stats) float64 { return float64(s.Unhandled) }},
	{"resyncs_total", "Connections that were told that they may have missed events of a group.", prometheus.CounterValue,
		func(s grouphub.Stats) float64 { return float64(s.Resyncs) }},
	{"policy_mismatches_total", "Events without a number in groups that this hub keeps history of: a process has another Policy.", prometheus.CounterValue,
		func(s grouphub.Stats) float64 { return float64(s.PolicyMismatch) }},
}

// A collector shows the Stats of one hub, as of the moment of a scrape.
type collector struct {
	hub          *grouphub.Hub
	descriptions []*prometheus.Desc // as metrics
}

// NewCollector returns a collector of the hub's Stats, whose names begin with grouphub_. The
// labels are on each of them; nil is none. Hubs that are registered in one registry need
// labels that differ: {"hub": "chat"}, say. The collector goes on showing a hub that is shut
// down, until it is unregistered.
func NewCollector(hub *grouphub.Hub, labels prometheus.Labels) prometheus.Collector {
	c := &collector{hub: hub}
	for _, m := range metrics {
		c.descriptions = append(c.descriptions, prometheus.NewDesc("grouphub_"+m.name, m.help, nil, labels))
	}
	return c
}

// Describe implements [prometheus.Collector].
func (c *collector) Describe(descriptions chan<- *prometheus.Desc) {
	for _, d := range c.descriptions {
		descriptions <- d
	}
}

// Collect implements [prometheus.Collector].
func (c *collector) Collect(values chan<- prometheus.Metric) {
	stats := c.hub.Stats()
	for i, m := range metrics {
		values <- prometheus.MustNewConstMetric(c.descriptions[i], m.kind, m.value(stats))
	}
}
