// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/google/go-cmp/cmp"

	"github.com/eniplane/eniplane/pkg/compile"
)

var update = flag.Bool("update", false, "write testdata/abi.golden")

const golden = "testdata/abi.golden"

// The layout of every pinned map is in a file that reviewers read: a change of it needs a new
// MapVersion. The values of the enums are in enums_gen.go.
func TestABI(t *testing.T) {
	spec, err := LoadSpec()
	if err != nil {
		t.Fatal(err)
	}
	got := describeABI(spec)
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("the layout of pinned maps changed: raise MapVersion if a released version has the old one, then run go test -update (-want +got):\n%s", diff)
	}
}

func describeABI(spec *ebpf.CollectionSpec) string {
	var b strings.Builder
	fmt.Fprintf(&b, "version %d\n\n", MapVersion)
	structs := map[string]*btf.Struct{}
	for _, name := range PinnedMaps(spec) {
		m := spec.Maps[name]
		fmt.Fprintf(&b, "map %s %v key %s %d value %s %d entries %d flags %#x\n", name, m.Type,
			typeName(m.Key), m.KeySize, typeName(m.Value), m.ValueSize, m.MaxEntries, m.Flags)
		collect(structs, m.Key)
		collect(structs, m.Value)
	}
	var names []string
	for name := range structs {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		s := structs[name]
		fmt.Fprintf(&b, "\nstruct %s %d\n", name, s.Size)
		for _, m := range s.Members {
			size, _ := btf.Sizeof(m.Type)
			fmt.Fprintf(&b, "\t%3d %3d %s %s\n", m.Offset.Bytes(), size, m.Name, typeName(m.Type))
		}
	}
	return b.String()
}

func collect(structs map[string]*btf.Struct, t btf.Type) {
	switch t := btf.UnderlyingType(t).(type) {
	case *btf.Array:
		collect(structs, t.Type)
	case *btf.Struct:
		if t.Name == "bpf_timer" { // the kernel's, which nobody else reads or writes
			return
		}
		structs[t.Name] = t
		for _, m := range t.Members {
			collect(structs, m.Type)
		}
	}
}

func typeName(t btf.Type) string {
	if t == nil {
		return "-"
	}
	if array, is := t.(*btf.Array); is {
		return fmt.Sprintf("%s[%d]", typeName(array.Type), array.Nelems)
	}
	return t.TypeName()
}

// The generated structs are copied as memory: what Go pads, the kernel would read.
func TestGeneratedStructsHaveNoPadding(t *testing.T) {
	spec, err := LoadSpec()
	if err != nil {
		t.Fatal(err)
	}
	structs := map[string]*btf.Struct{}
	for _, name := range PinnedMaps(spec) {
		collect(structs, spec.Maps[name].Key)
		collect(structs, spec.Maps[name].Value)
	}
	for name, s := range structs {
		next := uint32(0)
		for _, m := range s.Members {
			if m.Offset.Bytes() != next {
				t.Errorf("struct %s: hole of %d bytes before %s", name, m.Offset.Bytes()-next, m.Name)
			}
			size, err := btf.Sizeof(m.Type)
			if err != nil {
				t.Fatal(err)
			}
			next = m.Offset.Bytes() + uint32(size)
		}
		if next != s.Size {
			t.Errorf("struct %s: %d bytes of padding at the end", name, s.Size-next)
		}
	}
}

// What pkg/compile says in words of its own means the same in C.
func TestCompileSpeaksOfTheSame(t *testing.T) {
	pairs := []struct {
		name   string
		ours   uint64
		theirs uint64
	}{
		{"RouteLocal", uint64(compile.RouteLocal), cRouteLocal},
		{"RouteInternet", uint64(compile.RouteInternet), cRouteInternet},
		{"RouteBlackhole", uint64(compile.RouteBlackhole), cRouteBlackhole},
		{"RouteInfra", uint64(compile.RouteInfra), cRouteInfra},
		{"RouteGateway", uint64(compile.RouteGateway), cRouteGateway},
		{"NextHopInternet", compile.NextHopInternet, cNexthopInternet},
		{"RoleENIs", uint64(compile.RoleENIs), cVTEPENIs},
		{"RoleGateway", uint64(compile.RoleGateway), cVTEPGateway},
		{"RoleBehind", uint64(compile.RoleBehind), cVTEPBehind},
		{"MaxRuleIDs", compile.MaxRuleIDs, cMaxRules},
		{"OfAddr", uint64(compile.OfAddr), cClassAddr},
		{"OfList", uint64(compile.OfList), cClassList},
		{"OfGroup", uint64(compile.OfGroup), cClassGroup},
		{"OfService", uint64(compile.OfService), cClassService},
		{"ClassesPerEntry", compile.ClassesPerEntry, cRulesetClasses},
	}
	for _, p := range pairs {
		if p.ours != p.theirs {
			t.Errorf("compile.%s is %d, in C it is %d", p.name, p.ours, p.theirs)
		}
	}
}
