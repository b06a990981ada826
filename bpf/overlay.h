/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The overlay (VXLAN, RFC 7348): what the uplink checks outside, and the way of what is inside. */
#pragma once

#include "gateway.h"
#include "own.h"

#define VXLAN_DMAC_LEN (VXLAN_LEN + 6) /* up to the destination of the frame inside */
#define VXLAN_GROUP 0x80000000 /* a group policy id in the lower half */
#define VXLAN_MARK 0xe41b0d01 /* skb->mark of what passed overlay_outer, and: */
#define VXLAN_MARK_POLICY 4 /* + vtep_role, or in this bit enum group_policy of what was sent on */

/* In which role the sender of the packet that overlay_outer has passed has sent it. */
static __always_inline __u32 overlay_role(const struct outer *o)
{
	return o->source.vni >> VTEP_ROLE_SHIFT;
}

/* The VXLAN packet whose headers are `o`: are they as we send them, and from a host that has the VPC? */
static __always_inline enum reason overlay_vxlan(struct outer *o, const struct host_conf *host,
						 const __u8 *dmac, __be32 src, __be32 flags,
						 __be32 vni)
{
	struct vtep_key key = {.vni = bpf_ntohl(vni) >> 8};

	if (vni & bpf_htonl(0xff))
		return REASON_VXLAN_HEADER;
	o->policy = GROUP_NONE;
	/* No ENI has the gateway's MAC: it is to leave here. Nobody sends from the internet to the internet. */
	if (unlikely(mac_equal(dmac, host->gateway_mac)))
		key.vni |= VTEP_BEHIND << VTEP_ROLE_SHIFT;
	if (unlikely(flags == bpf_htonl(VXLAN_FLAGS | VXLAN_GROUP | GROUP_INTERNET)))
		key.vni |= VTEP_GATEWAY << VTEP_ROLE_SHIFT;
	else if (unlikely((flags & ~bpf_htonl(GROUP_INTERNET)) ==
			  bpf_htonl(VXLAN_FLAGS | VXLAN_GROUP | GROUP_MOVED)))
		o->policy = bpf_ntohl(flags) & (GROUP_MOVED | GROUP_INTERNET);
	else if (flags != bpf_htonl(VXLAN_FLAGS))
		return REASON_VXLAN_HEADER;
	*(__be32 *)key.vtep = src;
	if (!bpf_map_lookup_elem(&vteps, &key))
		return REASON_VXLAN_SOURCE;
	o->source = key;
	return REASON_CONTINUE;
}

/* Is this VXLAN to our VTEP, and from a host that has the VPC? CONTINUE = yes. */
static __always_inline enum reason overlay_outer(struct pkt *p, const struct host_conf *host,
						 struct outer *o, const bool xdp)
{
	const struct iphdr *ip = (const struct iphdr *)o->ip;
	__u32 off;

	if (!pkt_load_few(p, ETH_LEN, o->ip, sizeof(o->ip), xdp) || ip->protocol != PROTO_UDP ||
	    ip->daddr != *(const __u32 *)host->vtep || ip->ihl < 5 ||
	    (ip->frag_off & bpf_htons(0x1fff)))
		return REASON_NOT_OURS;
	off = ETH_LEN + ip->ihl * 4;
	if (!pkt_load_few(p, off, o->udp, 8, xdp) || (bpf_ntohl(o->udp[0]) & 0xffff) != VXLAN_PORT)
		return REASON_NOT_OURS;
	if ((ip->frag_off & bpf_htons(IP4_FRAGMENT)) ||
	    !pkt_load_few(p, off + 8, o->vxlan, VXLAN_DMAC_LEN, xdp))
		return REASON_VXLAN_HEADER;
	return overlay_vxlan(o, host, o->dmac, ip->saddr, o->vxlan[0], o->vxlan[1]);
}

/* What the kernel's VXLAN device took off. */
static __always_inline void overlay_tunnel(struct __sk_buff *skb, struct scratch *s)
{
	struct bpf_tunnel_key *key = (struct bpf_tunnel_key *)s->tunnel;

	__builtin_memset(key, 0, sizeof(*key));
	s->came.mark = bpf_skb_get_tunnel_key(skb, key, sizeof(*key), 0) ? 0 : skb->mark;
	s->came.vni = key->tunnel_id;
	s->came.vtep = bpf_htonl(key->remote_ipv4);
}

/* enum group_policy of what another host has sent on, GROUP_NONE of what came straight. */
static __always_inline __u32 overlay_moved(const struct scratch *s)
{
	return (s->came.mark - VXLAN_MARK) >> VXLAN_MARK_POLICY;
}

/* Has the uplink let it pass? */
static __always_inline bool overlay_marked(const struct scratch *s)
{
	__u32 came = s->came.mark - VXLAN_MARK;

	return came <= VTEP_BEHIND || came == GROUP_MOVED << VXLAN_MARK_POLICY ||
	       came == (GROUP_MOVED | GROUP_INTERNET) << VXLAN_MARK_POLICY;
}

/*
 * From the internet to an ENI that moves: as it came to the host that had it before, by the EIP or, if a gateway has
 * translated it, to the private IP.
 */
static __always_inline enum reason overlay_moved_internet(struct pkt *p, struct scratch *s,
							  __u32 eni, enum origin *from,
							  const bool v6)
{
	const struct eip_in4 *e;

	addr_copy(s->arrival.eip, p->dst, v6);
	s->arrival.uplink = 0;
	e = eip_find(p, p->dst, v6);
	if (e && ((e->flags & EIP_BEHIND) || e->eni != eni))
		return REASON_NO_ENDPOINT;
	*from = e ? FROM_INTERNET : FROM_GATEWAY;
	return REASON_CONTINUE;
}

static __always_inline enum reason overlay_ip(struct pkt *p, const struct host_conf *host,
					      struct scratch *s, __u32 eni, const bool v6,
					      const bool xdp)
{
	enum origin from = FROM_OVERLAY;
	enum reason reason;

	s->arrival.vtep = s->came.vtep;
	TRY(parse_ip(p, v6, xdp));
	if (addr_multicast(p->dst, v6))
		return REASON_MULTICAST;
	TRY(parse_addresses(p, v6));
	TRY(nd_stray(p, v6));
	if (!xdp && unlikely(overlay_moved(s))) {
		p->out |= CAME_MOVED;
		if (overlay_moved(s) & GROUP_INTERNET)
			TRY(overlay_moved_internet(p, s, eni, &from, v6));
	}
	if (!xdp && s->came.mark == VXLAN_MARK + VTEP_GATEWAY)
		from = FROM_GATEWAY;
	if (!xdp && s->came.mark == VXLAN_MARK + VTEP_BEHIND) {
		TRY(gateway_out(p, host, s, v6));
		eni = s->turned;
		from = FROM_INTERNET;
	}
	reason = arrive(p, host, eni, &s->arrival, from, v6, xdp);
	if (from == FROM_INTERNET)
		p->mtu = 0; /* the quote would show the EIP: no answer */
	return reason;
}

/* A decapsulated packet. What is to leave through this gateway counts as sent by the host. */
static __always_inline enum reason overlay_run(struct pkt *p, struct scratch *s, const bool xdp)
{
	const struct host_conf *host = host_find(p);
	__s32 eni = 0;

	p->dir = DIR_IN;
	if (!overlay_marked(s) || !host || parse_eth(p, xdp) != REASON_CONTINUE) {
		arrival_enter(p, 0, xdp);
		return REASON_VXLAN_UNMARKED;
	}
	if (s->came.mark == VXLAN_MARK + VTEP_BEHIND) {
		count_enter(p, 0, DIR_OUT);
	} else {
		eni = eni_of_mac(p, s->came.vni, overlay_moved(s) ? s->came.vtep : 0);
		arrival_enter(p, eni > 0 ? eni : 0, xdp);
		if (eni <= 0)
			return -eni;
	}
	switch (p->ethertype) {
	case ETH_P_IP:
		return overlay_ip(p, host, s, eni, false, xdp);
	case ETH_P_IPV6:
		return overlay_ip(p, host, s, eni, true, xdp);
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
		return overlay_outer(p, host, o, true);
	if (f->ip.protocol != PROTO_UDP || (f->ip.frag_off & bpf_htons(IP4_OFFSET)) ||
	    f->udp.dest != bpf_htons(VXLAN_PORT))
		return REASON_NOT_OURS;
	if (f->ip.frag_off & bpf_htons(IP4_FRAGMENT))
		return REASON_VXLAN_HEADER;
	return overlay_vxlan(o, host, f->inside.h_dest, f->ip.saddr, f->vxlan[0], f->vxlan[1]);
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

	if (!f || o->policy || !overlay_bare(p, f) ||
	    overlay_role(o) != VTEP_ENIS) /* needs what only TC has */
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
	const struct xdp_md *x = p->ctx;
	enum reason reason;

	s->came.mark = VXLAN_MARK;
	s->came.vni = o->source.vni;
	s->came.vtep = *(const __u32 *)o->source.vtep;
	if (!overlay_owned(p, o) || (p->out == OUT_LEFT && (long)x->data_meta != (long)x->data) ||
	    bpf_xdp_adjust_head(p->ctx, OUTER_LEN))
		return REASON_NOT_OURS;
	p->len -= OUTER_LEN;
	p->wire_bytes = p->len;
	reason = overlay_run(p, s, true);
	if (reason == REASON_NOT_OURS && bpf_xdp_adjust_head(p->ctx, -OUTER_LEN))
		return REASON_HELPER;
	return reason;
}
