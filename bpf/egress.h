/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Ways to the internet. To ask the host's FIB costs as much as all the rest (IPv6: thrice), and to leave the
 * neighbour's MAC to the kernel (bpf_redirect_neigh), which asks again, twice that.
 *
 * So what the FIB has named in this tick of the flow clock (0.27 s) is remembered: the uplink, its MTU, both MACs, and
 * that the destination is no EIP that this host knows in the revision in force. A change of the host's
 * routes or of a neighbour's MAC counts within a tick, one of EIPs at once. And a packet whose way is not remembered has
 * its MACs from the FIB too, but for the first one to each next hop in a tick: it leaves by the kernel's neighbour,
 * which is so used, and probed, as neighbours are (RFC 4861 section 7.3). Per CPU, so that nobody reads what
 * another writes.
 */
#pragma once

#include "deliver.h"

struct egress {
	__u8 src[16];
	__u8 dst[16];
	__u64 active; /* the host word under which it was found */
	__u32 now; /* tick of the flow clock */
	__u32 ifindex; /* the uplink; 0 = nothing is remembered */
	__u16 mtu; /* the largest IP packet */
	__u16 protocol; /* of the transport, and 1 << 8 for IPv6: routes may differ by it */
	__u8 smac[6]; /* of the uplink */
	__u8 dmac[6]; /* of the neighbour */
};
_Static_assert(sizeof(struct egress) == 64, "one line");

enum egress_places {
	EGRESS_PLACES = 512, /* a power of two */
};
/* The last next hop, of those that share a place, that a packet has left by in the kernel's way. */
struct hop_use {
	__u32 now; /* tick of the flow clock */
	__u32 via; /* hash of its address and uplink */
};

enum hop_places {
	HOP_BITS = 6,
};
MAP(hop_uses, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct hop_use, 1 << HOP_BITS, 0);

MAP(egresses, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct egress, EGRESS_PLACES, 0);

/* The place of the way from `src`, an EIP, to the packet's destination. */
static __always_inline struct egress *egress_place(const struct pkt *p, const __u8 *src,
						   const bool v6)
{
	const __u32 *from = (const __u32 *)src, *to = (const __u32 *)p->dst;
	__u32 mixed = from[0] ^ to[0], place;

	if (v6)
		mixed ^= from[1] ^ from[2] ^ from[3] ^ to[1] ^ to[2] ^ to[3];
	place = (mixed * 0x9e3779b1 >> 16) % EGRESS_PLACES;
	return bpf_map_lookup_elem(&egresses, &place);
}

/* The host word, if the packet's slot is that of it; else 0, which is no revision. */
static __always_inline __u64 egress_active(const struct pkt *p)
{
	__u32 zero = 0;
	__u64 *word = bpf_map_lookup_elem(&active, &zero), now;

	if (!word)
		return 0;
	now = *(volatile __u64 *)word;
	return (now & 1) == p->slot ? now : 0;
}

static __always_inline __u32 egress_protocol(const struct pkt *p, const bool v6)
{
	return p->protocol | (v6 ? 1 << 8 : 0);
}

/* Is this the packet's way? */
static __always_inline bool egress_known(const struct egress *e, const struct pkt *p,
					 const __u8 *src, const bool v6)
{
	__u64 active_now = egress_active(p);

	return e->ifindex && active_now && e->active == active_now && e->now == p->now &&
	       e->protocol == egress_protocol(p, v6) && addr_equal(e->dst, p->dst, v6) &&
	       addr_equal(e->src, src, v6);
}

/* What to_internet would say, with the MACs written. What waits for its turn finds its neighbour when it goes. */
static __always_inline enum reason egress_go(const struct egress *e, struct pkt *p)
{
	if (p->ip_len > e->mtu)
		return too_big_for(p, e->mtu);
	p->out_ifindex = e->ifindex;
	if (unlikely(p->out))
		p->out |= OUT_NEIGHBOUR;
	else if (!rewrite_macs(p, e->dmac, e->smac, false))
		return REASON_HELPER;
	return REASON_DELIVERED;
}

/* Remembers what to_internet has just found. */
static __always_inline void egress_learn(struct egress *e, const struct pkt *p, const __u8 *src,
					 const bool v6)
{
	const struct scratch *s = scratch_get();
	const struct bpf_fib_lookup *fib;

	if (!s)
		return;
	fib = (const struct bpf_fib_lookup *)s->fib;
	e->active = egress_active(p);
	e->now = p->now;
	e->ifindex = s->next_known ? p->out_ifindex : 0;
	e->mtu = fib->mtu_result;
	e->protocol = egress_protocol(p, v6);
	mac_copy(e->smac, fib->smac);
	mac_copy(e->dmac, fib->dmac);
	addr_copy(e->src, src, v6);
	addr_copy(e->dst, p->dst, v6);
}

/* Has the kernel seen a packet to this next hop in this tick? Else it is to see this one. */
static __always_inline bool hop_used(const struct pkt *p, const struct bpf_fib_lookup *fib)
{
	__u32 via = fib->ifindex * 0x85ebca6b, place;
	struct hop_use *use;

	if (fib->family == AF_INET6) /* that of the next hop */
		via ^= fib->ipv6_dst[0] ^ fib->ipv6_dst[1] * 3 ^ fib->ipv6_dst[2] * 5 ^
		       fib->ipv6_dst[3] * 7;
	else
		via ^= fib->ipv4_dst;
	via *= 0x9e3779b1;
	place = via >> (32 - HOP_BITS);
	use = bpf_map_lookup_elem(&hop_uses, &place);
	if (!use)
		return false;
	if (use->now == p->now && use->via == via)
		return true;
	use->now = p->now;
	use->via = via;
	return false;
}

/* As the FIB says now. */
static __always_inline enum reason egress_ask(struct egress *e, struct pkt *p,
					      const struct host_conf *host, const __u8 *src,
					      const bool v6)
{
	const struct bpf_fib_lookup *fib;
	const __u8 asked = p->out;
	enum reason reason;
	struct scratch *s;

	reason = to_internet(p, host, src, v6);
	if (reason != REASON_DELIVERED)
		return reason;
	egress_learn(e, p, src, v6);
	s = scratch_get();
	if (!s || asked || !s->next_known)
		return REASON_DELIVERED;
	fib = (const struct bpf_fib_lookup *)s->fib;
	if (!hop_used(p, fib))
		return REASON_DELIVERED;
	p->out = OUT_DEVICE;
	return rewrite_macs(p, fib->dmac, fib->smac, false) ? REASON_DELIVERED : REASON_HELPER;
}

/* Out by the host's routes. The source becomes the EIP. */
static __always_inline enum reason egress_leave(struct egress *e, struct pkt *p,
						const struct host_conf *host, const __u8 *src,
						bool known, const bool v6)
{
	enum reason reason = known ? egress_go(e, p) : egress_ask(e, p, host, src, v6);

	if (reason != REASON_DELIVERED)
		return reason;
	return rewrite_addr(p, p->src, src, true, v6, false) ? REASON_DELIVERED : REASON_HELPER;
}
