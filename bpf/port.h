/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The way of a packet that an ENI sends. */
#pragma once

#include "deliver.h"
#include "gateway.h"
#include "neighbour.h"
#include "shape.h"
#include "spoof.h"

/* A later fragment goes where the first one went. */
static __always_inline enum reason port_fragment(struct pkt *p, const struct eni_conf *conf,
						 struct work *w, const bool v6)
{
	if (!is_own(p, w, p->src, v6))
		TRY(spoof_foreign(conf, p->src, v6));
	return fragment_later(p, w, false, v6);
}

/* What crosses to a peer comes from an address of the VPC, an error too. */
static __always_inline enum reason port_abroad(const struct pkt *p, const struct eni_conf *conf,
					       struct work *w, const bool v6)
{
	const struct nexthop *nh = nexthop_find(w->flow.nexthop);

	if (!nh || nexthop_public(nh) || nh->vni == conf->vni)
		return REASON_CONTINUE;
	addr_copy(w->judge.local, p->src, v6);
	return (v6 ? inside6(&w->judge) : inside4(&w->judge)) ? REASON_CONTINUE : REASON_NOT_PEERED;
}

/* An ICMP error is about a packet from the VPC, from the internet or in transit. */
static __always_inline enum reason port_error(struct pkt *p, const struct eni_conf *conf,
					      struct work *w, const bool v6)
{
	enum reason reason;

	if (!is_own(p, w, p->src, v6))
		TRY(spoof_foreign(conf, p->src, v6));
	reason = related(p, w, NULL, 0, v6, false);
	if (reason == REASON_ICMP_UNRELATED)
		reason = related(p, w, NULL, CLASS_INTERNET, v6, false);
	if (reason == REASON_ICMP_UNRELATED && eni_forwards(conf))
		reason = related(p, w, NULL, CLASS_TRANSIT, v6, false);
	if (reason != REASON_CONTINUE)
		return reason;
	return port_abroad(p, conf, w, v6);
}

/*
 * Into how many wire packets one of a guest may be cut. The guest names their size: by 1, a packet of
 * 60 kB keeps a CPU of the host busy for 0.2 s. TCP's smallest segments (IPv4 carries 68 bytes) stay
 * below this.
 */
#define GSO_SEGMENTS 2048

/*
 * The flow of a packet from an ENI: one with the VPC, one with the internet, or, if the source is
 * not the ENI's own and may be, one in transit; else a new one.
 */
static __always_inline enum reason port_flow(struct pkt *p, const struct eni_conf *conf,
					     struct work *w, const bool v6)
{
	enum reason reason;

	if (p->fragment == FRAGMENT_LATER)
		return port_fragment(p, conf, w, v6);
	if (icmp_error(p, v6))
		return port_error(p, conf, w, v6);
	if (eni_forwards(conf) && !is_own(p, w, p->src, v6)) {
		TRY(spoof_foreign(conf, p->src, v6));
		reason = track_flow(p, w, p->eni, CLASS_TRANSIT, v6);
		if (reason != REASON_NO_FLOW)
			return reason;
		return track_open(p, w, p->eni, CLASS_TRANSIT, 0, v6);
	}
	reason = track_flow(p, w, conf->vni, 0, v6);
	if (reason != REASON_NO_FLOW)
		return reason;
	reason = track_flow(p, w, conf->vni, CLASS_INTERNET, v6);
	if (reason != REASON_NO_FLOW)
		return reason;
	if (!is_own(p, w, p->src, v6))
		return REASON_SPOOFED_IP;
	return track_open(p, w, conf->vni, 0, 0, v6);
}

/* To a neighbour's EIP on this host: both addresses are translated in one go. */
static __always_inline enum reason port_hairpin(struct pkt *p, const struct host_conf *host,
						const __u8 *nat, __u32 eni, struct arrival *a,
						const bool v6)
{
	enum reason reason;

	if (!rewrite_addr(p, p->src, nat, true, v6, false))
		return REASON_HELPER;
	addr_copy(p->src, nat, v6);
	count(p, REASON_DELIVERED);
	count_enter(p, eni, DIR_IN);
	a->uplink = 0;
	reason = to_eni(p, host, eni, a, FROM_INTERNET, v6, false);
	p->mtu = 0; /* the quote would show the EIP: no answer */
	return reason;
}

/*
 * The EIP that is the destination, if this host knows it. Not while its ENI is only prepared here: until it is heard,
 * it is elsewhere.
 */
static __always_inline const struct eip_in4 *port_neighbour(struct pkt *p, struct arrival *a,
							    const bool v6)
{
	const struct eip_in4 *e;
	const struct live *device;

	addr_copy(a->eip, p->dst, v6);
	e = eip_find(p, p->dst, v6);
	if (!e || (e->flags & EIP_BEHIND))
		return e;
	device = bpf_map_lookup_elem(&live, &e->eni);
	if (!device || !(device->flags & LIVE_CLOSED))
		return e;
	addr_copy(p->dst, a->eip, v6);
	return NULL;
}

/* To an EIP for which this host is a gateway: to the host that has it. */
static __always_inline enum reason port_behind(struct pkt *p, const struct host_conf *host,
					       const __u8 *nat, __u32 nexthop,
					       const struct arrival *a, const bool v6)
{
	if (p->ip_len > host->overlay_mtu)
		return too_big_for(p, host->overlay_mtu);
	if (!rewrite_addr(p, p->src, nat, true, v6, false))
		return REASON_HELPER;
	return gateway_deliver(p, host, nexthop, a->eip, p->dst, v6);
}

/* Out through the sender's EIP. CONTINUE = as it is to a gateway. */
static __always_inline enum reason port_eip(struct pkt *p, const struct host_conf *host,
					    const struct nexthop *nh, const __u8 *nat,
					    struct arrival *a, const bool v6)
{
	bool gateway = nh->kind == NH_GATEWAY, known;
	struct egress *way = egress_place(p, nat, v6);
	const struct eip_in4 *e;

	if (!way)
		return REASON_HELPER;
	known = !gateway && egress_known(way, p, nat, v6);
	if (!known) {
		e = port_neighbour(p, a, v6);
		if (e && !(e->flags & EIP_BEHIND))
			return port_hairpin(p, host, nat, e->eni, a, v6);
		if (e)
			return port_behind(p, host, nat, e->nexthop, a, v6);
		if (gateway)
			return REASON_CONTINUE;
	}
	return egress_leave(way, p, host, nat, known, v6);
}

static __always_inline enum reason port_ip(struct pkt *p, const struct host_conf *host,
					   const struct eni_conf *conf, const bool v6)
{
	struct scratch *s = scratch_get();
	const struct nexthop *nh = NULL;
	struct work *w = NULL;

	TRY(parse_ip(p, v6, false));
	TRY(spoof_checksum(p, v6));
	TRY(spoof_service(p, v6));
	if (v6)
		TRY(nd_from_eni(p, host, conf));
	if (addr_multicast(p->dst, v6) || (p->dmac[0] & 1))
		return REASON_MULTICAST;
	TRY(parse_addresses(p, v6));
	if (!s)
		return REASON_HELPER;
	if (unlikely(p->out))
		s->class = 0; /* and the long way, which knows the next hop by its index */
	else if (!eni_forwards(conf))
		nh = quick_out(p, conf, s->nat, v6);
	if (!nh) {
		w = work_of(p, conf);
		if (!w)
			return REASON_HELPER;
		TRY(port_flow(p, conf, w, v6));
		if (p->fragment == FRAGMENT_FIRST)
			fragment_first(p, w, false, v6);
		addr_copy(s->nat, w->flow.nat, v6); /* to_eni uses `work` again */
		nh = nexthop_find(w->flow.nexthop);
		if (!nh)
			return REASON_NO_NEXTHOP;
	}
	if (nexthop_public(nh)) {
		if (unlikely(p->out))
			shape_internet(p, conf->vni, s, v6);
		TRY(port_eip(p, host, nh, s->nat, &s->arrival, v6));
	}
	switch (nh->kind) {
	case NH_LOCAL:
		s->arrival.sender_nexthop = conf->nexthop;
		count(p, REASON_DELIVERED);
		count_enter(p, nh->eni, DIR_IN);
		return to_eni(p, host, nh->eni, &s->arrival, FROM_LOCAL, v6, false);
	case NH_VTEP:
	case NH_MOVED:
	case NH_GATEWAY:
		if (unlikely(p->out & OUT_SHAPED) && w)
			return shape_overlay(p, host, conf, nh, w->flow.nexthop);
		return to_overlay(p, host, conf, nh, v6);
	}
	return REASON_NO_NEXTHOP;
}

/*
 * What an ENI may not send from: an address of its own instance, which a guest without policy routing
 * answers from by the wrong ENI, or a stranger's? Linux asks for the next hop in the name of the source
 * first, so that ARP tells it, too.
 */
static __always_inline enum reason port_spoofed(struct pkt *p, enum reason reason)
{
	__u32 zero = 0;
	struct work *w = bpf_map_lookup_elem(&works, &zero);

	if (!w || p->dir != DIR_OUT)
		return reason;
	w->judge.slot = p->slot;
	w->judge.eni = p->eni;
	addr_copy(w->judge.local, p->src, true);
	if (p->ethertype == ETH_P_IPV6 ? sibling6(&w->judge) : sibling4(&w->judge))
		return REASON_WRONG_ENI;
	return reason;
}

static __always_inline enum reason port_run(struct pkt *p)
{
	const struct host_conf *host = host_find(p);
	const struct eni_conf *conf = NULL;

	TRY(eni_of_port(p, &conf));
	if (!host || !conf)
		return REASON_NOT_READY;
	TRY(rate_packet(p, conf));
	TRY(parse_eth(p, false));
	if (((struct __sk_buff *)p->ctx)->vlan_present)
		return REASON_ETHERTYPE;
	if (p->segments > GSO_SEGMENTS)
		return REASON_MALFORMED;
	if (!mac_equal(p->smac, conf->mac))
		return REASON_SPOOFED_MAC;
	switch (p->ethertype) {
	case ETH_P_IP:
		return port_ip(p, host, conf, false);
	case ETH_P_IPV6:
		return port_ip(p, host, conf, true);
	case ETH_P_ARP:
		return arp_from_eni(p, host, conf);
	case ETH_P_RARP:
		return REASON_CONSUMED;
	}
	return REASON_ETHERTYPE;
}
