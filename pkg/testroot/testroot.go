// SPDX-License-Identifier: Apache-2.0

// Package testroot is what tests that need root share: a gate that says why a test does not run, network
// namespaces and pin directories with unique names, and their removal also after a failed test.
package testroot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/pkg/lab/netnsdir"
)

// BPFFS is where tests pin.
const BPFFS = "/sys/fs/bpf"

// EnvRequired turns the skip of Require into a failure: CI sets it to 1, so that a test cannot vanish unnoticed.
const EnvRequired = "ENIPLANE_ROOT_TESTS"

// serial makes names unique within the process; the process id makes them unique on the machine.
var serial atomic.Uint32

// Require lets the test go on only as root with a mounted bpffs. Otherwise it skips the test, or fails it when
// ENIPLANE_ROOT_TESTS=1.
func Require(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv(EnvRequired) == "1" {
			t.Fatalf("this test needs root, and %s=1 forbids to skip it", EnvRequired)
		}
		t.Skip("this test needs root")
	}
	if err := MountBPFFS(BPFFS); err != nil {
		t.Fatal(err)
	}
}

// MountBPFFS mounts a BPF file system at dir unless one is there.
func MountBPFFS(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err == nil && st.Type == unix.BPF_FS_MAGIC {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the mount point of bpffs: %w", err)
	}
	if err := unix.Mount("bpffs", dir, "bpf", 0, ""); err != nil {
		return fmt.Errorf("mount bpffs at %s: %w", dir, err)
	}
	return nil
}

// Name returns a name unique on this machine, at most 14 bytes: it fits a device. It holds the process id, by which
// Sweep knows whether its owner still lives.
func Name() string {
	return fmt.Sprintf("t%d-%d", os.Getpid(), serial.Add(1))
}

// alive says whether a process runs; one that only waits to be reaped does not.
func alive(pid string) bool {
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return false
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(state, "Z") && !strings.HasPrefix(state, "X")
}

var ownName = regexp.MustCompile(`^t([0-9]+)-[0-9]+$`)

// Abandoned tells whether a name is one of ours whose process is gone.
func Abandoned(name string) bool {
	m := ownName.FindStringSubmatch(name)
	return m != nil && !alive(m[1])
}

// Sweep removes the namespaces and pins of test processes that are gone: of those that were killed, because all
// others clean up after themselves.
func Sweep() error {
	var errs []error
	for _, dir := range []string{netnsdir.Dir, BPFFS} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("look for leftovers: %w", err))
		}
		for _, e := range entries {
			if !Abandoned(e.Name()) {
				continue
			}
			if dir == netnsdir.Dir {
				err = netns.DeleteNamed(e.Name())
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

// Namespace is a named network namespace of one test.
type Namespace struct {
	Name   string // as `ip netns` shows it
	Path   string // /run/netns/Name
	Handle netns.NsHandle
}

// Netns makes a network namespace with a unique name and its loopback down, and removes it when the test ends.
func Netns(t testing.TB) *Namespace {
	t.Helper()
	name := Name()
	n := &Namespace{Name: name, Path: filepath.Join(netnsdir.Dir, name)}
	t.Cleanup(func() {
		if n.Handle.IsOpen() {
			_ = n.Handle.Close()
		}
		if err := netns.DeleteNamed(name); err != nil && !os.IsNotExist(err) {
			t.Errorf("remove network namespace %s: %v", name, err)
		}
	})
	if err := netnsdir.Share(); err != nil {
		t.Fatal(err)
	}
	if err := onThread(func() (err error) {
		n.Handle, err = netns.NewNamed(name)
		return err
	}); err != nil {
		t.Fatalf("make network namespace %s: %v", name, err)
	}
	return n
}

// Do runs fn inside the namespace and returns its error. fn runs on a thread of its own: goroutines that it
// starts are in the caller's namespace again, sockets and links that it makes stay in this one.
func (n *Namespace) Do(fn func() error) error {
	return onThread(func() error {
		if err := netns.Set(n.Handle); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", n.Name, err)
		}
		return fn()
	})
}

// onThread runs fn on a thread that dies with it, so that no namespace leaks into other goroutines.
func onThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		done <- fn()
	}()
	return <-done
}

// Pins makes a directory with a unique name in bpffs and removes it with all its pins when the test ends.
func Pins(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(BPFFS, Name())
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatalf("make pin directory: %v", err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove pins: %v", err)
		}
	})
	return dir
}
