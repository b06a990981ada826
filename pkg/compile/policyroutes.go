// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"net/netip"
	"slices"

	"github.com/eniplane/eniplane/pkg/api"
)

// policyRoutes are the compiled policy routes of an ENI: two rule sets whose classes are sets of routes,
// route i being bit 1<<i, and where each route leads. The lowest bit that the classes of source,
// destination and service share is the first route that matches.
type policyRoutes struct {
	from, to *compiled
	ways     []Route // by bit
}

// policyFormat is part of the identity of compiled policy routes, as rulesetFormat is of rule sets.
const policyFormat = 1

func (c *compiler) policyRoutes(v *vpc, e *api.ENI) *policyRoutes {
	out := &policyRoutes{from: &compiled{}, to: &compiled{}}
	if len(e.PolicyRoutes) == 0 {
		return out
	}
	for i := range e.PolicyRoutes {
		out.ways = append(out.ways, c.way(v, e.PolicyRoutes[i].Target))
	}
	hash := c.policyRoutesHash(v, e.PolicyRoutes, out.ways)
	label := "policy routes of " + e.Name
	out.from.hash, out.to.hash = hashOf(hash, "from"), hashOf(hash, "to")
	c.admit(out.from, policyFrom(e.PolicyRoutes, keyOf(out.from.hash)), label+" from")
	if out.from.err != nil {
		return out
	}
	c.admit(out.to, c.policyTo(v, e.PolicyRoutes, keyOf(out.to.hash)), label+" to")
	if c.policies[out.to.id] == nil {
		for i, way := range out.ways {
			c.policies[out.to.id] = append(c.policies[out.to.id],
				PolicyRoute{Policy: out.to.id, Bit: 1 << i, Kind: way.Kind, Arg: way.Arg})
		}
	}
	return out
}

func hashOf(hash [32]byte, part string) [32]byte {
	var h content
	h.hash(hash)
	h.str(part)
	return h.sum()
}

// policyRoutesHash covers everything that the compiled form depends on.
func (c *compiler) policyRoutesHash(v *vpc, routes []api.PolicyRoute, ways []Route) [32]byte {
	var h content
	h.num(policyFormat)
	h.num(uint64(len(routes)))
	for i := range routes {
		r := &routes[i]
		h.prefixes(r.From)
		h.num(uint64(len(r.To)))
		for _, to := range r.To {
			if to.PrefixList != "" {
				h.hash(c.listHash(to.PrefixList))
			} else {
				h.prefixes([]netip.Prefix{to.Prefix})
			}
		}
		h.flag(r.Protocol.Any)
		h.num(uint64(r.Protocol.Number))
		h.num(uint64(len(r.Ports)))
		for _, p := range r.Ports {
			h.num(uint64(p.From)<<16 | uint64(p.To))
		}
		h.num(uint64(ways[i].Kind)<<32 | uint64(ways[i].Arg))
	}
	h.prefixes(v.peerCIDRs)
	return h.sum()
}

// everywhere are the prefixes of what is not said.
func everywhere() []netip.Prefix {
	return []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
}

func policyFrom(routes []api.PolicyRoute, key string) *ruleParts {
	var matches []match
	for i := range routes {
		from := routes[i].From
		if len(from) == 0 {
			from = everywhere()
		}
		for _, p := range from {
			matches = append(matches, match{p, bitset{1 << i}})
		}
	}
	return &ruleParts{addrs: &AddrTable{Key: key, Prefixes: peerClasses(classifyWithout(matches, nil, 0))}}
}

// policyTo makes the classes of destinations and services. A route to the internet never matches an
// address of a peer: that is no place of the internet.
func (c *compiler) policyTo(v *vpc, routes []api.PolicyRoute, key string) *ruleParts {
	var to, services []match
	var internet uint64
	for i := range routes {
		r := rule{protocol: routes[i].Protocol, ports: routes[i].Ports}
		for _, p := range c.destinations(&routes[i]) {
			if r.matches(p.Addr()) {
				to = append(to, match{p, bitset{1 << i}})
			}
		}
		for _, p := range r.services() {
			services = append(services, match{p, bitset{1 << i}})
		}
		if routes[i].Target.Kind == api.TargetInternet {
			internet |= 1 << i
		}
	}
	addrs := &AddrTable{Key: key, Prefixes: peerClasses(classifyWithout(to, v.peerCIDRs, internet))}
	table := &ServiceTable{Key: key}
	for _, e := range classifyWithout(services, nil, 0) {
		b := e.prefix.Addr().As4()
		table.Prefixes = append(table.Prefixes, ServiceClass{
			Protocol: b[0], Port: uint16(b[1])<<8 | uint16(b[2]), Bits: uint8(e.prefix.Bits()), Class: e.class,
		})
	}
	return &ruleParts{addrs: addrs, services: table}
}

func (c *compiler) destinations(r *api.PolicyRoute) []netip.Prefix {
	if len(r.To) == 0 {
		return everywhere()
	}
	var out []netip.Prefix
	for _, to := range r.To {
		if to.PrefixList != "" {
			out = append(out, c.Objects.PrefixLists[to.PrefixList].Entries...)
		} else {
			out = append(out, to.Prefix)
		}
	}
	return out
}

func peerClasses(entries []classed) []PeerClass {
	out := make([]PeerClass, len(entries))
	for i, e := range entries {
		out[i] = PeerClass{Prefix: e.prefix, Class: e.class}
	}
	return out
}

// classifyWithout returns the longest-prefix table that gives each address the set of all routes whose
// prefixes cover it as its class. Under the prefixes `inside` the routes in `never` do not match.
func classifyWithout(matches []match, inside []netip.Prefix, never uint64) []classed {
	for _, p := range inside {
		matches = append(matches, match{p, bitset{0}})
	}
	slices.SortStableFunc(matches, func(a, b match) int { return api.ComparePrefix(a.prefix, b.prefix) })
	type level struct {
		prefix netip.Prefix
		set    uint64 // of the routes that cover it
		class  uint32 // which of them match
	}
	var out []classed
	var above []level
	for i := 0; i < len(matches); {
		prefix := matches[i].prefix
		for len(above) > 0 && !above[len(above)-1].prefix.Contains(prefix.Addr()) {
			above = above[:len(above)-1]
		}
		l := level{prefix: prefix}
		parent := uint32(0)
		if len(above) > 0 {
			l.set, parent = above[len(above)-1].set, above[len(above)-1].class
		}
		for ; i < len(matches) && matches[i].prefix == prefix; i++ {
			l.set |= matches[i].rules[0]
		}
		l.class = uint32(l.set)
		if slices.ContainsFunc(inside, func(p netip.Prefix) bool { return p.Bits() <= prefix.Bits() && p.Contains(prefix.Addr()) }) {
			l.class = uint32(l.set &^ never)
		}
		if l.class != parent {
			out = append(out, classed{prefix, l.class})
		}
		above = append(above, l)
	}
	return out
}

// way is where a target leads, seen from a VPC.
func (c *compiler) way(v *vpc, t api.Target) Route {
	switch t.Kind {
	case api.TargetInternet:
		return Route{Kind: RouteInternet}
	case api.TargetENI:
		return Route{Kind: RouteENI, Arg: c.alloc.ids.NextHops[t.Name].Index}
	case api.TargetVPC:
		if !slices.Contains(v.peers, t.Name) {
			return Route{Kind: RouteNotPeered}
		}
		return Route{Kind: RouteVPC, Arg: c.Objects.VPCs[t.Name].VNI}
	case api.TargetBlackhole:
	}
	return Route{Kind: RouteBlackhole}
}

// findPeers says of the VPCs present here with which others they exchange packets, and adds those that
// are not present themselves.
func (c *compiler) findPeers() {
	peerings := c.Objects.Peerings()
	for _, v := range c.vpcs {
		v.peers = peerings.Of(v.obj.Name)
		for _, name := range peerings.Named(v.obj.Name) {
			v.peerCIDRs = append(v.peerCIDRs, c.Objects.VPCs[name].CIDRs...)
		}
		slices.SortFunc(v.peerCIDRs, api.ComparePrefix)
		v.peerCIDRs = slices.Compact(v.peerCIDRs)
	}
	for _, v := range slices.Clone(c.vpcs) {
		for _, name := range v.peers {
			if c.vpcByName[name] == nil {
				c.peers = append(c.peers, c.newVPC(c.Objects.VPCs[name]))
			}
		}
	}
}

// addPeers adds what makes neighbours of peers: who of them sends, from which hosts.
func (c *compiler) addPeers(v *vpc) {
	vteps := map[netip.Addr]bool{}
	for _, known := range c.out.VTEPs {
		if known.VNI == v.obj.VNI {
			vteps[known.Addr] = true
		}
	}
	for _, name := range v.peers {
		for _, e := range c.vpcByName[name].enis {
			slot, ok := c.alloc.ids.NextHops[e.Name]
			if !ok {
				continue
			}
			c.out.MACs = append(c.out.MACs, c.mac(v, e, slot.Index))
			host := c.Objects.HostOf(e)
			if host == "" || host == c.Host || vteps[c.Objects.Hosts[host].VTEP] {
				continue
			}
			vteps[c.Objects.Hosts[host].VTEP] = true
			c.out.VTEPs = append(c.out.VTEPs, VTEP{VNI: v.obj.VNI, Addr: c.Objects.Hosts[host].VTEP})
		}
	}
}
