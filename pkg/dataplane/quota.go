// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane/flowtable"
)

// quotas divide the flows of a host among its ENIs: half of them are guaranteed in equal shares, the other half and
// what nobody can use of its share is lent.
type quotas struct {
	facts HostFacts
	share uint32 // guaranteed to each ENI whose limit is not less
	pool  uint32 // that all ENIs may have together beyond what is guaranteed to each
}

func newQuotas(enis []compile.ENI, facts HostFacts) quotas {
	q := quotas{facts: facts, share: facts.MaxFlows / 2 / uint32(max(len(enis), 1)), pool: facts.MaxFlows}
	for i := range enis {
		q.pool -= min(q.limit(&enis[i]), q.share)
	}
	return q
}

// limit: no ENI gets more than the host has.
func (q quotas) limit(eni *compile.ENI) uint32 { return min(eni.MaxFlows, q.facts.MaxFlows) }

// halfOpen: those of one direction leave half of the ENI's flows to the others.
func (q quotas) halfOpen(eni *compile.ENI) uint32 {
	return min(q.facts.HalfOpen, max(q.limit(eni)/2, 1))
}

// SetRings tells programs, before they are loaded, how many places the rings in MapHalfOpen have.
func SetRings(spec *ebpf.CollectionSpec, halfOpen *ebpf.Map) error {
	if err := spec.Variables[bpfVarHalfOpenSlots].Set(flowtable.RingPlaces(halfOpen.MaxEntries())); err != nil {
		return fmt.Errorf("set the size of the rings of half-open flows: %w", err)
	}
	return nil
}

// ENIFlows is how many flows an ENI has, and how many it may have.
type ENIFlows struct {
	ENI        uint32 `json:"eni"` // index
	Flows      uint32 `json:"flows"`
	Limit      uint32 `json:"limit"`
	Guaranteed uint32 `json:"guaranteed"`
	HalfOpen   uint32 `json:"halfOpen"` // limit per opening direction
}

// FlowQuota is how the flows of a host are divided.
type FlowQuota struct {
	Flows    uint32     `json:"flows"`    // that count for an ENI
	Max      uint32     `json:"max"`      // --max-flows
	Borrowed uint32     `json:"borrowed"` // beyond what is guaranteed to the ENIs
	Pool     uint32     `json:"pool"`     // that can be borrowed
	ENIs     []ENIFlows `json:"enis"`     // by index
}

// AtLimit tells whether an ENI can open no more flows, and Near whether it has nine tenths of what it may have.
func (q *FlowQuota) AtLimit(e *ENIFlows) bool {
	return e.Flows >= e.Limit || e.Flows >= e.Guaranteed && q.Borrowed >= q.Pool
}

// Near tells whether an ENI has nine tenths of the flows that it may have.
func (e *ENIFlows) Near() bool { return uint64(e.Flows)*10 >= uint64(e.Limit)*9 }

// FlowQuota reads it. It needs no more than read access.
func (m *Maps) FlowQuota() (*FlowQuota, error) {
	_, slot, err := m.Active()
	if err != nil {
		return nil, err
	}
	q := &FlowQuota{}
	if q.Max, err = flowtable.MaxFlows(m.byName[MapFlowTables]); err != nil {
		return nil, err
	}
	borrowed, err := flowtable.ReadBorrowed(m.byName[MapFlowSweep])
	if err != nil {
		return nil, err
	}
	q.Borrowed = uint32(max(borrowed, 0))
	var host bpfHostConfs
	if err := m.byName[MapHost].Lookup(uint32(0), &host); err != nil {
		return nil, fmt.Errorf("read the host's configuration: %w", err)
	}
	share := host.V[slot].FlowShare
	q.Pool = host.V[slot].FlowPool
	usage, err := flowtable.ReadUsage(m.byName[MapFlowUsage])
	if err != nil {
		return nil, err
	}
	enis, err := ReadMap(m.byName[MapENIs])
	if err != nil {
		return nil, fmt.Errorf("read the ENIs: %w", err)
	}
	for _, entry := range enis {
		var index uint32
		var conf bpfEnis
		if err := fromBytes(&index, entry.Key); err != nil {
			return nil, err
		}
		if err := fromBytes(&conf, entry.Value); err != nil {
			return nil, err
		}
		half := &conf.V[slot]
		if half.Flags&cENIPresent == 0 {
			continue
		}
		e := ENIFlows{
			ENI: index, Flows: usage.Flows(index, half.Flows), Limit: half.MaxFlows,
			Guaranteed: min(half.MaxFlows, share), HalfOpen: half.HalfOpen,
		}
		q.Flows += e.Flows
		q.ENIs = append(q.ENIs, e)
	}
	return q, nil
}

// FlowsID reads from one half of an entry of MapENIs which flows are the ENI's.
func FlowsID(half []byte) (uint32, error) {
	var slots bpfEnis
	conf := &slots.V[0]
	err := fromBytes(conf, half)
	return conf.Flows, err
}
