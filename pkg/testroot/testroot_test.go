// SPDX-License-Identifier: Apache-2.0

package testroot_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/eniplane/eniplane/pkg/testroot"
)

// A namespace is another one than ours, has only its own loopback, and is gone after the test.
func TestNetns(t *testing.T) {
	testroot.Require(t)
	var path string
	t.Run("inner", func(t *testing.T) {
		ns := testroot.Netns(t)
		path = ns.Path
		if _, err := os.Stat(path); err != nil {
			t.Fatal(err)
		}
		if err := ns.Do(func() error {
			links, err := net.Interfaces()
			if err == nil && (len(links) != 1 || links[0].Name != "lo") {
				t.Errorf("a new namespace has devices %v", links)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	})
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the namespace is still there: %v", err)
	}
}

// Pins made in the directory are gone after the test.
func TestPins(t *testing.T) {
	testroot.Require(t)
	var dir string
	t.Run("inner", func(t *testing.T) {
		dir = testroot.Pins(t)
		m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		if err := m.Pin(dir + "/m"); err != nil {
			t.Fatal(err)
		}
	})
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the pins are still there: %v", err)
	}
}

// Sweep removes what a dead process left, and nothing of a living one.
func TestSweep(t *testing.T) {
	testroot.Require(t)
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	left := fmt.Sprintf("%s/t%d-1", testroot.BPFFS, dead.Process.Pid)
	if err := os.Mkdir(left, 0o700); err != nil {
		t.Fatal(err)
	}
	ours := testroot.Pins(t)
	if err := testroot.Sweep(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); !os.IsNotExist(err) {
		t.Errorf("the leftover is still there: %v", err)
		_ = os.Remove(left)
	}
	if _, err := os.Stat(ours); err != nil {
		t.Errorf("the pins of a living process are gone: %v", err)
	}
}
