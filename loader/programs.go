// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/eniplane/eniplane/pkg/dataplane"
)

// loadPrograms loads all programs of the object onto the live maps.
func loadPrograms(spec *ebpf.CollectionSpec, maps *dataplane.Maps) (*ebpf.Collection, error) {
	replacements := map[string]*ebpf.Map{}
	for _, name := range dataplane.PinnedMaps(spec) {
		replacements[name] = maps.Map(name)
	}
	if err := dataplane.SetRings(spec, maps.Map(dataplane.MapHalfOpen)); err != nil {
		return nil, err
	}
	programs, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: replacements})
	var rejected *ebpf.VerifierError
	if errors.As(err, &rejected) {
		return nil, fmt.Errorf("load the programs: the kernel's verifier refused one: %w\n%s", err, strings.Join(rejected.Log, "\n"))
	}
	if err != nil {
		return nil, fmt.Errorf("load the programs: %w", err)
	}
	return programs, nil
}

// fillSlots puts the programs into the slots that the stubs call, reads them back, and names those that held something
// else. Old and new programs run side by side for a moment, on the same maps.
func fillSlots(programs *ebpf.Collection, maps *dataplane.Maps) (filled []string, err error) {
	for _, slot := range dataplane.Slots() {
		prog := programs.Programs[slot.Program]
		if prog == nil {
			return filled, fmt.Errorf("the BPF object has no program %s", slot.Program)
		}
		info, err := prog.Info()
		if err != nil {
			return filled, fmt.Errorf("look at program %s: %w", slot.Program, err)
		}
		want, _ := info.ID()
		array := maps.Map(slot.Array)
		now, err := programIn(array, slot)
		if err != nil {
			return filled, err
		}
		if now == want {
			continue
		}
		if err := array.Put(slot.Index, prog); err != nil {
			return filled, fmt.Errorf("put program %s into slot %d of %s: %w", slot.Program, slot.Index, slot.Array, err)
		}
		filled = append(filled, slot.Program)
		if now, err = programIn(array, slot); err != nil {
			return filled, err
		}
		if now != want {
			return filled, fmt.Errorf("slot %d of %s holds program %d, want %d (%s): does another process write it?", slot.Index, slot.Array, now, want, slot.Program)
		}
	}
	return filled, nil
}

// programIn is the program in a slot, 0 if it is empty.
func programIn(array *ebpf.Map, slot dataplane.Slot) (ebpf.ProgramID, error) {
	var id uint32
	err := array.Lookup(slot.Index, &id)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read slot %d of %s: %w", slot.Index, slot.Array, err)
	}
	return ebpf.ProgramID(id), nil
}

// sameProgram tells whether a program in a link is the one we would put there: the same text on the
// same maps.
func sameProgram(attached ebpf.ProgramID, ours *ebpf.Program) (bool, error) {
	prog, err := ebpf.NewProgramFromID(attached)
	if err != nil {
		return false, fmt.Errorf("look at program %d: %w", attached, err)
	}
	defer prog.Close()
	a, err := prog.Info()
	if err != nil {
		return false, fmt.Errorf("look at program %d: %w", attached, err)
	}
	b, err := ours.Info()
	if err != nil {
		return false, fmt.Errorf("look at our program: %w", err)
	}
	aMaps, _ := a.MapIDs()
	bMaps, _ := b.MapIDs()
	return a.Tag == b.Tag && slices.Equal(aMaps, bMaps), nil
}
