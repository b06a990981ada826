// SPDX-License-Identifier: Apache-2.0

package diff

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/eniplane/eniplane/pkg/api"
)

// peersOf are the VPCs to which one may have routes: those with other addresses.
var peersOf = map[string][]string{"red": {"green"}, "green": {"red"}, "blue": {"grey"}, "grey": {"blue"}}

// firstBytes are the addresses of the VPCs; those of red are blue's too.
func firstBytes(vpc string) (v4, v6 string) {
	switch vpc {
	case "green":
		return "172.16", "fd00:2"
	case "grey":
		return "172.17", "fd00:3"
	}
	return "10.0", "fd00:1"
}

// target draws where a route of a VPC leads. It may be one that the feed refuses: tidy takes that away.
func (g gen) target(o *api.Objects, vpc string) api.Target {
	switch g.IntN(8) {
	case 0:
		return api.Target{Kind: api.TargetInternet}
	case 1:
		return api.Target{Kind: api.TargetBlackhole}
	case 2, 3:
		return api.Target{Kind: api.TargetVPC, Name: pick(g, peersOf[vpc])}
	}
	return api.Target{Kind: api.TargetENI, Name: pick(g, sortedKeys(o.ENIs))}
}

// routes draws those of a table of a VPC.
func (g gen) routes(o *api.Objects, vpc string) []api.Route {
	var routes []api.Route
	add := func(dst string, t api.Target) {
		routes = append(routes, api.Route{Destination: netip.MustParsePrefix(dst), Target: t})
	}
	if !g.oneIn(5) {
		add("0.0.0.0/0", api.Target{Kind: api.TargetInternet})
		add("::/0", api.Target{Kind: api.TargetInternet})
	} else if g.oneIn(2) {
		t := g.target(o, vpc)
		add("0.0.0.0/0", t)
		add("::/0", t)
	}
	if g.oneIn(2) {
		add("198.18.0.0/15", api.Target{Kind: api.TargetBlackhole})
		add("2001:db8:dead::/48", api.Target{Kind: api.TargetBlackhole})
	}
	if g.oneIn(4) {
		add("198.51.100.0/24", g.target(o, vpc))
		add("2001:db8:c::/48", g.target(o, vpc))
	}
	if g.oneIn(6) {
		add("203.0.113.0/24", g.target(o, vpc))
		add("10.0.0.0/8", g.target(o, vpc))
	}
	if g.oneIn(4) {
		routes = append(routes, api.Route{PrefixList: fmt.Sprintf("pl%d", g.IntN(2)), Target: g.target(o, vpc)})
	}
	if g.oneIn(2) { // to a peer, all of it or a part
		v4, v6 := firstBytes(peersOf[vpc][0])
		part := pick(g, []string{"", "", "", "1"})
		t := api.Target{Kind: api.TargetVPC, Name: peersOf[vpc][0]}
		if g.oneIn(6) {
			t = g.target(o, vpc)
		}
		if part == "" {
			add(v4+".0.0/16", t)
			add(v6+"::/48", t)
		} else {
			add(v4+".1.0/24", t)
			add(v6+":0:1::/64", t)
		}
	}
	for _, name := range sortedKeys(o.Subnets) { // through an ENI
		if s := o.Subnets[name]; s.VPC == vpc && g.oneIn(3) {
			t := api.Target{Kind: api.TargetENI, Name: pick(g, sortedKeys(o.ENIs))}
			for _, cidr := range s.CIDRs {
				add(cidr.String(), t)
			}
		}
	}
	return routes
}

// policyRoutes draws those of an ENI.
func (g gen) policyRoutes(o *api.Objects, e *api.ENI) []api.PolicyRoute {
	var routes []api.PolicyRoute
	vpc := o.VPCOf(e).Name
	priority := 0
	for range g.IntN(4) {
		priority += 1 + g.IntN(9)
		r := api.PolicyRoute{Priority: priority, Protocol: api.Protocol{Any: true}, Target: g.target(o, vpc)}
		v6 := g.oneIn(2)
		if g.oneIn(2) {
			a := pick(g, e.IPs)
			r.From, v6 = []netip.Prefix{netip.PrefixFrom(a, a.BitLen())}, a.Is6()
			if g.oneIn(3) {
				r.From = append(r.From, g.prefix(g.oneIn(2)))
			}
		}
		if g.oneIn(2) {
			r.To = []api.Peer{{Prefix: g.prefix(v6)}}
			if g.oneIn(3) {
				r.To = append(r.To, api.Peer{PrefixList: fmt.Sprintf("pl%d", g.IntN(2))})
			}
		}
		if g.oneIn(2) {
			r.Protocol, r.Ports, _ = g.service(v6)
		}
		routes = append(routes, r)
	}
	return routes
}

// tidy takes away the routes that the feed would refuse. It replaces what it changes.
func tidy(o *api.Objects) {
	tables := map[string]*api.RouteTable{}
	for _, name := range sortedKeys(o.RouteTables) {
		t := *o.RouteTables[name]
		seen := map[netip.Prefix]bool{}
		t.Routes = nil
		for _, r := range o.RouteTables[name].Routes {
			if canLead(o, t.VPC, "", r.Target) && canBe(o, t.VPC, r, seen) {
				t.Routes = append(t.Routes, r)
			}
		}
		tables[name] = &t
	}
	o.RouteTables = tables
	for _, name := range sortedKeys(o.ENIs) {
		e, vpc := o.ENIs[name], o.VPCOf(o.ENIs[name])
		kept := slices.DeleteFunc(slices.Clone(e.PolicyRoutes), func(r api.PolicyRoute) bool {
			return !canLead(o, vpc.Name, name, r.Target) || slices.ContainsFunc(r.To, func(p api.Peer) bool {
				return p.Prefix.IsValid() && inside(vpc, p.Prefix)
			})
		})
		if len(kept) < len(e.PolicyRoutes) {
			e.PolicyRoutes = kept
		}
		if len(e.PolicyRoutes) == 0 {
			e.PolicyRoutes = nil
		}
	}
}

func inside(vpc *api.VPC, p netip.Prefix) bool {
	return slices.ContainsFunc(vpc.CIDRs, func(c netip.Prefix) bool { return c.Bits() <= p.Bits() && c.Contains(p.Addr()) })
}

func canLead(o *api.Objects, vpc, self string, t api.Target) bool {
	switch t.Kind {
	case api.TargetENI:
		e := o.ENIs[t.Name]
		return e != nil && t.Name != self && o.VPCOf(e).Name == vpc && !e.SourceDestCheck
	case api.TargetVPC:
		return o.VPCs[t.Name] != nil && slices.Contains(peersOf[vpc], t.Name)
	}
	return true
}

func canBe(o *api.Objects, vpc string, r api.Route, seen map[netip.Prefix]bool) bool {
	prefixes := []netip.Prefix{r.Destination}
	if r.PrefixList != "" {
		prefixes = o.PrefixLists[r.PrefixList].Entries
	}
	for _, p := range prefixes {
		if seen[p] || inside(o.VPCs[vpc], p) && (r.Target.Kind != api.TargetENI || !isSubnet(o, vpc, p)) {
			return false
		}
	}
	for _, p := range prefixes {
		seen[p] = true
	}
	return true
}

func isSubnet(o *api.Objects, vpc string, p netip.Prefix) bool {
	for _, s := range o.Subnets {
		if s.VPC == vpc && slices.Contains(s.CIDRs, p) {
			return true
		}
	}
	return false
}

// changeRoutes redraws a table, or the policy routes of an ENI.
func (g gen) changeRoutes(o *api.Objects, e *api.ENI) {
	if g.oneIn(3) {
		e.PolicyRoutes = g.policyRoutes(o, e)
		return
	}
	tables := map[string]*api.RouteTable{}
	for name, t := range o.RouteTables {
		tables[name] = t
	}
	name := pick(g, sortedKeys(o.RouteTables))
	t := *tables[name]
	t.Routes = g.routes(o, t.VPC)
	if g.oneIn(3) && len(t.Routes) > 0 { // one route less
		t.Routes = slices.Clone(o.RouteTables[name].Routes)
		if len(t.Routes) > 0 {
			i := g.IntN(len(t.Routes))
			t.Routes = slices.Delete(t.Routes, i, i+1)
		}
	}
	tables[name] = &t
	o.RouteTables = tables
}
