// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// plug is one end of a cable.
type plug struct {
	ns   *Namespace
	name string
	mac  net.HardwareAddr // nil = random
}

// cable joins two namespaces with a veth pair. Both ends are down.
func cable(a, b plug, mtu int) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = a.name, mtu, a.mac
	veth := &netlink.Veth{
		LinkAttrs: attrs, PeerName: b.name, PeerHardwareAddr: b.mac,
		PeerNamespace: netlink.NsFd(b.ns.handle),
	}
	if err := a.ns.nl.LinkAdd(veth); err != nil {
		return fmt.Errorf("make cable %s:%s - %s:%s: %w", a.ns.Name, a.name, b.ns.Name, b.name, err)
	}
	return nil
}

func (n *Namespace) link(name string) (netlink.Link, error) {
	l, err := n.nl.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("find device %s in %s: %w", name, n.Name, err)
	}
	return l, nil
}

// ifindex is the index of a device, 0 if there is none of that name.
func (n *Namespace) ifindex(name string) (int, error) {
	l, err := n.nl.LinkByName(name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("find device %s in %s: %w", name, n.Name, err)
	}
	return l.Attrs().Index, nil
}

// up brings devices up.
func (n *Namespace) up(names ...string) error {
	for _, name := range names {
		l, err := n.link(name)
		if err != nil {
			return err
		}
		if err := n.nl.LinkSetUp(l); err != nil {
			return fmt.Errorf("bring %s in %s up: %w", name, n.Name, err)
		}
	}
	return nil
}

// down takes a device down.
func (n *Namespace) down(name string) error {
	l, err := n.link(name)
	if err != nil {
		return err
	}
	if err := n.nl.LinkSetDown(l); err != nil {
		return fmt.Errorf("take %s in %s down: %w", name, n.Name, err)
	}
	return nil
}

// remove deletes a device.
func (n *Namespace) remove(name string) error {
	l, err := n.link(name)
	if err != nil {
		return err
	}
	if err := n.nl.LinkDel(l); err != nil {
		return fmt.Errorf("delete %s in %s: %w", name, n.Name, err)
	}
	return nil
}

// address gives a device an address that is usable at once.
func (n *Namespace) address(device string, addr netip.Prefix) error {
	l, err := n.link(device)
	if err != nil {
		return err
	}
	a := &netlink.Addr{IPNet: ipNet(addr)}
	if addr.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	if err := n.nl.AddrAdd(l, a); err != nil {
		return fmt.Errorf("add address %s to %s in %s: %w", addr, device, n.Name, err)
	}
	return nil
}

// route adds a route through a gateway on a device; an invalid gateway makes it on-link.
func (n *Namespace) route(device string, dst netip.Prefix, via netip.Addr) error {
	l, err := n.link(device)
	if err != nil {
		return err
	}
	r := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(dst)}
	if via.IsValid() {
		r.Gw, r.Flags = via.AsSlice(), int(netlink.FLAG_ONLINK)
	} else {
		r.Scope = netlink.SCOPE_LINK
	}
	if err := n.nl.RouteAdd(r); err != nil && !errors.Is(err, syscall.EEXIST) {
		return fmt.Errorf("add route %s via %s on %s in %s: %w", dst, via, device, n.Name, err)
	}
	return nil
}

// defaultPrefix is 0.0.0.0/0 or ::/0.
func defaultPrefix(family netip.Addr) netip.Prefix {
	if family.Is6() {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
