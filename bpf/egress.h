/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Ways to the internet that the host's FIB has named in this tick of the flow clock (0.27 s): to look one up
 * costs as much as all the rest (IPv6: thrice). What is remembered is the uplink, its MTU, and that the
 * destination is no EIP that this host knows in the revision in force; so a change of the host's routes
 * counts within a tick, one of EIPs at once. The next hop and its MAC are the kernel's business with each packet
 * (bpf_redirect_neigh). Per CPU, so that nobody reads what another writes.
 */
#pragma once

#include "deliver.h"

struct egress {
	__u8 src[16];
	__u8 dst[16];
	__u64 active; /* the host word under which it was found */
	__u32 now; /* tick of the flow clock */
	__u32 ifindex; /* the uplink; 0 = nothing is remembered */
	__u32 mtu; /* the largest IP packet */
	__u32 protocol; /* of the transport, and 1 << 8 for IPv6: routes may differ by it */
	__u64 pad;
};
_Static_assert(sizeof(struct egress) == 64, "one line");

enum egress_places {
	EGRESS_PLACES = 512, /* a power of two */
};
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

/* What to_internet would say. */
static __always_inline enum reason egress_go(const struct egress *e, struct pkt *p)
{
	if (p->ip_len > e->mtu)
		return too_big_for(p, e->mtu);
	p->out_ifindex = e->ifindex;
	p->out |= OUT_NEIGHBOUR;
	return REASON_DELIVERED;
}

/* Remembers what to_internet has just found. */
static __always_inline void egress_learn(struct egress *e, const struct pkt *p, const __u8 *src,
					 const bool v6)
{
	const struct scratch *s = scratch_get();

	if (!s)
		return;
	e->active = egress_active(p);
	e->now = p->now;
	e->ifindex = p->out_ifindex;
	e->mtu = ((const struct bpf_fib_lookup *)s->fib)->mtu_result;
	e->protocol = egress_protocol(p, v6);
	addr_copy(e->src, src, v6);
	addr_copy(e->dst, p->dst, v6);
}

/* Out by the host's routes: as remembered if the way is known, else as they say now. The source becomes the EIP. */
static __always_inline enum reason egress_leave(struct egress *e, struct pkt *p,
						const struct host_conf *host, const __u8 *src,
						bool known, const bool v6)
{
	enum reason reason = known ? egress_go(e, p) : to_internet(p, host, src, v6);

	if (reason != REASON_DELIVERED)
		return reason;
	if (!known)
		egress_learn(e, p, src, v6);
	return rewrite_addr(p, p->src, src, true, v6, false) ? REASON_DELIVERED : REASON_HELPER;
}
