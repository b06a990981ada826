// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/pkg/dataplane"
)

// Programs lists the programs that have twins.
func Programs() []string {
	return []string{dataplane.ProgramPort, dataplane.ProgramVXLAN, dataplane.ProgramUplink}
}

// Maps of a twin that the real programs do not have.
const (
	mapIO     = "trace_io"     // what helpers are given and asked
	mapEvents = "trace_events" // judgements, as they end; in the first place only their number
)

const (
	maxEvents = 31
	// flowSets is how many sets of a flow table a twin may be given at once.
	flowSets = 1 << 14
)

// shared tells whether programs only ever read a map: then a twin reads the live one. All others a twin has for itself.
func shared(name string) bool {
	_, table := dataplane.TableKinds()[name]
	return table || slices.Contains([]string{
		dataplane.MapActive, dataplane.MapLive, dataplane.MapPorts, dataplane.MapUplinks, dataplane.MapExits, dataplane.MapVTEPWays,
	}, name)
}

// Spec makes the object of twins from that of the programs. Constants must be set before.
func Spec(programs *ebpf.CollectionSpec) (*ebpf.CollectionSpec, error) {
	spec := programs.Copy()
	for name := range spec.Programs {
		if !slices.Contains(Programs(), name) {
			delete(spec.Programs, name)
		}
	}
	used := map[string]bool{mapIO: true, mapEvents: true}
	for _, name := range Programs() {
		p := spec.Programs[name]
		if p == nil {
			return nil, fmt.Errorf("make the trace twins: the object has no program %s", name)
		}
		for i := range p.Instructions {
			if ins := &p.Instructions[i]; ins.IsLoadFromMap() {
				used[ins.Reference()] = true
			}
		}
		insns, err := rewrite(p.Instructions)
		if err != nil {
			return nil, fmt.Errorf("make the trace twin of %s: %w", name, err)
		}
		p.Instructions = insns
	}
	for name, m := range spec.Maps {
		if !used[name] {
			delete(spec.Maps, name)
			continue
		}
		m.Pinning = ebpf.PinNone
		if !shared(name) {
			own(name, m)
		}
	}
	spec.Maps[mapIO] = &ebpf.MapSpec{Name: mapIO, Type: ebpf.Array, KeySize: 4, ValueSize: uint32(ioSize), MaxEntries: 1, Flags: unix.BPF_F_MMAPABLE}
	spec.Maps[mapEvents] = &ebpf.MapSpec{
		Name: mapEvents, Type: ebpf.Array, KeySize: 4, ValueSize: uint32(eventSize), MaxEntries: 1 + maxEvents, Flags: unix.BPF_F_MMAPABLE,
	}
	return spec, nil
}

// own makes a map one that a single packet needs. A flow table has the sets that the packet could find its flows in;
// what only saves look-ups, or says who makes way for a new flow, stays empty.
func own(name string, m *ebpf.MapSpec) {
	switch name {
	case dataplane.MapCounters, dataplane.MapRuleHits:
		m.Type, m.Flags = ebpf.Array, unix.BPF_F_MMAPABLE
	case dataplane.MapFlows4, dataplane.MapFlows6:
		m.Type, m.Flags, m.MaxEntries = ebpf.Hash, unix.BPF_F_NO_PREALLOC, flowSets
	case dataplane.MapFlowTags4, dataplane.MapFlowTags6, dataplane.MapFlowDue4, dataplane.MapFlowDue6, dataplane.MapHalfOpen:
		m.MaxEntries = 1
	}
}

// seeded tells whether a map of a twin's own is a copy of the live one when a packet is run. Flows and fragments are
// copied as far as the packet could meet them.
func seeded(name string, m *ebpf.Map) bool {
	switch name {
	case mapIO, mapEvents, dataplane.MapCounters, dataplane.MapRuleHits,
		dataplane.MapFlows4, dataplane.MapFlows6, dataplane.MapFlowTags4, dataplane.MapFlowTags6,
		dataplane.MapFlowDue4, dataplane.MapFlowDue6, dataplane.MapHalfOpen, mapFragments, dataplane.MapPortHints, mapMACHints:
		return false
	}
	return name[0] != '.' && (m.Type() == ebpf.Array || m.Type() == ebpf.Hash)
}

const (
	mapFragments = "fragments"
	mapMACHints  = "mac_hints"
)

// load loads twins beside the live maps that they read.
func load(spec *ebpf.CollectionSpec, live func(string) *ebpf.Map) (*ebpf.Collection, error) {
	twins, err := Spec(spec)
	if err != nil {
		return nil, err
	}
	replacements := map[string]*ebpf.Map{}
	for name := range twins.Maps {
		if !shared(name) {
			continue
		}
		if replacements[name] = live(name); replacements[name] == nil {
			return nil, fmt.Errorf("load the trace twins: no live map %s", name)
		}
	}
	coll, err := ebpf.NewCollectionWithOptions(twins, ebpf.CollectionOptions{MapReplacements: replacements})
	var rejected *ebpf.VerifierError
	if errors.As(err, &rejected) {
		return nil, fmt.Errorf("load the trace twins: the kernel's verifier refused one: %w\n%v", err, rejected.Log[max(0, len(rejected.Log)-10):])
	}
	if err != nil {
		return nil, fmt.Errorf("load the trace twins: %w", err)
	}
	return coll, nil
}

// Check makes sure that a program has no live map but those that programs only read. A twin that fails this would change
// what it looks at, and is never run.
func Check(name string, twin *ebpf.Program, maps *dataplane.Maps) error {
	info, err := twin.Info()
	if err != nil {
		return fmt.Errorf("look at the trace twin of %s: %w", name, err)
	}
	has, known := info.MapIDs()
	if !known {
		return fmt.Errorf("look at the trace twin of %s: the kernel does not say which maps it has", name)
	}
	for _, live := range maps.All() {
		id, err := mapID(maps.Map(live))
		if err != nil {
			return err
		}
		switch found := slices.Contains(has, id); {
		case found && !shared(live):
			return fmt.Errorf("the trace twin of %s would write to the live map %s: it is not run; restart enid, and report this", name, live)
		case !found && live == dataplane.MapActive:
			return fmt.Errorf("%w: the twin of %s reads other maps than the programs in force; restart enid", ErrStale, name)
		}
	}
	return nil
}

func mapID(m *ebpf.Map) (ebpf.MapID, error) {
	info, err := m.Info()
	if err != nil {
		return 0, fmt.Errorf("look at map %v: %w", m, err)
	}
	id, known := info.ID()
	if !known {
		return 0, fmt.Errorf("look at map %v: the kernel does not say its id", m)
	}
	return id, nil
}
