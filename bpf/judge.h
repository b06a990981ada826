/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The verdict on a connection for one of its ENIs: security groups, network ACL, route and EIP, for
 * the packet that opens it. Runs on a flow miss, and again when the ENI's generation has moved on.
 * A function of the tables and of `struct judge` alone: it sees no packet and changes no flow.
 */
#pragma once

#include "eip.h"
#include "route.h"
#include "spoof.h"

struct judge {
	/* what is asked */
	__u32 slot;
	__u32 eni;
	__u32 sender_nexthop; /* DIR_IN from the VPC: of the ENI that sent it; kept: of the flow */
	__u16 port; /* destination port of the opening packet, or ICMP type << 8 | code */
	__u16 reply_port; /* the same of the packets that answer it */
	__u8 protocol;
	__u8 dir; /* of the opening packet */
	__u8 internet; /* DIR_IN: the packet came from the internet */
	__u8 transit; /* the local address is not the ENI's own */
	__u8 packet; /* one of a flow that may differ from its others: only network ACLs judge it */
	__u8 gateway; /* asked of judge_source: the packet came by a gateway */
	__u8 arrives; /* DIR_IN from the internet, by the EIP in `eip`, whose private address is `local` */
	__u8 pad;
	__u8 local[16];
	__u8 remote[16];
	/* what is answered */
	__u32 rule; /* id of the deciding rule of the security groups, 0 = none matched or none was asked */
	__u32 nacl_rule; /* the same of the network ACL, for the packet that is asked about */
	__u32 nexthop; /* towards the remote side */
	__u8 same_subnet;
	__u8 reply_denied; /* by the network ACL */
	__u8 kept; /* asked: a flow that the security groups leave alone, to sender_nexthop */
	__u8 foreign; /* DIR_IN from the VPC: nobody has the remote address */
	__u8 eip[16]; /* of the local address, if the remote side is on the internet */
};

/* The EIP of the local address, and the way to the internet with it. */
static __always_inline bool eip_of(struct judge *j, __u32 vni, const bool v6)
{
	const struct eip_out4 *e = eip_of_private(j->slot, vni, j->local, j->eip, v6);

	if (!e || (e->flags & EIP_BEHIND))
		return false;
	j->nexthop = e->nexthop;
	return true;
}

/*
 * The stateless filter at the border of the subnet. All packets of a flow that cross in one
 * direction look the same to it, so judging one of each direction judges them all.
 */
static __always_inline enum reason judge_nacl(struct judge *j, const struct eni_conf *conf,
					      const bool v6)
{
	bool in = j->dir == DIR_IN;
	__u32 reply_rule;

	j->nacl_rule = 0;
	j->reply_denied = 0;
	if (!(conf->flags & ENI_NACL) || j->same_subnet)
		return REASON_CONTINUE;
	if (!rules_allow(in ? &conf->nacl_in : &conf->nacl_out, j->remote, 0, j->protocol, j->port,
			 &j->nacl_rule, true, v6))
		return REASON_NACL_DENIED;
	j->reply_denied = !rules_allow(in ? &conf->nacl_out : &conf->nacl_in, j->remote, 0,
				       j->protocol, j->reply_port, &reply_rule, true, v6);
	return REASON_CONTINUE;
}

static __always_inline enum reason judge_sg(struct judge *j, const struct eni_conf *conf,
					    const struct endpoint *peer, const bool v6)
{
	const struct rules *rules = j->dir == DIR_IN ? &conf->sg_in : &conf->sg_out;
	bool nobody = !peer || (peer->flags & EP_GATEWAY);

	if (j->kept && (nobody || peer->nexthop == j->sender_nexthop))
		return REASON_CONTINUE;
	if (rules_allow(rules, j->remote, peer ? peer->group_set : 0, j->protocol, j->port,
			&j->rule, false, v6))
		return REASON_CONTINUE;
	return REASON_SG_DENIED;
}

/*
 * To an ENI of a peer. What crosses comes from an address of its own VPC: the other side, whose
 * addresses are others, knows by that who has sent it.
 */
static __always_inline enum reason judge_peered(struct judge *j, const struct eni_conf *conf,
						__u32 vni, const bool v6)
{
	const struct endpoint *peer;

	if (j->transit && !route_inside(route_find(conf->routes, j->local, v6)))
		return REASON_NOT_PEERED;
	peer = endpoint_find(j->slot, vni, j->remote, v6);
	if (!peer)
		return REASON_NO_ENDPOINT;
	if (peer->flags & EP_GATEWAY)
		return REASON_TO_GATEWAY;
	j->nexthop = peer->nexthop;
	return REASON_CONTINUE;
}

/*
 * To the ENI's own EIP from the port that it is addressed to, or without ports: what comes back in is of the
 * flow that goes out, which nobody judges again. So both directions are judged at once.
 */
static __always_inline enum reason judge_self(struct judge *j, const struct eni_conf *conf,
					      const bool v6)
{
	__u32 rule = j->rule, nacl_rule = j->nacl_rule;
	enum reason reason;

	if (!addr_equal(j->eip, j->remote, v6) || j->port != j->reply_port)
		return REASON_CONTINUE;
	j->dir = DIR_IN;
	reason = judge_nacl(j, conf, v6);
	if (reason == REASON_CONTINUE)
		reason = judge_sg(j, conf, NULL, v6);
	j->dir = DIR_OUT;
	j->rule = rule;
	j->nacl_rule = nacl_rule;
	return reason;
}

/* Where to, for a packet that the ENI sends. */
static __always_inline enum reason judge_route(struct judge *j, const struct eni_conf *conf,
					       const struct endpoint *peer, const struct route *r,
					       const bool v6)
{
	if (!r)
		return REASON_NO_ROUTE;
	switch (r->kind) {
	case ROUTE_LOCAL:
		if (!peer)
			return REASON_NO_ENDPOINT;
		j->nexthop = peer->nexthop;
		break;
	case ROUTE_ENI:
		j->nexthop = r->arg;
		break;
	case ROUTE_VPC:
		return judge_peered(j, conf, r->arg, v6);
	case ROUTE_INTERNET:
		if (infra_has(j->slot, j->remote, v6))
			return REASON_INFRA;
		if (j->transit || !eip_of(j, conf->vni, v6))
			return REASON_NO_EIP;
		return judge_self(j, conf, v6);
	case ROUTE_BLACKHOLE:
		return REASON_BLACKHOLE;
	case ROUTE_NOT_PEERED:
		return REASON_NOT_PEERED;
	default:
		return REASON_NO_ROUTE;
	}
	return j->nexthop == conf->nexthop ? REASON_ROUTE_LOOP : REASON_CONTINUE;
}

/*
 * A flow that leads through an ENI by the routes says nothing of who has the remote address: what the
 * groups leave alone they do so whoever that is.
 */
static __always_inline void judge_led(struct judge *j, const struct endpoint *peer,
				      const struct route *r)
{
	if (peer && !(peer->flags & EP_GATEWAY) && r && r->kind == ROUTE_ENI)
		j->sender_nexthop = peer->nexthop;
}

static __always_inline enum reason judge_out(struct judge *j, const struct eni_conf *conf,
					     const bool v6)
{
	const struct way w = {j->local, j->remote, j->port, j->protocol, {}};
	const struct endpoint *peer = endpoint_find(j->slot, conf->vni, j->remote, v6);
	const struct route *r = route_of(conf, &w, v6);

	if (peer && (peer->flags & EP_GATEWAY))
		return REASON_TO_GATEWAY;
	j->same_subnet = r && r->subnet && r->subnet == conf->subnet;
	judge_led(j, peer, r);
	TRY(judge_sg(j, conf, peer, v6));
	TRY(judge_nacl(j, conf, v6));
	return judge_route(j, conf, peer, r, v6);
}

static __always_inline enum reason judge_in_internet(struct judge *j, const struct eni_conf *conf,
						     const struct route *r, const bool v6)
{
	TRY(internet_source(j->slot, r, j->remote, v6));
	if (j->arrives)
		j->nexthop = NEXTHOP_INTERNET;
	else if (!eip_of(j, conf->vni, v6))
		return REASON_NO_EIP;
	TRY(judge_nacl(j, conf, v6));
	return judge_sg(j, conf, NULL, v6);
}

/* The way of the answers to another VPC: by the address, and only if that is routed there. */
static __always_inline enum reason judge_back_peered(struct judge *j, const struct route *r,
						     const struct nexthop *sender, const bool v6)
{
	const struct endpoint *e = NULL;

	if (r && r->kind == ROUTE_VPC && (!sender || sender->vni == r->arg))
		e = endpoint_of_eni(j->slot, r->arg, j->remote, v6);
	if (!e)
		return sender ? REASON_NOT_PEERED : REASON_NO_NEXTHOP;
	j->nexthop = e->nexthop;
	return REASON_CONTINUE;
}

/*
 * The way of the answers to what came from the VPC or a peer: through the ENI that the routes name,
 * else to who has the address, else to who has sent it. Who that was is not known any more (NULL) when
 * the flow is judged again and its next hop has become another's.
 */
static __always_inline enum reason judge_back(struct judge *j, const struct eni_conf *conf,
					      const struct endpoint *peer, const struct route *r,
					      const bool v6)
{
	const struct nexthop *sender = j->sender_nexthop ? nexthop_find(j->sender_nexthop) : NULL;

	if (sender ? sender->vni != conf->vni : r && r->kind == ROUTE_VPC)
		return judge_back_peered(j, r, sender, v6);
	if (r && r->kind == ROUTE_ENI && r->arg != conf->nexthop) {
		j->nexthop = r->arg;
		return REASON_CONTINUE;
	}
	j->nexthop = peer ? peer->nexthop : j->sender_nexthop;
	j->foreign = !peer;
	return REASON_CONTINUE;
}

static __always_inline enum reason judge_in(struct judge *j, const struct eni_conf *conf,
					    const bool v6)
{
	const struct way w = {j->local, j->remote, j->reply_port, j->protocol, {}};
	const struct route *r = route_of(conf, &w, v6);
	const struct endpoint *peer;

	j->same_subnet = r && r->subnet && r->subnet == conf->subnet;
	if (j->internet)
		return judge_in_internet(j, conf, r, v6);
	peer = endpoint_find(j->slot, conf->vni, j->remote, v6);
	TRY(judge_back(j, conf, peer, r, v6));
	judge_led(j, peer, r);
	TRY(judge_nacl(j, conf, v6));
	return judge_sg(j, conf, peer, v6);
}

/*
 * The local side must be the ENI's. In transit it is another's: one that it may send from, or, for what
 * is opened towards it, any if it forwards. Asked for live flows, too.
 */
static __always_inline enum reason judge_local(const struct judge *j, const struct eni_conf *conf,
					       const bool v6)
{
	if (j->transit && j->dir == DIR_OUT)
		return spoof_foreign(conf, j->local, v6);
	if (j->transit ? conf->flags & ENI_NO_SOURCE_CHECK : eni_owns(j->slot, conf, j->local, v6))
		return REASON_CONTINUE;
	if (j->dir == DIR_OUT)
		return REASON_SPOOFED_IP;
	return j->internet ? REASON_NO_ENDPOINT : REASON_NO_TRANSIT;
}

static __always_inline enum reason judge_packet(struct judge *j, const struct eni_conf *conf,
						const bool v6)
{
	j->same_subnet = same_subnet(conf, j->remote, v6);
	return judge_nacl(j, conf, v6);
}

static __always_inline enum reason judge_flow(struct judge *j, const bool v6)
{
	const struct live *device;
	const struct eni_conf *conf = eni_ready(j->slot, j->eni, &device);

	if (!conf)
		return REASON_NOT_READY;
	if (j->packet)
		return judge_packet(j, conf, v6);
	j->rule = 0;
	j->nacl_rule = 0;
	j->foreign = 0;
	j->nexthop = NEXTHOP_NONE;
	if (!j->arrives) {
		__builtin_memset(j->eip, 0, sizeof(j->eip)); /* that of another packet */
		TRY(judge_local(j, conf, v6));
	}
	return j->dir == DIR_OUT ? judge_out(j, conf, v6) : judge_in(j, conf, v6);
}

/* May a gateway send to it? It is the ENI's, and has an EIP of a range with gateways. */
static __always_inline bool judge_gatewayed(const struct judge *j, const struct eni_conf *conf,
					    const bool v6)
{
	__u8 eip[16] __attribute__((aligned(8)));
	const struct eip_out4 *e = eip_of_private(j->slot, conf->vni, j->local, eip, v6);

	return e && (e->flags & EIP_GATEWAYED) && eni_owns(j->slot, conf, j->local, v6);
}

/* Could it be on the internet, seen from the ENI? */
static __always_inline enum reason judge_source(const struct judge *j, const bool v6)
{
	const struct way answers = {j->local, j->remote, j->reply_port, j->protocol, {}};
	const struct live *device;
	const struct eni_conf *conf = eni_ready(j->slot, j->eni, &device);

	if (!conf)
		return REASON_NOT_READY;
	if (j->gateway && !judge_gatewayed(j, conf, v6))
		return REASON_VXLAN_SENDER;
	return internet_source(j->slot, route_of(conf, &answers, v6), j->remote, v6);
}

/* Functions of their own: verified once, and their stack is not part of the programs'. */
__noinline int judge4(struct judge *j)
{
	return j ? judge_flow(j, false) : REASON_HELPER;
}

__noinline int judge6(struct judge *j)
{
	return j ? judge_flow(j, true) : REASON_HELPER;
}

/* Is the local address the ENI's own? */
static __always_inline bool judge_owns(const struct judge *j, const bool v6)
{
	const struct live *device;
	const struct eni_conf *conf = eni_ready(j->slot, j->eni, &device);

	return conf && eni_owns(j->slot, conf, j->local, v6);
}

__noinline int owns4(struct judge *j)
{
	return j && judge_owns(j, false);
}

__noinline int owns6(struct judge *j)
{
	return j && judge_owns(j, true);
}

/* Is the local address another ENI's of the same instance? */
static __always_inline bool judge_sibling(const struct judge *j, const bool v6)
{
	const struct live *device;
	const struct eni_conf *conf = eni_ready(j->slot, j->eni, &device), *other;
	const struct endpoint *e;
	const struct nexthop *nh;
	__u32 index;

	e = conf ? endpoint_of_eni(j->slot, conf->vni, j->local, v6) : NULL;
	nh = e ? nexthop_find(e->nexthop) : NULL;
	if (!nh || nh->kind != NH_LOCAL || nh->eni == j->eni)
		return false;
	index = nh->eni;
	other = eni_conf_of(j->slot, index);
	return other && other->instance == conf->instance;
}

__noinline int sibling4(struct judge *j)
{
	return j && judge_sibling(j, false);
}

__noinline int sibling6(struct judge *j)
{
	return j && judge_sibling(j, true);
}

/* Does the local address lie in the ENI's VPC? */
static __always_inline bool judge_inside(const struct judge *j, const bool v6)
{
	const struct live *device;
	const struct eni_conf *conf = eni_ready(j->slot, j->eni, &device);

	return conf && route_inside(route_find(conf->routes, j->local, v6));
}

__noinline int inside4(struct judge *j)
{
	return j && judge_inside(j, false);
}

__noinline int inside6(struct judge *j)
{
	return j && judge_inside(j, true);
}

__noinline int source4(struct judge *j)
{
	return j ? judge_source(j, false) : REASON_HELPER;
}

__noinline int source6(struct judge *j)
{
	return j ? judge_source(j, true) : REASON_HELPER;
}
