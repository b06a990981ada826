/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A packet that the path does not carry is answered with "fragmentation needed" (RFC 792, RFC 1191)
 * or "packet too big" (RFC 4443 §3.2). It is counted as TOO_BIG; the answer is ours and counted at
 * the host. Only TC can do this: the packet may be GSO.
 *
 * Who speaks is the router that would not carry it. To an ENI that is the gateway of its subnet, to
 * one of another host, whose packet came this far, the gateway of the receiver's; the error goes
 * back through the overlay. The internet sees neither: to it the EIP speaks. An ENI costs a bounded
 * number of errors per tick, what it sends and what is sent to it counted apart, so that nobody can
 * make us send many (RFC 1812 §4.3.2.8, RFC 4443 §2.4 f).
 */
#pragma once

#include "budget.h"
#include "overlay.h"

#define QUOTE 96 /* bytes of the packet that come back; always less than what was too big */
#define IPV6_MIN_MTU 1280
#define TOO_BIG_TURNS 256 /* answers per tick of the flow clock; each connection needs one */

struct too_big {
	__u8 pad[2];
	__u8 dmac[6];
	__u8 smac[6];
	__u8 ethertype[2];
	__u8 head[40 + 8]; /* IP and ICMP */
	__u8 quote[QUOTE];
};

MAP(too_bigs, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct too_big, 1, 0);

/* 2 * ENI + direction of what was too big -> the tick of the last answers, << 32 | how many. */
MAP(answer_turns, BPF_MAP_TYPE_ARRAY, __u32, __u64, MAX_ENIS * 2, 0);

/*
 * Sum of the quoted bytes as they will be on the wire. If the transport checksum is partial, the
 * device completes it after us; whatever it writes, the bytes from there on then sum up to the
 * complement of what stands in the field now.
 */
static __always_inline __u64 quote_sum(struct pkt *p, struct too_big *t, const bool v6)
{
	__u32 header = p->l4 - ETH_LEN, field = l4_csum_offset(p, v6), pseudo;
	__u16 partial;

	if (header != (v6 ? 40 : 20) || !field)
		return bpf_csum_diff(NULL, 0, (__be32 *)t->quote, QUOTE, 0);
	partial = *(__u16 *)(t->quote + (v6 ? 40 : 20) +
			     (p->protocol == PROTO_TCP ? 16 :
			      p->protocol == PROTO_UDP ? 6 :
							 2));
	pseudo = bpf_csum_diff(NULL, 0, (__be32 *)(t->quote + (v6 ? 8 : 12)), v6 ? 32 : 8,
			       bpf_htonl(p->protocol));
	pseudo = csum_fold((__u64)pseudo + bpf_htons(p->len - p->l4));
	if (partial != pseudo)
		return bpf_csum_diff(NULL, 0, (__be32 *)t->quote, QUOTE, 0);
	return (__u64)(__u32)bpf_csum_diff(NULL, 0, (__be32 *)t->quote, v6 ? 40 : 20, 0) +
	       (__u16)~partial;
}

static __always_inline void too_big_head4(struct too_big *t, const struct eni_conf *speaks,
					  __u64 sum, __u32 mtu)
{
	struct iphdr *ip = (struct iphdr *)t->head, *was = (struct iphdr *)t->quote;
	__u32 gateway = speaks ? *(const __u32 *)speaks->gateway4 : 0;
	__u8 *icmp = t->head + 20;

	ip->version = 4;
	ip->ihl = 5;
	ip->tot_len = bpf_htons(20 + 8 + QUOTE);
	ip->ttl = 64;
	ip->protocol = PROTO_ICMP;
	ip->saddr = gateway ?: was->daddr;
	ip->daddr = was->saddr;
	ip->check = ~csum_fold(bpf_csum_diff(NULL, 0, (__be32 *)ip, 20, 0));
	icmp[0] = 3;
	icmp[1] = 4;
	icmp[6] = mtu >> 8;
	icmp[7] = mtu;
	*(__u16 *)(icmp + 2) = ~csum_fold(sum + bpf_htons(3 << 8 | 4) + bpf_htons(mtu));
}

static __always_inline void too_big_head6(struct too_big *t, const struct eni_conf *speaks,
					  __u64 sum, __u32 mtu)
{
	struct ipv6hdr *ip = (struct ipv6hdr *)t->head, *was = (struct ipv6hdr *)t->quote;
	__u8 *icmp = t->head + 40;

	ip->version = 6;
	ip->payload_len = bpf_htons(8 + QUOTE);
	ip->nexthdr = PROTO_ICMPV6;
	ip->hop_limit = 64;
	ip->saddr = was->daddr;
	if (speaks && speaks->gateway6[0])
		addr_copy((__u8 *)&ip->saddr, speaks->gateway6, true);
	ip->daddr = was->saddr;
	icmp[0] = 2;
	icmp[6] = mtu >> 8;
	icmp[7] = mtu;
	sum += (__u32)bpf_csum_diff(NULL, 0, (__be32 *)&ip->saddr, 32,
				    bpf_htonl(8 + QUOTE + PROTO_ICMPV6));
	*(__u16 *)(icmp + 2) = ~csum_fold(sum + bpf_htons(2 << 8) + bpf_htons(mtu));
}

/* Turns the packet into its answer, back to the device that it came from. */
static __always_inline enum reason too_big_answer(struct pkt *p, const struct eni_conf *speaks,
						  const bool v6)
{
	const __u32 head = v6 ? 48 : 28;
	struct too_big *t;
	__u32 zero = 0, mtu = p->mtu;
	__u64 sum;

	t = bpf_map_lookup_elem(&too_bigs, &zero);
	if (!t || !pkt_load(p, ETH_LEN, t->quote, QUOTE, false))
		return REASON_TOO_BIG;
	mac_copy(t->dmac, p->smac);
	mac_copy(t->smac, p->dmac);
	*(__u16 *)t->ethertype = bpf_htons(p->ethertype);
	__builtin_memset(t->head, 0, sizeof(t->head));
	sum = quote_sum(p, t, v6);
	if (v6)
		too_big_head6(t, speaks, sum, mtu < IPV6_MIN_MTU ? IPV6_MIN_MTU : mtu);
	else
		too_big_head4(t, speaks, sum, mtu);
	if (bpf_skb_change_tail(p->ctx, ETH_LEN + QUOTE, 0) ||
	    bpf_skb_adjust_room(p->ctx, head, BPF_ADJ_ROOM_MAC, 0) ||
	    !pkt_store(p, 0, t->dmac, ETH_LEN, false) ||
	    !pkt_store(p, ETH_LEN, t->head, head, false))
		return REASON_TOO_BIG;
	p->out_ifindex = p->ifindex;
	p->out = OUT_DEVICE;
	return REASON_ANSWERED;
}

/*
 * Answers a packet that was counted as TOO_BIG; what becomes of it instead of a drop. `eni` pays for
 * it, and the gateway of `speaks` is its source; NULL = its destination is.
 */
static __always_inline enum reason too_big(struct pkt *p, const struct eni_conf *speaks, __u32 eni,
					   enum direction dir)
{
	__u32 index = eni * 2 + dir;
	__u64 *turn = bpf_map_lookup_elem(&answer_turns, &index);

	if (p->fragment == FRAGMENT_LATER || p->quotes)
		return REASON_TOO_BIG; /* never about an error or what only continues (RFC 1122 §3.2.2) */
	if (!turn || !turn_take(turn, p->now, TOO_BIG_TURNS))
		return REASON_TOO_BIG;
	return p->ethertype == ETH_P_IPV6 ? too_big_answer(p, speaks, true) :
					    too_big_answer(p, speaks, false);
}

/* The answer is a packet of ours. */
static __always_inline enum reason too_big_count(struct pkt *p, enum reason reason)
{
	if (reason != REASON_ANSWERED)
		return reason;
	p->segments = 1;
	p->wire_bytes = ETH_LEN + QUOTE + (p->ethertype == ETH_P_IPV6 ? 48 : 28);
	count_enter(p, 0, DIR_OUT);
	count(p, REASON_ANSWERED);
	return reason;
}

/* To the ENI whose port it came in by. */
static __always_inline enum reason too_big_at_port(struct pkt *p)
{
	const struct port *port = bpf_map_lookup_elem(&ports, &p->ifindex);

	if (!port)
		return REASON_TOO_BIG;
	return too_big_count(p, too_big(p, eni_conf_of(p->slot, port->eni), port->eni, DIR_OUT));
}

static __always_inline enum reason too_big_at_uplink(struct pkt *p)
{
	return too_big_count(p, too_big(p, NULL, p->eni, DIR_IN));
}

/* To an ENI of another host, wherever that is now. */
static __always_inline enum reason too_big_in_overlay(struct pkt *p, const struct tunnel *t)
{
	const struct mac_entry *m = mac_find(p, t->vni, p->smac);
	const struct nexthop *nh = m ? nexthop_find(m->nexthop) : NULL;
	const struct host_conf *host = host_find(p);
	enum reason reason;

	if (!host || !nh || !nexthop_away(nh))
		return REASON_TOO_BIG;
	reason = too_big(p, eni_conf_of(p->slot, p->eni), p->eni, DIR_IN);
	if (reason != REASON_ANSWERED)
		return reason;
	((struct __sk_buff *)p->ctx)->mark = 0; /* it vouches for what came in */
	if (to_vtep(p, host, nh, GROUP_NONE) != REASON_DELIVERED)
		return REASON_TOO_BIG;
	return too_big_count(p, reason);
}

/* What came from a gateway, or to this one, is answered the way it came, in the name of its destination. */
static __always_inline enum reason too_big_in_tunnel(struct pkt *p)
{
	const struct host_conf *host = host_find(p);
	const struct scratch *s = scratch_get();
	enum reason reason;

	if (!s || !host)
		return REASON_TOO_BIG;
	if (s->came.mark == VXLAN_MARK || overlay_moved(s) == GROUP_MOVED)
		return too_big_in_overlay(p, &s->came);
	if (overlay_moved(s))
		return REASON_TOO_BIG; /* the host that sent it on has no word for its answer */
	reason = too_big(p, NULL, p->eni, p->dir);
	if (reason != REASON_ANSWERED)
		return reason;
	((struct __sk_buff *)p->ctx)->mark = 0;
	if (!tunnel_set(p, host, s->came.vni, s->came.vtep,
			s->came.mark == VXLAN_MARK + VTEP_BEHIND ? GROUP_INTERNET : GROUP_NONE))
		return REASON_TOO_BIG;
	p->out_ifindex = host->vxlan_ifindex;
	return too_big_count(p, reason);
}
