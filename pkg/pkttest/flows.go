// SPDX-License-Identifier: Apache-2.0

package pkttest

import (
	"fmt"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/dataplane/flowtable"
)

// flows lists the flows that are alive after this time, by the names of their ENIs.
func (w *World) flows(later time.Duration) ([]Flow, error) {
	now, err := flowtable.Now()
	if err != nil {
		return nil, err
	}
	now += uint32(later / flowtable.Ticks(1))
	var flows []Flow
	for name, family := range flowMaps() {
		table, err := flowtable.Open(w.coll.Maps[name], nil, family)
		if err != nil {
			return nil, err
		}
		table.Each(now, func(f *flowtable.Flow) bool {
			flows = append(flows, w.describe(f))
			return true
		})
		if err := table.Close(); err != nil {
			return nil, err
		}
	}
	return flows, nil
}

// describe turns an entry into what rows say of it: enum flow_state, flow_flag and flow_class of
// bpf/types.h.
func (w *World) describe(f *flowtable.Flow) Flow {
	const openedByPeer, answered, refused, internet, opening, closing = 1, 1 << 6, 1 << 7, 8, 1, 3
	flow := Flow{ENI: w.nameOf(f.ENI), State: fmt.Sprint(f.State), Opener: dataplane.Out, Origin: "vpc"}
	if states := []string{"none", "opening", "established", "closing", "blocked"}; int(f.State) < len(states) {
		flow.State = states[f.State]
	}
	switch {
	case f.State == opening && f.Flags&answered != 0:
		flow.State += ", answered"
	case f.State == closing && f.Flags&refused != 0:
		flow.State += ", refused"
	}
	if f.Flags&openedByPeer != 0 {
		flow.Opener = dataplane.In
	}
	if f.Class&internet != 0 {
		flow.Origin = "internet"
	}
	return flow
}

// flowTablesMap holds the seeds of both tables.
const flowTablesMap = "flow_tables"

// testSets makes small flow tables, which are quick to clear.
const testSets = 64

// prepareFlows makes the empty flow tables usable, as the agent does.
func (w *World) prepareFlows() error {
	tables := w.coll.Maps[flowTablesMap]
	for name, family := range flowMaps() {
		if err := flowtable.Prepare(tables, w.coll.Maps[name], family, MaxFlows); err != nil {
			return fmt.Errorf("prepare %s: %w", name, err)
		}
	}
	return nil
}

func flowMaps() map[string]flowtable.Family {
	return map[string]flowtable.Family{dataplane.MapFlows4: flowtable.IPv4, dataplane.MapFlows6: flowtable.IPv6}
}

// CloseFlowTables makes the tables refuse every flow, as before they are prepared.
func (w *World) CloseFlowTables() error {
	return clearMap(w.coll.Maps[flowTablesMap])
}

// lockOffset is where struct flow_line of bpf/flow_layout.h has its lock.
const lockOffset = 40

// LockFlowTables holds the locks of all sets, as an insert on another CPU would.
func (w *World) LockFlowTables() error {
	for name := range flowMaps() {
		m := w.coll.Maps[name]
		set := make([]byte, m.ValueSize())
		set[lockOffset] = 1
		for i := range m.MaxEntries() {
			if err := m.Put(i, set); err != nil {
				return fmt.Errorf("lock set %d of %s: %w", i, name, err)
			}
		}
	}
	return nil
}

// MaxFlows is for how many flows the hosts of the tests are made: more than any has room for.
const MaxFlows = 1 << 20

// testPlaces is the size of the rings of half-open flows.
const testPlaces = 64

// sizeFlows makes all that belongs to flow tables of so many sets.
func sizeFlows(spec *ebpf.CollectionSpec, sets uint32) error {
	for name := range flowMaps() {
		spec.Maps[name].MaxEntries = sets
	}
	for _, name := range []string{dataplane.MapFlowTags4, dataplane.MapFlowTags6} {
		spec.Maps[name].MaxEntries = sets
	}
	for _, name := range []string{dataplane.MapFlowDue4, dataplane.MapFlowDue6} {
		spec.Maps[name].MaxEntries = flowtable.DueLines(sets)
	}
	spec.Maps[dataplane.MapHalfOpen].MaxEntries = flowtable.RingEntries(testPlaces)
	return spec.Variables[dataplane.KnobHalfOpen].Set(uint32(testPlaces))
}

// Sweep runs a whole pass of the sweep as it would be after this time; a full one looks at everything.
func (w *World) Sweep(later time.Duration, full bool) error {
	if err := w.unit.give(nil, w.base.Host.VTEP, later); err != nil {
		return err
	}
	return sweep(w.coll, full)
}

func sweep(coll *ebpf.Collection, full bool) error {
	if full {
		state, err := flowtable.OpenSweep(coll.Maps[dataplane.MapFlowSweep])
		if err != nil {
			return err
		}
		state.Ask()
		if err := state.Close(); err != nil {
			return err
		}
	}
	code, err := coll.Programs[dataplane.SweepAll].Run(&ebpf.RunOptions{Data: make([]byte, 14)})
	if err != nil || code != 1 {
		return fmt.Errorf("sweep the flow tables: code %d: %w", code, err)
	}
	return nil
}

// flowMemory lists the maps that know of flows.
func flowMemory() []string {
	return []string{
		dataplane.MapFlows4, dataplane.MapFlows6, dataplane.MapFlowDue4, dataplane.MapFlowDue6,
		dataplane.MapFlowTags4, dataplane.MapFlowTags6, dataplane.MapFlowUsage, dataplane.MapFlowSweep,
	}
}

// clearFlows ends all flows, so that rows do not meet.
func (w *World) clearFlows() error {
	for _, name := range flowMemory() {
		if err := clearMap(w.coll.Maps[name]); err != nil {
			return fmt.Errorf("clear %s: %w", name, err)
		}
	}
	return w.prepareFlows()
}

// fragmentsMap follows fragments; FRAGMENTS of bpf/fragment.h is how many of each ENI.
const (
	fragmentsMap    = "fragments"
	fragmentsPerENI = 64
)

// clearFragments forgets the first fragments that all ENIs have sent and received.
func (w *World) clearFragments() error {
	m := w.coll.Maps[fragmentsMap]
	zero := make([]byte, m.ValueSize())
	for i := range (w.lastENI + 1) * fragmentsPerENI {
		if err := m.Put(i, zero); err != nil {
			return fmt.Errorf("clear fragment %d: %w", i, err)
		}
	}
	return nil
}

// turnsMap counts how often flows are judged again.
const turnsMap = "judge_turns"

// answersMap counts how often packets that are too big are answered.
const answersMap = "answer_turns"

// clearTurns forgets how often flows were judged again, and packets answered.
func (w *World) clearTurns() error {
	for i := range w.lastENI + 1 {
		for _, err := range []error{
			w.coll.Maps[turnsMap].Put(i, uint64(0)), w.coll.Maps[answersMap].Put(2*i, uint64(0)), w.coll.Maps[answersMap].Put(2*i+1, uint64(0)),
		} {
			if err != nil {
				return fmt.Errorf("clear turn %d: %w", i, err)
			}
		}
	}
	return nil
}

// ratesMap has how much ENIs may still send and receive in a moment.
const ratesMap = "rates"

// clearRates makes the ENIs up to an index begin anew.
func clearRates(m *ebpf.Map, enis uint32) error {
	zero := make([]byte, m.ValueSize())
	for i := range enis {
		if err := m.Put(i, zero); err != nil {
			return fmt.Errorf("clear rates %d: %w", i, err)
		}
	}
	return nil
}

// Owe makes an ENI have taken so much more packets and new flows than it may in a second, that it takes this long until
// it may again.
func (w *World) Owe(eni string, debt time.Duration) error {
	e, err := w.ENI(eni)
	if err != nil {
		return err
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_COARSE, &now); err != nil {
		return fmt.Errorf("read the monotonic clock: %w", err)
	}
	m := w.coll.Maps[ratesMap]
	var buckets []byte
	for _, rate := range []uint32{e.Packets, e.NewFlows} {
		buckets = append(buckets, u64(uint64(now.Nano()+int64(debt))*16)...)
		buckets = append(buckets, slices.Concat(u32(rate), u32(e.Incarnation))...)
	}
	return m.Put(e.Index, append(buckets, make([]byte, int(m.ValueSize())-len(buckets))...))
}

func (w *World) indexOf(eni string) uint32 {
	for _, e := range w.state.ENIs {
		if e.Name == eni {
			return e.Index
		}
	}
	return 0
}

// UseTurns makes an ENI have judged flows again so often, in the moment that lasts as long as the row, or, if `over`,
// in the one before.
func UseTurns(eni string, used uint32, over bool) func(*World) error {
	return func(w *World) error { return w.useTurns(turnsMap, w.indexOf(eni), used, over) }
}

// UseAnswers makes so many ICMP errors have been sent about packets from an ENI, or to it, in the moment that lasts as
// long as the row, or, if `over`, in the one before.
func UseAnswers(eni string, dir dataplane.Direction, used uint32, over bool) func(*World) error {
	return func(w *World) error { return w.useTurns(answersMap, w.indexOf(eni)*2+uint32(dir), used, over) }
}

func (w *World) useTurns(name string, index, used uint32, over bool) error {
	now, err := flowtable.Now()
	if err != nil {
		return err
	}
	tick := uint64(now + 1<<20)
	if over {
		tick = uint64(now - 1)
	}
	return w.coll.Maps[name].Put(index, tick<<32|uint64(used))
}

// clearMap makes all entries of an array zero.
func clearMap(m *ebpf.Map) error {
	zero := make([]byte, m.ValueSize())
	for i := range m.MaxEntries() {
		if err := m.Put(i, zero); err != nil {
			return err
		}
	}
	return nil
}
