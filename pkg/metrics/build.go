// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/pkg/dataplane"
)

// Build says what is loaded and on what it runs.
type Build struct {
	Version string // of the agent
	Hash    string // of the instructions of all programs of its BPF object
	Kernel  string
}

// NewBuild describes this binary on this kernel.
func NewBuild(version string) (Build, error) {
	spec, err := dataplane.LoadSpec()
	if err != nil {
		return Build{}, err
	}
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(spec.Programs)) {
		fmt.Fprintf(h, "%s\n%v\n", name, spec.Programs[name].Instructions)
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return Build{}, fmt.Errorf("read the kernel's release: %w", err)
	}
	return Build{
		Version: version, Hash: hex.EncodeToString(h.Sum(nil))[:12], Kernel: unix.ByteSliceToString(uts.Release[:]),
	}, nil
}
