// SPDX-License-Identifier: Apache-2.0

package api

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// checkHosts: each VTEP and each peer is one host.
func (r *revision) checkHosts() {
	vteps, peers := claims[netip.Addr]{}, claims[netip.AddrPort]{}
	each(r, func(d *document, h *Host) {
		if h.VTEP.IsValid() {
			if owner := vteps.claim(h.VTEP, d); owner != nil {
				d.errorf("spec.vtep", "%s is the VTEP of %s too (give each host its own)", h.VTEP, owner.label())
			}
		}
		if h.Peer.IsValid() {
			if owner := peers.claim(h.Peer, d); owner != nil {
				d.errorf("spec.peer", "%s is the peer of %s too (give each agent its own)", h.Peer, owner.label())
			}
		}
	})
}

// checkVPCs: each VNI is one VPC, whose CIDRs are disjoint.
func (r *revision) checkVPCs() {
	vnis := claims[uint32]{}
	each(r, func(d *document, v *VPC) {
		if v.VNI != 0 {
			if owner := vnis.claim(v.VNI, d); owner != nil {
				d.errorf("spec.vni", "%d is the VNI of %s too (give each VPC its own)", v.VNI, owner.label())
			}
		}
		overlaps(placedCIDRs(d, v.CIDRs, 0), func(later, earlier placed) {
			d.errorf(later.path, "%s overlaps %s of the same VPC (make them disjoint)", later.prefix, earlier.prefix)
		})
	})
}

// placedCIDRs returns the readable ones of spec.cidrs, in an order that starts after `after`.
func placedCIDRs(d *document, cidrs []netip.Prefix, after int) []placed {
	var list []placed
	for i, p := range cidrs {
		if p.IsValid() {
			list = append(list, placed{prefix: p, doc: d, order: after + i, path: fmt.Sprintf("spec.cidrs[%d]", i)})
		}
	}
	return list
}

// checkSubnets: each lies in its VPC, beside the others, and uses what is of its VPC.
func (r *revision) checkSubnets() {
	ranges := map[string]*prefixSet{} // by VPC
	inVPC := map[string][]placed{}
	order := 0
	each(r, func(d *document, s *Subnet) {
		vpc, to := refer[*VPC](r, d, "spec.vpc", s.VPC)
		if table, to := refer[*RouteTable](r, d, "spec.routeTable", s.RouteTable); table != nil {
			sameVPC(d, "spec.routeTable", to, table.VPC, s.VPC)
		}
		if acl, to := refer[*NetworkACL](r, d, "spec.networkACL", s.NetworkACL); acl != nil {
			sameVPC(d, "spec.networkACL", to, acl.VPC, s.VPC)
		}
		if vpc == nil {
			return
		}
		cidrs := placedCIDRs(d, s.CIDRs, order)
		order += len(s.CIDRs)
		inVPC[s.VPC] = append(inVPC[s.VPC], cidrs...)
		if to.bad {
			return
		}
		if ranges[s.VPC] == nil {
			ranges[s.VPC] = setOf(to, vpc.CIDRs)
		}
		for _, p := range cidrs {
			if _, _, ok := ranges[s.VPC].cover(p.prefix); !ok {
				d.errorf(p.path, "%s is not inside a CIDR of %s (choose one of its addresses)", p.prefix, to.label())
			}
		}
	})
	for _, vpc := range slices.Sorted(maps.Keys(inVPC)) {
		overlaps(inVPC[vpc], func(later, earlier placed) {
			later.doc.errorf(later.path, "%s overlaps %s of %s (make the subnets of a VPC disjoint)",
				later.prefix, earlier.prefix, earlier.doc.label())
		})
	}
}

func setOf(d *document, prefixes []netip.Prefix) *prefixSet {
	s := newPrefixSet()
	for _, p := range prefixes {
		if p.IsValid() {
			s.add(p, d)
		}
	}
	return s
}

// checkRules: groups and ACLs are of a VPC, and rules name what exists.
func (r *revision) checkRules() {
	each(r, func(d *document, a *NetworkACL) { refer[*VPC](r, d, "spec.vpc", a.VPC) })
	each(r, func(d *document, g *SecurityGroup) {
		refer[*VPC](r, d, "spec.vpc", g.VPC)
		r.checkPeers(d, g, g.Ingress, "spec.ingress[%d].from[%d]")
		r.checkPeers(d, g, g.Egress, "spec.egress[%d].to[%d]")
	})
}

func (r *revision) checkPeers(d *document, g *SecurityGroup, rules []Rule, pathFormat string) {
	for i, rule := range rules {
		for j, p := range rule.Peers {
			if p.Group == "" && p.PrefixList == "" {
				continue
			}
			path := fmt.Sprintf(pathFormat, i, j)
			refer[*PrefixList](r, d, path, p.PrefixList)
			if group, to := refer[*SecurityGroup](r, d, path, p.Group); group != nil {
				sameVPC(d, path, to, group.VPC, g.VPC)
			}
		}
	}
}
