// SPDX-License-Identifier: Apache-2.0

package pkttest

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Underlay is the host's own network behind its uplink.
type Underlay struct {
	Addresses []netip.Prefix // of the uplink
	Gateways  []netip.Addr   // default routes, one per family
	Neighbour MAC            // of all gateways
	Refused   []netip.Prefix // unreachable for the host
}

// settleLimit is far longer than the kernel takes for an address, however busy the machine.
const settleLimit = time.Minute

// VXLANDevice is the overlay device of a host, as the loader names it.
const VXLANDevice = "eniplane0"

// makePort makes one device; packets are never carried, but programs need an ifindex that exists.
func makePort(name string, mac MAC) (int, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	if mac != (MAC{}) {
		attrs.HardwareAddr = net.HardwareAddr(mac[:])
	}
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: fmt.Sprintf("p-%.12s", name)}
	if err := netlink.LinkAdd(veth); err != nil {
		return 0, fmt.Errorf("make device %s: %w", name, err)
	}
	for _, end := range []string{name, veth.PeerName} {
		l, err := netlink.LinkByName(end)
		if err != nil {
			return 0, fmt.Errorf("find device %s: %w", end, err)
		}
		if err := netlink.LinkSetUp(l); err != nil {
			return 0, fmt.Errorf("set device %s up: %w", end, err)
		}
	}
	return indexOf(name)
}

func indexOf(name string) (int, error) {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return 0, fmt.Errorf("find device %s: %w", name, err)
	}
	return l.Attrs().Index, nil
}

// makeVXLAN makes the overlay device as a host has it, with forwarding on, which bpf_fib_lookup
// asks for.
func makeVXLAN() (int, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = VXLANDevice
	vxlan := &netlink.Vxlan{LinkAttrs: attrs, FlowBased: true, GBP: true, Port: VXLANPort}
	if err := netlink.LinkAdd(vxlan); err != nil {
		return 0, fmt.Errorf("make device %s: %w", VXLANDevice, err)
	}
	if err := netlink.LinkSetUp(vxlan); err != nil {
		return 0, fmt.Errorf("set device %s up: %w", VXLANDevice, err)
	}
	for _, family := range []string{"ipv4", "ipv6"} {
		path := filepath.Join("/proc/sys/net", family, "conf", VXLANDevice, "forwarding")
		if err := os.WriteFile(path, []byte("1"), 0o644); err != nil {
			return 0, fmt.Errorf("turn forwarding on: %w", err)
		}
	}
	return indexOf(VXLANDevice)
}

// connect gives the uplink its addresses, default routes and the neighbours that these lead to.
func (u Underlay) connect(uplink int) error {
	l, err := netlink.LinkByIndex(uplink)
	if err != nil {
		return fmt.Errorf("find uplink: %w", err)
	}
	for _, p := range u.Addresses {
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
		if p.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(l, addr); err != nil {
			return fmt.Errorf("give the uplink address %v: %w", p, err)
		}
	}
	for _, p := range u.Refused {
		dst := &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
		if err := netlink.RouteAdd(&netlink.Route{Dst: dst, Type: unix.RTN_UNREACHABLE}); err != nil {
			return fmt.Errorf("make %v unreachable: %w", p, err)
		}
	}
	for _, gateway := range u.Gateways {
		neigh := &netlink.Neigh{
			LinkIndex: uplink, IP: gateway.AsSlice(), State: netlink.NUD_PERMANENT,
			HardwareAddr: net.HardwareAddr(u.Neighbour[:]),
		}
		if err := netlink.NeighSet(neigh); err != nil {
			return fmt.Errorf("add neighbour %v: %w", gateway, err)
		}
		bits := gateway.BitLen()
		all := &net.IPNet{IP: make(net.IP, bits/8), Mask: net.CIDRMask(0, bits)}
		route := &netlink.Route{LinkIndex: uplink, Dst: all, Gw: gateway.AsSlice()}
		if err := netlink.RouteAdd(route); err != nil {
			return fmt.Errorf("add the default route by %v: %w", gateway, err)
		}
	}
	return u.settle()
}

// settle waits until the kernel takes the host's addresses for its own: it enters those of IPv6 in the background, and
// on a busy machine a packet can be faster.
func (u Underlay) settle() error {
	for _, p := range u.Addresses {
		for end := time.Now().Add(settleLimit); ; time.Sleep(time.Millisecond) {
			routes, err := netlink.RouteGet(p.Addr().AsSlice())
			if err == nil && len(routes) == 1 && routes[0].Type == unix.RTN_LOCAL {
				break
			}
			if time.Now().After(end) {
				return fmt.Errorf("wait until the kernel has the host's address %v: after %v its route is %v: %w", p, settleLimit, routes, err)
			}
		}
	}
	return nil
}

// enableXDP attaches a program that passes everything: the kernel runs XDP tests only on devices
// whose receive queues are set up for XDP. The link holds it until it is closed.
func enableXDP(ifindex int) (link.Link, error) {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type:         ebpf.XDP,
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()},
		License:      "GPL",
	})
	if err != nil {
		return nil, fmt.Errorf("load a passing XDP program: %w", err)
	}
	defer p.Close()
	l, err := link.AttachXDP(link.XDPOptions{Program: p, Interface: ifindex, Flags: link.XDPDriverMode})
	if err != nil {
		return nil, fmt.Errorf("attach XDP to the uplink: %w", err)
	}
	return l, nil
}
