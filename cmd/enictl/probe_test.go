// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/eniplane/eniplane/pkg/testroot"
)

// TestProbes: the machine that runs the tests can run eniplane, and trying leaves nothing behind.
func TestProbes(t *testing.T) {
	testroot.Require(t)
	for _, f := range checkFeatures(testroot.BPFFS + "/" + testroot.Name()) {
		if f.State == featureMissing && !strings.HasPrefix(f.Name, "UDP 4789") {
			t.Errorf("%s is missing: %s", f.Name, f.Detail)
		}
	}
	for _, name := range []string{"probe0", "probe1", "probe2"} {
		if _, err := netlink.LinkByName(name); err == nil {
			t.Errorf("device %s was left behind", name)
		}
	}
}

func TestNoBPFFS(t *testing.T) {
	if err := probeBPFFS(t.TempDir() + "/none"); err == nil || !strings.Contains(err.Error(), "not in a BPF file system") {
		t.Errorf("error %v", err)
	}
}
