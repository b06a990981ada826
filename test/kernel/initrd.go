// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	_ "embed"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

//go:embed init.sh
var initScript []byte

// writeInitrd writes the root file system of the machine: BusyBox, modules in load order, the test binaries, and
// the files of the module that tests read.
func writeInitrd(ctx context.Context, path, root string, k *kernel, tests []test) error {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("make the initramfs: %w", err)
	}
	defer f.Close()
	w := bufio.NewWriter(f)
	c := newCpio(w)
	c.file("init", 0o755, initScript)
	c.copy("bin/busybox", k.busybox)
	mods, err := orderModules(ctx, k)
	if err != nil {
		return err
	}
	for i, m := range mods {
		c.file(fmt.Sprintf("modules/%03d-%s.ko", i, m.name), 0o644, m.image)
	}
	var script strings.Builder
	for i, t := range tests {
		bin := fmt.Sprintf("tests/%d.test", i)
		c.copy(bin, t.binary)
		c.tree(root, filepath.Join(t.dir, "testdata"))
		c.dir("src/" + t.dir)
		fmt.Fprintf(&script, "cd '/src/%s' && '/%s' -test.v -test.timeout 14m -test.run '%s'\necho \"@@exit $?\"\n", t.dir, bin, t.run)
	}
	c.file("payload", 0o755, []byte(script.String()))
	c.file("src/go.mod", 0o644, []byte("module github.com/eniplane/eniplane\n"))
	c.tree(root, "examples")
	c.tree(root, "bin")
	if err := c.close(); err != nil {
		return fmt.Errorf("write the initramfs: %w", err)
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write the initramfs: %w", err)
	}
	return f.Close()
}

// cpio writes the "newc" archive that the kernel unpacks. The first error stays and is returned by close.
type cpio struct {
	w    io.Writer
	ino  int
	dirs map[string]bool
	err  error
}

func newCpio(w io.Writer) *cpio { return &cpio{w: w, dirs: map[string]bool{".": true}} }

// entry writes header, name and data, each padded to four bytes.
func (c *cpio) entry(name string, mode int, data []byte) {
	if c.err != nil {
		return
	}
	c.ino++
	head := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		c.ino, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0, name)
	for _, part := range [][]byte{[]byte(head), data} {
		if _, c.err = c.w.Write(append(part, make([]byte, -len(part)&3)...)); c.err != nil {
			return
		}
	}
}

// dir makes a directory and those above it.
func (c *cpio) dir(name string) {
	name = filepath.Clean(name)
	if c.dirs[name] {
		return
	}
	c.dirs[name] = true
	c.dir(filepath.Dir(name))
	c.entry(name, 0o040755, nil)
}

func (c *cpio) file(name string, perm int, data []byte) {
	c.dir(filepath.Dir(name))
	c.entry(name, 0o100000|perm, data)
}

// copy takes a file of this machine.
func (c *cpio) copy(name, from string) {
	data, err := os.ReadFile(from)
	if err != nil && c.err == nil {
		c.err = err
	}
	c.file(name, 0o755, data)
}

// tree copies the regular files of a directory of the module to the same place below /src; a directory that does
// not exist is empty. Unpacked kernels stay out.
func (c *cpio) tree(root, dir string) {
	err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil && os.IsNotExist(err):
			return nil
		case err != nil:
			return err
		case d.IsDir() && d.Name() == "packages":
			return filepath.SkipDir
		case d.Type().IsRegular():
			rel, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			c.copy(filepath.Join("src", rel), path)
		}
		return nil
	})
	if err != nil && c.err == nil {
		c.err = err
	}
}

func (c *cpio) close() error {
	c.entry("TRAILER!!!", 0, nil)
	return c.err
}
