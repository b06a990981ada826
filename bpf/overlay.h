/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The overlay (VXLAN, RFC 7348): what the uplink checks outside, and the way of what is inside. */
#pragma once

#include "gateway.h"
#include "own.h"

#define VXLAN_PORT 4789
#define VXLAN_LEN 8
#define VXLAN_DMAC_LEN (VXLAN_LEN + 6) /* up to the destination of the frame inside */
#define VXLAN_FLAGS 0x08000000 /* a VNI, and nothing else */
#define VXLAN_FLAGS_INTERNET 0x88000001 /* a group policy id too: GROUP_INTERNET */
#define VXLAN_MARK                                                                                 \
	0xe41b0d01 /* + enum vtep_role: skb->mark of a packet that passed overlay_outer */

/* In which role the sender of the packet that overlay_outer has passed has sent it. */
static __always_inline __u32 overlay_role(void)
{
	struct scratch *s = scratch_get();

	return s ? s->outer.source.vni >> VTEP_ROLE_SHIFT : VTEP_ENIS;
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
	    !pkt_load_few(p, off + 8, o->vxlan, VXLAN_DMAC_LEN, xdp) ||
	    (o->vxlan[1] & bpf_htonl(0xff)))
		return REASON_VXLAN_HEADER;
	o->source.vni = bpf_ntohl(o->vxlan[1]) >> 8;
	if (o->vxlan[0] == bpf_htonl(VXLAN_FLAGS_INTERNET))
		o->source.vni |=
			(mac_equal(o->dmac, host->gateway_mac) ? VTEP_BEHIND : VTEP_GATEWAY)
			<< VTEP_ROLE_SHIFT;
	else if (o->vxlan[0] != bpf_htonl(VXLAN_FLAGS))
		return REASON_VXLAN_HEADER;
	*(__u32 *)o->source.vtep = ip->saddr;
	if (!bpf_map_lookup_elem(&vteps, &o->source))
		return REASON_VXLAN_SOURCE;
	return REASON_CONTINUE;
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

static __always_inline enum reason overlay_ip(struct pkt *p, const struct host_conf *host,
					      __u32 eni, const bool v6, const bool xdp)
{
	enum origin from = FROM_OVERLAY;
	struct scratch *s = scratch_get();
	enum reason reason;

	if (!s)
		return REASON_HELPER;
	s->arrival.vtep = s->came.vtep;
	TRY(parse_ip(p, v6, xdp));
	if (addr_multicast(p->dst, v6))
		return REASON_MULTICAST;
	TRY(parse_addresses(p, v6));
	TRY(nd_stray(p, v6));
	if (!xdp && s->came.mark == VXLAN_MARK + VTEP_GATEWAY)
		from = FROM_GATEWAY;
	if (!xdp && s->came.mark == VXLAN_MARK + VTEP_BEHIND) {
		TRY(gateway_out(p, host, s, v6));
		eni = s->turned;
		from = FROM_INTERNET;
	}
	reason = to_eni(p, host, eni, &s->arrival, from, v6, xdp);
	if (from == FROM_INTERNET)
		p->mtu = 0; /* the quote would show the EIP: no answer */
	return reason;
}

/* The ENI to which a decapsulated packet is addressed, by VNI and destination MAC; 0 = none here. */
static __always_inline __u32 overlay_eni(const struct pkt *p, __u32 vni)
{
	const struct mac_entry *m = mac_find(p, vni, p->dmac);
	const struct nexthop *nh = m ? nexthop_find(m->nexthop) : NULL;

	/* A peer's ENI is no receiver. */
	return nh && nh->kind == NH_LOCAL && nh->vni == vni ? nh->eni : 0;
}

/* A decapsulated packet. What is to leave through this gateway counts as sent by the host. */
static __always_inline enum reason overlay_run(struct pkt *p, const bool xdp)
{
	const struct host_conf *host = host_find(p);
	const struct scratch *s = scratch_get();
	__u32 eni = 0;

	p->dir = DIR_IN;
	if (!s || s->came.mark - VXLAN_MARK > VTEP_BEHIND || !host ||
	    parse_eth(p, xdp) != REASON_CONTINUE) {
		count_enter(p, 0, DIR_IN);
		return REASON_VXLAN_UNMARKED;
	}
	if (s->came.mark == VXLAN_MARK + VTEP_BEHIND) {
		count_enter(p, 0, DIR_OUT);
	} else {
		eni = overlay_eni(p, s->came.vni);
		count_enter(p, eni, DIR_IN);
		if (!eni)
			return REASON_VXLAN_NO_ENI;
	}
	switch (p->ethertype) {
	case ETH_P_IP:
		return overlay_ip(p, host, eni, false, xdp);
	case ETH_P_IPV6:
		return overlay_ip(p, host, eni, true, xdp);
	}
	return REASON_ETHERTYPE;
}

enum {
	OUTER_LEN = ETH_LEN + 20 + 8 + VXLAN_LEN, /* in front of the inner frame */
	IP_ECN = 3, /* congestion experienced (RFC 3168): the kernel hands it down (RFC 6040) */
};

/* May XDP take the outer headers off that overlay_outer has read, and finish what is inside? */
static __always_inline bool overlay_owned(struct pkt *p, const struct outer *o)
{
	const struct iphdr *outer = (const struct iphdr *)o->ip;
	const struct mac_entry *m;
	const struct nexthop *nh;
	const struct ethhdr *eth;
	void *data, *end;

	pkt_bounds(p, &data, &end, true);
	eth = data + OUTER_LEN;
	if ((void *)(eth + 1) > end || outer->ihl != 5 || (outer->tos & IP_ECN) == IP_ECN ||
	    bpf_ntohs(outer->tot_len) + ETH_LEN != p->len || (o->udp[1] >> 16) ||
	    bpf_ntohl(o->udp[1]) >> 16 != p->len - ETH_LEN - 20 ||
	    overlay_role() != VTEP_ENIS) /* needs what only TC has */
		return false;
	m = mac_find(p, o->source.vni, eth->h_dest);
	nh = m ? nexthop_find(m->nexthop) : NULL;
	if (!nh || nh->kind != NH_LOCAL)
		return true; /* nobody's: dropped */
	if (eth->h_proto == bpf_htons(ETH_P_IP))
		return own(p, OUTER_LEN + ETH_LEN, nh->eni, false);
	if (eth->h_proto == bpf_htons(ETH_P_IPV6))
		return own(p, OUTER_LEN + ETH_LEN, nh->eni, true);
	return true;
}

/* XDP's way: what it owns loses the outer headers here, the rest is left to the kernel as it came. */
static __always_inline enum reason overlay_decap(struct pkt *p, const struct outer *o)
{
	struct scratch *s = scratch_get();

	if (!s)
		return REASON_NOT_OURS;
	s->came.mark = VXLAN_MARK;
	s->came.vni = o->source.vni;
	s->came.vtep = *(const __u32 *)o->source.vtep;
	if (!overlay_owned(p, o) || bpf_xdp_adjust_head(p->ctx, OUTER_LEN))
		return REASON_NOT_OURS;
	p->len -= OUTER_LEN;
	p->wire_bytes = p->len;
	return overlay_run(p, true);
}
