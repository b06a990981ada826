// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"

	"github.com/eniplane/eniplane/pkg/dataplane"
)

// programsPrefix begins the name of the directory of the programs' pins. The rest says what they are made of.
const programsPrefix = "programs-"

// programs is the directory for the pins of what this build loads: of its object, and of the only thing that is set in it.
func (p place) programs(maps *dataplane.Maps) string {
	rings := maps.Map(dataplane.MapHalfOpen).MaxEntries()
	return filepath.Join(p.pins, fmt.Sprintf("%s%s-%d", programsPrefix, dataplane.ObjectHash(), rings))
}

// openPrograms adopts the programs of the last agent if they are those of this build and on these maps. Else it loads them,
// for which the verifier takes seconds, and pins them for the next agent.
func openPrograms(p place, spec *ebpf.CollectionSpec, maps *dataplane.Maps, log *slog.Logger) (*ebpf.Collection, error) {
	dir := p.programs(maps)
	adopted, err := adoptPrograms(dir, spec, maps)
	if err != nil {
		log.Warn("the programs of the last agent are of no use, loading them anew", "dir", dir, "err", err)
	}
	if adopted != nil {
		return adopted, nil
	}
	loaded, err := loadPrograms(spec, maps)
	if err != nil {
		return nil, err
	}
	if err := pinPrograms(p, dir, loaded); err != nil {
		loaded.Close()
		return nil, err
	}
	return loaded, nil
}

// adoptPrograms returns nil if nothing is pinned, and an error if it is not what it must be.
func adoptPrograms(dir string, spec *ebpf.CollectionSpec, maps *dataplane.Maps) (*ebpf.Collection, error) {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	live := map[string]ebpf.MapID{} // by the name that the kernel knows
	for _, name := range dataplane.PinnedMaps(spec) {
		info, err := maps.Map(name).Info()
		if err != nil {
			return nil, fmt.Errorf("look at map %s: %w", name, err)
		}
		live[info.Name], _ = info.ID()
	}
	all := &ebpf.Collection{Programs: map[string]*ebpf.Program{}}
	for name := range spec.Programs {
		prog, err := ebpf.LoadPinnedProgram(filepath.Join(dir, name), nil)
		if err == nil {
			all.Programs[name] = prog
			err = usesLive(prog, live)
		}
		if err != nil {
			all.Close()
			return nil, fmt.Errorf("adopt program %s: %w", name, err)
		}
	}
	return all, nil
}

// usesLive fails if a program uses another map than ours of the name. Those that are not pinned are of the programs alone.
func usesLive(prog *ebpf.Program, live map[string]ebpf.MapID) error {
	info, err := prog.Info()
	if err != nil {
		return fmt.Errorf("look at it: %w", err)
	}
	ids, _ := info.MapIDs()
	for _, id := range ids {
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			return fmt.Errorf("look at map %d: %w", id, err)
		}
		its, err := m.Info()
		if err := errors.Join(err, m.Close()); err != nil {
			return fmt.Errorf("look at map %d: %w", id, err)
		}
		if ours, pinned := live[its.Name]; pinned && ours != id {
			return fmt.Errorf("it works on map %d (%s), ours is map %d", id, its.Name, ours)
		}
	}
	return nil
}

// pinPrograms pins all in a directory of their own that is then renamed: half of them never look like all.
func pinPrograms(p place, dir string, all *ebpf.Collection) error {
	fresh := filepath.Join(p.pins, programsPrefix+"new")
	for _, old := range []string{fresh, dir} {
		if err := os.RemoveAll(old); err != nil {
			return fmt.Errorf("pin the programs: %w", err)
		}
	}
	if err := os.Mkdir(fresh, 0o700); err != nil {
		return fmt.Errorf("pin the programs: %w", err)
	}
	for name, prog := range all.Programs {
		twin, err := prog.Clone() // where a program believes itself to be pinned does not follow a rename
		if err != nil {
			return fmt.Errorf("pin program %s: %w", name, err)
		}
		err = twin.Pin(filepath.Join(fresh, name))
		if err := errors.Join(err, twin.Close()); err != nil {
			return fmt.Errorf("pin program %s: %w", name, err)
		}
	}
	if err := os.Rename(fresh, dir); err != nil {
		return fmt.Errorf("pin the programs: %w", err)
	}
	return nil
}

// forgetPrograms removes the pins of the programs of other builds, when those of this one are in the slots.
func (p place) forgetPrograms(maps *dataplane.Maps) error {
	all, err := filepath.Glob(filepath.Join(p.pins, programsPrefix+"*"))
	if err != nil {
		return fmt.Errorf("look for programs of other builds: %w", err)
	}
	for _, dir := range all {
		if dir == p.programs(maps) {
			continue
		}
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove the programs of another build: %w", err)
		}
	}
	return nil
}
