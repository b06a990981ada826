// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/eniplane/eniplane/pkg/api"
)

// maxRoutes bounds one route table.
const maxRoutes = 100000

// table is a route table made in this run, or why it could not be made.
type table struct {
	id   uint32
	hash [32]byte
	err  error
}

// infraRoutes returns the table of what no ENI may reach. Another content has another number, as with all tables.
func (c *compiler) infraRoutes() []Route {
	var h content
	h.str("infrastructure") // an empty table is not that of a subnet without routes
	h.prefixes(c.infra)
	c.out.Host.Infra = c.alloc.table(keyOf(h.sum()))
	var out []Route
	for _, p := range c.infra {
		out = append(out, Route{Table: c.out.Host.Infra, Prefix: p, Kind: RouteInfra})
	}
	return out
}

// routeTable makes the table of a subnet: the local routes of its VPC and what its route table
// adds. Subnets whose tables say the same share one.
func (c *compiler) routeTable(v *vpc, name string) *table {
	label := v.obj.Name + "/" + name
	if name == "" {
		label = v.obj.Name + "/local"
	}
	key := [2]string{v.obj.Name, name}
	if done, ok := c.tables[key]; ok {
		return done
	}
	out := &table{}
	c.tables[key] = out
	routes, added := c.tableRoutes(v, name)
	var h content
	declared := -added // what is local needs no route
	for _, r := range routes {
		if r.Kind != RouteLocal {
			declared++
		}
		h.prefixes([]netip.Prefix{r.Prefix})
		h.num(uint64(r.Kind)<<32 | uint64(r.Arg))
		h.num(uint64(r.Subnet))
	}
	out.hash = h.sum()
	if declared > maxRoutes {
		out.err = fmt.Errorf("compile route table %s: %d routes are more than the limit of %d: aggregate them", label, declared, maxRoutes)
		return out
	}
	if id, ok := c.alloc.ids.Tables[keyOf(out.hash)]; ok {
		out.id = id
		return out
	}
	if err := c.room.take(Capacity{Routes: len(routes)}); err != nil {
		out.err = fmt.Errorf("compile route table %s: %w", label, err)
		return out
	}
	out.id = c.alloc.table(keyOf(out.hash))
	for i := range routes {
		routes[i].Table = out.id
	}
	c.routes[out.id] = namedRoutes{routes, label}
	return out
}

// tableRoutes returns the routes of a table, sorted. Of routes to one prefix one through an ENI counts
// most, then a subnet's, then the VPC's. What the feed accepts inside the VPC is of the first kind. `added` is how many
// routes nobody has asked for, beside the local ones.
func (c *compiler) tableRoutes(v *vpc, name string) (routes []Route, added int) {
	byPrefix := map[netip.Prefix]Route{}
	for _, p := range v.obj.CIDRs {
		byPrefix[p] = Route{Prefix: p, Kind: RouteLocal}
	}
	for _, s := range v.subnets {
		for _, p := range s.CIDRs {
			byPrefix[p] = Route{Prefix: p, Kind: RouteLocal, Subnet: c.alloc.subnet(s)}
		}
	}
	if name == "" {
		return slices.SortedFunc(maps.Values(byPrefix), compareRoutes), 0
	}
	for i := range c.Objects.RouteTables[name].Routes {
		r := &c.Objects.RouteTables[name].Routes[i]
		way, prefixes := c.way(v, r.Target), []netip.Prefix{r.Destination}
		if r.PrefixList != "" {
			prefixes = c.Objects.PrefixLists[r.PrefixList].Entries
		}
		for _, p := range prefixes {
			way.Prefix, way.Subnet = p, byPrefix[p].Subnet
			byPrefix[p] = way
		}
	}
	added = notInternet(byPrefix, v.peerCIDRs)
	return slices.SortedFunc(maps.Values(byPrefix), compareRoutes), added
}

// notInternet keeps the addresses of peers off the internet, to which a shorter prefix or a route of its
// own may send them. It returns how many routes it has added.
func notInternet(routes map[netip.Prefix]Route, peers []netip.Prefix) (added int) {
	declared := len(routes)
	for _, peer := range peers {
		if way, ok := cover(routes, peer); ok && way.Kind == RouteInternet {
			routes[peer] = Route{Prefix: peer, Kind: RouteNotPeered}
		}
	}
	if len(peers) == 0 {
		return 0
	}
	for prefix, way := range routes {
		if way.Kind == RouteInternet && slices.ContainsFunc(peers, func(p netip.Prefix) bool { return p.Bits() <= prefix.Bits() && p.Contains(prefix.Addr()) }) {
			routes[prefix] = Route{Prefix: prefix, Kind: RouteNotPeered}
		}
	}
	return len(routes) - declared
}

// cover returns the route with the longest prefix that holds all of p.
func cover(routes map[netip.Prefix]Route, p netip.Prefix) (Route, bool) {
	for bits := p.Bits(); bits >= 0; bits-- {
		if r, ok := routes[netip.PrefixFrom(p.Addr(), bits).Masked()]; ok {
			return r, true
		}
	}
	return Route{}, false
}

func compareRoutes(a, b Route) int {
	return cmp.Or(cmp.Compare(a.Table, b.Table), api.ComparePrefix(a.Prefix, b.Prefix))
}
