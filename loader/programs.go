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

// fillSlots puts the programs into the slots that the stubs call, and reads them back. Old and new
// programs run side by side for a moment, on the same maps.
func fillSlots(programs *ebpf.Collection, maps *dataplane.Maps) error {
	for _, slot := range dataplane.Slots() {
		prog := programs.Programs[slot.Program]
		if prog == nil {
			return fmt.Errorf("the BPF object has no program %s", slot.Program)
		}
		if err := maps.Map(slot.Array).Put(slot.Index, prog); err != nil {
			return fmt.Errorf("put program %s into slot %d of %s: %w", slot.Program, slot.Index, slot.Array, err)
		}
		info, err := prog.Info()
		if err != nil {
			return fmt.Errorf("look at program %s: %w", slot.Program, err)
		}
		want, _ := info.ID()
		var got uint32
		if err := maps.Map(slot.Array).Lookup(slot.Index, &got); err != nil {
			return fmt.Errorf("read slot %d of %s back: %w", slot.Index, slot.Array, err)
		}
		if ebpf.ProgramID(got) != want {
			return fmt.Errorf("slot %d of %s holds program %d, want %d (%s): does another process write it?", slot.Index, slot.Array, got, want, slot.Program)
		}
	}
	return nil
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
