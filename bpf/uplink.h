/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The way of a packet that arrives by an uplink, which is shared with the host: ours are VXLAN to
 * our VTEP, packets to EIPs held here, and the ARP and neighbour discovery for them. The rest is
 * NOT_OURS: untouched and uncounted.
 */
#pragma once

#include "eip.h"
#include "neighbour.h"
#include "overlay.h"

/* Is it an EIP of an ENI that is ready here? An EIP of one that is not is nobody's: no answer. */
static __always_inline bool uplink_has_eip(const struct pkt *p, const __u8 *addr, const bool v6)
{
	const struct live *device;
	__u8 private[16] __attribute__((aligned(8)));
	__u32 eni;

	addr_copy(private, addr, v6);
	return eip_find(p, private, &eni, v6) && eni_ready(p->slot, eni, &device);
}

static __always_inline enum reason uplink_arp(struct pkt *p, const bool xdp)
{
	struct uplink *u = bpf_map_lookup_elem(&uplinks, &p->ifindex);
	struct arp_facts f;

	if (!u || !arp_load(p, &f, xdp) || f.arp.operation != bpf_htons(1) ||
	    *(__u32 *)f.sender == *(__u32 *)f.target || !uplink_has_eip(p, f.target, false))
		return REASON_NOT_OURS;
	count_enter(p, 0, DIR_IN);
	return arp_answer(p, &f, u->mac, xdp);
}

static __always_inline enum reason uplink_nd(struct pkt *p, const bool xdp)
{
	struct uplink *u = bpf_map_lookup_elem(&uplinks, &p->ifindex);
	struct nd nd;
	__u8 next, type;

	if (!pkt_load(p, ETH_LEN + offsetof(struct ipv6hdr, nexthdr), &next, 1, xdp) ||
	    next != PROTO_ICMPV6 || !pkt_load(p, ETH_LEN + 40, &type, 1, xdp) || type != ND_SOLICIT)
		return REASON_NOT_OURS;
	if (!u || parse_ip6(p, xdp) != REASON_CONTINUE || !nd_load(p, &nd, xdp) ||
	    addr_unspecified6(p->src) || !uplink_has_eip(p, nd.target, true))
		return REASON_NOT_OURS;
	count_enter(p, 0, DIR_IN);
	return nd_answer(p, &nd, u->mac, true, xdp);
}

/* An IP packet to an EIP held here; from now on nothing of it reaches the host's stack. */
static __always_inline enum reason uplink_eip(struct pkt *p, const struct host_conf *host,
					      const bool v6, const bool xdp)
{
	const __u32 off = ETH_LEN + (v6 ? 24 : 16);
	__u8 dst[16] __attribute__((aligned(8)));
	struct scratch *s = scratch_get();
	__u32 eni;

	if (!s || !pkt_load_few(p, off, dst, v6 ? 16 : 4, xdp))
		return REASON_NOT_OURS;
	addr_copy(s->arrival.eip, dst, v6);
	if (!eip_find(p, dst, &eni, v6) || (xdp && !own(p, ETH_LEN, eni, v6)))
		return REASON_NOT_OURS;
	arrival_enter(p, eni, xdp);
	TRY(parse_ip(p, v6, xdp));
	if (xdp && p->out == OUT_LEFT && nd_stray(p, v6) != REASON_CONTINUE)
		return REASON_NOT_OURS; /* TC may answer it */
	TRY(parse_addresses(p, v6));
	TRY(nd_stray(p, v6));
	addr_copy(p->dst, dst, v6);
	return arrive(p, host, eni, &s->arrival, FROM_INTERNET, v6, xdp);
}

/* Is it addressed to our VTEP, which is no EIP? */
static __always_inline bool uplink_to_vtep(struct pkt *p, const struct host_conf *host,
					   const bool xdp)
{
	__u32 dst;

	return pkt_load_few(p, ETH_LEN + offsetof(struct iphdr, daddr), &dst, sizeof(dst), xdp) &&
	       dst == *(const __u32 *)host->vtep;
}

/* VXLAN to our VTEP goes on to the kernel's decapsulation with a mark that vouches for it. */
static __always_inline enum reason uplink_vxlan(struct pkt *p, const struct host_conf *host)
{
	enum reason reason = overlay_outer(p, host, false);

	if (reason == REASON_CONTINUE) {
		((struct __sk_buff *)p->ctx)->mark = VXLAN_MARK;
		return REASON_NOT_OURS;
	}
	if (reason != REASON_NOT_OURS)
		count_enter(p, 0, DIR_IN);
	return reason;
}

/* Drops what TC would drop, before it costs anything, and finishes what XDP owns. */
static __always_inline enum reason uplink_vxlan_xdp(struct pkt *p, const struct host_conf *host)
{
	struct scratch *s = scratch_get();
	enum reason reason;

	if (!s || !overlay_looks(p))
		return REASON_NOT_OURS;
	reason = overlay_outer_xdp(p, host, &s->outer);
	if (reason == REASON_CONTINUE)
		return overlay_decap(p, &s->outer);
	if (reason != REASON_NOT_OURS)
		count_enter(p, 0, DIR_IN);
	return reason;
}

static __always_inline enum reason uplink_run(struct pkt *p)
{
	const struct host_conf *host = host_find(p);
	enum reason reason;

	if (!host || parse_eth(p, false) != REASON_CONTINUE ||
	    ((struct __sk_buff *)p->ctx)->vlan_present)
		return REASON_NOT_OURS;
	switch (p->ethertype) {
	case ETH_P_IP:
		if (uplink_to_vtep(p, host, false))
			return uplink_vxlan(p, host);
		return uplink_eip(p, host, false, false);
	case ETH_P_IPV6:
		reason = uplink_nd(p, false);
		return reason == REASON_NOT_OURS ? uplink_eip(p, host, true, false) : reason;
	case ETH_P_ARP:
		return uplink_arp(p, false);
	}
	return REASON_NOT_OURS;
}

/* The same, before the kernel makes an skb; what XDP does not own it leaves to TC as it came. */
static __always_inline enum reason uplink_run_xdp(struct pkt *p)
{
	const struct host_conf *host = host_find(p);
	enum reason reason = REASON_NOT_OURS;

	if (!host || parse_eth(p, true) != REASON_CONTINUE)
		return REASON_NOT_OURS;
	switch (p->ethertype) {
	case ETH_P_IP:
		if (uplink_to_vtep(p, host, true))
			return uplink_vxlan_xdp(p, host);
		return own_looks(p, ETH_LEN, false) ? uplink_eip(p, host, false, true) :
						      REASON_NOT_OURS;
	case ETH_P_IPV6:
		if (xdp_owns & XDP_OWNS_ALL)
			reason = uplink_nd(p, true);
		if (reason == REASON_NOT_OURS && own_looks(p, ETH_LEN, true))
			reason = uplink_eip(p, host, true, true);
		break;
	case ETH_P_ARP:
		if (xdp_owns & XDP_OWNS_ALL)
			reason = uplink_arp(p, true);
		break;
	}
	return reason;
}
