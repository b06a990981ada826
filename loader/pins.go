// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/cilium/ebpf"

	"github.com/eniplane/eniplane/pkg/dataplane"
)

// ensurePins puts back what somebody has removed of the directories and of the pins of maps: with the last pin and this
// process the maps would end, and with the arrays of programs what ports and uplinks run.
func (l *Loader) ensurePins(report *Report) error {
	if err := l.place.prepare(); err != nil {
		return fmt.Errorf("keep the pins: %w", err)
	}
	if err := l.place.prepareMaps(); err != nil {
		return err
	}
	if err := l.damages.follow(l.place); err != nil {
		return err
	}
	for _, name := range l.pinned {
		path := filepath.Join(l.place.maps(), dataplane.PinnedName(name))
		ours, err := isPinned(path, l.maps.Map(name))
		if err != nil {
			return err
		}
		if ours {
			continue
		}
		if err := repin(path, l.maps.Map(name)); err != nil {
			return err
		}
		report.repaired(l.log, "map %s was not pinned any more and is again", path)
	}
	return nil
}

// isPinned tells whether a map, and not another one, is pinned at a path.
func isPinned(path string, m *ebpf.Map) (bool, error) {
	there, err := ebpf.LoadPinnedMap(path, &ebpf.LoadPinOptions{ReadOnly: true})
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("open map %s: %w", path, err)
	}
	defer there.Close()
	a, err := there.Info()
	if err != nil {
		return false, fmt.Errorf("look at map %s: %w", path, err)
	}
	b, err := m.Info()
	if err != nil {
		return false, fmt.Errorf("look at our map: %w", err)
	}
	one, _ := a.ID()
	other, _ := b.ID()
	return one == other, nil
}

// repin pins a map in the place of whatever is there. Only a duplicate can be pinned where the library believes it to be.
func repin(path string, m *ebpf.Map) error {
	if err := removePin(path); err != nil {
		return err
	}
	twin, err := m.Clone()
	if err != nil {
		return fmt.Errorf("pin map %s again: %w", path, err)
	}
	defer twin.Close()
	if err := twin.Pin(path); err != nil {
		return fmt.Errorf("pin map %s again: %w", path, err)
	}
	return nil
}
