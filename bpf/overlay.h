/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The overlay (VXLAN, RFC 7348): what the uplink checks outside, and the way of what is inside. */
#pragma once

#include "deliver.h"
#include "neighbour.h"
#include "own.h"

#define VXLAN_PORT 4789
#define VXLAN_LEN 8
#define VXLAN_FLAGS 0x08000000 /* a VNI, and nothing else: no group policy id in this version */
#define VXLAN_MARK 0xe41b0d01 /* skb->mark of a packet that passed overlay_outer */

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
	    !pkt_load_few(p, off + 8, o->vxlan, VXLAN_LEN, xdp) ||
	    o->vxlan[0] != bpf_htonl(VXLAN_FLAGS) || (o->vxlan[1] & bpf_htonl(0xff)))
		return REASON_VXLAN_HEADER;
	o->source.vni = bpf_ntohl(o->vxlan[1]) >> 8;
	*(__u32 *)o->source.vtep = ip->saddr;
	if (!bpf_map_lookup_elem(&vteps, &o->source))
		return REASON_VXLAN_SOURCE;
	return REASON_CONTINUE;
}

/* What the kernel's VXLAN device took off. */
struct tunnel {
	__u32 vni;
	__u32 vtep; /* of the sender, network order */
	__u32 mark;
};

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

static __always_inline enum reason overlay_ip(struct pkt *p, const struct host_conf *host,
					      __u32 eni, __u32 vtep, const bool v6, const bool xdp)
{
	struct scratch *s = scratch_get();

	if (!s)
		return REASON_HELPER;
	s->arrival.vtep = vtep;
	TRY(parse_ip(p, v6, xdp));
	if (addr_multicast(p->dst, v6))
		return REASON_MULTICAST;
	TRY(parse_addresses(p, v6));
	TRY(nd_stray(p, v6));
	return to_eni(p, host, eni, &s->arrival, FROM_OVERLAY, v6, xdp);
}

/* A decapsulated packet: the ENI is found by VNI and destination MAC. */
static __always_inline enum reason overlay_run(struct pkt *p, const struct tunnel *t,
					       const bool xdp)
{
	const struct host_conf *host = host_find(p);
	__u32 eni;

	p->dir = DIR_IN;
	if (t->mark != VXLAN_MARK || !host || parse_eth(p, xdp) != REASON_CONTINUE) {
		count_enter(p, 0, DIR_IN);
		return REASON_VXLAN_UNMARKED;
	}
	eni = eni_of_mac(p, t->vni);
	count_enter(p, eni, DIR_IN);
	if (!eni)
		return REASON_VXLAN_NO_ENI;
	switch (p->ethertype) {
	case ETH_P_IP:
		return overlay_ip(p, host, eni, t->vtep, false, xdp);
	case ETH_P_IPV6:
		return overlay_ip(p, host, eni, t->vtep, true, xdp);
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
	    bpf_ntohl(o->udp[1]) >> 16 != p->len - ETH_LEN - 20)
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
	struct tunnel t = {.vni = o->source.vni, .mark = VXLAN_MARK};

	t.vtep = *(const __u32 *)o->source.vtep;
	if (!overlay_owned(p, o) || bpf_xdp_adjust_head(p->ctx, OUTER_LEN))
		return REASON_NOT_OURS;
	p->len -= OUTER_LEN;
	p->wire_bytes = p->len;
	return overlay_run(p, &t, true);
}
