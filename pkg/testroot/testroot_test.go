// SPDX-License-Identifier: Apache-2.0

package testroot_test

import (
	"net"
	"os"
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
