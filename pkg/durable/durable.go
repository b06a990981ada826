// SPDX-License-Identifier: Apache-2.0

// Package durable writes the files of an agent's state.
package durable

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// WriteFile replaces a file: whoever reads it sees the old text or the new one, also after a crash or
// a loss of power. A file has one writer at a time (the agent that holds the host's lock); so what a
// crash leaves beside it has one name, and the next write takes it.
func WriteFile(path string, data []byte, mode os.FileMode) error {
	if err := replace(path, data, mode, true); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// Replace replaces a file without waiting for the disk: a crash leaves the old text or the new one, a
// loss of power until Sync maybe neither.
func Replace(path string, data []byte, mode os.FileMode) error {
	if err := replace(path, data, mode, false); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// Sync makes what Replace wrote outlive a loss of power.
func Sync(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	if err := errors.Join(f.Sync(), f.Close(), syncDir(filepath.Dir(path))); err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	return nil
}

func replace(path string, data []byte, mode os.FileMode, sync bool) error {
	fresh := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	if err := write(fresh, data, mode, sync); err != nil {
		return err
	}
	if err := os.Rename(fresh, path); err != nil {
		return errors.Join(err, os.Remove(fresh))
	}
	return nil
}

func write(path string, data []byte, mode os.FileMode, sync bool) error {
	// Not what is there: it may be a link to elsewhere.
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil && sync {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

// syncDir makes renames in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
