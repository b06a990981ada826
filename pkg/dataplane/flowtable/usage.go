// SPDX-License-Identifier: Apache-2.0

package flowtable

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// MostFlows is the largest number of flows that a table can be made for: slots have numbers of 31 bits.
const MostFlows = 1 << 30

// maxENIs is MAX_ENIS: two rings of half-open flows each.
const maxENIs = 1024

// Places of a ring: a slot has 16 bits for its own.
const (
	fewestPlaces = 16
	mostPlaces   = 1 << 16
)

// DueLines returns max_entries of the map that tells the sweep when to look at so many sets.
func DueLines(sets uint32) uint32 { return (sets + dueSets - 1) / dueSets }

// HalfOpen returns how many half-open flows an ENI may have per opening direction on a host of so many flows.
func HalfOpen(maxFlows uint32) uint32 { return min(max(maxFlows/256, fewestPlaces), mostPlaces) }

// RingEntries returns max_entries of the map half_open for rings of so many places.
func RingEntries(halfOpen uint32) uint32 { return 2 * maxENIs * halfOpen }

// RingPlaces is the reverse of RingEntries.
func RingPlaces(entries uint32) uint32 { return entries / (2 * maxENIs) }

// Usage is how many flows the ENIs have.
type Usage struct {
	all []usage
}

// ReadUsage reads the numbers of all ENIs.
func ReadUsage(m *ebpf.Map) (*Usage, error) {
	u := &Usage{all: make([]usage, m.MaxEntries())}
	keys := make([]uint32, len(u.all))
	var cursor ebpf.MapBatchCursor
	n, err := m.BatchLookup(&cursor, keys, u.all, nil)
	if n != len(u.all) {
		return nil, fmt.Errorf("read how many flows the ENIs have: got %d of %d: %w", n, len(u.all), err)
	}
	return u, nil
}

// Flows returns how many an ENI has under its present flows id.
func (u *Usage) Flows(eni, flows uint32) uint32 {
	var n uint32
	for _, held := range u.all[eni].Held {
		if uint32(held>>32) == flows {
			n += uint32(held)
		}
	}
	return n
}

// Guaranteed returns what the programs knew last of the share of an ENI.
func (u *Usage) Guaranteed(eni uint32) uint32 { return u.all[eni].Guaranteed }

// Sweep is what the sweep and user space tell each other.
type Sweep struct {
	memory []byte
	state  *sweepState
}

// OpenSweep maps it.
func OpenSweep(m *ebpf.Map) (*Sweep, error) {
	memory, err := unix.Mmap(m.FD(), 0, int(m.ValueSize()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map the state of the sweep: %w", err)
	}
	return &Sweep{memory: memory, state: (*sweepState)(unsafe.Pointer(&memory[0]))}, nil
}

// Close ends the mapping.
func (s *Sweep) Close() error {
	s.state = nil
	if err := unix.Munmap(s.memory); err != nil {
		return fmt.Errorf("unmap the state of the sweep: %w", err)
	}
	return nil
}

// Ask wants a pass over everything, which ends the flows that are nobody's and makes the numbers right. It returns
// what Answered is given to know that it has been.
func (s *Sweep) Ask() uint32 { return atomic.AddUint32(&s.state.Asked, 1) }

// Answered tells whether what was asked for has been done.
func (s *Sweep) Answered(asked uint32) bool {
	return int32(atomic.LoadUint32(&s.state.Done)-asked) >= 0
}

// Passes returns how often the sweep has come by, Turns in how many turns.
func (s *Sweep) Passes() uint32 { return atomic.LoadUint32(&s.state.Passes) }

// Turns is the number of calls of the sweep.
func (s *Sweep) Turns() uint32 { return atomic.LoadUint32(&s.state.Turns) }

// Borrowed returns how many flows all ENIs have beyond what is guaranteed to each.
func (s *Sweep) Borrowed() int64 { return atomic.LoadInt64(&s.state.Borrowed) }

// ReadBorrowed is Borrowed from a map that is open for reading only.
func ReadBorrowed(m *ebpf.Map) (int64, error) {
	var s sweepState
	if err := m.Lookup(uint32(0), &s); err != nil {
		return 0, fmt.Errorf("read the state of the sweep: %w", err)
	}
	return s.Borrowed, nil
}
