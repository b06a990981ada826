// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
)

// Direction says which way a packet crosses an ENI's port, seen from the ENI.
type Direction uint8

// The directions, as in enum direction of bpf/types.h.
const (
	Out Direction = cDirOut
	In  Direction = cDirIn
)

// String returns "out" or "in".
func (d Direction) String() string {
	if d == Out {
		return "out"
	}
	return "in"
}

// MarshalText makes directions appear by name in JSON.
func (d Direction) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// Counter is what became of the packets of one ENI in one direction, summed over the CPUs.
// Reason CONTINUE counts all packets that came in.
type Counter struct {
	ENI       uint32    `json:"eni"` // index; 0 is the host itself
	Direction Direction `json:"direction"`
	Reason    Reason    `json:"reason"`
	Packets   uint64    `json:"packets"` // wire segments
	Bytes     uint64    `json:"bytes"`
}

// Counters calls fn with each counter of the given ENIs (indexes; none = all) that is not zero,
// sorted by ENI, direction and reason, until fn returns false.
func (m *Maps) Counters(fn func(Counter) bool, enis ...uint32) error {
	if len(enis) == 0 {
		return m.allCounters(fn)
	}
	enis = slices.Clone(enis)
	slices.Sort(enis)
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return fmt.Errorf("count the CPUs: %w", err)
	}
	values := make([]bpfCounter, cpus)
	for _, eni := range slices.Compact(enis) {
		for i := eni * perENI; i < (eni+1)*perENI; i++ {
			if err := m.byName[MapCounters].Lookup(i, &values); err != nil {
				return fmt.Errorf("read the counters of ENI %d: %w", eni, err)
			}
			if c := sum(i, values); (c.Packets != 0 || c.Bytes != 0) && !fn(c) {
				return nil
			}
		}
	}
	return nil
}

// perENI is the number of counters of one ENI.
const perENI = 2 * cMaxReasons

func (m *Maps) allCounters(fn func(Counter) bool) error {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return fmt.Errorf("count the CPUs: %w", err)
	}
	const batch = 8192
	keys := make([]uint32, batch)
	values := make([]bpfCounter, batch*cpus)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := m.byName[MapCounters].BatchLookup(&cursor, keys, values, nil)
		done := errors.Is(err, ebpf.ErrKeyNotExist)
		if err != nil && !done {
			return fmt.Errorf("read the counters: %w", err)
		}
		for i := range n {
			c := sum(keys[i], values[i*cpus:(i+1)*cpus])
			if (c.Packets != 0 || c.Bytes != 0) && !fn(c) {
				return nil
			}
		}
		if done {
			return nil
		}
	}
}

func sum(index uint32, values []bpfCounter) Counter {
	c := Counter{
		ENI:       index / perENI,
		Direction: Direction(index / cMaxReasons % 2),
		Reason:    Reason(index % cMaxReasons),
	}
	for i := range values {
		c.Packets += values[i].Packets
		c.Bytes += values[i].Bytes
	}
	return c
}

// ZeroCounters clears the counters of an ENI index, when another ENI takes it.
func (m *Maps) ZeroCounters(eni uint32) error {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return fmt.Errorf("count the CPUs: %w", err)
	}
	zero := make([]bpfCounter, cpus)
	for i := eni * perENI; i < (eni+1)*perENI; i++ {
		if err := m.byName[MapCounters].Put(i, zero); err != nil {
			return fmt.Errorf("clear the counters of ENI %d: %w", eni, err)
		}
	}
	return nil
}
