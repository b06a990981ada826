// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Down removes a lab with everything it made. It may be called again, and after a crash at any
// point; a lab that does not exist is no error.
func Down(name string) error {
	if !labName.MatchString(name) {
		return fmt.Errorf("lab name %q: lower-case letters, digits and -, at most 32", name)
	}
	dir := filepath.Join(runDir, name)
	unlock, err := lock(dir)
	if errors.Is(err, errGone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unlock()
	l, err := Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		// The crash came between the directory and the state file: nothing else was made.
		return removeDir(dir)
	}
	if err != nil {
		return err
	}
	return l.destroy()
}

// DownAll removes the labs whose name matches.
func DownAll(match func(name string) bool) error {
	names, err := List()
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		if match(name) {
			errs = append(errs, Down(name))
		}
	}
	return errors.Join(errs...)
}

// destroy ends what runs first, then removes pins, namespaces (with their devices and nft tables)
// and files. It goes on after an error and keeps the state file then, so that it can be repeated.
func (l *Lab) destroy() error {
	var errs []error
	for _, p := range l.Agents {
		errs = append(errs, p.signal(unix.SIGTERM))
	}
	for _, p := range l.Agents {
		errs = append(errs, p.stop(stopGrace))
	}
	// No mount is there after a crash before it was made.
	if err := unix.Unmount(l.bpffs(), unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		errs = append(errs, fmt.Errorf("unmount %s: %w", l.bpffs(), err))
	}
	for _, node := range l.Plan.Nodes() {
		errs = append(errs, deleteNamespace(l.Namespace(node)))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("take lab %s down: %w", l.Plan.Lab, err)
	}
	return removeDir(l.dir)
}

// removeDir removes a lab's directory, and the one of all labs after the last.
func removeDir(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove lab directory: %w", err)
	}
	_ = os.Remove(runDir) // fails while another lab is there
	return nil
}
