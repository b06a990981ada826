// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/dataplane/flowtable"
)

// DefaultMaxFlows is what design §5 says.
const DefaultMaxFlows = 1 << 20

// openMaps adopts the pinned maps of a host or creates them all: in a directory of their own that
// is then renamed, so that a half-made set never looks like a whole one.
func openMaps(p place, spec *ebpf.CollectionSpec, maxFlows uint32, log *slog.Logger) (*dataplane.Maps, error) {
	if err := sizeFlows(p, spec, maxFlows); err != nil {
		return nil, err
	}
	if _, err := os.Stat(p.maps()); errors.Is(err, fs.ErrNotExist) {
		if err := createMaps(p, spec); err != nil {
			return nil, err
		}
		log.Info("created the maps", "dir", p.maps())
	}
	return adoptMaps(p, spec, log)
}

func createMaps(p place, spec *ebpf.CollectionSpec) error {
	fresh := filepath.Join(p.pins, "maps-new")
	if err := os.RemoveAll(fresh); err != nil {
		return fmt.Errorf("remove what a crash left: %w", err)
	}
	if err := os.Mkdir(fresh, 0o700); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	for _, name := range dataplane.PinnedMaps(spec) {
		if err := createMap(filepath.Join(fresh, dataplane.PinnedName(name)), spec.Maps[name]); err != nil {
			return err
		}
	}
	if err := os.Rename(fresh, p.maps()); err != nil {
		return fmt.Errorf("put the new maps in place: %w", err)
	}
	return nil
}

func createMap(path string, ms *ebpf.MapSpec) error {
	m, err := ebpf.NewMap(ms)
	if err != nil {
		return fmt.Errorf("create map %s: %w", ms.Name, err)
	}
	defer m.Close()
	if err := m.Pin(path); err != nil {
		return fmt.Errorf("pin map %s at %s: %w", ms.Name, path, err)
	}
	return nil
}

// adoptMaps opens all pins. One that is missing is made anew: it was removed behind our back, and
// the programs of this start will use the new one.
func adoptMaps(p place, spec *ebpf.CollectionSpec, log *slog.Logger) (*dataplane.Maps, error) {
	byName := map[string]*ebpf.Map{}
	maps := dataplane.NewMaps(byName)
	for _, name := range dataplane.PinnedMaps(spec) {
		path := filepath.Join(p.maps(), dataplane.PinnedName(name))
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			log.Warn("a pinned map is missing, making it anew", "path", path)
			if err := createMap(path, spec.Maps[name]); err != nil {
				_ = maps.Close()
				return nil, err
			}
		}
		m, err := ebpf.LoadPinnedMap(path, nil)
		if err != nil {
			_ = maps.Close()
			return nil, fmt.Errorf("open map %s: %w", path, err)
		}
		byName[name] = m
		if err := compatible(path, m, spec.Maps[name]); err != nil {
			_ = maps.Close()
			return nil, err
		}
	}
	return maps, nil
}

func compatible(path string, m *ebpf.Map, ms *ebpf.MapSpec) error {
	if m.Type() == ms.Type && m.KeySize() == ms.KeySize && m.ValueSize() == ms.ValueSize &&
		m.MaxEntries() == ms.MaxEntries && m.Flags() == ms.Flags {
		return nil
	}
	return fmt.Errorf("map %s is of another layout: pinned is %v key %d value %d entries %d flags %#x, this version wants %v key %d value %d entries %d flags %#x; run the version that made it, or enictl teardown this host first",
		path, m.Type(), m.KeySize(), m.ValueSize(), m.MaxEntries(), m.Flags(),
		ms.Type, ms.KeySize, ms.ValueSize, ms.MaxEntries, ms.Flags)
}

// sizeFlows sets the size of the flow tables and of what belongs to them: what was asked for, else what is pinned,
// else the default. A pinned table of another size than asked for is refused: it holds live flows.
func sizeFlows(p place, spec *ebpf.CollectionSpec, maxFlows uint32) error {
	if maxFlows > flowtable.MostFlows {
		return fmt.Errorf("--max-flows %d is more than a flow table can hold (at most %d)", maxFlows, flowtable.MostFlows)
	}
	asked := cmp.Or(maxFlows, DefaultMaxFlows)
	tags := map[string]string{dataplane.MapFlows4: dataplane.MapFlowTags4, dataplane.MapFlows6: dataplane.MapFlowTags6}
	for name, due := range map[string]string{dataplane.MapFlows4: dataplane.MapFlowDue4, dataplane.MapFlows6: dataplane.MapFlowDue6} {
		pinned, err := p.pinnedEntries(name)
		if err != nil {
			return err
		}
		sets := flowtable.Sets(asked)
		if maxFlows != 0 && pinned != 0 && pinned != sets {
			return fmt.Errorf("flow table %s has %d sets and live flows are in it, but %d flows were asked for, which needs %d: leave --max-flows out, or enictl teardown this host first",
				filepath.Join(p.maps(), dataplane.PinnedName(name)), pinned, maxFlows, sets)
		}
		spec.Maps[name].MaxEntries = cmp.Or(pinned, sets)
		spec.Maps[due].MaxEntries = flowtable.DueLines(cmp.Or(pinned, sets))
		spec.Maps[tags[name]].MaxEntries = cmp.Or(pinned, sets)
	}
	pinned, err := p.pinnedEntries(dataplane.MapHalfOpen)
	if err != nil {
		return err
	}
	spec.Maps[dataplane.MapHalfOpen].MaxEntries = cmp.Or(pinned, flowtable.RingEntries(flowtable.HalfOpen(asked)))
	return nil
}

// pinnedEntries returns max_entries of a pinned map, 0 if it is not pinned.
func (p place) pinnedEntries(name string) (uint32, error) {
	path := filepath.Join(p.maps(), dataplane.PinnedName(name))
	m, err := ebpf.LoadPinnedMap(path, &ebpf.LoadPinOptions{ReadOnly: true})
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("open map %s: %w", path, err)
	}
	entries := m.MaxEntries()
	return entries, m.Close()
}

// prepareFlows makes the flow tables usable: each needs a random seed before the first packet.
func prepareFlows(maps *dataplane.Maps, maxFlows uint32) error {
	tables, asked := maps.Map(dataplane.MapFlowTables), cmp.Or(maxFlows, DefaultMaxFlows)
	if err := flowtable.Prepare(tables, maps.Map(dataplane.MapFlows4), flowtable.IPv4, asked); err != nil {
		return err
	}
	return flowtable.Prepare(tables, maps.Map(dataplane.MapFlows6), flowtable.IPv6, asked)
}
