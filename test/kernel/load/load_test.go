// SPDX-License-Identifier: Apache-2.0

// Package load asks the verifier of a kernel for every program of the object, one by one.
package load

import (
	"maps"
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/testroot"
)

// TestLoad loads each program alone with maps of its own and logs how many instructions the verifier walked: the
// limit is a million, and growth shows here first.
func TestLoad(t *testing.T) {
	testroot.Require(t)
	spec, err := dataplane.LoadSpec()
	if err != nil {
		t.Fatal(err)
	}
	if len(spec.Programs) < 8 {
		t.Fatalf("the object has %d programs: four stubs and four slots are expected", len(spec.Programs))
	}
	for _, name := range slices.Sorted(maps.Keys(spec.Programs)) {
		t.Run(name, func(t *testing.T) {
			one := spec.Copy()
			maps.DeleteFunc(one.Programs, func(n string, _ *ebpf.ProgramSpec) bool { return n != name })
			for _, m := range one.Maps {
				m.Pinning = ebpf.PinNone
			}
			coll, err := ebpf.NewCollection(one)
			if err != nil {
				t.Fatalf("%+v", err)
			}
			defer coll.Close()
			info, err := coll.Programs[name].Info()
			if err != nil {
				t.Fatal(err)
			}
			walked, _ := info.VerifiedInstructions()
			size, err := info.TranslatedSize()
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s: %d instructions, %d walked by the verifier", name, size/8, walked)
		})
	}
}
