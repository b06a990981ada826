// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"fmt"
	"net/netip"
	"slices"
)

// What marks our own, and where it stands. Protocol and tables are numbers that nobody else uses: neither the kernel
// and iproute2 (/etc/iproute2/rt_protos), nor the routing daemons.
const (
	Protocol   = 69    // of each rule, route and address that we make
	TableFirst = 69000 // the table of the ENI with index i is TableFirst + i
	maxIndex   = 7

	group        = 69   // of the devices of ENIs, so that one rule can tell them from other devices
	priorityKeep = 6900 // the rule for what leads to other devices: containers, tunnels
	priorityFrom = 6901 // the rules of the ENI with index i have priorityFrom + i
	mainMetric   = 69   // of our default route in the main table
	ipv6Metric   = 1024 // what the kernel makes of 0
	tableMain    = 254
)

// Link is a device. MAC, and not name, says which ENI it is.
type Link struct {
	Index  int
	Name   string
	MAC    string
	Kind   string // vlan, bridge, veth, ...
	Master int    // 0 = none
	Up     bool
	Group  int
}

// Address is an address of a device.
type Address struct {
	Device string
	Prefix netip.Prefix
	Ours   bool
}

// Route is a route of ours, or a default route of the main table.
type Route struct {
	Table  int
	Dst    netip.Prefix
	Via    netip.Addr // invalid = on the link
	Device string
	Source netip.Addr
	Metric int
}

// Rule is a rule of ours. From is invalid for the one that keeps what leads to other devices.
type Rule struct {
	V6       bool
	Priority int
	From     netip.Prefix
	Table    int
}

// Kernel is what is there: all devices and addresses, our own routes and rules, and the default routes of others.
type Kernel struct {
	Links     []Link
	Addresses []Address
	Routes    []Route
	Rules     []Rule
	Defaults  []Route // of the main table, not ours
}

// State is what should be there.
type State struct {
	Devices   []string // of the ENIs
	Addresses []Address
	Routes    []Route
	Rules     []Rule
	Notes     []string // what cannot be done, and why
}

// Plan says what a machine needs. What the kernel has decides only which device is which ENI, and whether the main
// table has a default route through the first ENI already.
func Plan(m *Machine, k *Kernel) *State {
	s := &State{}
	shared := true // may the devices be told from others by their group?
	families := map[bool]bool{}
	for i := range m.ENIs {
		e := &m.ENIs[i]
		link := k.device(e.MAC)
		if link == nil {
			s.note("%s (index %d) is not here: no device has the MAC %s", e.Name, e.Index, e.MAC)
			continue
		}
		s.Devices = append(s.Devices, link.Name)
		if link.Group != 0 && link.Group != group {
			shared = false
			s.note("%s is in device group %d: packets from private IPs to containers or tunnels of this machine go to the gateway", link.Name, link.Group)
		}
		for _, v6 := range []bool{false, true} {
			if primary, ok := e.primary(v6); ok {
				families[v6] = true
				s.family(e, link.Name, primary)
				if e.Index == 0 {
					s.mainDefault(k, link.Name, primary)
				}
			}
		}
	}
	for _, v6 := range []bool{false, true} {
		if families[v6] && shared {
			s.Rules = append(s.Rules, Rule{V6: v6, Priority: priorityKeep, Table: tableMain})
		}
	}
	return s
}

func (s *State) note(format string, args ...any) {
	s.Notes = append(s.Notes, fmt.Sprintf(format, args...))
}

// family plans what an ENI needs for the addresses of a family. The primary brings the subnet's route of the main table
// with it; the others come without, so that they outlive it.
func (s *State) family(e *ENI, device string, primary Addr) {
	v6, table := primary.IP.Is6(), TableFirst+e.Index
	metric := 0
	if v6 {
		metric = ipv6Metric
	}
	for _, a := range e.Addrs {
		if a.IP.Is6() != v6 {
			continue
		}
		bits := a.IP.BitLen()
		if a == primary {
			bits = a.Subnet.Bits()
		}
		s.Addresses = append(s.Addresses, Address{Device: device, Prefix: netip.PrefixFrom(a.IP, bits)})
		s.Rules = append(s.Rules, Rule{V6: v6, Priority: priorityFrom + e.Index, From: netip.PrefixFrom(a.IP, a.IP.BitLen()), Table: table})
		subnet := Route{Table: table, Dst: a.Subnet, Device: device, Source: primary.IP, Metric: metric}
		if !slices.Contains(s.Routes, subnet) {
			s.Routes = append(s.Routes, subnet)
		}
	}
	s.Routes = append(s.Routes, Route{
		Table: table, Dst: everywhere(v6), Via: primary.Gateway, Device: device, Source: primary.IP, Metric: metric,
	})
}

// mainDefault: what has no source address yet leaves by the first ENI. DHCP may have seen to that.
func (s *State) mainDefault(k *Kernel, device string, primary Addr) {
	var best *Route
	for i, r := range k.Defaults {
		if r.Dst.Addr().Is6() == primary.IP.Is6() && (best == nil || r.Metric < best.Metric) {
			best = &k.Defaults[i]
		}
	}
	if best != nil && best.Device == device {
		return
	}
	if best != nil && best.Metric <= mainMetric {
		s.note("the default route of the main table leads to %s with metric %d and is not ours: connections without a source address "+
			"leave there, not by %s (remove it, or give it a metric above %d)", best.Device, best.Metric, device, mainMetric)
	}
	s.Routes = append(s.Routes, Route{
		Table: tableMain, Dst: everywhere(primary.IP.Is6()), Via: primary.Gateway, Device: device, Source: primary.IP, Metric: mainMetric,
	})
}

// everywhere is 0.0.0.0/0 or ::/0.
func everywhere(v6 bool) netip.Prefix {
	if v6 {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
}

// device finds the device with a MAC. Devices on top of others have the MAC of the lower one: of those that only split
// it (vlan, macvlan) none is the ENI's, while a bridge or bond takes over its addresses.
func (k *Kernel) device(mac string) *Link {
	var found *Link
	for i, l := range k.Links {
		if l.MAC != mac || slices.Contains([]string{"vlan", "macvlan", "macvtap", "ipvlan", "ipvtap", "macsec"}, l.Kind) {
			continue
		}
		if found == nil || found.Master == l.Index {
			found = &k.Links[i]
		}
	}
	return found
}

// has says whether a device has an address, whatever its prefix length.
func (k *Kernel) has(device string, ip netip.Addr) bool {
	return slices.ContainsFunc(k.Addresses, func(a Address) bool { return a.Device == device && a.Prefix.Addr() == ip })
}

// index is that of a device, 0 if it has gone.
func (k *Kernel) index(name string) int {
	for _, l := range k.Links {
		if l.Name == name {
			return l.Index
		}
	}
	return 0
}
