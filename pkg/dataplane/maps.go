// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"sort"

	"github.com/cilium/ebpf"
)

// DefaultBPFFS and DefaultStateDir hold one directory per host each.
const (
	DefaultBPFFS    = "/sys/fs/bpf/eniplane"
	DefaultStateDir = "/var/lib/eniplane"
)

// ErrNotLoaded is wrapped by OpenPinned when a host has no pinned maps at all.
var ErrNotLoaded = errors.New("no dataplane is loaded")

// PinDir is where the pins of a host live.
func PinDir(bpffs, host string) string { return filepath.Join(bpffs, host) }

// MapsDir is where the maps of a host are pinned.
func MapsDir(pinDir string) string { return filepath.Join(pinDir, "maps") }

// HostStateDir is where the files of a host live.
func HostStateDir(stateDir, host string) string { return filepath.Join(stateDir, host) }

// Maps are the live maps of one host.
type Maps struct {
	byName map[string]*ebpf.Map
}

// NewMaps wraps maps by name; it owns them from now on.
func NewMaps(byName map[string]*ebpf.Map) *Maps { return &Maps{byName: byName} }

// OpenPinned opens the maps pinned under dir (see PinDir). A missing pin is an error that says what
// is missing and what that means.
func OpenPinned(dir string, readOnly bool) (*Maps, error) {
	spec, err := LoadSpec()
	if err != nil {
		return nil, err
	}
	m := &Maps{byName: map[string]*ebpf.Map{}}
	for _, name := range PinnedMaps(spec) {
		path := filepath.Join(MapsDir(dir), PinnedName(name))
		// The kernel maps no memory, not even for reading, through an fd that cannot write.
		mapped := name == MapFlows4 || name == MapFlows6
		opened, err := ebpf.LoadPinnedMap(path, &ebpf.LoadPinOptions{ReadOnly: readOnly && !mapped})
		if err != nil {
			_ = m.Close()
			return nil, explainPin(dir, path, err)
		}
		m.byName[name] = opened
		if ms := spec.Maps[name]; opened.KeySize() != ms.KeySize || opened.ValueSize() != ms.ValueSize {
			_ = m.Close()
			return nil, fmt.Errorf("open map %s: it has keys of %d and values of %d bytes, this version wants %d and %d: use the enictl of the agent's version",
				path, opened.KeySize(), opened.ValueSize(), ms.KeySize, ms.ValueSize)
		}
	}
	return m, nil
}

func explainPin(dir, path string, err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("open map %s: %w", path, err)
	}
	if some, _ := filepath.Glob(filepath.Join(MapsDir(dir), "*")); len(some) == 0 {
		return fmt.Errorf("%w under %s: has enid run for this host, is --bpffs right, and is this mount namespace the host's?", ErrNotLoaded, dir)
	}
	return fmt.Errorf("open map %s: the pin is missing although others exist: another version of enid runs, or somebody removed it; restart enid", path)
}

// PinnedMaps lists the maps of the object that are pinned, sorted: all but those of the compiler
// and the scratch memory of a packet. These live and die with the programs.
func PinnedMaps(spec *ebpf.CollectionSpec) []string {
	var names []string
	for name, ms := range spec.Maps {
		scratch := ms.Type == ebpf.PerCPUArray && name != MapCounters
		if name[0] != '.' && !scratch {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	return names
}

// All lists the live maps by name, sorted.
func (m *Maps) All() []string { return slices.Sorted(maps.Keys(m.byName)) }

// Map returns a live map by its name in the object; nil if there is none.
func (m *Maps) Map(name string) *ebpf.Map { return m.byName[name] }

// Close closes the maps; their pins stay.
func (m *Maps) Close() error {
	var errs []error
	for _, opened := range m.byName {
		errs = append(errs, opened.Close())
	}
	return errors.Join(errs...)
}

// Active returns the revision in force and the slot that holds it. Revision 0: none was applied.
func (m *Maps) Active() (revision uint64, slot int, err error) {
	var word uint64
	if err := m.byName[MapActive].Lookup(uint32(0), &word); err != nil {
		return 0, 0, fmt.Errorf("read the revision in force: %w", err)
	}
	return word >> 1, int(word & 1), nil
}
