// SPDX-License-Identifier: Apache-2.0

// Package smoke asks a kernel for the few things that the design stands on, one test each: where one fails, no
// other test on that kernel says anything.
package smoke

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"github.com/eniplane/eniplane/pkg/testroot"
)

// veth makes a pair of devices in a namespace of its own and calls fn there.
func veth(t *testing.T, fn func(dev netlink.Link) error) {
	t.Helper()
	testroot.Require(t)
	ns := testroot.Netns(t)
	err := ns.Do(func() error {
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "a"}, PeerName: "b"}); err != nil {
			return err
		}
		dev, err := netlink.LinkByName("a")
		if err != nil {
			return err
		}
		return fn(dev)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// program loads one that returns a constant.
func program(t *testing.T, typ ebpf.ProgramType, attach ebpf.AttachType, verdict int32) *ebpf.Program {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: typ, AttachType: attach, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, verdict), asm.Return()},
	})
	if err != nil {
		t.Fatalf("load: %+v", err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func TestTCX(t *testing.T) {
	veth(t, func(dev netlink.Link) error {
		l, err := link.AttachTCX(link.TCXOptions{
			Interface: dev.Attrs().Index, Attach: ebpf.AttachTCXIngress,
			Program: program(t, ebpf.SchedCLS, ebpf.AttachTCXIngress, 2),
		})
		if err != nil {
			return err
		}
		return l.Close()
	})
}

func TestXDP(t *testing.T) {
	veth(t, func(dev netlink.Link) error {
		l, err := link.AttachXDP(link.XDPOptions{
			Interface: dev.Attrs().Index, Flags: link.XDPDriverMode,
			Program: program(t, ebpf.XDP, ebpf.AttachXDP, 2),
		})
		if err != nil {
			return err
		}
		return l.Close()
	})
}

func TestBTF(t *testing.T) {
	testroot.Require(t)
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		t.Fatal(err)
	}
	var fn *btf.Func
	if err := spec.TypeByName("tcx_link_attach", &fn); err != nil {
		t.Fatal(err)
	}
}

// TestGuardFamilies makes the chains of the fail-closed guard: inet prerouting, arp input and netdev ingress.
func TestGuardFamilies(t *testing.T) {
	veth(t, func(netlink.Link) error {
		c := &nftables.Conn{}
		drop := nftables.ChainPolicyDrop
		inet := c.AddTable(&nftables.Table{Name: "smoke", Family: nftables.TableFamilyINet})
		c.AddChain(&nftables.Chain{Name: "in", Table: inet, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRef(-400)})
		arp := c.AddTable(&nftables.Table{Name: "smoke", Family: nftables.TableFamilyARP})
		c.AddChain(&nftables.Chain{Name: "in", Table: arp, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookRef(1), Priority: nftables.ChainPriorityFilter})
		dev := c.AddTable(&nftables.Table{Name: "smoke", Family: nftables.TableFamilyNetdev})
		c.AddChain(&nftables.Chain{Name: "in", Table: dev, Type: nftables.ChainTypeFilter, Device: "a",
			Hooknum: nftables.ChainHookIngress, Priority: nftables.ChainPriorityFilter, Policy: &drop})
		return c.Flush()
	})
}

// TestVXLANDevice makes the device of the overlay: collect-metadata, group policy, no learning.
func TestVXLANDevice(t *testing.T) {
	veth(t, func(netlink.Link) error {
		return netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "v"}, FlowBased: true, GBP: true, Port: 4789})
	})
}

func TestTap(t *testing.T) {
	veth(t, func(netlink.Link) error {
		return netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "tap"}, Mode: netlink.TUNTAP_MODE_TAP})
	})
}
