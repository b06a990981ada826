// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"

	"github.com/google/nftables"
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

// TestObstacles makes what stands in the way of the overlay, and sees it named.
func TestObstacles(t *testing.T) {
	testroot.Require(t)
	for _, tt := range []struct {
		name     string
		make     func() error
		port     string // in the detail of the first
		firewall string // and of the second
	}{
		{name: "nothing", make: func() error { return nil }},
		{
			name: "our own device",
			make: func() error { return addVXLAN(vxlanDevice) },
		},
		{
			name: "a foreign device", port: "device flannel.1 has the port",
			make: func() error { return addVXLAN("flannel.1") },
		},
		{
			name: "policy drop", firewall: "chain probe of table probe has policy drop",
			make: func() error { return addInputChain(nftables.ChainPolicyDrop) },
		},
		{
			name: "policy accept",
			make: func() error { return addInputChain(nftables.ChainPolicyAccept) },
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := testroot.Netns(t).Do(func() error {
				if err := tt.make(); err != nil {
					return err
				}
				port, err := foreignVXLAN()
				if err != nil || port != tt.port {
					t.Errorf("port %q, want %q, error %v", port, tt.port, err)
				}
				firewall, err := firewalls()
				if err != nil || !strings.HasPrefix(firewall, tt.firewall) || tt.firewall == "" && firewall != "" {
					t.Errorf("firewall %q, want %q, error %v", firewall, tt.firewall, err)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}

func addVXLAN(name string) error {
	return netlink.LinkAdd(&netlink.Vxlan{
		LinkAttrs: netlink.LinkAttrs{Name: name}, FlowBased: true, GBP: true, Port: vxlanPort,
	})
}

func addInputChain(policy nftables.ChainPolicy) error {
	return withTable(nftables.TableFamilyINet, func(c *nftables.Conn, t *nftables.Table) {
		c.AddChain(&nftables.Chain{
			Name: "probe", Table: t, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter, Policy: &policy,
		})
	})
}
