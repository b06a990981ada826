// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"path/filepath"

	"github.com/eniplane/eniplane/pkg/compile"
)

var errNotBuilt = errors.New("dataplane: being built")

// DefaultBPFFS and DefaultStateDir hold one directory per host each.
const (
	DefaultBPFFS    = "/sys/fs/bpf/eniplane"
	DefaultStateDir = "/var/lib/eniplane"
)

// PinDir is where the pins of a host live.
func PinDir(bpffs, host string) string { return filepath.Join(bpffs, host) }

// HostStateDir is where the files of a host live.
func HostStateDir(stateDir, host string) string { return filepath.Join(stateDir, host) }

// Maps are the pinned maps of one host.
type Maps struct{}

// OpenPinned opens the maps pinned under dir (see PinDir). A missing pin is an error that says what
// is missing and what that means.
func OpenPinned(dir string, readOnly bool) (*Maps, error) { return nil, errNotBuilt }

// Close closes the maps; their pins stay.
func (m *Maps) Close() error { return errNotBuilt }

// Names lists the maps that Dump knows, sorted.
func (m *Maps) Names() []string { return nil }

// Active returns the revision in force and the slot that holds it.
func (m *Maps) Active() (revision uint64, slot int, err error) { return 0, 0, errNotBuilt }

// Dump calls fn with each entry of a map as a flat struct with JSON tags, sorted by key, ids
// replaced by names as far as names knows them. Slotted maps show the slot in force.
func (m *Maps) Dump(name string, names compile.Names, fn func(row any) error) error {
	return errNotBuilt
}

// Columns returns the names and printed values of the fields of a row that Dump made, in order.
func Columns(row any) (names, values []string) { return nil, nil }
