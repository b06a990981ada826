// SPDX-License-Identifier: Apache-2.0

package top

import (
	"net/netip"
	"testing"
	"time"

	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane"
)

// fakeHost is a host with two ENIs, whose counters a test changes between looks.
type fakeHost struct {
	counters map[counterKey]amount
	flows    []dataplane.Flow
	hits     map[uint32]uint64
	gone     bool // ENI 2
	failed   error
	now      time.Time
	tick     uint32
}

func newFakeHost() *fakeHost {
	return &fakeHost{
		counters: map[counterKey]amount{}, hits: map[uint32]uint64{}, tick: 100, now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}
}

var names = compile.Names{ENIs: map[uint32]string{1: "web-0", 2: "db-0"}}

func (h *fakeHost) sampler() *Sampler {
	return &Sampler{now: func() time.Time { return h.now }, tick: func() (uint32, error) { return h.tick, nil }}
}

func (h *fakeHost) look(t *testing.T, s *Sampler, watch uint32) *View {
	t.Helper()
	v, err := s.Look(h, names, watch)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func (h *fakeHost) pass(d time.Duration, ticks uint32) { h.now, h.tick = h.now.Add(d), h.tick+ticks }

func (h *fakeHost) count(eni uint32, d dataplane.Direction, r dataplane.Reason, packets, bytes uint64) {
	a := h.counters[counterKey{eni, d, r}]
	h.counters[counterKey{eni, d, r}] = amount{a.packets + packets, a.bytes + bytes}
}

func (h *fakeHost) Counters(fn func(dataplane.Counter) bool, _ ...uint32) error {
	for k, a := range h.counters {
		fn(dataplane.Counter{ENI: k.eni, Direction: k.direction, Reason: k.reason, Packets: a.packets, Bytes: a.bytes})
	}
	return h.failed
}

func (h *fakeHost) Flows(fn func(dataplane.Flow) bool) error {
	for _, f := range h.flows {
		fn(f)
	}
	return nil
}

func (h *fakeHost) FlowQuota() (*dataplane.FlowQuota, error) {
	q := &dataplane.FlowQuota{Flows: uint32(len(h.flows)), Max: 1000, ENIs: []dataplane.ENIFlows{{ENI: 1, Flows: 7, Limit: 50}}}
	if !h.gone {
		q.ENIs = append(q.ENIs, dataplane.ENIFlows{ENI: 2, Flows: 9, Limit: 50})
	}
	return q, nil
}

func (h *fakeHost) RuleHits(id uint32) (uint64, error) { return h.hits[id], nil }

func flow(eni uint32, port uint16, age time.Duration) dataplane.Flow {
	return dataplane.Flow{
		ENI: eni, Protocol: "tcp", State: "established", Origin: "vpc", Age: age, Rule: 5,
		Local:  netip.AddrPortFrom(netip.MustParseAddr("10.0.1.10"), 443),
		Remote: netip.AddrPortFrom(netip.MustParseAddr("10.0.2.10"), port),
	}
}
