// SPDX-License-Identifier: Apache-2.0

package api

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// routing is what the routes of one VPC are checked against.
type routing struct {
	vpc     string
	doc     *document  // of the VPC; nil = unknown
	local   *prefixSet // the VPC's CIDRs
	subnets map[netip.Prefix]bool
	known   bool // all subnets could be read
}

func (r *revision) routings() func(d *document, vpc string) *routing {
	subnets, unread := map[string]map[netip.Prefix]bool{}, map[string]bool{}
	each(r, func(d *document, s *Subnet) {
		if subnets[s.VPC] == nil {
			subnets[s.VPC] = map[netip.Prefix]bool{}
		}
		unread[s.VPC] = unread[s.VPC] || d.bad
		for _, p := range s.CIDRs {
			subnets[s.VPC][p] = true
		}
	})
	made := map[string]*routing{}
	return func(d *document, name string) *routing {
		vpc, to := refer[*VPC](r, d, "spec.vpc", name)
		if made[name] == nil {
			made[name] = &routing{vpc: name, doc: to, local: newPrefixSet(), subnets: subnets[name], known: !unread[name] && !r.opaque}
			if vpc != nil {
				made[name].local = setOf(to, vpc.CIDRs)
			}
		}
		return made[name]
	}
}

// checkRoutes: a table has one route per destination, and inside its VPC only such as lead what goes to
// a subnet through an ENI.
func (r *revision) checkRoutes() {
	in := r.routings()
	each(r, func(d *document, t *RouteTable) {
		vpc := in(d, t.VPC)
		seen := make(map[netip.Prefix]bool, len(t.Routes))
		for i := range t.Routes {
			path := fmt.Sprintf("spec.routes[%d].", i)
			r.checkTarget(d, path+"target", t.Routes[i].Target, t.VPC)
			r.checkDestination(d, path+"destination", &t.Routes[i], vpc, seen)
		}
		if len(t.Routes) <= MaxRoutesPerTable && len(seen) > MaxRoutesPerTable {
			d.errorf("spec.routes", "lead to %d CIDRs together with those of their prefix lists (at most %d)", len(seen), MaxRoutesPerTable)
		}
	})
}

func (r *revision) checkDestination(d *document, path string, route *Route, vpc *routing, seen map[netip.Prefix]bool) {
	prefixes, of := []netip.Prefix{route.Destination}, ""
	if route.PrefixList != "" {
		list, to := refer[*PrefixList](r, d, path, route.PrefixList)
		if list == nil {
			return
		}
		prefixes, of = list.Entries, " of "+to.label()
	}
	for _, dst := range prefixes {
		if !dst.IsValid() {
			continue
		}
		if seen[dst] {
			d.errorf(path, "%s%s has a route already (keep one)", dst, of)
			return
		}
		seen[dst] = true
		wide, _, inside := vpc.local.cover(dst)
		switch {
		case !inside || route.Target.Kind == TargetENI && (vpc.subnets[dst] || !vpc.known):
		case route.Target.Kind == TargetENI:
			d.errorf(path, "%s%s lies in %s of %s and is no subnet's CIDR (inside the VPC, lead whole CIDRs of subnets through an ENI)",
				dst, of, wide, vpc.doc.label())
			return
		default:
			d.errorf(path, "%s%s lies in %s of %s, whose addresses are local (remove it, or lead a subnet's CIDR through eni/NAME)",
				dst, of, wide, vpc.doc.label())
			return
		}
	}
}

// checkTarget: an ENI of the same VPC that forwards, or another VPC with other addresses.
func (r *revision) checkTarget(d *document, path string, t Target, vpc string) {
	switch t.Kind {
	case TargetENI:
		eni, to := refer[*ENI](r, d, path, t.Name)
		if eni == nil || to.bad {
			return
		}
		if s := r.objects.Subnets[eni.Subnet]; s != nil {
			sameVPC(d, path, to, s.VPC, vpc)
		}
		if eni.SourceDestCheck {
			d.errorf(path, "%s takes only what is addressed to it (give it sourceDestCheck: false)", to.label())
		}
	case TargetVPC:
		peer, to := refer[*VPC](r, d, path, t.Name)
		mine := r.objects.VPCs[vpc]
		if peer == nil || mine == nil {
			return
		}
		if t.Name == vpc {
			d.errorf(path, "%s is the own VPC, whose addresses are local (remove the route)", to.label())
			return
		}
		for _, a := range mine.CIDRs {
			for _, b := range peer.CIDRs {
				if a.IsValid() && b.IsValid() && a.Overlaps(b) {
					d.errorf(path, "%s of %s overlaps %s of VPC/%s (only VPCs with different addresses can be peers)", b, to.label(), a, vpc)
					return
				}
			}
		}
	}
}

// checkPolicyRoutes: they come after local routes, so one into the own VPC would never match. It puts them
// into the order in which they are asked.
func (r *revision) checkPolicyRoutes() {
	each(r, func(d *document, e *ENI) {
		subnet := r.objects.Subnets[e.Subnet]
		if len(e.PolicyRoutes) == 0 || subnet == nil {
			return
		}
		defer slices.SortStableFunc(e.PolicyRoutes, func(a, b PolicyRoute) int { return a.Priority - b.Priority })
		local := newPrefixSet()
		if vpc := r.objects.VPCs[subnet.VPC]; vpc != nil {
			local = setOf(d, vpc.CIDRs)
		}
		for i := range e.PolicyRoutes {
			p := &e.PolicyRoutes[i]
			path := fmt.Sprintf("spec.policyRoutes[%d]", i)
			if p.Target.Kind == TargetENI && p.Target.Name == e.Name {
				d.errorf(path+".target", "is the ENI itself (name another one)")
			} else {
				r.checkTarget(d, path+".target", p.Target, subnet.VPC)
			}
			for _, to := range p.To {
				refer[*PrefixList](r, d, path+".to", to.PrefixList)
				if !to.Prefix.IsValid() {
					continue
				}
				if wide, _, inside := local.cover(to.Prefix); inside {
					d.errorf(path+".to", "%s lies in %s of VPC/%s, whose addresses are local (remove it: local routes come first)", to.Prefix, wide, subnet.VPC)
				}
			}
		}
	})
}

// checkPeerings: a host is told the sender of a packet by its MAC, which therefore names one ENI among a
// VPC and its peers.
func (r *revision) checkPeerings() {
	peerings := r.objects.Peerings()
	enis := map[string][]*document{} // by VPC
	each(r, func(d *document, e *ENI) {
		if s := r.objects.Subnets[e.Subnet]; s != nil && !e.MAC.IsZero() {
			enis[s.VPC] = append(enis[s.VPC], d)
		}
	})
	told := map[*document]bool{}
	for _, vpc := range slices.Sorted(maps.Keys(enis)) {
		peers := peerings.Of(vpc)
		if len(peers) == 0 {
			continue
		}
		macs := claims[MAC]{}
		for _, member := range append([]string{vpc}, peers...) {
			for _, d := range enis[member] {
				mac := d.Object.(*ENI).MAC
				owner := macs.claim(mac, d)
				if owner == nil || told[d] || told[owner] || r.vpcNameOf(owner) == member {
					continue
				}
				told[d] = true
				d.errorf("spec.mac", "%s is the MAC of %s too, and VPC/%s exchanges packets with both (MACs are unique among peers: give one another)",
					mac, owner.label(), vpc)
			}
		}
	}
}

func (r *revision) vpcNameOf(d *document) string {
	return r.objects.Subnets[d.Object.(*ENI).Subnet].VPC
}
