// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync/atomic"
	"syscall"

	"github.com/eniplane/eniplane/pkg/lab"
	"github.com/eniplane/eniplane/pkg/lab/netnsdir"
)

// bpffs is where the sites of eniplane pin, runDir where sites keep files.
const (
	bpffs  = "/sys/fs/bpf"
	runDir = "/run/eniplane-bench"
)

// serial makes names unique within the process; the process id makes them unique on the machine.
var serial atomic.Uint32

func newName() string { return fmt.Sprintf("eb%d-%d", os.Getpid(), serial.Add(1)) }

var ownName = regexp.MustCompile(`^eb([0-9]+)-[0-9]+(-[a-z]+)?$`)

// sweep removes what runs left that were killed: all others clean up after themselves.
func sweep() error {
	var errs []error
	for _, dir := range []string{netnsdir.Dir, bpffs, runDir} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("look for leftovers of killed runs: %w", err))
		}
		for _, e := range entries {
			m := ownName.FindStringSubmatch(e.Name())
			if m == nil || alive(m[1]) {
				continue
			}
			if dir == netnsdir.Dir {
				err = lab.RemoveNamespace(e.Name())
			} else {
				err = os.RemoveAll(filepath.Join(dir, e.Name()))
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("remove leftover %s: %w", e.Name(), err))
			}
		}
	}
	return errors.Join(errs...)
}

func alive(pid string) bool {
	n, err := strconv.Atoi(pid)
	return err == nil && !errors.Is(syscall.Kill(n, 0), syscall.ESRCH)
}
