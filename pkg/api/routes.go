// SPDX-License-Identifier: Apache-2.0

package api

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// maxPriority is the highest number of a policy route.
const maxPriority = 32766

func decodeRouteTable(m *mapping) Object {
	t := &RouteTable{VPC: m.need("vpc").name()}
	f := m.get("routes")
	t.Routes = list(f, (*field).route)
	if len(t.Routes) > MaxRoutesPerTable {
		f.errorf("has %d routes (at most %d)", len(t.Routes), MaxRoutesPerTable)
	}
	return t
}

func (f *field) route() Route {
	m := f.mapping()
	to := m.need("destination").destination()
	r := Route{Destination: to.Prefix, PrefixList: to.PrefixList, Target: m.need("target").target()}
	m.done()
	return r
}

// destination reads a CIDR or pl/NAME.
func (f *field) destination() Peer {
	p := f.peer()
	if p.Group != "" {
		f.errorf("sg/%s is no destination of routes (use a CIDR or pl/NAME)", p.Group)
		return Peer{}
	}
	return p
}

func (f *field) target() Target {
	s := f.text()
	kind, name, named := strings.Cut(s, "/")
	switch t := (Target{TargetKind(kind), name}); {
	case s == "":
		return Target{}
	case !named && (t.Kind == TargetInternet || t.Kind == TargetBlackhole):
		return t
	case !named || t.Kind != TargetENI && t.Kind != TargetVPC:
		f.errorf("%q is not a target (use internet, eni/NAME, vpc/NAME or blackhole)", s)
	case NameProblem(name) != "":
		f.errorf("%q names nothing: the name %s (write %s/NAME)", s, NameProblem(name), kind)
	default:
		return t
	}
	return Target{}
}

// policyRoutes reads those of an ENI, in the order of the text.
func policyRoutes(f *field) []PolicyRoute {
	lines := map[int]int{}
	routes := list(f, func(item *field) PolicyRoute {
		p := item.policyRoute()
		if first := lines[p.Priority]; first != 0 {
			item.errorf("priority %d is used twice (give one another; the first is at line %d)", p.Priority, first)
		} else if p.Priority != 0 {
			lines[p.Priority] = item.line
		}
		return p
	})
	if len(routes) > MaxPolicyRoutes {
		f.errorf("has %d policy routes (at most %d: use prefix lists, or a route table)", len(routes), MaxPolicyRoutes)
	}
	return routes
}

func (f *field) policyRoute() PolicyRoute {
	m := f.mapping()
	p := PolicyRoute{
		Priority: int(m.need("priority").number(1, maxPriority)),
		From:     filled(m.get("from"), "CIDR, or remove the field for all", (*field).prefix),
		To:       filled(m.get("to"), "CIDR or pl/NAME, or remove the field for all", (*field).destination),
		Protocol: Protocol{Any: true},
		Target:   m.need("target").target(),
	}
	ports := m.get("ports")
	p.Ports = filled(ports, "port, or remove the field for all ports", (*field).portRange)
	known := true
	if protocol := m.get("protocol"); protocol != nil {
		p.Protocol, known = protocol.protocol()
	}
	if ports != nil && known && !p.Protocol.HasPorts() {
		ports.errorf("do not go with protocol %s (only tcp and udp have ports)", p.Protocol)
	}
	if m != nil && !p.canMatch() {
		f.errorf("matches nothing: from, to and protocol %s have no address family in common", p.Protocol)
	}
	m.done()
	return p
}

// canMatch tells whether there is a family in which a packet can match. What could not be read, and
// prefix lists, are not judged.
func (p *PolicyRoute) canMatch() bool {
	for _, family := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		from := len(p.From) == 0 || slices.ContainsFunc(p.From, func(c netip.Prefix) bool {
			return !c.IsValid() || c.Addr().Is4() == family.Is4()
		})
		to := len(p.To) == 0 || slices.ContainsFunc(p.To, func(c Peer) bool {
			return !c.Prefix.IsValid() || c.Prefix.Addr().Is4() == family.Is4()
		})
		if from && to && p.Protocol.Matches(family) {
			return true
		}
	}
	return false
}

// namedVPCs says by VPC which others its route tables lead to.
func (o *Objects) namedVPCs() map[string]map[string]bool {
	named := map[string]map[string]bool{}
	add := func(vpc string, t Target) {
		if t.Kind != TargetVPC || o.VPCs[t.Name] == nil {
			return
		}
		if named[vpc] == nil {
			named[vpc] = map[string]bool{}
		}
		named[vpc][t.Name] = true
	}
	for _, t := range o.RouteTables {
		for i := range t.Routes {
			add(t.VPC, t.Routes[i].Target)
		}
	}
	return named
}

// Peerings are the ways between VPCs. Route tables make them, which every host of a VPC knows; policy routes may
// use them.
type Peerings struct{ named map[string]map[string]bool }

// Peerings returns those of the revision.
func (o *Objects) Peerings() Peerings { return Peerings{o.namedVPCs()} }

// Named returns the VPCs to which a VPC has a route, sorted.
func (p Peerings) Named(vpc string) []string { return slices.Sorted(maps.Keys(p.named[vpc])) }

// Of returns the peers of a VPC, sorted: both have a route to each other.
func (p Peerings) Of(vpc string) []string {
	return slices.DeleteFunc(p.Named(vpc), func(other string) bool { return !p.named[other][vpc] })
}
