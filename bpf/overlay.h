/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The overlay (VXLAN, RFC 7348): what the uplink checks outside, and the way of what is inside. */
#pragma once

#include "deliver.h"
#include "eip.h"
#include "neighbour.h"
#include "own.h"

#define VXLAN_GROUP 0x80000000 /* a group policy id in the lower half */
#define VXLAN_MARK 0xe41b0d01 /* skb->mark of a packet that passed overlay_outer, and: */
#define VXLAN_MARK_POLICY 4 /* the first bit of its enum group_policy */

/* The group policy id of a header, if it is one that hosts send. */
static __always_inline bool overlay_policy(__u32 header, __u32 *policy)
{
	*policy = 0;
	if (header == VXLAN_FLAGS)
		return true;
	*policy = header & (GROUP_MOVED | GROUP_INTERNET);
	return header == (VXLAN_FLAGS | VXLAN_GROUP | *policy) && *policy & GROUP_MOVED;
}

/* The VXLAN packet whose headers are `o`: are they as we send them, and from a host that has the VPC? */
static __always_inline enum reason overlay_vxlan(struct outer *o, __be32 src, __be32 flags,
						 __be32 vni)
{
	struct vtep_key key = {.vni = bpf_ntohl(vni) >> 8};

	if (!overlay_policy(bpf_ntohl(flags), &o->policy) || (vni & bpf_htonl(0xff)))
		return REASON_VXLAN_HEADER;
	*(__be32 *)key.vtep = src;
	if (!bpf_map_lookup_elem(&vteps, &key))
		return REASON_VXLAN_SOURCE;
	o->source = key;
	return REASON_CONTINUE;
}

/* Is this VXLAN to our VTEP, and from a host that has the VPC? CONTINUE = yes. */
static __always_inline enum reason overlay_outer(struct pkt *p, const struct host_conf *host,
						 const bool xdp)
{
	struct scratch *s = scratch_get();
	const struct iphdr *ip;
	struct outer *o;
	__u32 off;

	if (!s)
		return REASON_NOT_OURS;
	o = &s->outer;
	ip = (const struct iphdr *)o->ip;
	if (!pkt_load_few(p, ETH_LEN, o->ip, sizeof(o->ip), xdp) || ip->protocol != PROTO_UDP ||
	    ip->daddr != *(const __u32 *)host->vtep || ip->ihl < 5 ||
	    (ip->frag_off & bpf_htons(0x1fff)))
		return REASON_NOT_OURS;
	off = ETH_LEN + ip->ihl * 4;
	if (!pkt_load_few(p, off, o->udp, 8, xdp) || (bpf_ntohl(o->udp[0]) & 0xffff) != VXLAN_PORT)
		return REASON_NOT_OURS;
	if ((ip->frag_off & bpf_htons(IP4_FRAGMENT)) ||
	    !pkt_load_few(p, off + 8, o->vxlan, VXLAN_LEN, xdp))
		return REASON_VXLAN_HEADER;
	return overlay_vxlan(o, ip->saddr, o->vxlan[0], o->vxlan[1]);
}

static __always_inline bool overlay_tunnel(struct __sk_buff *skb, struct tunnel *t)
{
	struct bpf_tunnel_key key = {};

	t->mark = skb->mark;
	if (bpf_skb_get_tunnel_key(skb, &key, sizeof(key), 0))
		return false;
	t->vni = key.tunnel_id;
	t->vtep = bpf_htonl(key.remote_ipv4);
	return true;
}

/* From the internet to an EIP whose ENI moves: as it came to the host that had the ENI before. */
static __always_inline enum reason overlay_eip(struct pkt *p, const struct host_conf *host,
					       struct scratch *s, __u32 eni, const bool v6)
{
	__u32 holder;

	addr_copy(s->arrival.eip, p->dst, v6);
	if (!eip_find(p, p->dst, &holder, v6) || holder != eni)
		return REASON_NO_ENDPOINT;
	return to_eni(p, host, eni, &s->arrival, FROM_INTERNET, v6, false);
}

/* enum group_policy of what the uplink let pass. */
static __always_inline __u32 overlay_marked(const struct tunnel *t)
{
	return (t->mark ^ VXLAN_MARK) >> VXLAN_MARK_POLICY;
}

static __always_inline enum reason overlay_ip(struct pkt *p, const struct host_conf *host,
					      __u32 eni, const struct tunnel *t, const bool v6,
					      const bool xdp)
{
	struct scratch *s = scratch_get();

	if (!s)
		return REASON_HELPER;
	s->arrival.vtep = t->vtep;
	TRY(parse_ip(p, v6, xdp));
	if (addr_multicast(p->dst, v6))
		return REASON_MULTICAST;
	TRY(parse_addresses(p, v6));
	TRY(nd_stray(p, v6));
	if (!xdp && unlikely(overlay_marked(t))) {
		p->out |= CAME_MOVED;
		if (overlay_marked(t) & GROUP_INTERNET)
			return overlay_eip(p, host, s, eni, v6);
	}
	return arrive(p, host, eni, &s->arrival, FROM_OVERLAY, v6, xdp);
}

/* A decapsulated packet: the ENI is found by VNI and destination MAC. */
static __always_inline enum reason overlay_run(struct pkt *p, const struct tunnel *t,
					       const bool xdp)
{
	const struct host_conf *host = host_find(p);
	__s32 eni;

	p->dir = DIR_IN;
	if (overlay_marked(t) > (GROUP_MOVED | GROUP_INTERNET) || !host ||
	    (t->mark ^ VXLAN_MARK) & ((1 << VXLAN_MARK_POLICY) - 1) ||
	    parse_eth(p, xdp) != REASON_CONTINUE) {
		arrival_enter(p, 0, xdp);
		return REASON_VXLAN_UNMARKED;
	}
	eni = eni_of_mac(p, t->vni, overlay_marked(t) ? t->vtep : 0);
	arrival_enter(p, eni > 0 ? eni : 0, xdp);
	if (eni <= 0)
		return -eni;
	switch (p->ethertype) {
	case ETH_P_IP:
		return overlay_ip(p, host, eni, t, false, xdp);
	case ETH_P_IPV6:
		return overlay_ip(p, host, eni, t, true, xdp);
	}
	return REASON_ETHERTYPE;
}

/* The outer headers of a VXLAN packet, as they nearly always are. */
struct plain {
	struct ethhdr eth;
	struct iphdr ip;
	struct udphdr udp;
	__be32 vxlan[2];
	struct ethhdr inside;
} __attribute__((packed, aligned(2)));
_Static_assert(offsetof(struct plain, inside) == OUTER_LEN, "nothing between");

/* The outer headers in the frame, or NULL: they have options, or are not whole. */
static __always_inline const struct plain *overlay_plain(const struct pkt *p)
{
	const struct plain *f;
	void *data, *end;

	pkt_bounds(p, &data, &end, true);
	f = data;
	return (void *)(f + 1) <= end && f->ip.ihl == 5 ? f : NULL;
}

/* Nothing outside but what every VXLAN packet has: no checksum and no trailer. */
static __always_inline bool overlay_bare(const struct pkt *p, const struct plain *f)
{
	return bpf_ntohs(f->ip.tot_len) + ETH_LEN == p->len && !f->udp.check &&
	       bpf_ntohs(f->udp.len) == p->len - ETH_LEN - sizeof(f->ip);
}

/* overlay_outer for the headers that nearly all packets have, read where they are. */
static __always_inline enum reason overlay_outer_xdp(struct pkt *p, const struct host_conf *host,
						     struct outer *o)
{
	const struct plain *f = overlay_plain(p);

	if (unlikely(!f))
		return overlay_outer(p, host, true);
	if (f->ip.protocol != PROTO_UDP || (f->ip.frag_off & bpf_htons(IP4_OFFSET)) ||
	    f->udp.dest != bpf_htons(VXLAN_PORT))
		return REASON_NOT_OURS;
	if (f->ip.frag_off & bpf_htons(IP4_FRAGMENT))
		return REASON_VXLAN_HEADER;
	return overlay_vxlan(o, f->ip.saddr, f->vxlan[0], f->vxlan[1]);
}

/* Is there something inside that XDP may finish or refuse? Asked before the overlay's tables are. */
static __always_inline bool overlay_looks(const struct pkt *p)
{
	const struct plain *f = overlay_plain(p);

	if (f && f->inside.h_proto == bpf_htons(ETH_P_IPV6))
		return own_looks(p, OUTER_LEN + ETH_LEN, true);
	return own_looks(p, OUTER_LEN + ETH_LEN, false);
}

/* May XDP take the outer headers off that overlay_outer has read, and go on with what is inside? */
static __always_inline bool overlay_owned(struct pkt *p, const struct outer *o)
{
	const struct plain *f = overlay_plain(p);
	const struct mac_entry *m;
	const struct nexthop *nh;
	bool congested, owned;

	if (!f || o->policy || !overlay_bare(p, f))
		return false;
	congested = (f->ip.tos & IP_ECN) == IP_ECN;
	m = mac_find(p, o->source.vni, f->inside.h_dest);
	nh = m ? nexthop_find(m->nexthop) : NULL;
	if (nh && nh->kind != NH_LOCAL && nh->eni)
		return false; /* it moves: too much for XDP */
	if (!nh || nh->kind != NH_LOCAL || nh->vni != o->source.vni)
		return true; /* nobody's: dropped */
	if (f->inside.h_proto == bpf_htons(ETH_P_IP))
		owned = own(p, OUTER_LEN + ETH_LEN, nh->eni, false);
	else if (f->inside.h_proto == bpf_htons(ETH_P_IPV6))
		owned = own(p, OUTER_LEN + ETH_LEN, nh->eni, true);
	else
		return true;
	return owned && (!congested || p->out == OUT_LEFT);
}

/*
 * XDP's way: what it owns loses the outer headers here. What it only asks about gets them back: they lie where they
 * lay, unless metadata of another program was moved over them.
 */
static __always_inline enum reason overlay_decap(struct pkt *p, struct scratch *s)
{
	const struct outer *o = &s->outer;
	struct tunnel *t = &s->came;
	const struct xdp_md *x = p->ctx;
	enum reason reason;

	t->vni = o->source.vni;
	t->mark = VXLAN_MARK;
	t->vtep = *(const __u32 *)o->source.vtep;
	if (!overlay_owned(p, o) || (p->out == OUT_LEFT && (long)x->data_meta != (long)x->data) ||
	    bpf_xdp_adjust_head(p->ctx, OUTER_LEN))
		return REASON_NOT_OURS;
	p->len -= OUTER_LEN;
	p->wire_bytes = p->len;
	reason = overlay_run(p, t, true);
	if (reason == REASON_NOT_OURS && bpf_xdp_adjust_head(p->ctx, -OUTER_LEN))
		return REASON_HELPER;
	return reason;
}
