// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/pkg/dataplane"
)

// ErrStale is wrapped when the twins that are pinned are not those of the programs in force, or there are none.
var ErrStale = errors.New("no trace twins of the programs in force are pinned")

// Dir is where the twins of a host are pinned, below its pins.
func Dir(pinDir string) string { return filepath.Join(pinDir, "trace") }

// mapPrefix is in front of the pins of maps; programs are pinned as NAME_TAG, by the tag of the one in force.
const mapPrefix = "map_"

// Twin runs packets through the programs of a host, and leaves the host as it is. It is not for concurrent use.
type Twin struct {
	maps     *dataplane.Maps
	programs map[string]*ebpf.Program
	own      map[string]*ebpf.Map
	closers  []func() error

	io, events, counters, hits []byte // memory of maps of its own

	known   []uint32 // ENIs whose flows were copied, or could have been
	history []Packet // since Begin
	copied  map[copiedSet]bool

	fragmented []uint32 // indexes in the map of fragments that were copied

	showFlows bool // outcomes shall have them
}

// New loads twins of an object beside the live maps. They end with Close.
func New(spec *ebpf.CollectionSpec, maps *dataplane.Maps) (*Twin, error) {
	coll, err := load(spec, maps.Map)
	if err != nil {
		return nil, err
	}
	t := &Twin{maps: maps, programs: coll.Programs, own: map[string]*ebpf.Map{}}
	t.closers = append(t.closers, func() error { coll.Close(); return nil })
	for name, m := range coll.Maps {
		if !shared(name) {
			t.own[name] = m
		}
	}
	return t.ready()
}

// ready checks the programs and maps memory.
func (t *Twin) ready() (*Twin, error) {
	for name, p := range t.programs {
		if err := Check(name, p, t.maps); err != nil {
			return nil, errors.Join(err, t.Close())
		}
	}
	for name, to := range map[string]*[]byte{
		mapIO: &t.io, mapEvents: &t.events, dataplane.MapCounters: &t.counters, dataplane.MapRuleHits: &t.hits,
	} {
		m := t.own[name]
		if m == nil {
			return nil, errors.Join(fmt.Errorf("%w: they have no map %s", ErrStale, name), t.Close())
		}
		// The kernel rounds values up to 8 bytes.
		memory, err := unix.Mmap(m.FD(), 0, int(m.MaxEntries()*((m.ValueSize()+7)&^7)), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("map the memory of %s of the trace twins: %w", name, err), t.Close())
		}
		t.closers = append(t.closers, func() error { return unix.Munmap(memory) })
		*to = memory
	}
	if want := (eventSize + 7) &^ 7; len(t.events) != want*(1+maxEvents) {
		return nil, errors.Join(fmt.Errorf("the trace twins note judgements in %d bytes, this version reads %d: use the enictl of the agent's version",
			len(t.events)/(1+maxEvents), want), t.Close())
	}
	return t, nil
}

// Close ends the use of the twins; those that are pinned stay.
func (t *Twin) Close() error {
	var errs []error
	for _, closer := range slices.Backward(t.closers) {
		errs = append(errs, closer())
	}
	t.closers = nil
	return errors.Join(errs...)
}

// Ensure pins twins of the programs in force, which are those of spec, unless they are pinned.
func Ensure(pinDir string, spec *ebpf.CollectionSpec, maps *dataplane.Maps) error {
	t, err := Open(pinDir, maps)
	if err == nil {
		return t.Close()
	}
	if !errors.Is(err, ErrStale) {
		return err
	}
	tags, err := tagsInForce(maps)
	if err != nil {
		return err
	}
	if t, err = New(spec, maps); err != nil {
		return err
	}
	return errors.Join(t.pin(pinDir, tags), t.Close())
}

// pin puts everything into a new directory, which then takes the place of the old one.
func (t *Twin) pin(pinDir string, tags map[string]string) error {
	fresh := Dir(pinDir) + "-new"
	if err := os.RemoveAll(fresh); err != nil {
		return fmt.Errorf("remove what a crash left: %w", err)
	}
	if err := os.Mkdir(fresh, 0o700); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	for name, m := range t.own {
		if name[0] == '.' {
			continue // the compiler's, which the programs hold
		}
		if err := m.Pin(filepath.Join(fresh, mapPrefix+name)); err != nil {
			return fmt.Errorf("pin map %s of the trace twins: %w", name, err)
		}
	}
	for name, p := range t.programs {
		if err := p.Pin(filepath.Join(fresh, name+"_"+tags[name])); err != nil {
			return fmt.Errorf("pin the trace twin of %s: %w", name, err)
		}
	}
	if err := os.RemoveAll(Dir(pinDir)); err != nil {
		return fmt.Errorf("remove the trace twins of other programs: %w", err)
	}
	if err := os.Rename(fresh, Dir(pinDir)); err != nil {
		return fmt.Errorf("put the trace twins in place: %w", err)
	}
	return nil
}

// tagsInForce returns the tags of the programs in force that have twins: equal texts have equal tags.
func tagsInForce(maps *dataplane.Maps) (map[string]string, error) {
	ids, err := maps.ProgramsInForce()
	if err != nil {
		return nil, err
	}
	tags := map[string]string{}
	for _, name := range Programs() {
		id, filled := ids[name]
		if !filled {
			return nil, fmt.Errorf("no program %s is in force on this host: restart enid", name)
		}
		p, err := ebpf.NewProgramFromID(id)
		if err != nil {
			return nil, fmt.Errorf("open program %s (%d): %w", name, id, err)
		}
		info, err := p.Info()
		if err := errors.Join(err, p.Close()); err != nil {
			return nil, fmt.Errorf("look at program %s: %w", name, err)
		}
		tags[name] = info.Tag
	}
	return tags, nil
}

// Open takes the pinned twins of the programs in force for the use of one process at a time; another one waits.
func Open(pinDir string, maps *dataplane.Maps) (*Twin, error) {
	dir := Dir(pinDir)
	tags, err := tagsInForce(maps)
	if err != nil {
		return nil, err
	}
	t := &Twin{maps: maps, programs: map[string]*ebpf.Program{}, own: map[string]*ebpf.Map{}}
	if err := t.lock(dir); err != nil {
		return nil, err
	}
	if err := t.openPins(dir, tags); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t.ready()
}

func (t *Twin) lock(dir string) error {
	f, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s does not exist; enid makes it some seconds after its start, or its log says why it cannot", ErrStale, dir)
	}
	if err != nil {
		return fmt.Errorf("open the trace twins: %w", err)
	}
	t.closers = append(t.closers, f.Close)
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return errors.Join(fmt.Errorf("wait for the trace twins: %w", err), t.Close())
	}
	return nil
}

func (t *Twin) openPins(dir string, tags map[string]string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("list the trace twins: %w", err)
	}
	for _, e := range entries {
		name, isMap := strings.CutPrefix(e.Name(), mapPrefix)
		if !isMap {
			continue
		}
		m, err := ebpf.LoadPinnedMap(filepath.Join(dir, e.Name()), nil)
		if err != nil {
			return fmt.Errorf("open map %s of the trace twins: %w", name, err)
		}
		t.closers = append(t.closers, m.Close)
		t.own[name] = m
	}
	for name, tag := range tags {
		p, err := ebpf.LoadPinnedProgram(filepath.Join(dir, name+"_"+tag), nil)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: those in %s are of another version; restart enid", ErrStale, dir)
		}
		if err != nil {
			return fmt.Errorf("open the trace twin of %s: %w", name, err)
		}
		t.closers = append(t.closers, p.Close)
		t.programs[name] = p
	}
	return nil
}
