/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The gateway of a range of EIPs (Region.eipRanges): takes packets to them from the underlay, translates and
 * carries them to the hosts that have the ENIs, and back. It keeps nothing of what it carries, so that any
 * gateway can do for any packet; who may send and what is asked by the host of the ENI.
 */
#pragma once

#include "egress.h"
#include "eip.h"
#include "neighbour.h"

/*
 * An ICMP error is translated at both levels, so it must be about a packet of whose address is translated:
 * `inward` the quoted source, else the quoted destination.
 */
static __always_inline enum reason gateway_error(struct pkt *p, const __u8 *translated, bool inward,
						 const bool v6)
{
	struct quote *q = quote_get();

	if (!icmp_error(p, v6) || p->fragment == FRAGMENT_LATER)
		return REASON_CONTINUE;
	if (!q)
		return REASON_HELPER;
	if (p->fragment)
		return REASON_ICMP_UNRELATED;
	q->start = p->l4 + 8;
	q->end = ETH_LEN + p->ip_len;
	TRY(quote_read(p, q, v6, false));
	if (!addr_equal(inward ? q->src : q->dst, translated, v6))
		return REASON_ICMP_UNRELATED;
	p->quotes = true;
	return REASON_CONTINUE;
}

/* Is what an error quotes, read by gateway_error, from this EIP? */
static __always_inline bool gateway_quotes(const __u8 *eip, const bool v6)
{
	const struct quote *q = quote_get();

	return q && addr_equal(q->src, eip, v6);
}

/* To the host of an ENI, in the name of the gateway; the destination is the private IP from now on. */
static __always_inline enum reason gateway_deliver(struct pkt *p, const struct host_conf *host,
						   __u32 nexthop, const __u8 *eip,
						   const __u8 *private, const bool v6)
{
	const struct nexthop *nh = nexthop_find(nexthop);

	if (!nh || !nexthop_away(nh))
		return REASON_NO_NEXTHOP;
	if (!rewrite_addr(p, eip, private, false, v6, false) ||
	    !rewrite_macs(p, nh->mac, host->gateway_mac, false))
		return REASON_HELPER;
	if (unlikely(p->out & OUT_SHAPED)) { /* shape.h asks for the tunnel */
		p->out_ifindex = nexthop;
		return REASON_DELIVERED;
	}
	return to_vtep(p, host, nh, GROUP_INTERNET);
}

/* From the underlay to an EIP of an ENI of another host. `p->dst` is the EIP still. */
static __always_inline enum reason gateway_in(struct pkt *p, const struct host_conf *host,
					      __u32 nexthop, const __u8 *private, const bool v6)
{
	count_enter(p, 0, DIR_IN);
	TRY(parse_ip(p, v6, false));
	TRY(parse_addresses(p, v6));
	TRY(nd_stray(p, v6));
	TRY(gateway_error(p, p->dst, true, v6));
	if (p->ip_len > host->overlay_mtu)
		return too_big_for(p, host->overlay_mtu);
	return gateway_deliver(p, host, nexthop, p->dst, private, v6);
}

/* Is the sender the ENI that has the private IP, behind the host that sent the packet? Gives the EIP. */
static __always_inline enum reason gateway_sender(const struct pkt *p, __u32 vni, __u32 vtep,
						  __u8 *eip, const bool v6)
{
	const struct eip_out4 *e = eip_of_private(p->slot, vni, p->src, eip, v6);
	const struct nexthop *nh;

	if (!e || !(e->flags & EIP_BEHIND))
		return REASON_NO_EIP;
	nh = nexthop_find(e->nexthop);
	if (!nh || !nexthop_behind(p, e->nexthop, vtep) || !mac_equal(nh->mac, p->smac))
		return REASON_VXLAN_SENDER;
	return REASON_CONTINUE;
}

/*
 * What an ENI of another host sends to the internet. CONTINUE = to an EIP of the local ENI s->turned, translated
 * on the sender's side.
 */
static __always_inline enum reason gateway_out(struct pkt *p, const struct host_conf *host,
					       struct scratch *s, const bool v6)
{
	const struct eip_in4 *e;
	struct egress *way;
	bool known;

	TRY(gateway_sender(p, s->came.vni, s->came.vtep, s->nat, v6));
	TRY(gateway_error(p, p->src, false, v6));
	way = egress_place(p, s->nat, v6);
	if (!way)
		return REASON_HELPER;
	known = egress_known(way, p, s->nat, v6);
	addr_copy(s->arrival.eip, p->dst, v6);
	e = known ? NULL : eip_find(p, p->dst, v6);
	if (!e)
		return egress_leave(way, p, host, s->nat, known, v6);
	if ((e->flags & EIP_BEHIND) && p->quotes && !gateway_quotes(s->arrival.eip, v6))
		return REASON_ICMP_UNRELATED;
	if (!rewrite_addr(p, p->src, s->nat, true, v6, false))
		return REASON_HELPER;
	addr_copy(p->src, s->nat, v6);
	if (e->flags & EIP_BEHIND)
		return gateway_deliver(p, host, e->nexthop, s->arrival.eip, p->dst, v6);
	s->turned = e->eni;
	s->arrival.uplink = 0;
	count(p, REASON_DELIVERED);
	count_enter(p, e->eni, DIR_IN);
	return REASON_CONTINUE;
}
