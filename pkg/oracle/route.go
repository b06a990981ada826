// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"net/netip"
	"slices"

	"github.com/eniplane/eniplane/pkg/api"
)

// target is where an ENI's packets go.
type target string

const (
	toNowhere   target = "" // no route
	toVPC       target = "local"
	toInternet  target = "internet"
	toBlackhole target = "blackhole"
	toENI       target = "eni"
	toPeer      target = "vpc"
	notPeered   target = "not peered"
)

// hop is what the routes say.
type hop struct {
	to  target
	eni string   // toENI
	vpc *api.VPC // toPeer

	policy bool // a policy route says so
}

// String names it for statistics.
func (h hop) String() string {
	if h.policy {
		return string(h.to) + " by policy"
	}
	return string(h.to)
}

// path is a packet as the routes see it.
type path struct {
	local, remote netip.Addr
	protocol      uint8
	port          uint16 // destination port of TCP and UDP
}

// route says where an ENI sends a packet: to a subnet through an ENI, if the table says so; to the VPC; as the first
// policy route says that matches; as the longest prefix of the table says.
func (m *Model) route(e *api.ENI, p path) hop {
	table := m.objs.RouteTables[m.subnetOf(e).RouteTable]
	vpc := m.vpcOf(e)
	if contains(vpc.CIDRs, p.remote) {
		for cidr, t := range m.entries(table) {
			if t.Kind == api.TargetENI && cidr.Contains(p.remote) && m.isSubnetCIDR(vpc, cidr) {
				return hop{to: toENI, eni: t.Name}
			}
		}
		return hop{to: toVPC}
	}
	for _, r := range e.PolicyRoutes {
		if m.policyMatches(vpc, &r, p) {
			h := m.hop(vpc, r.Target)
			h.policy = true
			return h
		}
	}
	best, bits := hop{}, -1
	for cidr, t := range m.entries(table) {
		if cidr.Contains(p.remote) && cidr.Bits() > bits {
			best, bits = m.hop(vpc, t), cidr.Bits()
		}
	}
	if best.to == toInternet && m.isOfPeer(vpc, p.remote) {
		return hop{to: notPeered}
	}
	return best
}

// entries are the routes of a table, one for each CIDR.
func (m *Model) entries(table *api.RouteTable) map[netip.Prefix]api.Target {
	all := map[netip.Prefix]api.Target{}
	if table == nil {
		return all
	}
	for _, r := range table.Routes {
		if r.PrefixList == "" {
			all[r.Destination] = r.Target
			continue
		}
		for _, cidr := range m.objs.PrefixLists[r.PrefixList].Entries {
			all[cidr] = r.Target
		}
	}
	return all
}

func (m *Model) isSubnetCIDR(vpc *api.VPC, cidr netip.Prefix) bool {
	for _, s := range m.objs.Subnets {
		if s.VPC == vpc.Name && slices.Contains(s.CIDRs, cidr) {
			return true
		}
	}
	return false
}

// policyMatches: icmp means IPv4 only and icmpv6 IPv6 only, and the internet has none of a peer's addresses.
func (m *Model) policyMatches(vpc *api.VPC, r *api.PolicyRoute, p path) bool {
	if !r.Protocol.Any && (r.Protocol.Number == icmp && p.remote.Is6() || r.Protocol.Number == icmpv6 && p.remote.Is4()) {
		return false
	}
	s := service{protocol: p.protocol, port: p.port, hasPortNum: p.protocol == tcp || p.protocol == udp}
	if len(r.From) > 0 && !contains(r.From, p.local) || !s.matches(r.Protocol, r.Ports, nil) {
		return false
	}
	to := len(r.To) == 0
	for _, t := range r.To {
		to = to || t.Prefix.Contains(p.remote) || t.PrefixList != "" && contains(m.objs.PrefixLists[t.PrefixList].Entries, p.remote)
	}
	return to && (r.Target.Kind != api.TargetInternet || !m.isOfPeer(vpc, p.remote))
}

func (m *Model) hop(vpc *api.VPC, t api.Target) hop {
	switch t.Kind {
	case api.TargetInternet:
		return hop{to: toInternet}
	case api.TargetBlackhole:
		return hop{to: toBlackhole}
	case api.TargetENI:
		return hop{to: toENI, eni: t.Name}
	}
	peer := m.objs.VPCs[t.Name]
	if !m.arePeers(vpc, peer) {
		return hop{to: notPeered}
	}
	return hop{to: toPeer, vpc: peer}
}

// names tells whether a route table of a VPC leads to another.
func (m *Model) names(vpc, other *api.VPC) bool {
	is := func(t api.Target) bool { return t.Kind == api.TargetVPC && t.Name == other.Name }
	for _, t := range m.objs.RouteTables {
		if t.VPC == vpc.Name && slices.ContainsFunc(t.Routes, func(r api.Route) bool { return is(r.Target) }) {
			return true
		}
	}
	return false
}

// arePeers: each has a route to the other.
func (m *Model) arePeers(a, b *api.VPC) bool { return a != b && m.names(a, b) && m.names(b, a) }

func (m *Model) hasPeer(vpc *api.VPC, vni uint32) bool {
	for _, other := range m.objs.VPCs {
		if other.VNI == vni && m.arePeers(vpc, other) {
			return true
		}
	}
	return false
}

// isOfPeer: an address of a VPC to which this one has a route.
func (m *Model) isOfPeer(vpc *api.VPC, a netip.Addr) bool {
	for _, other := range m.objs.VPCs {
		if other != vpc && contains(other.CIDRs, a) && m.names(vpc, other) {
			return true
		}
	}
	return false
}

// out is the way of what the ENI opens, answers that of the answers to what is opened towards it.
func (k flowKey) out(s service) path {
	return path{local: k.local, remote: k.remote, protocol: k.protocol, port: s.port}
}

func (k flowKey) answers() path {
	return path{local: k.local, remote: k.remote, protocol: k.protocol, port: k.remotePort}
}
