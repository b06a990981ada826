// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/pkg/dataplane"
)

// place is where one host's pins and files live.
type place struct {
	host  string
	pins  string // <bpffs>/<host>
	state string // <state dir>/<host>
}

var hostName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

func newPlace(opts Options) (place, error) {
	if !hostName.MatchString(opts.Host) {
		return place{}, fmt.Errorf("host name %q is not a DNS label", opts.Host)
	}
	bpffs, stateDir := opts.BPFFS, opts.StateDir
	if bpffs == "" {
		bpffs = dataplane.DefaultBPFFS
	}
	if stateDir == "" {
		stateDir = dataplane.DefaultStateDir
	}
	return place{
		host:  opts.Host,
		pins:  dataplane.PinDir(bpffs, opts.Host),
		state: dataplane.HostStateDir(stateDir, opts.Host),
	}, nil
}

func (p place) maps() string  { return dataplane.MapsDir(p.pins) }
func (p place) links() string { return filepath.Join(p.pins, "links") }

// prepare makes the directories: pins on a bpffs, readable by nobody else.
func (p place) prepare() error {
	if err := ensureBPFFS(p.pins); err != nil {
		return err
	}
	for _, dir := range []string{p.pins, p.links(), p.state} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
		if err := checkOwner(dir); err != nil {
			return err
		}
	}
	return nil
}

// prepareMaps makes the directory of the maps again if somebody has removed it. At a start its absence means that there
// are no maps.
func (p place) prepareMaps() error {
	if err := os.MkdirAll(p.maps(), 0o700); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	return nil
}

// checkOwner refuses a directory in which somebody else could put pins or files.
func checkOwner(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("check directory: %w", err)
	}
	owner, known := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.IsDir():
		return fmt.Errorf("%s is not a directory", dir)
	case !known || int(owner.Uid) != os.Geteuid():
		return fmt.Errorf("%s belongs to another user: remove it or run as its owner", dir)
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("%s is writable by others (mode %o): chmod go-w it", dir, info.Mode().Perm())
	}
	return nil
}

const bpffsMount = "/sys/fs/bpf"

// ensureBPFFS mounts a bpffs at its usual place if dir shall be there and none is mounted. Pins in
// another file system would end with the process that made them.
func ensureBPFFS(dir string) error {
	mounted, err := onBPFFS(dir)
	if err != nil || mounted {
		return err
	}
	if dir != bpffsMount && !strings.HasPrefix(dir, bpffsMount+"/") {
		return fmt.Errorf("%s is not on a bpffs: mount one there (mount -t bpf bpf DIR) or choose another --bpffs", dir)
	}
	if err := unix.Mount("bpf", bpffsMount, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return fmt.Errorf("mount bpffs at %s: %w", bpffsMount, err)
	}
	return nil
}

// onBPFFS looks at the deepest directory of the path that exists.
func onBPFFS(dir string) (bool, error) {
	for {
		var fs unix.Statfs_t
		err := unix.Statfs(dir, &fs)
		if err == nil {
			return fs.Type == unix.BPF_FS_MAGIC, nil
		}
		if !errors.Is(err, unix.ENOENT) || dir == "/" {
			return false, fmt.Errorf("look at %s: %w", dir, err)
		}
		dir = filepath.Dir(dir)
	}
}

const lockFile = "lock"

// hostLock is held by the one process that works for a host.
type hostLock struct{ files []*os.File }

// lock keeps a second agent of the same host out until it is closed, also by a crash. There are two
// locks: on the state, which readers look at, and on the pins, because two agents of one host may
// have been given different state directories.
func (p place) lock() (*hostLock, error) {
	l := &hostLock{}
	if err := l.take(filepath.Join(p.state, lockFile), os.O_RDWR|os.O_CREATE, p.host); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	err := l.take(p.pins, os.O_RDONLY, p.host)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // a teardown may find no pins
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (l *hostLock) take(path string, flags int, host string) error {
	f, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		return fmt.Errorf("open lock: %w", err)
	}
	l.files = append(l.files, f)
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		return fmt.Errorf("%w %s (lock %s): stop it first", ErrLocked, host, path)
	case err != nil:
		return fmt.Errorf("lock %s: %w", path, err)
	}
	return nil
}

// Close gives the locks back.
func (l *hostLock) Close() error {
	var errs []error
	for _, f := range l.files {
		errs = append(errs, f.Close())
	}
	l.files = nil
	return errors.Join(errs...)
}

// checkNamespace refuses to work in another network namespace than the one in which the host's
// programs run: there the same ifindexes and names are other devices.
func (p place) checkNamespace() error {
	pins, err := os.ReadDir(p.links())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	for _, entry := range pins {
		if strings.HasPrefix(entry.Name(), string(roleXDP)) {
			continue // its device has a tcx link too
		}
		here, err := linkIsHere(filepath.Join(p.links(), entry.Name()))
		if err != nil {
			return err
		}
		if !here {
			return fmt.Errorf("the programs of host %s run in another network namespace: run this inside it", p.host)
		}
	}
	return nil
}
