// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"github.com/eniplane/eniplane/loader"
	"github.com/eniplane/eniplane/pkg/testroot"
)

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
			make: func() error { return addVXLAN(loader.VXLANDevice) },
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
				port, err := ForeignVXLAN()
				if err != nil || port != tt.port {
					t.Errorf("port %q, want %q, error %v", port, tt.port, err)
				}
				firewall, err := Firewalls()
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
	c, err := nftables.New()
	if err != nil {
		return err
	}
	c.AddChain(&nftables.Chain{
		Name: "probe", Table: c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "probe"}),
		Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter,
		Policy: &policy,
	})
	return c.Flush()
}

func TestLocalPorts(t *testing.T) {
	text := "  sl  local_address rem_address\n   1: 00000000:12B5 00000000:0000 07\n   2: 0100007F:0035 00000000:0000 07\n"
	if diff := cmp.Diff([]int{4789, 53}, localPorts(text)); diff != "" {
		t.Error(diff)
	}
}
