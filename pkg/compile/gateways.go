// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/eniplane/eniplane/pkg/api"
)

// vpcGateway is another host by which EIPs of local ENIs of a VPC leave.
type vpcGateway struct{ host, vpc string }

// gatewayOf returns the host by which an EIP's own packets leave and that announces it; "" = that of the ENI, since the
// EIP's range has no gateways. A gateway that has the ENI itself needs no other.
func (c *compiler) gatewayOf(eip *api.EIP) string {
	gateways := c.Objects.GatewaysOf(eip.Address)
	if len(gateways) == 0 {
		return ""
	}
	if e := c.Objects.ENIs[eip.ENI]; e != nil {
		if host := c.Objects.HostOf(e); slices.Contains(gateways, host) {
			return host
		}
	}
	return gateways[0]
}

// surveyGateways finds the EIPs for which this host is a gateway, and the gateways of the local ENIs' EIPs.
func (c *compiler) surveyGateways() {
	for i := range c.Objects.Region.EIPRanges {
		if r := &c.Objects.Region.EIPRanges[i]; slices.Contains(r.Gateways, c.Host) {
			c.ranges = append(c.ranges, r.CIDR)
		}
	}
	for _, eip := range sorted(c.Objects.EIPs) {
		e := c.Objects.ENIs[eip.ENI]
		switch {
		case e == nil:
		case c.isBehind(eip):
			c.behind = append(c.behind, eip)
		case c.Objects.HostOf(e) == c.Host || c.isPrepared(e) || c.left[e.Name]:
			if gateway := c.gatewayOf(eip); gateway != "" && gateway != c.Host {
				c.gateways[vpcGateway{host: gateway, vpc: c.Objects.VPCOf(e).Name}] = true
			}
		}
	}
}

// isBehind tells whether the EIP is of an ENI of another host and this one is a gateway for it: also while the ENI is only
// prepared here, and as soon as it has left.
func (c *compiler) isBehind(eip *api.EIP) bool {
	e := c.Objects.ENIs[eip.ENI]
	return e != nil && c.Objects.HostOf(e) != c.Host &&
		slices.ContainsFunc(c.ranges, func(p netip.Prefix) bool { return p.Contains(eip.Address) })
}

// hopClaims are the claims of some ENIs, of those with EIPs for which this host is a gateway, and of the gateways that it
// uses itself.
func (c *compiler) hopClaims(enis []*api.ENI) []hopClaim {
	known := map[string]bool{}
	var claims []hopClaim
	add := func(e *api.ENI) {
		if !known[e.Name] {
			known[e.Name] = true
			claims = append(claims, claimOf(e, c.Objects.VPCOf(e).VNI))
		}
	}
	for _, e := range enis {
		add(e)
	}
	for _, eip := range c.behind {
		add(c.Objects.ENIs[eip.ENI])
	}
	for g := range c.gateways {
		claims = append(claims, claimOfGateway(c.Objects.Hosts[g.host], c.Objects.VPCs[g.vpc]))
	}
	slices.SortFunc(claims, func(a, b hopClaim) int { return strings.Compare(a.name, b.name) })
	return claims
}

// addEIPs adds the public addresses of the ENIs that are in the state.
func (c *compiler) addEIPs() {
	for i := range c.out.ENIs {
		eni := &c.out.ENIs[i]
		for _, eip := range c.eips[eni.Name] {
			if c.isBehind(eip) {
				continue // addBehind
			}
			out := EIP{
				Addr: eip.Address, ENI: eni.Index, VNI: eni.VNI, Private: eip.PrivateIP,
				NextHop: NextHopInternet, Uplink: true, Announce: true,
				Class: c.alloc.ids.ENIs[eni.Name].EIPs[eip.Name], EgressMbps: uint32(eip.EgressMbps),
			}
			gateway := c.gatewayOf(eip)
			out.Gatewayed = gateway != ""
			if gateway != "" && gateway != c.Host {
				slot, ok := c.alloc.ids.NextHops[GatewayHop(gateway, c.vpcOf[eni.Name].obj.Name)]
				if !ok {
					continue // no next hop is left: reported
				}
				out.NextHop, out.Uplink, out.Announce = slot.Index, false, false
			}
			c.out.EIPs = append(c.out.EIPs, out)
			for _, host := range c.Objects.GatewaysOf(eip.Address) {
				if host != c.Host {
					c.out.VTEPs = append(c.out.VTEPs, VTEP{VNI: eni.VNI, Addr: c.Objects.Hosts[host].VTEP, Role: RoleGateway})
				}
			}
		}
	}
}

// addGateways adds what a gateway must know, and the next hops to the gateways of others.
func (c *compiler) addGateways() {
	for g := range c.gateways {
		name := GatewayHop(g.host, g.vpc)
		slot, ok := c.alloc.ids.NextHops[name]
		if !ok {
			continue
		}
		c.out.NextHops = append(c.out.NextHops, NextHop{
			Index: slot.Index, ENI: name, Gateway: true, VTEP: c.Objects.Hosts[g.host].VTEP,
			Generation: slot.Generation, Since: slot.Since, VNI: c.Objects.VPCs[g.vpc].VNI, MAC: c.out.Host.GatewayMAC,
		})
	}
	added := map[string]bool{}
	for _, eip := range c.behind {
		c.addBehind(eip, added)
	}
}

// addBehind adds an EIP of an ENI of another host, and where that ENI is unless its VPC is here too.
func (c *compiler) addBehind(eip *api.EIP, added map[string]bool) {
	e := c.Objects.ENIs[eip.ENI]
	vpc, host := c.Objects.VPCOf(e), c.Objects.HostOf(e)
	slot, ok := c.alloc.ids.NextHops[e.Name]
	if !ok {
		return // no next hop is left: reported
	}
	out := EIP{
		Addr: eip.Address, VNI: vpc.VNI, Private: eip.PrivateIP, NextHop: slot.Index, Uplink: true,
		Announce: host != "" && c.gatewayOf(eip) == c.Host, Gatewayed: true,
	}
	c.out.EIPs = append(c.out.EIPs, out)
	if c.vpcOf[e.Name] == nil && !added[e.Name] {
		added[e.Name] = true
		c.addHopBehind(e, &slot, vpc.VNI)
	}
	if host != "" {
		for _, vtep := range append(c.senders[e.Name], c.Objects.Hosts[host].VTEP) {
			c.out.VTEPs = append(c.out.VTEPs, VTEP{VNI: vpc.VNI, Addr: vtep, Role: RoleBehind})
		}
	}
}

// addHopBehind adds where an ENI is whose VPC is not here.
func (c *compiler) addHopBehind(e *api.ENI, slot *NextHopSlot, vni uint32) {
	host := c.Objects.HostOf(e)
	hop := NextHop{Index: slot.Index, ENI: e.Name, Generation: slot.Generation, Since: slot.Since, VNI: vni, MAC: e.MAC}
	if host != "" {
		hop.VTEP = c.Objects.Hosts[host].VTEP
		c.addMove(e, &hop)
	}
	c.out.NextHops = append(c.out.NextHops, hop)
}

// addRanges adds the ranges for which the host is a gateway, as a route table.
func (c *compiler) addRanges() {
	if len(c.ranges) == 0 {
		return
	}
	var h content
	h.str("eip ranges")
	h.prefixes(c.ranges)
	c.out.Host.Gatewayed = c.alloc.table(keyOf(h.sum()))
	c.out.Names.Tables[c.out.Host.Gatewayed] = "eip ranges"
	for _, p := range c.ranges {
		c.out.Routes = append(c.out.Routes, Route{Table: c.out.Host.Gatewayed, Prefix: p, Kind: RouteGateway})
	}
}

// eipContent covers what an ENI's verdicts take from one of its EIPs: the address and the way out.
func (c *compiler) eipContent(h *content, eip *api.EIP) {
	h.addrs([]netip.Addr{eip.Address, eip.PrivateIP})
	if gateway := c.gatewayOf(eip); gateway != "" && gateway != c.Host {
		h.str("by " + gateway)
	}
}
