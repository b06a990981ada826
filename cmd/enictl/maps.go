// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane"
)

// pinnedMaps is what enictl reads of *dataplane.Maps.
type pinnedMaps interface {
	Names() []string
	Active() (revision uint64, slot int, err error)
	Dump(name string, names compile.Names, fn func(row any) error) error
	Counters(fn func(dataplane.Counter) bool, enis ...uint32) error
	Flows(fn func(dataplane.Flow) bool) error
	FlowQuota() (*dataplane.FlowQuota, error)
	RuleHits(id uint32) (uint64, error)
	EndFlows(match func(dataplane.Flow) bool) (ended int, err error)
	Close() error
}

// openPinned is env.open of the real program.
func openPinned(dir string, readOnly bool) (pinnedMaps, error) {
	return dataplane.OpenPinned(dir, readOnly)
}

// withMaps opens the host's pinned maps and names, and closes them after fn.
func (a *app) withMaps(readOnly bool, fn func(m pinnedMaps, names compile.Names) error) (err error) {
	host, err := a.oneHost()
	if err != nil {
		return err
	}
	names, err := dataplane.LoadNames(dataplane.HostStateDir(a.stateDir, host))
	if err != nil {
		fmt.Fprintf(a.err, "Numbers are shown for names: %v\n", err)
	}
	m, err := a.open(dataplane.PinDir(a.bpffs, host), readOnly)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	return fn(m, names)
}

func newMapCommand(a *app) *cobra.Command {
	return group("map", "The maps that the programs read",
		&cobra.Command{
			Use: "list", Short: "List the maps", Args: args(cobra.NoArgs),
			RunE: func(*cobra.Command, []string) error { return a.mapList() },
		},
		&cobra.Command{
			Use: "dump NAME", Short: "Print all entries of a map", Args: args(cobra.ExactArgs(1)),
			ValidArgsFunction: a.completeMap,
			RunE:              func(_ *cobra.Command, got []string) error { return a.mapDump(got[0], nil) },
		},
		&cobra.Command{
			Use: "get NAME KEY...", Short: "Print the entries of a map with these values",
			Long: "Print the entries of a map in which each KEY, a value or FIELD=VALUE, is found as dump prints it.",
			Example: "  enictl map get endpoints4 10.0.1.10\n" +
				"  enictl map get endpoints4 vni=1001 addr=10.0.1.10",
			Args:              args(cobra.MinimumNArgs(2)),
			ValidArgsFunction: a.completeMap,
			RunE:              func(_ *cobra.Command, got []string) error { return a.mapDump(got[0], got[1:]) },
		},
	)
}

// completeMap offers the names of the maps for the first argument.
func (a *app) completeMap(_ *cobra.Command, got []string, _ string) ([]string, cobra.ShellCompDirective) {
	var names []string
	if len(got) == 0 {
		// Without maps there is nothing to offer; the command itself says why.
		_ = a.withMaps(true, func(m pinnedMaps, _ compile.Names) error { names = m.Names(); return nil })
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func (a *app) mapList() error {
	return a.withMaps(true, func(m pinnedMaps, names compile.Names) error {
		l := list{columns: columns("NAME", "ENTRIES")}
		for _, name := range m.Names() {
			entries := 0
			if err := m.Dump(name, names, func(any) error { entries++; return nil }); err != nil {
				return err
			}
			l.rows = append(l.rows, row{
				name: name, cells: []string{name, fmt.Sprint(entries)},
				value: struct {
					Name    string `json:"name"`
					Entries int    `json:"entries"`
				}{name, entries},
			})
		}
		return a.print(l)
	})
}

// mapDump prints the entries that match all keys.
func (a *app) mapDump(name string, keys []string) error {
	return a.withMaps(true, func(m pinnedMaps, names compile.Names) error {
		if !slices.Contains(m.Names(), name) {
			return usagef("no map %q; there are %s", name, strings.Join(m.Names(), ", "))
		}
		l := list{empty: name + " is empty"}
		err := m.Dump(name, names, func(value any) error {
			fields, cells := dataplane.Columns(value)
			if l.columns == nil {
				for _, f := range fields {
					l.columns = append(l.columns, column{name: strings.ToUpper(f)})
				}
			}
			for i := range cells {
				cells[i] = dash(cells[i])
			}
			if matches(fields, cells, keys) {
				l.rows = append(l.rows, row{name: strings.TrimSuffix(name+"/"+dataplane.KeyOf(value), "/"), cells: cells, value: value})
			}
			return nil
		})
		if err != nil {
			return err
		}
		if keys != nil && len(l.rows) == 0 {
			return fmt.Errorf("no entry of %s has %s", name, strings.Join(keys, " and "))
		}
		return a.print(l)
	})
}

// matches tells whether every key, VALUE or FIELD=VALUE, is among the fields.
func matches(fields, values, keys []string) bool {
	for _, key := range keys {
		field, value, named := strings.Cut(key, "=")
		found := false
		for i := range fields {
			if named {
				found = found || strings.EqualFold(fields[i], field) && values[i] == value
			} else {
				found = found || values[i] == key
			}
		}
		if !found {
			return false
		}
	}
	return true
}
