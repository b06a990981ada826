// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// lockFile is held by the loader of the agent that lives (package loader takes it).
const lockFile = "lock"

// Running tells whether an agent holds the lock of a host's state directory. It only looks: trying
// the lock could keep an agent out that starts at this moment.
func Running(hostStateDir string) (bool, error) {
	info, err := os.Stat(filepath.Join(hostStateDir, lockFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for a running agent: %w", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return false, errors.New("look for a running agent: the lock file has no inode")
	}
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		return false, fmt.Errorf("look for a running agent: %w", err)
	}
	return locked(string(locks), st.Ino), nil
}

// locked looks for an exclusive flock of a file in the text of /proc/locks. It compares the inode
// only: the device that is shown there is not the one of stat on every file system.
func locked(locks string, inode uint64) bool {
	for _, line := range strings.Split(locks, "\n") {
		// 1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF
		f := strings.Fields(line)
		if len(f) >= 6 && f[1] == "FLOCK" && f[3] == "WRITE" && strings.HasSuffix(f[5], fmt.Sprintf(":%d", inode)) {
			return true
		}
	}
	return false
}
