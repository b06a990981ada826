// SPDX-License-Identifier: Apache-2.0

// Package metrics shows the dataplane of one host to Prometheus. The collector reads the live maps
// at scrape time and keeps no copy of them. Labels are bounded: none of them is an ENI, an address
// or anything else that a tenant can multiply.
package metrics

import (
	"fmt"
	"maps"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/eniplane/eniplane/pkg/dataplane"
)

// Maps is what the collector reads of *dataplane.Maps.
type Maps interface {
	Counters(fn func(dataplane.Counter) bool, enis ...uint32) error
	Usage(fn func(Usage) bool) error
	FlowQuota() (*dataplane.FlowQuota, error)
}

// Snapshot is what the agent knows and the maps do not say.
type Snapshot struct {
	Revision    uint64 // in force
	FeedAge     float64
	ApplyErrors uint64
	ENIs        map[string]int // by state
	CapDrops    [2]uint64      // packets lost behind caps in Mbit/s, by direction
}

// Collector implements prometheus.Collector.
type Collector struct {
	maps     Maps
	snapshot func() Snapshot
	build    Build
}

// NewCollector returns a collector over the maps of a host and the agent's own knowledge.
func NewCollector(m Maps, snapshot func() Snapshot, build Build) *Collector {
	return &Collector{maps: m, snapshot: snapshot, build: build}
}

// descs are the descriptions of all series. Made anew for each scrape: they cost little, and nothing is global.
type descs struct {
	packets, bytes, dropPackets, dropBytes      *prometheus.Desc
	flows, mapEntries, mapMax                   *prometheus.Desc
	counted, maxFlows, borrowed, pool, atLimit  *prometheus.Desc
	revision, feedAge, applyErrors, enis, build *prometheus.Desc
	capDrops, reasons                           *prometheus.Desc
}

func newDescs() descs {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	return descs{
		packets: d("eni_packets_total",
			"Packets (wire segments) that crossed the ports of ENIs, by direction seen from the ENI and by what became of them.",
			"direction", "verdict"),
		bytes:       d("eni_bytes_total", "Bytes of the same packets, layer 2.", "direction", "verdict"),
		dropPackets: d("eni_drop_packets_total", "Dropped packets by reason.", "reason", "direction"),
		dropBytes:   d("eni_drop_bytes_total", "Bytes of dropped packets by reason.", "reason", "direction"),
		flows:       d("eni_flows", "Live flows by address family.", "family"),
		counted:     d("eni_flows_counted", "Flows that count for an ENI of this host."),
		maxFlows:    d("eni_flows_limit", "Flows that all ENIs of this host may have together."),
		borrowed:    d("eni_flows_borrowed", "Flows of ENIs beyond what is guaranteed to each."),
		pool:        d("eni_flows_borrowable", "Flows that ENIs may have together beyond what is guaranteed to each."),
		atLimit:     d("eni_enis_at_flow_limit", "ENIs that can open no more flows."),
		mapEntries:  d("eni_map_entries", "Entries of a BPF map.", "map"),
		mapMax:      d("eni_map_max_entries", "Entries that a BPF map can hold.", "map"),
		revision:    d("eni_feed_revision", "Revision of the feed in force; 0 = none."),
		feedAge:     d("eni_feed_age_seconds", "How long the feed has given nothing usable."),
		applyErrors: d("eni_apply_errors_total", "Revisions and repairs that failed since the agent started."),
		capDrops: d("eni_cap_drop_packets_total",
			"Packets lost behind caps in Mbit/s, as queued: one that stands for several on the wire counts once. Begins anew with a queue.", "direction"),
		reasons: d("eni_drop_reason_info", "Always 1: of what kind the reason of a drop is (policy, sender, limit, fault), and at which stage it arises.",
			"reason", "kind", "stage"),
		enis: d("eni_enis", "ENIs of this host by state.", "state"),
		build: d("eni_program_info", "Always 1: what is loaded, by agent version, hash of the BPF object, and kernel.",
			"version", "hash", "kernel"),
	}
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	d := newDescs()
	for _, desc := range []*prometheus.Desc{
		d.packets, d.bytes, d.dropPackets, d.dropBytes, d.flows, d.mapEntries, d.mapMax,
		d.counted, d.maxFlows, d.borrowed, d.pool, d.atLimit,
		d.revision, d.feedAge, d.applyErrors, d.enis, d.build, d.capDrops, d.reasons,
	} {
		ch <- desc
	}
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	d := newDescs()
	c.collectAgent(d, ch)
	c.collectCounters(d, ch)
	c.collectUsage(d, ch)
	c.collectQuota(d, ch)
}

func (c *Collector) collectQuota(d descs, ch chan<- prometheus.Metric) {
	q, err := c.maps.FlowQuota()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(d.counted, fmt.Errorf("read the flows of the ENIs: %w", err))
		return
	}
	atLimit := 0
	for i := range q.ENIs {
		if q.AtLimit(&q.ENIs[i]) {
			atLimit++
		}
	}
	for desc, v := range map[*prometheus.Desc]float64{
		d.counted: float64(q.Flows), d.maxFlows: float64(q.Max), d.borrowed: float64(q.Borrowed),
		d.pool: float64(q.Pool), d.atLimit: float64(atLimit),
	} {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, v)
	}
}

func (c *Collector) collectAgent(d descs, ch chan<- prometheus.Metric) {
	s := c.snapshot()
	gauge := func(desc *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, v, labels...)
	}
	gauge(d.revision, float64(s.Revision))
	gauge(d.feedAge, s.FeedAge)
	gauge(d.build, 1, c.build.Version, c.build.Hash, c.build.Kernel)
	for _, r := range dataplane.Reasons() {
		if x := r.Explain(); r.IsDrop() {
			gauge(d.reasons, 1, r.String(), x.Kind, x.Stage)
		}
	}
	for _, state := range slices.Sorted(maps.Keys(s.ENIs)) {
		gauge(d.enis, float64(s.ENIs[state]), state)
	}
	for dir, n := range s.CapDrops {
		ch <- prometheus.MustNewConstMetric(d.capDrops, prometheus.CounterValue, float64(n), dataplane.Direction(dir).String())
	}
	ch <- prometheus.MustNewConstMetric(d.applyErrors, prometheus.CounterValue, float64(s.ApplyErrors))
}

// sum adds up the ENIs' counters: per direction and reason.
type sum [2]map[dataplane.Reason]dataplane.Counter

func (c *Collector) collectCounters(d descs, ch chan<- prometheus.Metric) {
	total := sum{{}, {}}
	err := c.maps.Counters(func(x dataplane.Counter) bool {
		t := total[x.Direction&1][x.Reason]
		t.Packets += x.Packets
		t.Bytes += x.Bytes
		total[x.Direction&1][x.Reason] = t
		return true
	})
	if err != nil {
		ch <- prometheus.NewInvalidMetric(d.packets, fmt.Errorf("read the counters: %w", err))
		return
	}
	for _, dir := range []dataplane.Direction{dataplane.Out, dataplane.In} {
		total.send(d, ch, dir)
	}
}

// send emits one direction. Series of zero are emitted too, so that a rate exists from the first drop on.
func (s sum) send(d descs, ch chan<- prometheus.Metric, dir dataplane.Direction) {
	counter := func(desc *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(v), labels...)
	}
	var dropped dataplane.Counter
	for _, r := range dataplane.Reasons() {
		n := s[dir][r]
		switch {
		case r.IsDrop():
			dropped.Packets += n.Packets
			dropped.Bytes += n.Bytes
			counter(d.dropPackets, n.Packets, r.String(), dir.String())
			counter(d.dropBytes, n.Bytes, r.String(), dir.String())
		case r != dataplane.ReasonNotOurs: // which is never counted
			counter(d.packets, n.Packets, dir.String(), verdict(r))
			counter(d.bytes, n.Bytes, dir.String(), verdict(r))
		}
	}
	counter(d.packets, dropped.Packets, dir.String(), "dropped")
	counter(d.bytes, dropped.Bytes, dir.String(), "dropped")
}

// verdict is the label of what is not a drop.
func verdict(r dataplane.Reason) string {
	switch r {
	case dataplane.ReasonContinue:
		return "received"
	case dataplane.ReasonDelivered:
		return "delivered"
	case dataplane.ReasonRedirected:
		return "redirected"
	case dataplane.ReasonAnswered:
		return "answered"
	case dataplane.ReasonConsumed:
		return "consumed"
	}
	return "other"
}

func (c *Collector) collectUsage(d descs, ch chan<- prometheus.Metric) {
	err := c.maps.Usage(func(u Usage) bool {
		gauge := func(desc *prometheus.Desc, v uint64, label string) {
			ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(v), label)
		}
		gauge(d.mapEntries, u.Entries, u.Map)
		gauge(d.mapMax, u.MaxEntries, u.Map)
		switch u.Map {
		case "flows4":
			gauge(d.flows, u.Entries, "ipv4")
		case "flows6":
			gauge(d.flows, u.Entries, "ipv6")
		}
		return true
	})
	if err != nil {
		ch <- prometheus.NewInvalidMetric(d.mapEntries, fmt.Errorf("count map entries: %w", err))
	}
}
