// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Bridge is the kernel's VXLAN device in a bridge with the ports of the ENIs. Without Filter it knows no policy;
// with it, nftables sees bridged packets by br_netfilter, which is how connection tracking comes to a bridge on
// kernels without nf_conntrack_bridge.
type Bridge struct{ Filter bool }

// Name implements Subject.
func (b Bridge) Name() string {
	if b.Filter {
		return "linux-vxlan-bridge-nft"
	}
	return "linux-vxlan-bridge"
}

const (
	bridgeDevice = "br0"
	vxlanDevice  = "vxlan0"
)

// Start implements Subject.
func (b Bridge) Start(ctx context.Context, j *Job) (Running, error) {
	if !b.Filter {
		return &running{}, bridge(j)
	}
	if err := need("nft"); err != nil {
		return nil, err
	}
	return begin(j, func(*closers) error {
		if err := bridge(j); err != nil {
			return err
		}
		for _, name := range []string{"bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables"} {
			if err := Sysctl(j.Host, name, "1"); err != nil {
				return &Unable{fmt.Sprintf("the kernel filters no bridged packets: %v", err)}
			}
		}
		text := bindingsTable(j)
		for _, f := range []Family{V4, V6} {
			text += nftTable(j, f, true)
		}
		_, err := Run(ctx, j.Host, text, "nft", "-f", "-")
		return err
	})
}

// bindingsTable is the anti-spoofing of a bridge: what comes by a port has the addresses of its ENI.
func bindingsTable(j *Job) string {
	var b strings.Builder
	fmt.Fprintf(&b, "table bridge %s {\n", Table)
	for _, f := range []Family{V4, V6} {
		_, addr := nftNames(f)
		var elements []string
		for _, e := range j.ENIs {
			elements = append(elements, fmt.Sprintf("%q . %s . %s", e.Port.Name, macText(e.MAC), f.Of(e.IPs)))
		}
		fmt.Fprintf(&b, "set bindings%d { type ifname . ether_addr . %s; elements = { %s } }\n", f, addr, strings.Join(elements, ", "))
	}
	fmt.Fprintf(&b, "chain pre { type filter hook prerouting priority -300; iifname %q accept;\n", vxlanDevice)
	b.WriteString("meta protocol ip iifname . ether saddr . ip saddr != @bindings4 drop\n")
	b.WriteString("meta protocol ip6 iifname . ether saddr . ip6 saddr != @bindings6 drop\n}\n}\n")
	return b.String()
}

// bridge makes the devices and says where every MAC is, so that nothing is flooded.
func bridge(j *Job) error {
	if err := underlay(j); err != nil {
		return err
	}
	nl := j.Host.Netlink()
	snooping := false
	attrs := netlink.NewLinkAttrs()
	attrs.Name = bridgeDevice
	br := &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}
	if err := nl.LinkAdd(br); err != nil {
		return fmt.Errorf("make a bridge: %w", err)
	}
	if err := Sysctl(j.Host, "ipv6/conf/"+bridgeDevice+"/disable_ipv6", "1"); err != nil {
		return err
	}
	members := make([]string, len(j.ENIs))
	for i, e := range j.ENIs {
		members[i] = e.Port.Name
	}
	if j.RemoteVTEP.IsValid() {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = vxlanDevice
		vx := &netlink.Vxlan{LinkAttrs: attrs, VxlanId: int(j.VNI), SrcAddr: j.VTEP().AsSlice(), Port: 4789, Learning: false}
		if err := nl.LinkAdd(vx); err != nil {
			return fmt.Errorf("make a VXLAN device: %w", err)
		}
		members = append(members, vxlanDevice)
	}
	for _, name := range members {
		l, err := nl.LinkByName(name)
		if err != nil {
			return fmt.Errorf("find device %s: %w", name, err)
		}
		if err := nl.LinkSetMaster(l, br); err != nil {
			return fmt.Errorf("put %s into the bridge: %w", name, err)
		}
	}
	if err := Up(j.Host, append(members, bridgeDevice)...); err != nil {
		return err
	}
	return forwardingEntries(j)
}

// forwardingEntries enters all MACs.
func forwardingEntries(j *Job) error {
	var errs []error
	for _, e := range j.ENIs {
		errs = append(errs, entry(j, e.Port.Name, e.MAC, nil, netlink.NTF_MASTER))
	}
	for _, r := range j.Remotes {
		errs = append(errs, entry(j, vxlanDevice, r.MAC, nil, netlink.NTF_MASTER),
			entry(j, vxlanDevice, r.MAC, j.RemoteVTEP.AsSlice(), netlink.NTF_SELF))
	}
	return errors.Join(errs...)
}

func entry(j *Job, device string, mac [6]byte, vtep net.IP, flags int) error {
	index, err := Index(j.Host, device)
	if err != nil {
		return err
	}
	state := netlink.NUD_NOARP
	if vtep != nil {
		state = netlink.NUD_PERMANENT
	}
	n := &netlink.Neigh{LinkIndex: index, Family: unix.AF_BRIDGE, State: state, Flags: flags, HardwareAddr: net.HardwareAddr(mac[:]), IP: vtep}
	if err := j.Host.Netlink().NeighSet(n); err != nil {
		return fmt.Errorf("say that %s is behind %s: %w", macText(mac), device, err)
	}
	return nil
}
