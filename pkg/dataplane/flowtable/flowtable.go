// SPDX-License-Identifier: Apache-2.0

// Package flowtable reads the flow table of bpf/flow.h through a memory mapping, without a system call per flow
// and without stopping traffic. It makes tables ready, lists and counts flows, and ends them.
package flowtable

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Family is the address family of a table, and its index in the map flow_tables.
type Family uint32

// The two families.
const (
	IPv4 Family = 0
	IPv6 Family = 1
)

// String returns the family as people write it.
func (f Family) String() string {
	if f == IPv6 {
		return "IPv6"
	}
	return "IPv4"
}

// Sets returns max_entries of a table that must hold so many flows: two thirds of its slots. At that fill an
// insert that finds no slot is expected less than once per million.
func Sets(maxFlows uint32) uint32 {
	return max(uint32(min(uint64(maxFlows)*3/(2*ways)+1, 1<<32-1)), 64)
}

// Prepare gives a table its random seed, unless it has one. It must run before the first packet and in every
// start of the agent: without a seed a table finds nothing and takes nothing. maxFlows is what it was made for.
func Prepare(tables, flows *ebpf.Map, family Family, maxFlows uint32) error {
	var have header
	if err := tables.Lookup(uint32(family), &have); err != nil {
		return fmt.Errorf("read the seed of the %s flow table: %w", family, err)
	}
	if have.Sets == flows.MaxEntries() {
		return nil
	}
	if have.Sets != 0 {
		return fmt.Errorf("the %s flow table has %d sets, its seed is for %d: the maps flow_tables and flows do "+
			"not belong together; remove both pins", family, flows.MaxEntries(), have.Sets)
	}
	fresh := header{Sets: flows.MaxEntries(), MaxFlows: maxFlows, Tagged: 1}
	var random [8 + 4*len(fresh.Words)]byte
	if _, err := rand.Read(random[:]); err != nil {
		return fmt.Errorf("draw a seed for the %s flow table: %w", family, err)
	}
	fresh.Seed = binary.LittleEndian.Uint64(random[:])
	for i := range fresh.Words {
		fresh.Words[i] = binary.LittleEndian.Uint32(random[8+4*i:])
	}
	if err := tables.Put(uint32(family), &fresh); err != nil {
		return fmt.Errorf("write the seed of the %s flow table: %w", family, err)
	}
	return nil
}

// MaxFlows returns for how many flows the tables were made, of both families together; 0 = they were not prepared.
func MaxFlows(tables *ebpf.Map) (uint32, error) {
	var have header
	if err := tables.Lookup(uint32(IPv4), &have); err != nil {
		return 0, fmt.Errorf("read the seed of the flow tables: %w", err)
	}
	return have.MaxFlows, nil
}

// Now returns the time on the flow clock: ticks of 2^28 ns since boot.
func Now() (uint32, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_COARSE, &ts); err != nil {
		return 0, fmt.Errorf("read the monotonic clock: %w", err)
	}
	return uint32(uint64(ts.Nano()) >> tickShift), nil
}

// Ticks returns a number of ticks as a duration.
func Ticks(n uint32) time.Duration { return time.Duration(n) << tickShift }

// Flow is one entry, copied at one moment.
type Flow struct {
	Scope      uint32 // VNI, or ENI index of a transit flow
	Class      uint8  // enum flow_class
	Local      netip.Addr
	Remote     netip.Addr
	LocalPort  uint16
	RemotePort uint16
	NAT        netip.Addr // EIP of the local address; the zero address if there is none

	ENI               uint32
	Incarnation       uint32
	Generation        uint32
	Nexthop           uint32
	NexthopGeneration uint32
	Rule              uint32
	State             uint8 // enum flow_state
	Flags             uint8 // enum flow_flag
	Reason            uint8
	Opened            uint32 // tick
	Expires           uint32 // tick
	Packets           [2]uint64
	Bytes             [2]uint64
	Seq               [2]uint16 // by direction of the sender; TCP: the upper half of its number, ICMP: the code of its request

	place place
}

// place is where a flow was found: what End needs to end that flow and no other.
type place struct {
	set, slot int
	version   uint32
}

// Table is a mapped flow table.
type Table struct {
	family Family
	memory []byte
	sets   int
	due    []byte // of the sweep; nil = open for reading
}

// ErrReadOnly is returned by End on a table that was opened for reading.
var ErrReadOnly = errors.New("the flow table is open for reading only")

// Open maps a table. With `due`, the map that tells the sweep when to look, it can end flows too.
func Open(flows, due *ebpf.Map, family Family) (*Table, error) {
	size := unsafe.Sizeof(set4{})
	if family == IPv6 {
		size = unsafe.Sizeof(set6{})
	}
	if uintptr(flows.ValueSize()) != size {
		return nil, fmt.Errorf("open the %s flow table: its sets have %d bytes, this program knows %d: "+
			"use the version of the agent that made it", family, flows.ValueSize(), size)
	}
	t := &Table{family: family, sets: int(flows.MaxEntries())}
	protection := unix.PROT_READ
	if due != nil {
		protection |= unix.PROT_WRITE
		if due.MaxEntries() != DueLines(flows.MaxEntries()) {
			return nil, fmt.Errorf("open the %s flow table: its %d sets do not belong to %d lines of the sweep",
				family, t.sets, due.MaxEntries())
		}
	}
	length := int(size) * t.sets
	var err error
	if t.memory, err = unix.Mmap(flows.FD(), 0, length, protection, unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("map the %s flow table: %w", family, err)
	}
	if due == nil {
		return t, nil
	}
	length = int(due.ValueSize()) * int(due.MaxEntries())
	if t.due, err = unix.Mmap(due.FD(), 0, length, protection, unix.MAP_SHARED); err != nil {
		return nil, errors.Join(fmt.Errorf("map the times of the %s flow table: %w", family, err), t.Close())
	}
	return t, nil
}

// Close ends the mapping. The table lives on.
func (t *Table) Close() error {
	var errs []error
	for _, memory := range [][]byte{t.memory, t.due} {
		if memory == nil {
			continue
		}
		if err := unix.Munmap(memory); err != nil {
			errs = append(errs, fmt.Errorf("unmap the %s flow table: %w", t.family, err))
		}
	}
	t.memory, t.due, t.sets = nil, nil, 0
	return errors.Join(errs...)
}

func (t *Table) line(set int) *line {
	return (*line)(unsafe.Pointer(&t.memory[set*t.setSize()]))
}

// setSize is how many bytes a set has.
func (t *Table) setSize() int {
	if t.family == IPv6 {
		return int(unsafe.Sizeof(set6{}))
	}
	return int(unsafe.Sizeof(set4{}))
}

// Slots returns how many flows the table holds at most.
func (t *Table) Slots() int { return t.sets * ways }

// Count returns the number of flows alive at `now`. It reads one cache line in 13 or 17.
func (t *Table) Count(now uint32) int {
	n := 0
	for set := range t.sets {
		l := t.line(set)
		for i := range l.Expires {
			if atomic.LoadUint32(&l.Expires[i]) > now {
				n++
			}
		}
	}
	return n
}

// Each calls fn with each flow alive at `now` until fn returns false. Each flow is whole; flows that come or go
// meanwhile may be missing.
func (t *Table) Each(now uint32, fn func(*Flow) bool) {
	var f Flow
	for set := range t.sets {
		l := t.line(set)
		for i := range l.Expires {
			expires := atomic.LoadUint32(&l.Expires[i])
			if expires <= now || !t.copy(set, i, &f) {
				continue
			}
			f.Expires = expires
			if !fn(&f) {
				return
			}
		}
	}
}

// A slot is rewritten within 100 ns, unless the CPU that does it is taken away meanwhile.
const (
	tries   = 200
	atOnce  = 100 // the first tries come without a pause
	tryWait = 100 * time.Microsecond
)

// copy reads a slot. False if it never stood still.
func (t *Table) copy(set, i int, f *Flow) bool {
	for n := range tries {
		if t.read(set, i, f) {
			return true
		}
		if n >= atOnce {
			time.Sleep(tryWait)
		}
	}
	return false
}

// read reads a slot. False if it was rewritten meanwhile.
func (t *Table) read(set, i int, f *Flow) bool {
	var before, after uint32
	if t.family == IPv6 {
		var s slot6
		slot := &(*set6)(unsafe.Pointer(t.line(set))).Slots[i]
		before, after, s = snapshot(&slot.Control, slot)
		f.fill(s.Key.ScopeClass, netip.AddrFrom16(s.Key.Local), netip.AddrFrom16(s.Key.Remote),
			s.Key.LocalPort, s.Key.RemotePort, netip.AddrFrom16(s.Nat), &s.Body)
		f.Seq = s.Seq
	} else {
		var s slot4
		slot := &(*set4)(unsafe.Pointer(t.line(set))).Slots[i]
		before, after, s = snapshot(&slot.Control, slot)
		f.fill(s.Key.ScopeClass, netip.AddrFrom4(s.Key.Local), netip.AddrFrom4(s.Key.Remote),
			s.Key.LocalPort, s.Key.RemotePort, netip.AddrFrom4(s.Nat), &s.Body)
		f.Seq = s.Seq
	}
	f.State = uint8(after >> stateShift & stateMask)
	f.Flags = uint8(after >> flagsShift & flagsMask)
	f.place = place{set: set, slot: i, version: after >> versionShift}
	return before&busy == 0 && before>>versionShift == after>>versionShift
}

// snapshot copies a slot between two reads of its control word. The addition to a variable of our own is there
// for arm64, where it keeps the copy before the second read; the mapping may be read-only, so it cannot be the
// control word that is added to.
func snapshot[T any](control *uint32, slot *T) (before, after uint32, c T) {
	var fence uint32
	before = atomic.LoadUint32(control)
	c = *slot
	atomic.AddUint32(&fence, 1)
	after = atomic.LoadUint32(control)
	return before, after, c
}

func (f *Flow) fill(scopeClass uint32, local, remote netip.Addr, lport, rport uint16, nat netip.Addr, b *body) {
	f.Scope, f.Class = scopeClass>>8, uint8(scopeClass)
	f.Local, f.Remote, f.LocalPort, f.RemotePort, f.NAT = local, remote, lport, rport, netip.Addr{}
	if !nat.IsUnspecified() {
		f.NAT = nat
	}
	f.ENI, f.Incarnation, f.Generation = b.Eni, b.Incarnation, b.Generation
	f.Nexthop, f.NexthopGeneration, f.Rule = b.Nexthop, b.NexthopGeneration, b.Rule
	f.Opened, f.Reason = b.Opened, b.Reason
	f.Packets, f.Bytes = b.Packets, b.Bytes
}

// End ends a flow that Each has shown: from now on it is not found, and after a second its slot is free and does not
// count any more. It reports false if the flow has ended or been rewritten meanwhile.
func (t *Table) End(f *Flow, now uint32) (bool, error) {
	if t.due == nil {
		return false, ErrReadOnly
	}
	l := t.line(f.place.set)
	control, expires := t.control(f.place), &l.Expires[f.place.slot]
	for {
		old := atomic.LoadUint32(control)
		if old>>versionShift != f.place.version || old&busy != 0 || atomic.LoadUint32(expires) <= now {
			return false, nil
		}
		// A new version first: packets that have found the flow already do not prolong it.
		if atomic.CompareAndSwapUint32(control, old, old+1<<versionShift) {
			atomic.StoreUint32(expires, now)
			t.hurry(f.place.set, now)
			return true, nil
		}
	}
}

// hurry tells the sweep of a deadline, after it was set.
func (t *Table) hurry(set int, deadline uint32) {
	due, tick := (*uint32)(unsafe.Pointer(&t.due[4*set])), deadline+grace
	for {
		old := atomic.LoadUint32(due)
		if old != 0 && old <= tick || atomic.CompareAndSwapUint32(due, old, tick) {
			return
		}
	}
}

func (t *Table) control(p place) *uint32 {
	if t.family == IPv6 {
		return &(*set6)(unsafe.Pointer(t.line(p.set))).Slots[p.slot].Control
	}
	return &(*set4)(unsafe.Pointer(t.line(p.set))).Slots[p.slot].Control
}
