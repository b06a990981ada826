/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The way of a packet that arrives by an uplink, which is shared with the host: ours are VXLAN to
 * our VTEP, packets to EIPs held here, and the ARP and neighbour discovery for them. The rest is
 * NOT_OURS: untouched and uncounted.
 */
#pragma once

#include "gateway.h"
#include "overlay.h"

/*
 * Is it an EIP of an ENI that is ready here, or that this host is a gateway for and another host has? An EIP of
 * one that is not is nobody's: no answer.
 */
static __always_inline bool uplink_has_eip(const struct pkt *p, const __u8 *addr, const bool v6)
{
	struct scratch *s = scratch_get();
	const struct live *device;
	const struct nexthop *nh;
	const struct eip_in4 *e;

	if (!s)
		return false;
	addr_copy(s->private, addr, v6);
	e = eip_find(p, s->private, v6);
	if (!e || !(e->flags & EIP_UPLINK))
		return false;
	if (!(e->flags & EIP_BEHIND))
		return eni_ready(p->slot, e->eni, &device) &&
		       !(device->flags & (LIVE_CLOSED | LIVE_LEFT));
	nh = nexthop_find(e->nexthop);
	return nh && nexthop_away(nh);
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

static __always_inline bool uplink_solicits(struct pkt *p, const bool xdp)
{
	__u8 next, type;

	return pkt_load(p, ETH_LEN + offsetof(struct ipv6hdr, nexthdr), &next, 1, xdp) &&
	       next == PROTO_ICMPV6 && pkt_load(p, ETH_LEN + 40, &type, 1, xdp) &&
	       type == ND_SOLICIT;
}

static __always_inline enum reason uplink_nd(struct pkt *p, const bool xdp)
{
	struct uplink *u = bpf_map_lookup_elem(&uplinks, &p->ifindex);
	struct nd nd;

	if (!uplink_solicits(p, xdp))
		return REASON_NOT_OURS;
	if (!u || parse_ip6(p, xdp) != REASON_CONTINUE || !nd_load(p, &nd, xdp) ||
	    addr_unspecified6(p->src) || !uplink_has_eip(p, nd.target, true))
		return REASON_NOT_OURS;
	count_enter(p, 0, DIR_IN);
	return nd_answer(p, &nd, u->mac, true, xdp);
}

/* Is arrival.eip in a range of this table? Functions of their own, for the stack of the programs. */
__noinline int gatewayed4(struct scratch *s, __u32 table)
{
	return s && route_find(table, s->arrival.eip, false);
}

__noinline int gatewayed6(struct scratch *s, __u32 table)
{
	return s && route_find(table, s->arrival.eip, true);
}

/* Of an EIP's packets none reaches the host's stack, which would send it back to where it came from. */
static __always_inline enum reason uplink_refused(struct pkt *p, const bool v6, const bool xdp)
{
	if (v6 && xdp && !(xdp_owns & XDP_OWNS_ALL) && uplink_solicits(p, true))
		return REASON_NOT_OURS; /* which TC answers if it is about an EIP taken here */
	count_enter(p, 0, DIR_IN);
	return REASON_EIP_UNKNOWN;
}

/* To arrival.eip, which nobody has here. In a range for which the host is a gateway there is nothing but EIPs. */
static __always_inline enum reason uplink_unknown(struct pkt *p, const struct host_conf *host,
						  const bool v6, const bool xdp)
{
	struct scratch *s = scratch_get();

	if (!s || !host->gatewayed)
		return REASON_NOT_OURS;
	if (!(v6 ? gatewayed6(s, host->gatewayed) : gatewayed4(s, host->gatewayed)))
		return REASON_NOT_OURS;
	return uplink_refused(p, v6, xdp);
}

/* An IP packet to an EIP held here; from now on nothing of it reaches the host's stack. */
static __always_inline enum reason uplink_eip(struct pkt *p, const struct host_conf *host,
					      const bool v6, const bool xdp)
{
	const __u32 off = ETH_LEN + (v6 ? 24 : 16);
	struct scratch *s = scratch_get();
	const struct eip_in4 *e;
	__u32 eni;

	if (!s || !pkt_load_few(p, off, s->arrival.eip, v6 ? 16 : 4, xdp))
		return REASON_NOT_OURS;
	addr_copy(s->private, s->arrival.eip, v6);
	e = eip_find(p, s->private, v6);
	if (!e)
		return uplink_unknown(p, host, v6, xdp);
	if (!(e->flags & EIP_UPLINK))
		return uplink_refused(p, v6, xdp); /* its gateways bring it by the overlay */
	if (e->flags & EIP_BEHIND) /* XDP cannot ask for a tunnel */
		return xdp ? REASON_NOT_OURS : gateway_in(p, host, e->nexthop, s->private, v6);
	eni = e->eni;
	if (xdp && !own(p, ETH_LEN, eni, v6))
		return REASON_NOT_OURS;
	arrival_enter(p, eni, xdp);
	TRY(parse_ip(p, v6, xdp));
	if (xdp && p->out == OUT_LEFT && nd_stray(p, v6) != REASON_CONTINUE)
		return REASON_NOT_OURS; /* TC may answer it */
	TRY(parse_addresses(p, v6));
	TRY(nd_stray(p, v6));
	addr_copy(p->dst, s->private, v6);
	s->arrival.uplink = 1;
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
	struct scratch *s = scratch_get();
	enum reason reason;

	if (!s)
		return REASON_NOT_OURS;
	reason = overlay_outer(p, host, &s->outer, false);
	if (reason == REASON_CONTINUE) {
		((struct __sk_buff *)p->ctx)->mark = VXLAN_MARK + overlay_role(&s->outer) +
						     (s->outer.policy << VXLAN_MARK_POLICY);
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
		return overlay_decap(p, s);
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
