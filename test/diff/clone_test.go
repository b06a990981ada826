// SPDX-License-Identifier: Apache-2.0

package diff

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/eniplane/eniplane/pkg/api"
)

// clone copies objects with everything that they hold.
func clone(o *api.Objects) *api.Objects {
	return deep(reflect.ValueOf(o)).Interface().(*api.Objects)
}

func deep(v reflect.Value) reflect.Value {
	if isFlat(v.Type()) {
		return v
	}
	out := reflect.New(v.Type()).Elem()
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			out.Set(reflect.New(v.Type().Elem()))
			out.Elem().Set(deep(v.Elem()))
		}
	case reflect.Struct:
		out.Set(v)
		for i := range v.NumField() {
			if f := v.Field(i); !isFlat(f.Type()) {
				out.Field(i).Set(deep(f))
			}
		}
	case reflect.Slice:
		if v.IsNil() {
			break
		}
		out.Set(reflect.MakeSlice(v.Type(), v.Len(), v.Len()))
		if isFlat(v.Type().Elem()) {
			reflect.Copy(out, v)
			break
		}
		for i := range v.Len() {
			out.Index(i).Set(deep(v.Index(i)))
		}
	case reflect.Map:
		if !v.IsNil() {
			out.Set(reflect.MakeMapWithSize(v.Type(), v.Len()))
			for it := v.MapRange(); it.Next(); {
				out.SetMapIndex(it.Key(), deep(it.Value()))
			}
		}
	default:
		panic("clone: objects hold a " + v.Type().String())
	}
	return out
}

// isFlat: an assignment copies all of it.
func isFlat(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map, reflect.Interface, reflect.Chan, reflect.Func:
		return false
	case reflect.Array:
		return isFlat(t.Elem())
	case reflect.Struct:
		if strings.HasPrefix(t.PkgPath(), "net/") {
			return true // a value already
		}
		for i := range t.NumField() {
			if !isFlat(t.Field(i).Type) {
				return false
			}
		}
	}
	return true
}

// fork copies as much of the objects as change may write to: all of them whose kinds it changes, and of what hangs on
// those the lists that it edits in place; others it replaces.
func fork(before *api.Objects) *api.Objects {
	o, region := *before, *before.Region
	o.Region = &region
	o.SecurityGroups, o.NetworkACLs, o.Subnets = copied(o.SecurityGroups), copied(o.NetworkACLs), copied(o.Subnets)
	o.EIPs, o.Instances = copied(o.EIPs), copied(o.Instances)
	o.PrefixLists, o.ENIs = copied(o.PrefixLists), copied(o.ENIs)
	for _, l := range o.PrefixLists {
		l.Entries = slices.Clone(l.Entries)
	}
	for _, e := range o.ENIs {
		e.IPs = slices.Clone(e.IPs)
	}
	return &o
}

func copied[T any](m map[string]*T) map[string]*T {
	out := make(map[string]*T, len(m))
	for name, v := range m {
		c := *v
		out[name] = &c
	}
	return out
}

// A revision that is in force stays as it is while others are made of it.
func TestChangeLeavesTheOldWorldAlone(t *testing.T) {
	for seed := range uint64(200) {
		g := newGen(seed)
		before := g.world()
		text := marshal(t, before)
		if after := g.change(before); marshal(t, before) != text {
			t.Fatalf("seed %d: a change of\n%s\nmade it\n%s\nwhen making\n%s", seed, text, marshal(t, before), marshal(t, after))
		}
	}
}

func marshal(t *testing.T, o *api.Objects) string {
	text, err := api.MarshalYAML(o.All()...)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
