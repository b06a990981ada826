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
	"strings"
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
	for _, dir := range []string{runDir, netnsdir.Dir, bpffs} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("look for leftovers of killed runs: %w", err))
		}
		for _, e := range entries {
			m := ownName.FindStringSubmatch(e.Name())
			if m == nil || alive(m[1]) {
				continue
			}
			if err = endProcesses(filepath.Join(runDir, e.Name())); err != nil {
				errs = append(errs, err)
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

// endProcesses ends what a killed run left running: those named by the pid files of a site whose command line names its
// directory, too.
func endProcesses(dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.pid"))
	if err != nil {
		return fmt.Errorf("look for processes of killed runs: %w", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("look for processes of killed runs: %w", err)
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
		if err != nil {
			continue // half written: it did not start
		}
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil || !strings.Contains(string(line), dir+"/") {
			continue // it has ended, and the number may be another's
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("end process %d of a killed run: %w", pid, err)
		}
	}
	return nil
}
