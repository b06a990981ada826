// SPDX-License-Identifier: Apache-2.0

package api

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
)

// checkRanges: the ranges of EIPs are disjoint and hold nothing but EIPs: a gateway takes all that is sent there.
func (r *revision) checkRanges() {
	private := r.placedVPCs()
	_, infra := r.privateRanges()
	each(r, func(d *document, region *Region) {
		var ranges []placed
		for i := range region.EIPRanges {
			path := fmt.Sprintf("spec.eipRanges[%d]", i)
			for j, host := range region.EIPRanges[i].Gateways {
				refer[*Host](r, d, fmt.Sprintf("%s.gateways[%d]", path, j), host)
			}
			if p := region.EIPRanges[i].CIDR; p.IsValid() {
				ranges = append(ranges, placed{prefix: p, doc: d, order: i, path: path + ".cidr"})
			}
		}
		overlaps(ranges, func(later, earlier placed) {
			d.errorf(later.path, "%s overlaps %s, another range (make them disjoint)", later.prefix, earlier.prefix)
		})
		for _, p := range ranges {
			if v := slices.IndexFunc(private, func(v placed) bool { return v.prefix.Overlaps(p.prefix) }); v >= 0 {
				d.errorf(p.path, "%s overlaps %s of %s (choose public addresses)", p.prefix, private[v].prefix, private[v].doc.label())
			}
			if cidr, owner, ok := infra.overlap(p.prefix); ok {
				d.errorf(p.path, "%s overlaps %s of %s, which is infrastructure (choose other addresses)", p.prefix, cidr, owner.label())
			}
		}
	})
}

func (r *revision) placedVPCs() []placed {
	var list []placed
	each(r, func(d *document, v *VPC) { list = append(list, placedCIDRs(d, v.CIDRs, 0)...) })
	return list
}

// eipRanges returns the ranges that could be read.
func (r *revision) eipRanges() *prefixSet {
	ranges := newPrefixSet()
	each(r, func(d *document, region *Region) {
		for i := range region.EIPRanges {
			if p := region.EIPRanges[i].CIDR; p.IsValid() {
				ranges.add(p, d)
			}
		}
	})
	return ranges
}

// overlap returns a member that shares addresses with p, the first in order.
func (s *prefixSet) overlap(p netip.Prefix) (netip.Prefix, *document, bool) {
	var first netip.Prefix
	for member := range s.members {
		if member.Overlaps(p) && (!first.IsValid() || ComparePrefix(member, first) < 0) {
			first = member
		}
	}
	return first, s.members[first], first.IsValid()
}

// RangeOf returns the range of an EIP's address, nil if it is in none.
func (o *Objects) RangeOf(a netip.Addr) *EIPRange {
	for i := range o.Region.EIPRanges {
		if o.Region.EIPRanges[i].CIDR.Contains(a) {
			return &o.Region.EIPRanges[i]
		}
	}
	return nil
}

// GatewaysOf returns the hosts that take packets to an address from the underlay, whoever has the EIP; none if it is the
// host of the ENI. The first is the one by which the EIP's own packets leave and that announces it: each EIP prefers
// another, and keeps what it prefers when others come or go (rendezvous hashing, RFC 2991).
func (o *Objects) GatewaysOf(a netip.Addr) []string {
	in := o.RangeOf(a)
	if in == nil || len(in.Gateways) == 0 {
		return nil
	}
	weight := func(host string) uint64 {
		h := fnv.New64a()
		_, _ = h.Write(a.AsSlice()) // a hash takes all
		_, _ = h.Write([]byte(host))
		return mix(h.Sum64())
	}
	return slices.SortedFunc(slices.Values(in.Gateways), func(x, y string) int {
		return cmp.Or(cmp.Compare(weight(y), weight(x)), cmp.Compare(x, y))
	})
}

// mix makes all bits depend on all (the finalizer of MurmurHash3): the upper ones of FNV hardly depend on the last byte.
func mix(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}
