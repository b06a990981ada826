/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Caps in Mbit/s. The kernel's HTB keeps them: what drops instead of queueing ruins TCP (README.md has
 * figures). What an ENI may receive waits on its own device. What it sends, whatever its way is, waits on a
 * pair of devices of its own: a packet that is judged and as its receiver shall have it goes out by the near
 * end, which has the queues, and comes in by the far end, whose program (shape_run) sends it where it was
 * bound for. Outer headers come there, so that the same bytes count on every way.
 *
 * skb->priority names the class. skb->mark says where to: kind (2 bits), then
 *  - SHAPE_ENI: index of the ENI (10), low bits of its incarnation (16), bucket of the flow (4);
 *  - SHAPE_OVERLAY: next hop (20), low bits of since when it is that ENI's or gateway's (10);
 *  - SHAPE_UPLINK: ifindex (30).
 * Low bits do: they tell apart who comes after each other while a packet waits, some 10 ms.
 */
#pragma once

#include "deliver.h"

enum shape_kind {
	SHAPE_NONE = 0, /* not ours: dropped */
	SHAPE_ENI = 1,
	SHAPE_OVERLAY = 2,
	SHAPE_UPLINK = 3,
};

/*
 * In which queue a flow waits. Ports that follow each other, as those of one client do, come into different
 * ones (multiplicative hashing). Fragments have none, and must not overtake each other.
 */
static __always_inline __u32 shape_bucket(const struct pkt *p)
{
	const __u32 *src = (const __u32 *)p->src, *dst = (const __u32 *)p->dst;
	__u32 sum = src[0] + dst[0] + p->protocol;

	if (p->ethertype == ETH_P_IPV6)
		sum += src[1] + src[2] + src[3] + dst[1] + dst[2] + dst[3];
	if (p->fragment == FRAGMENT_NONE)
		sum += p->sport + p->dport;
	return (sum * 0x9e3779b1) >> 28;
}
_Static_assert(SHAPE_BUCKETS == 16, "4 bits");

static __always_inline __u32 shape_class(__u32 class, __u32 bucket)
{
	return SHAPE_HANDLE | ((class + 1) * SHAPE_GROUP + 1 + bucket);
}

/* The packet leaves by an EIP of an ENI that has caps. */
static __always_inline void shape_internet(struct pkt *p, __u32 vni, struct scratch *s,
					   const bool v6)
{
	p->out = OUT_SHAPED;
	if (v6) {
		struct addr_key6 key = {.vni = vni};
		struct eips_out6 *e;

		addr_copy(key.addr, p->src, true);
		e = bpf_map_lookup_elem(&eip_out6, &key);
		if (e)
			s->class = e->v[p->slot & 1].class;
	} else {
		struct addr_key4 key = {.vni = vni};
		struct eips_out4 *e;

		addr_copy(key.addr, p->src, false);
		e = bpf_map_lookup_elem(&eip_out4, &key);
		if (e)
			s->class = e->v[p->slot & 1].class;
	}
}

/* To another host: only what is inside is written now. */
static __always_inline enum reason shape_overlay(struct pkt *p, const struct host_conf *host,
						 const struct eni_conf *conf,
						 const struct nexthop *nh, __u32 index)
{
	if (p->ip_len > host->overlay_mtu)
		return too_big_for(p, host->overlay_mtu);
	if (!rewrite_macs(p, nh->mac, conf->mac, false))
		return REASON_HELPER;
	p->out_ifindex = index;
	return REASON_DELIVERED;
}

/* Where the packet is bound for. */
static __always_inline __u32 shape_target(const struct pkt *p, __u32 bucket)
{
	if (p->dir == DIR_IN) {
		const struct live *device = bpf_map_lookup_elem(&live, &p->eni);

		if (!device)
			return SHAPE_NONE;
		return (__u32)SHAPE_ENI << 30 | (p->eni & 0x3ff) << 20 |
		       (device->incarnation & 0xffff) << 4 | bucket;
	}
	if (!(p->out & OUT_NEIGHBOUR)) {
		const struct nexthop *nh = nexthop_find(p->out_ifindex);

		if (!nh)
			return SHAPE_NONE;
		return (__u32)SHAPE_OVERLAY << 30 | (p->out_ifindex & 0xfffff) << 10 |
		       (nh->since & 0x3ff);
	}
	return (__u32)SHAPE_UPLINK << 30 | (p->out_ifindex & 0x3fffffff);
}
_Static_assert(MAX_ENIS <= 1 << 10 && MAX_NEXTHOPS <= 1 << 20, "fit the mark");

/* To an ENI that has a cap: the class of its device in which the packet waits. */
static __always_inline void shape_in(struct pkt *p)
{
	((struct __sk_buff *)p->ctx)->priority = shape_class(0, shape_bucket(p));
}

/* A delivered packet waits for its turn: at the shaper of the ENI that sends it, else at the receiver. */
static __always_inline void shape(struct pkt *p)
{
	struct __sk_buff *skb = p->ctx;
	struct scratch *s = scratch_get();
	const struct live *device;
	const struct port *port;
	__u32 bucket, target;

	if (!(p->out & OUT_SHAPED)) {
		shape_in(p);
		return;
	}
	bucket = shape_bucket(p);
	target = shape_target(p, bucket);
	port = bpf_map_lookup_elem(&ports, &p->ifindex);
	device = port ? bpf_map_lookup_elem(&live, &port->eni) : NULL;
	p->out = OUT_DEVICE;
	if (!device || !s) {
		p->out_ifindex = 0; /* nowhere */
		return;
	}
	skb->mark = target;
	skb->priority = shape_class(s->class, bucket);
	p->out_ifindex = device->shaper;
}

/* To a local ENI, if it is still the one that the packet was judged for. */
static __always_inline enum reason shape_to_eni(struct pkt *p, __u32 to)
{
	__u32 eni = to >> 20 & 0x3ff;
	const struct live *device = bpf_map_lookup_elem(&live, &eni);

	if (!device || !device->incarnation || (device->incarnation & 0xffff) != (to >> 4 & 0xffff))
		return REASON_NOT_READY;
	if (device->flags & LIVE_CAP_IN)
		((struct __sk_buff *)p->ctx)->priority = shape_class(0, to & 0xf);
	p->out_ifindex = device->ifindex;
	return REASON_DELIVERED;
}

/* To another host, if the next hop is still that ENI's or leads to the gateway, and where it is now. */
static __always_inline enum reason shape_to_overlay(struct pkt *p, __u32 to)
{
	const struct nexthop *nh = nexthop_find(to >> 10 & 0xfffff);
	const struct host_conf *host = host_find(p);

	if (!host || !nh || (!nexthop_away(nh) && nh->kind != NH_GATEWAY) ||
	    (nh->since & 0x3ff) != (to & 0x3ff))
		return REASON_NO_NEXTHOP;
	TRY(parse_eth(p, false));
	/* By this MAC to an EIP that this host is the gateway of. */
	return to_vtep(p, host, nh,
		       mac_equal(p->smac, host->gateway_mac) ? GROUP_INTERNET : GROUP_NONE);
}

/* The far end: a packet that has had its turn goes on. */
static __always_inline enum reason shape_run(struct pkt *p)
{
	struct __sk_buff *skb = p->ctx;
	__u32 to = skb->mark, uplink = to & 0x3fffffff;

	skb->mark = 0;
	switch (to >> 30) {
	case SHAPE_ENI:
		return shape_to_eni(p, to);
	case SHAPE_OVERLAY:
		return shape_to_overlay(p, to);
	case SHAPE_UPLINK:
		if (!bpf_map_lookup_elem(&uplinks, &uplink))
			return REASON_NO_FIB;
		p->out_ifindex = uplink;
		p->out = OUT_NEIGHBOUR;
		return REASON_DELIVERED;
	}
	return REASON_UNKNOWN_PORT;
}
