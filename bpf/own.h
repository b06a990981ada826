/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which packets XDP on the uplink finishes. It saves the kernel's sk_buff, and what comes with one:
 * merging of TCP segments, checksums that a device completes. So XDP takes UDP, whole and with its
 * checksum in place, to ports that take XDP frames; all packets of a flow look the same to these
 * questions but for fragments, so that nothing is reordered. About the others it asks now and then
 * whether they are dropped (refuse.h). Nothing is changed before the answer.
 */
#pragma once

#include "parse.h"
#include "refuse.h"
#include "table.h"

/* UDP's checksum is still the sum of the pseudo header (RFC 768): a device was to complete it. */
static __always_inline bool own_partial(const struct udphdr *udp, const __be32 *addrs, __u32 words)
{
	__u64 sum = bpf_htons(PROTO_UDP) + udp->len;

#pragma clang loop unroll(full)
	for (__u32 i = 0; i < words; i++)
		sum += addrs[i];
	return csum_fold(sum) == udp->check;
}

/* Is it UDP, as far as the IP header at `l3` says? */
static __always_inline bool own_is_udp(const struct pkt *p, const __u32 l3, const bool v6)
{
	void *data, *end;

	pkt_bounds(p, &data, &end, true);
	if (data + l3 + sizeof(struct iphdr) > end)
		return false;
	if (v6)
		return ((const struct ipv6hdr *)(data + l3))->nexthdr == PROTO_UDP;
	return ((const struct iphdr *)(data + l3))->protocol == PROTO_UDP;
}

/* Does the frame lie in one piece of memory? */
static __always_inline bool own_whole(const struct pkt *p)
{
	void *data, *end;

	pkt_bounds(p, &data, &end, true);
	return (__u64)(end - data) >= p->len;
}

/* Is it a UDP packet, all of it, that `device` takes? Its IP header begins at `l3`. */
static __always_inline bool own_udp(const struct pkt *p, const __u32 l3, const struct live *device,
				    const bool v6)
{
	const struct udphdr *udp;
	void *data, *end;

	pkt_bounds(p, &data, &end, true);
	udp = data + l3 + (v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
	if ((void *)(udp + 1) > end || !(device->flags & LIVE_XDP))
		return false;
	if (v6) {
		const struct ipv6hdr *ip = data + l3;

		return ip->nexthdr == PROTO_UDP &&
		       sizeof(*ip) + bpf_ntohs(ip->payload_len) <= device->mtu &&
		       !own_partial(udp, (const __be32 *)&ip->saddr, 8);
	} else {
		const struct iphdr *ip = data + l3;

		return ip->ihl == 5 && ip->protocol == PROTO_UDP &&
		       !(ip->frag_off & bpf_htons(IP4_FRAGMENT)) &&
		       bpf_ntohs(ip->tot_len) <= device->mtu && !own_partial(udp, &ip->saddr, 2);
	}
}

/* May XDP deliver UDP to this ENI now, and this packet? */
static __always_inline bool own_delivers(const struct pkt *p, const __u32 l3, __u32 eni,
					 const bool v6)
{
	const struct live *device;
	__u32 zero = 0, *lease;

	lease = bpf_map_lookup_elem(&xdp_lease, &zero);
	if (!(xdp_owns & XDP_OWNS_UDP) || !lease || *lease < p->now)
		return false;
	device = bpf_map_lookup_elem(&live, &eni);
	return device && own_udp(p, l3, device, v6);
}

/*
 * Is it worth a look for whom the packet is? UDP may be XDP's; of the rest, which at most is refused, only some is
 * asked about.
 */
static __always_inline bool own_looks(const struct pkt *p, const __u32 l3, const bool v6)
{
	return (xdp_owns & XDP_OWNS_ALL) || own_is_udp(p, l3, v6) ||
	       ((xdp_owns & XDP_OWNS_DENIED) && refuse_asks());
}

/*
 * Does XDP go on with a packet to a local ENI, which own_looks let pass? With OUT_LEFT it only asks. Not every
 * device that takes frames takes them in pieces.
 */
static __always_inline bool own(struct pkt *p, const __u32 l3, __u32 eni, const bool v6)
{
	bool udp;

	p->now = flow_now();
	if (xdp_owns & XDP_OWNS_ALL)
		return true;
	if (!own_whole(p))
		return false;
	udp = own_is_udp(p, l3, v6);
	if (udp && own_delivers(p, l3, eni, v6))
		return true;
	p->out = OUT_LEFT;
	return (xdp_owns & XDP_OWNS_DENIED) && (!udp || refuse_asks());
}
