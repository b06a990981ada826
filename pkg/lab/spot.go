// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"net/netip"
	"strings"
)

// Family chooses between the addresses of a node.
type Family bool

// The families.
const (
	IPv4 Family = false
	IPv6 Family = true
)

// String returns "IPv4" or "IPv6".
func (f Family) String() string {
	if f == IPv6 {
		return "IPv6"
	}
	return "IPv4"
}

func (f Family) has(a netip.Addr) bool { return a.Is6() == bool(f) }

// Spot is an address to talk from or to: the node that has it, the address as the other side writes
// it, and the address as the node itself has it. They differ for an EIP.
type Spot struct {
	Node  string
	Addr  netip.Addr
	Local netip.Addr
}

// String returns "node (address)".
func (s Spot) String() string { return fmt.Sprintf("%s (%s)", s.Node, s.Addr) }

// Spots resolves the two ends of a conversation. An end is written as a node (internet, a host, an
// instance), an ENI, or an address that some node of the lab has. Towards the internet an instance
// is its EIP.
func (l *Lab) Spots(from, to string, f Family) (src, dst Spot, err error) {
	if src, err = l.spot(from, f, false); err != nil {
		return src, dst, err
	}
	if dst, err = l.spot(to, f, src.Node == nodeInternet); err != nil {
		return src, dst, err
	}
	if dst.Node == nodeInternet {
		if public, err := l.spot(from, f, true); err == nil {
			src = public
		}
	}
	return src, dst, nil
}

func (l *Lab) spot(name string, f Family, public bool) (Spot, error) {
	if addr, err := netip.ParseAddr(name); err == nil {
		return l.spotOfAddr(addr)
	}
	if name == nodeInternet {
		return l.internetSpot(f)
	}
	if h := l.Plan.Host(name); h != nil {
		for _, a := range h.Addrs {
			if f.has(a.Addr()) {
				return Spot{Node: name, Addr: a.Addr(), Local: a.Addr()}, nil
			}
		}
		return Spot{}, fmt.Errorf("host %s has no %s address", name, f)
	}
	inst := l.Plan.Instance(name)
	if inst != nil {
		if len(inst.Ports) == 0 {
			return Spot{}, fmt.Errorf("instance %s has no ENI", name)
		}
		return portSpot(inst, &inst.Ports[0], f, public)
	}
	if inst, port := l.Plan.Port(name); port != nil {
		return portSpot(inst, port, f, public)
	}
	return Spot{}, fmt.Errorf("the lab has no node, ENI or address %q; it has %s", name, strings.Join(l.Plan.Nodes(), ", "))
}

// internetSpot prefers an address that is alone, like a client somewhere in the world.
func (l *Lab) internetSpot(f Family) (Spot, error) {
	var found netip.Addr
	for _, a := range l.Plan.Internet.Addrs {
		if !f.has(a.Addr()) {
			continue
		}
		if a.IsSingleIP() {
			found = a.Addr()
			break
		}
		found = a.Addr()
	}
	if !found.IsValid() {
		return Spot{}, fmt.Errorf("the internet has no %s address", f)
	}
	return Spot{Node: nodeInternet, Addr: found, Local: found}, nil
}

func portSpot(inst *InstancePlan, port *PortPlan, f Family, public bool) (Spot, error) {
	for _, a := range port.Addrs {
		addr := a.Addr()
		if !f.has(addr) {
			continue
		}
		if !public {
			return Spot{Node: inst.Name, Addr: addr, Local: addr}, nil
		}
		if eip, bound := port.EIPs[addr]; bound {
			return Spot{Node: inst.Name, Addr: eip, Local: addr}, nil
		}
	}
	if public {
		return Spot{}, fmt.Errorf("%s of %s has no %s EIP", port.ENI, inst.Name, f)
	}
	return Spot{}, fmt.Errorf("%s of %s has no %s address", port.ENI, inst.Name, f)
}

// spotOfAddr finds who has an address. Tenants may overlap: name the ENI then.
func (l *Lab) spotOfAddr(addr netip.Addr) (Spot, error) {
	var found []Spot
	for _, a := range l.Plan.Internet.Addrs {
		if a.Addr() == addr {
			found = append(found, Spot{Node: nodeInternet, Addr: addr, Local: addr})
		}
	}
	for _, inst := range l.Plan.Instances {
		for _, port := range inst.Ports {
			for _, a := range port.Addrs {
				if a.Addr() == addr || port.EIPs[a.Addr()] == addr {
					found = append(found, Spot{Node: inst.Name, Addr: addr, Local: a.Addr()})
				}
			}
		}
	}
	switch len(found) {
	case 0:
		return Spot{}, fmt.Errorf("nobody in the lab has the address %s", addr)
	case 1:
		return found[0], nil
	default:
		return Spot{}, fmt.Errorf("%s is the address of %s and of %s (tenants may overlap): name the ENI", addr, found[0].Node, found[1].Node)
	}
}
