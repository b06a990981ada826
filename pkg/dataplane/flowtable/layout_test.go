// SPDX-License-Identifier: Apache-2.0

package flowtable

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"
	"github.com/google/go-cmp/cmp"

	"github.com/eniplane/eniplane/bench/flowtable/driver"
)

// TestLayout compares the Go structs with the type information of the object, field by field.
func TestLayout(t *testing.T) {
	spec, err := driver.Spec()
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]any{
		"flow_tables": header{}, "flows4": set4{}, "flows6": set6{}, "flow_due4": dueLine{}, "flow_due6": dueLine{},
		"flow_usage": usage{}, "flow_sweep": sweepState{},
	} {
		got := goLayout("", 0, reflect.TypeOf(value))
		want := btfLayout("", 0, spec.Maps[name].Value)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-object +go):\n%s", name, diff)
		}
	}
}

func goLayout(path string, offset uintptr, typ reflect.Type) []string {
	switch typ.Kind() {
	case reflect.Struct:
		var out []string
		for i := range typ.NumField() {
			f := typ.Field(i)
			out = append(out, goLayout(path+"."+strings.ToLower(f.Name), offset+f.Offset, f.Type)...)
		}
		return out
	case reflect.Array:
		out := goLayout(path+"[]", offset, typ.Elem())
		return append(out, fmt.Sprintf("%s: %d times", path, typ.Len()))
	default:
		return []string{fmt.Sprintf("%s: %d bytes at %d", path, typ.Size(), offset)}
	}
}

func btfLayout(path string, offset uintptr, typ btf.Type) []string {
	switch typ := btf.UnderlyingType(typ).(type) {
	case *btf.Struct:
		var out []string
		for _, m := range typ.Members {
			name := strings.ReplaceAll(m.Name, "_", "")
			out = append(out, btfLayout(path+"."+name, offset+uintptr(m.Offset.Bytes()), m.Type)...)
		}
		return out
	case *btf.Array:
		out := btfLayout(path+"[]", offset, typ.Type)
		return append(out, fmt.Sprintf("%s: %d times", path, typ.Nelems))
	default:
		size, err := btf.Sizeof(typ)
		if err != nil {
			return []string{err.Error()}
		}
		return []string{fmt.Sprintf("%s: %d bytes at %d", path, size, offset)}
	}
}
