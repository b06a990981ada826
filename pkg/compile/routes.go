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

// infraRoutes returns the table of what no ENI may reach.
func infraRoutes(prefixes []netip.Prefix) []Route {
	var out []Route
	for _, p := range prefixes {
		out = append(out, Route{Table: RoutesInfra, Prefix: p, Kind: RouteInfra})
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
	routes := c.tableRoutes(v, name)
	var h content
	for _, r := range routes {
		h.prefixes([]netip.Prefix{r.Prefix})
		h.num(uint64(r.Kind)<<32 | uint64(r.Arg))
	}
	out.hash = h.sum()
	if len(routes) > maxRoutes {
		out.err = fmt.Errorf("compile route table %s: %d routes are more than the limit of %d: aggregate them", label, len(routes), maxRoutes)
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

// tableRoutes returns the routes of a table, sorted. Of routes to one prefix a subnet's counts
// most, then the VPC's: nothing may take the place of a local route.
func (c *compiler) tableRoutes(v *vpc, name string) []Route {
	byPrefix := map[netip.Prefix]Route{}
	if name != "" {
		for _, r := range c.Objects.RouteTables[name].Routes {
			kind := RouteBlackhole
			if r.Target.Kind == api.TargetInternet {
				kind = RouteInternet
			}
			byPrefix[r.Destination] = Route{Prefix: r.Destination, Kind: kind}
		}
	}
	for _, p := range v.obj.CIDRs {
		byPrefix[p] = Route{Prefix: p, Kind: RouteLocal}
	}
	for _, s := range v.subnets {
		for _, p := range s.CIDRs {
			byPrefix[p] = Route{Prefix: p, Kind: RouteLocal, Arg: c.alloc.subnet(s)}
		}
	}
	return slices.SortedFunc(maps.Values(byPrefix), compareRoutes)
}

func compareRoutes(a, b Route) int {
	return cmp.Or(cmp.Compare(a.Table, b.Table), api.ComparePrefix(a.Prefix, b.Prefix))
}
