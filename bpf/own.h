/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which packets XDP on the uplink finishes. It saves the kernel's sk_buff, and what comes with one:
 * merging of TCP segments, checksums that a device completes. So XDP takes UDP, whole and with its
 * checksum in place, to ports that take XDP frames; all packets of a flow look the same to these
 * questions but for fragments, so that nothing is reordered. Nothing is changed before the answer.
 */
#pragma once

#include "table.h"
#include "parse.h"

/* UDP's checksum is still the sum of the pseudo header (RFC 768): a device was to complete it. */
static __always_inline bool own_partial(const struct udphdr *udp, const __be32 *addrs, __u32 words)
{
	__u64 sum = bpf_htons(PROTO_UDP) + udp->len;

#pragma clang loop unroll(full)
	for (__u32 i = 0; i < words; i++)
		sum += addrs[i];
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum == udp->check;
}

/* Is it a whole UDP packet that `device` takes? Its IP header begins at `l3`. Not every device that
 * takes frames takes them in pieces. */
static __always_inline bool own_udp(struct pkt *p, const __u32 l3, const struct live *device,
				    const bool v6)
{
	const struct udphdr *udp;
	void *data, *end;

	pkt_bounds(p, &data, &end, true);
	udp = data + l3 + (v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
	if ((void *)(udp + 1) > end || !(device->flags & LIVE_XDP))
		return false;
	if ((__u64)(end - data) < p->len)
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

/* Does XDP finish this packet to a local ENI? */
static __always_inline bool own(struct pkt *p, const __u32 l3, __u32 eni, const bool v6)
{
	const struct live *device;
	__u32 zero = 0, *lease;

	if (xdp_owns & XDP_OWNS_ALL)
		return true;
	lease = bpf_map_lookup_elem(&xdp_lease, &zero);
	if (!(xdp_owns & XDP_OWNS_UDP) || !lease || *lease < p->now)
		return false;
	device = bpf_map_lookup_elem(&live, &eni);
	return device && own_udp(p, l3, device, v6);
}
