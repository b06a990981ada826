// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/eniplane/eniplane/pkg/compile"
)

// Names lists the maps that Dump knows, sorted.
func (m *Maps) Names() []string {
	var names []string
	for name := range decoders() {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Dump calls fn with each entry of a map as a flat struct with JSON tags (the ...Row types), sorted
// by key, ids replaced by names as far as names knows them. Slotted maps show the slot in force.
func (m *Maps) Dump(name string, names compile.Names, fn func(row any) error) error {
	decode, known := decoders()[name]
	if !known {
		return fmt.Errorf("dump %s: no such map; the maps are %s", name, strings.Join(m.Names(), ", "))
	}
	_, slot, err := m.Active()
	if err != nil {
		return err
	}
	slotted := TableKinds()[name] == Slotted
	entries, err := ReadMap(m.byName[name])
	if err != nil {
		return fmt.Errorf("dump %s: %w", name, err)
	}
	slices.SortFunc(entries, func(a, b Entry) int { return cmp.Compare(sortable(a.Key), sortable(b.Key)) })
	for _, e := range entries {
		if slotted && slot == 1 {
			copy(e.Value, e.Value[len(e.Value)/2:])
		}
		row, err := decode(namer{names}, e.Key, e.Value)
		if err != nil {
			return fmt.Errorf("dump %s: %w", name, err)
		}
		if row == nil {
			continue
		}
		if err := fn(row); err != nil {
			return err
		}
	}
	return nil
}

// sortable makes keys sort by their number: all keys begin with a little-endian one.
func sortable(key []byte) string {
	if len(key) < 4 {
		return string(key)
	}
	return string([]byte{key[3], key[2], key[1], key[0]}) + string(key[4:])
}

// Columns returns the names and printed values of the fields of a row that Dump made, in order.
func Columns(row any) (names, values []string) {
	v := reflect.ValueOf(row)
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		names = append(names, name)
		values = append(values, fmt.Sprint(v.Field(i).Interface()))
	}
	return names, values
}

// KeyOf returns what tells a row that Dump made from the others of its table: its key fields, joined by
// slashes. It is empty for a table of one entry.
func KeyOf(row any) string {
	v := reflect.ValueOf(row)
	var parts []string
	for i := range v.NumField() {
		if v.Type().Field(i).Tag.Get("key") != "" {
			parts = append(parts, fmt.Sprint(v.Field(i).Interface()))
		}
	}
	return strings.Join(parts, "/")
}
