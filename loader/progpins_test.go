// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/eniplane/eniplane/pkg/dataplane"
)

// programPins are the directories of the pins of programs.
func (w *world) programPins() []string {
	w.t.Helper()
	dirs, err := filepath.Glob(filepath.Join(w.opts.BPFFS, w.opts.Host, programsPrefix+"*"))
	if err != nil {
		w.t.Fatal(err)
	}
	return dirs
}

// forgetPrograms removes the pins of programs: the next loader loads its own.
func (w *world) forgetPrograms() {
	w.t.Helper()
	for _, dir := range w.programPins() {
		if err := os.RemoveAll(dir); err != nil {
			w.t.Fatal(err)
		}
	}
}

func programIDs(t *testing.T, l *Loader) map[string]ebpf.ProgramID {
	t.Helper()
	ids := map[string]ebpf.ProgramID{}
	for name, prog := range l.slots.Programs {
		info, err := prog.Info()
		if err != nil {
			t.Fatal(err)
		}
		ids[name], _ = info.ID()
	}
	return ids
}

// The programs of the last agent are taken as they are if they are of this build and on these maps, and only then.
func TestProgramsAreAdopted(t *testing.T) {
	w := newWorld(t)
	again := func(l *Loader) *Loader {
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		return w.open()
	}
	l := w.open()
	first := programIDs(t, l)
	l = again(l)
	if second := programIDs(t, l); len(first) < 5 || !maps.Equal(first, second) {
		t.Errorf("programs %v, want those of the last agent: %v", second, first)
	}
	t.Run("not on another map", func(t *testing.T) {
		path := filepath.Join(l.place.maps(), dataplane.PinnedName(dataplane.MapLive))
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		before := programIDs(t, l)
		l = again(l)
		if anyShared(before, programIDs(t, l)) {
			t.Error("programs on a map that is gone were adopted")
		}
	})
	t.Run("not if one is missing", func(t *testing.T) {
		before := programIDs(t, l)
		if err := os.Remove(filepath.Join(w.programPins()[0], dataplane.SweepStart)); err != nil {
			t.Fatal(err)
		}
		l = again(l)
		if anyShared(before, programIDs(t, l)) {
			t.Error("some of the programs were adopted")
		}
	})
	t.Run("not of another build", func(t *testing.T) {
		before := programIDs(t, l)
		old := w.programPins()
		other := filepath.Join(filepath.Dir(old[0]), programsPrefix+"another-build")
		if err := os.Rename(old[0], other); err != nil {
			t.Fatal(err)
		}
		l = again(l)
		if anyShared(before, programIDs(t, l)) {
			t.Error("the programs of another build were adopted")
		}
		if left := w.programPins(); !slices.Equal(left, old) {
			t.Errorf("pinned are %v, want only %v", left, old)
		}
	})
}

func anyShared(a, b map[string]ebpf.ProgramID) bool {
	for name, id := range a {
		if b[name] == id {
			return true
		}
	}
	return false
}
