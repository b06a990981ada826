/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The underlay: the outer headers of the overlay (VXLAN, RFC 7348), and the ways that the agent keeps
 * ready, so that a packet to another host asks neither the kernel's routes nor its neighbours. The
 * kernel finds and probes the neighbours (managed ones); the agent copies what it has found.
 */
#pragma once

#include "parse.h"
#include "table.h"

#define VXLAN_PORT 4789
#define VXLAN_LEN 8
#define VXLAN_FLAGS 0x08000000 /* a VNI, and nothing else: no group policy id */

enum {
	OUTER_LEN = ETH_LEN + 20 + 8 + VXLAN_LEN, /* in front of the inner frame */
	OUTER_TTL = 64,
	OUTER_MAX = 0xffff - 20 - 8 - VXLAN_LEN, /* inner frame that an IP header can count */
	IP_DF = 0x4000,
	IP_ECN = 3, /* congestion experienced (RFC 3168): the kernel hands it down (RFC 6040) */
	IP_ECT0 = 2,
};

/* What stands in front of the inner IP packet. */
struct encap {
	__u8 pad[2];
	__u8 dmac[6];
	__u8 smac[6];
	__be16 ethertype;
	__be32 ip[5];
	__be32 udp[2];
	__be32 vxlan[2];
	__u8 inner_dmac[6];
	__u8 inner_smac[6];
	__be16 inner_ethertype;
	__u8 pad2[2];
} __attribute__((aligned(4)));
#define ENCAP_LEN (OUTER_LEN + ETH_LEN)
_Static_assert(offsetof(struct encap, pad2) - offsetof(struct encap, dmac) == ENCAP_LEN,
	       "no holes");

static __always_inline __u32 way_bucket(__u32 vtep)
{
	return (vtep * 0x9e3779b1) >> 20;
}
_Static_assert(WAY_BUCKETS == 1 << 12 && WAYS == 4, "way_bucket, struct vtep_ways");

/* The exit of a way; NULL = none, or its lease is over. */
static __always_inline const struct exit *way_exit(const struct pkt *p, __u64 way)
{
	__u32 index = way >> 48;
	const struct exit *e = bpf_map_lookup_elem(&exits, &index);

	return e && *(const volatile __u32 *)&e->until >= p->now ? e : NULL;
}

/* The way to a VTEP: MAC of the neighbour, and index of the exit in the upper 16 bits; 0 = the kernel's. */
static __always_inline __u64 way_to(const __u8 *vtep)
{
	__u32 to = *(const __u32 *)vtep, bucket = way_bucket(to);
	const struct vtep_ways *b = bpf_map_lookup_elem(&vtep_ways, &bucket);

	if (!b)
		return 0;
#pragma clang loop unroll(full)
	for (__u32 i = 0; i < WAYS; i++)
		if (*(const volatile __u32 *)b->v[i].vtep == to)
			return *(const volatile __u64 *)b->v[i].mac;
	return 0;
}

/*
 * The outer source port spreads flows over the paths of the underlay. All packets of a flow have the
 * same; fragments, of which only the first one has ports, that of their addresses.
 */
static __always_inline __u32 encap_port(const struct pkt *p, const bool v6)
{
	const __u32 *src = (const __u32 *)p->src, *dst = (const __u32 *)p->dst;
	__u32 hash = v6 ? src[0] ^ src[1] ^ src[2] ^ src[3] : src[0];

	hash = hash * 0x9e3779b1 + (v6 ? dst[0] ^ dst[1] ^ dst[2] ^ dst[3] : dst[0]);
	hash *= 0x85ebca6b;
	hash ^= hash >> 15;
	if (p->fragment == FRAGMENT_NONE)
		hash += (__u32)p->sport << 16 | p->dport;
	hash = (hash + p->protocol) * 0x9e3779b1;
	return 0xc000 | hash >> 18;
}

/* The inner ECN bits as the kernel's tunnels copy them out: congestion as "capable". */
static __always_inline __u8 encap_ecn(const struct pkt *p, const bool v6)
{
	void *data, *end;
	__u8 *ip, ecn;

	pkt_bounds(p, &data, &end, false);
	ip = data + ETH_LEN;
	if ((void *)(ip + 2) > end)
		return 0;
	ecn = (v6 ? ip[1] >> 4 : ip[1]) & IP_ECN;
	return ecn == IP_ECN ? IP_ECT0 : ecn;
}

static __always_inline void encap_headers(const struct pkt *p, struct encap *e,
					  const struct host_conf *host, const struct eni_conf *conf,
					  const struct nexthop *nh, const bool v6)
{
	__u64 sum;

	e->ethertype = bpf_htons(ETH_P_IP);
	e->ip[0] = bpf_htonl(0x45000000 | encap_ecn(p, v6) << 16 | (20 + 8 + VXLAN_LEN + p->len));
	e->ip[1] = bpf_htonl(IP_DF); /* with which the id means nothing (RFC 6864) */
	e->ip[2] = bpf_htonl(OUTER_TTL << 24 | PROTO_UDP << 16);
	e->ip[3] = *(const __u32 *)host->vtep;
	e->ip[4] = *(const __u32 *)nh->vtep;
	sum = (__u64)e->ip[0] + e->ip[1] + e->ip[2] + e->ip[3] + e->ip[4];
	e->ip[2] |= (__u32)(__u16)~csum_fold(sum) << 16;
	e->udp[0] = bpf_htonl(encap_port(p, v6) << 16 | VXLAN_PORT);
	e->udp[1] = bpf_htonl((8 + VXLAN_LEN + p->len) << 16); /* no checksum (RFC 7348) */
	e->vxlan[0] = bpf_htonl(VXLAN_FLAGS);
	e->vxlan[1] = bpf_htonl(nh->vni << 8);
	mac_copy(e->inner_dmac, nh->mac);
	mac_copy(e->inner_smac, conf->mac);
	e->inner_ethertype = bpf_htons(v6 ? ETH_P_IPV6 : ETH_P_IP);
}

/* The kernel has just made room: the front of the packet is ours alone, and in one piece. */
static __always_inline bool encap_store(const struct pkt *p, const struct encap *e)
{
	const __u64 *from = (const __u64 *)e->dmac;
	void *data, *end;
	__u64 *to;

	pkt_bounds(p, &data, &end, false);
	to = data;
	if (data + ENCAP_LEN > end)
		return false;
#pragma clang loop unroll(full)
	for (__u32 i = 0; i < ENCAP_LEN / 8; i++)
		to[i] = from[i];
	return true;
}
_Static_assert(ENCAP_LEN % 8 == 0, "whole words");

/*
 * Writes the outer headers for the way of the underlay that leads to the next hop. CONTINUE = there is
 * none, or the kernel knows no such encapsulation (what a guest has encapsulated already, SCTP segments):
 * the packet is as it was.
 */
static __always_inline enum reason encapsulate(struct pkt *p, struct encap *e,
					       const struct host_conf *host,
					       const struct eni_conf *conf,
					       const struct nexthop *nh, const bool v6)
{
	const __u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 |
			    BPF_F_ADJ_ROOM_ENCAP_L4_UDP | BPF_F_ADJ_ROOM_ENCAP_L2(ETH_LEN) |
			    BPF_F_ADJ_ROOM_ENCAP_L2_ETH;
	__u64 way = way_to(nh->vtep);
	const struct exit *exit = way_exit(p, way);

	if (!exit || p->len > OUTER_MAX)
		return REASON_CONTINUE;
	encap_headers(p, e, host, conf, nh, v6);
	*(__u32 *)e->dmac = way;
	*(__u16 *)(e->dmac + 4) = way >> 32;
	mac_copy(e->smac, exit->mac);
	if (bpf_skb_adjust_room(p->ctx, OUTER_LEN, BPF_ADJ_ROOM_MAC, flags))
		return REASON_CONTINUE;
	if (!encap_store(p, e))
		return REASON_HELPER;
	p->out_ifindex = exit->ifindex;
	return REASON_DELIVERED;
}
