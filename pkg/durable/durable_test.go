// SPDX-License-Identifier: Apache-2.0

package durable_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/eniplane/eniplane/pkg/durable"
)

// TestWriteFile: each text replaces the last one whole, and what a crash left half-written goes.
func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	path, left := filepath.Join(dir, "names.json"), filepath.Join(dir, ".names.json.new")
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	for i, step := range []struct {
		text  string
		crash func() error
	}{
		{"a longer first text", func() error { return os.WriteFile(left, []byte("hal"), 0o600) }},
		{"second", func() error { return os.Symlink(elsewhere, left) }},
		{"", func() error { return nil }},
	} {
		if err := step.crash(); err != nil {
			t.Fatal(err)
		}
		put := durable.WriteFile
		if i%2 == 1 {
			put = durable.Replace
		}
		if err := put(path, []byte(step.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := durable.Sync(path); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != step.text {
			t.Errorf("read %q (%v), want %q", got, err, step.text)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
			t.Errorf("left behind: %v (%v)", entries, err)
		}
	}
	if _, err := os.Lstat(elsewhere); !os.IsNotExist(err) {
		t.Errorf("a link was followed: %v", err)
	}
}

func TestWriteFileFails(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "taken")
	if err := os.MkdirAll(filepath.Join(path, "by-a-directory"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := durable.Sync(filepath.Join(dir, "nowhere")); err == nil {
		t.Error("what is not there was synced")
	}
	if err := durable.WriteFile(path, []byte("x"), 0o600); err == nil {
		t.Error("a directory was replaced")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v (%v)", entries, err)
	}
	if err := durable.WriteFile(filepath.Join(dir, "no", "such"), nil, 0o600); err == nil {
		t.Error("written into a directory that does not exist")
	}
}
