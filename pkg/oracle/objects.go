// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"net/netip"
	"slices"

	"github.com/eniplane/eniplane/pkg/api"
)

// What the objects say, by looking at all of them.

func (m *Model) isLocal(e *api.ENI) bool {
	return e.Attachment != nil && m.objs.Instances[e.Attachment.Instance].Host == m.host.Name
}

func (m *Model) vpcOf(e *api.ENI) *api.VPC { return m.objs.VPCs[m.objs.Subnets[e.Subnet].VPC] }

func (m *Model) self() *api.Host { return m.objs.Hosts[m.host.Name] }

// eniOfDevice finds the ENI whose port a device is.
func (m *Model) eniOfDevice(device string) *api.ENI {
	for _, e := range m.objs.ENIs {
		if m.isLocal(e) && e.Attachment.Device == device {
			return e
		}
	}
	return nil
}

// eniOfMAC finds an ENI of a VPC.
func (m *Model) eniOfMAC(vni uint32, mac api.MAC) *api.ENI {
	for _, e := range m.objs.ENIs {
		if e.MAC == mac && m.vpcOf(e).VNI == vni {
			return e
		}
	}
	return nil
}

// senderOfMAC finds an ENI of a VPC or of a peer.
func (m *Model) senderOfMAC(vpc *api.VPC, mac api.MAC) *api.ENI {
	for _, e := range m.objs.ENIs {
		if e.MAC == mac && (m.vpcOf(e) == vpc || m.arePeers(m.vpcOf(e), vpc)) {
			return e
		}
	}
	return nil
}

// owner finds the ENI of a VPC that has this private IP.
func (m *Model) owner(vpc *api.VPC, a netip.Addr) *api.ENI {
	for _, e := range m.objs.ENIs {
		if slices.Contains(e.IPs, a) && m.vpcOf(e) == vpc {
			return e
		}
	}
	return nil
}

// isGateway tells whether an address is the gateway of a subnet of the VPC: network + 1.
func (m *Model) isGateway(vpc *api.VPC, a netip.Addr) bool {
	for _, s := range m.objs.Subnets {
		if s.VPC != vpc.Name {
			continue
		}
		for _, cidr := range s.CIDRs {
			if cidr.Addr().Next() == a {
				return true
			}
		}
	}
	return false
}

func (m *Model) subnetOf(e *api.ENI) *api.Subnet { return m.objs.Subnets[e.Subnet] }

func (m *Model) inSubnet(e *api.ENI, a netip.Addr) bool {
	return contains(m.subnetOf(e).CIDRs, a)
}

func contains(cidrs []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(cidrs, func(p netip.Prefix) bool { return p.Contains(a) })
}

// isInfra: the region's, and every host's VTEP and peer.
func (m *Model) isInfra(a netip.Addr) bool {
	for _, h := range m.objs.Hosts {
		if h.VTEP == a || h.Peer.IsValid() && h.Peer.Addr() == a {
			return true
		}
	}
	return contains(m.objs.Region.InfraCIDRs, a)
}

func owns(e *api.ENI, a netip.Addr) bool { return slices.Contains(e.IPs, a) }

// may: own and allowed addresses.
func may(e *api.ENI, a netip.Addr) bool { return owns(e, a) || contains(e.AllowedAddresses, a) }

// eipOf finds the EIP of a private IP.
func (m *Model) eipOf(e *api.ENI, private netip.Addr) (netip.Addr, bool) {
	for _, eip := range m.objs.EIPs {
		if eip.ENI == e.Name && eip.PrivateIP == private {
			return eip.Address, true
		}
	}
	return netip.Addr{}, false
}

// eipHere finds the ENI of this host that has an EIP, and its private IP.
func (m *Model) eipHere(a netip.Addr) (*api.ENI, netip.Addr) {
	for _, eip := range m.objs.EIPs {
		if eip.Address != a || eip.ENI == "" {
			continue
		}
		if e := m.objs.ENIs[eip.ENI]; m.isLocal(e) {
			return e, eip.PrivateIP
		}
	}
	return nil, netip.Addr{}
}

// vtepOf says on which other host an ENI is; invalid = on this one or on none.
func (m *Model) vtepOf(e *api.ENI) netip.Addr {
	if e.Attachment == nil || m.isLocal(e) {
		return netip.Addr{}
	}
	return m.objs.Hosts[m.objs.Instances[e.Attachment.Instance].Host].VTEP
}

// isKnown tells whether the host knows the ENIs of a VPC: it has one of them, or one of a peer.
func (m *Model) isKnown(vpc *api.VPC) bool {
	for _, e := range m.objs.ENIs {
		if m.isLocal(e) && (m.vpcOf(e) == vpc || m.arePeers(m.vpcOf(e), vpc)) {
			return true
		}
	}
	return false
}

// isSomewhere tells whether packets to an ENI have a way at all.
func (m *Model) isSomewhere(e *api.ENI) bool { return e != nil && e.Attachment != nil }

// hasVPC tells whether the host with this VTEP, another one, has something to send to a VPC that is here too: it has
// that VPC or a peer of it.
func (m *Model) hasVPC(vtep netip.Addr, vni uint32) bool {
	here, there := false, false
	for _, e := range m.objs.ENIs {
		vpc := m.vpcOf(e)
		here = here || vpc.VNI == vni && m.isLocal(e)
		if vpc.VNI == vni || m.hasPeer(vpc, vni) {
			there = there || m.vtepOf(e).IsValid() && m.vtepOf(e) == vtep
		}
	}
	return here && there
}
