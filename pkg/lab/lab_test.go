// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/eniplane/eniplane/pkg/testroot"
)

// upWithoutAgents brings a lab up whose ports are plain devices.
func upWithoutAgents(t *testing.T) *Lab {
	t.Helper()
	testroot.Require(t)
	name := testroot.Name()
	t.Cleanup(func() {
		if err := Down(name); err != nil {
			t.Errorf("take the lab down: %v", err)
		}
	})
	l, err := Up(context.Background(), filepath.Join("testdata", "lab.yaml"), Options{Name: name, NoAgents: true})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestUpAndDown(t *testing.T) {
	l := upWithoutAgents(t)
	for _, node := range l.Plan.Nodes() {
		if _, err := os.Stat(filepath.Join(netnsDir, l.Namespace(node))); err != nil {
			t.Errorf("namespace of %s: %v", node, err)
		}
	}
	again, err := Open(l.Plan.Lab)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Up(context.Background(), filepath.Join("testdata", "lab.yaml"), Options{Name: l.Plan.Lab, NoAgents: true}); err == nil {
		t.Error("a second lab of the same name came up")
	}
	for range 2 {
		if err := Down(again.Plan.Lab); err != nil {
			t.Fatal(err)
		}
	}
	for _, node := range l.Plan.Nodes() {
		if _, err := os.Stat(filepath.Join(netnsDir, l.Namespace(node))); !os.IsNotExist(err) {
			t.Errorf("namespace of %s is left: %v", node, err)
		}
	}
	if _, err := os.Stat(l.dir); !os.IsNotExist(err) {
		t.Errorf("directory of the lab is left: %v", err)
	}
}
