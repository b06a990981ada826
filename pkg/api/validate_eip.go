// SPDX-License-Identifier: Apache-2.0

package api

import (
	"net/netip"
	"slices"
)

// checkEIPs: each address is public, used once, and bound to one private IP that has no other.
func (r *revision) checkEIPs() {
	type binding struct {
		eni  string
		addr netip.Addr
	}
	private, infra := r.privateRanges()
	ranges := r.eipRanges()
	addrs, bindings := claims[netip.Addr]{}, claims[binding]{}
	each(r, func(d *document, e *EIP) {
		if e.Address.IsValid() {
			r.checkPublic(d, e.Address, private, infra)
			if _, _, ok := ranges.cover(hostPrefix(e.Address)); !ok && len(ranges.members) > 0 {
				d.errorf("spec.address", "%s lies in none of the region's eipRanges (choose one of theirs or add a range)", e.Address)
			}
			if owner := addrs.claim(e.Address, d); owner != nil {
				d.errorf("spec.address", "%s is the address of %s too (keep one of them)", e.Address, owner.label())
			}
		}
		eni, to := refer[*ENI](r, d, "spec.eni", e.ENI)
		if eni == nil || to.bad || d.bad || !bind(d, e, eni) {
			return
		}
		if owner := bindings.claim(binding{e.ENI, e.PrivateIP}, d); owner != nil {
			d.errorf("spec.privateIP", "%s of ENI/%s has %s already (one EIP per private IP: choose another)", e.PrivateIP, e.ENI, owner.label())
		}
	})
}

// bind finds the private IP that an EIP stands for: the given one, or the primary of its family.
func bind(d *document, e *EIP, eni *ENI) bool {
	if e.PrivateIP.IsValid() {
		if !slices.Contains(eni.IPs, e.PrivateIP) {
			d.errorf("spec.privateIP", "%s is no private IP of ENI/%s (choose one of its ips)", e.PrivateIP, eni.Name)
			return false
		}
		return true
	}
	for _, a := range eni.IPs {
		if a.Is4() == e.Address.Is4() {
			e.PrivateIP = a
			return true
		}
	}
	d.errorf("spec.eni", "ENI/%s has no private IP of the family of %s (add one or choose another ENI)", eni.Name, e.Address)
	return false
}

// privateRanges returns the CIDRs of all VPCs, and all infrastructure CIDRs.
func (r *revision) privateRanges() (private, infra *prefixSet) {
	private, infra = newPrefixSet(), newPrefixSet()
	each(r, func(d *document, v *VPC) {
		for _, p := range v.CIDRs {
			if p.IsValid() {
				private.add(p, d)
			}
		}
	})
	each(r, func(d *document, region *Region) {
		for _, p := range region.InfraCIDRs {
			if p.IsValid() {
				infra.add(p, d)
			}
		}
	})
	each(r, func(d *document, h *Host) {
		if h.VTEP.IsValid() {
			infra.add(hostPrefix(h.VTEP), d)
		}
		if h.Peer.IsValid() {
			infra.add(hostPrefix(h.Peer.Addr()), d)
		}
	})
	return private, infra
}

func (r *revision) checkPublic(d *document, a netip.Addr, private, infra *prefixSet) {
	if cidr, owner, ok := private.cover(hostPrefix(a)); ok {
		d.errorf("spec.address", "%s lies in %s of %s (choose a public address)", a, cidr, owner.label())
	}
	if cidr, owner, ok := infra.cover(hostPrefix(a)); ok {
		d.errorf("spec.address", "%s lies in %s of %s, which is infrastructure (choose another address)", a, cidr, owner.label())
	}
}
