// SPDX-License-Identifier: Apache-2.0

// Package netnsdir prepares the directory in which named network namespaces are mounted.
package netnsdir

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Dir is where iproute2 and the netns library mount named namespaces.
const Dir = "/run/netns"

// Share makes /run/netns a shared mount of its own, as `ip netns add` does: if that happened
// only after our namespaces were mounted there, they could not be unmounted any more.
func Share() error {
	if err := os.MkdirAll(Dir, 0o755); err != nil {
		return fmt.Errorf("make %s: %w", Dir, err)
	}
	dir, err := os.Open(Dir)
	if err != nil {
		return fmt.Errorf("open %s: %w", Dir, err)
	}
	defer dir.Close()
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil { // `ip netns` takes the same lock
		return fmt.Errorf("lock %s: %w", Dir, err)
	}
	share := func() error { return unix.Mount("", Dir, "none", unix.MS_SHARED|unix.MS_REC, "") }
	err = share()
	if errors.Is(err, unix.EINVAL) { // not a mount yet
		if err = unix.Mount(Dir, Dir, "none", unix.MS_BIND|unix.MS_REC, ""); err == nil {
			err = share()
		}
	}
	if err != nil {
		return fmt.Errorf("share mount %s: %w", Dir, err)
	}
	return nil
}
