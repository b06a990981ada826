/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Connections: which flow a packet belongs to, whether it fits the flow's state, and what a packet
 * without a flow may open. Always the opening direction is judged, whichever packet asks.
 */
#pragma once

#include "flow.h"
#include "judge.h"
#include "parse.h"

/* Which side of the ENI's flow key each address and port of the packet is. */
struct sides {
	__u16 local_port;
	__u16 remote_port;
	__u32 class;
};

/* ICMP query types come in pairs; the higher (IPv6) or the listed (IPv4) one is the reply. */
static __always_inline bool icmp_reply(__u8 type, const bool v6)
{
	if (v6)
		return type == 129 || type == 140;
	return type == 0 || type == 14 || type == 16 || type == 18;
}

static __always_inline __u8 icmp_request(__u8 type, const bool v6)
{
	if (!icmp_reply(type, v6))
		return type;
	return type ? type - 1 : 8;
}

static __always_inline __u8 icmp_answer(__u8 type, const bool v6)
{
	__u8 request = icmp_request(type, v6);

	return !v6 && request == 8 ? 0 : request + 1;
}

static __always_inline bool icmp_error(const struct pkt *p, const bool v6)
{
	__u8 t = p->icmp_type;

	if (v6)
		return p->protocol == PROTO_ICMPV6 && t < 128;
	return p->protocol == PROTO_ICMP && (t == 3 || t == 4 || t == 5 || t == 11 || t == 12);
}

static __always_inline bool is_icmp(const struct pkt *p, const bool v6)
{
	return p->protocol == (v6 ? PROTO_ICMPV6 : PROTO_ICMP);
}

static __always_inline struct sides sides_of(const struct pkt *p, const bool v6)
{
	bool out = p->dir == DIR_OUT;
	struct sides s = {
		.local_port = out ? p->sport : p->dport,
		.remote_port = out ? p->dport : p->sport,
	};

	if (p->protocol == PROTO_TCP) {
		s.class = CLASS_TCP;
	} else if (p->protocol == PROTO_UDP) {
		s.class = CLASS_UDP;
	} else if (is_icmp(p, v6)) {
		s.class = CLASS_ICMP;
		s.local_port = p->sport;
		s.remote_port = icmp_request(p->icmp_type, v6);
	} else {
		s.class = CLASS_OTHER;
		s.local_port = p->protocol;
		s.remote_port = 0;
	}
	return s;
}

static __always_inline void flow_key4_of(struct flow_key4 *key, const struct pkt *p, __u32 scope,
					 __u32 class_bits)
{
	struct sides s = sides_of(p, false);
	bool out = p->dir == DIR_OUT;

	key->scope_class = scope << 8 | s.class | class_bits;
	__builtin_memcpy(key->local, out ? p->src : p->dst, 4);
	__builtin_memcpy(key->remote, out ? p->dst : p->src, 4);
	key->local_port = s.local_port;
	key->remote_port = s.remote_port;
}

static __always_inline void flow_key6_of(struct flow_key6 *key, const struct pkt *p, __u32 scope,
					 __u32 class_bits)
{
	struct sides s = sides_of(p, true);
	bool out = p->dir == DIR_OUT;

	key->scope_class = scope << 8 | s.class | class_bits;
	__builtin_memcpy(key->local, out ? p->src : p->dst, 16);
	__builtin_memcpy(key->remote, out ? p->dst : p->src, 16);
	key->local_port = s.local_port;
	key->remote_port = s.remote_port;
}

/* The flow of this packet, if it is this incarnation's. */
static __always_inline struct flow *track_find(const struct pkt *p, const struct eni_conf *conf,
					       __u32 scope, __u32 class_bits, const bool v6)
{
	struct flow *f;

	if (v6) {
		struct flow_key6 key;

		flow_key6_of(&key, p, scope, class_bits);
		f = flow_find(&key, p->now, true);
	} else {
		struct flow_key4 key;

		flow_key4_of(&key, p, scope, class_bits);
		f = flow_find(&key, p->now, false);
	}
	if (!f || f->eni != p->eni || f->incarnation != conf->incarnation)
		return NULL;
	return f;
}

static __always_inline bool tcp_opens(const struct pkt *p)
{
	return (p->tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN)) == TCP_SYN;
}

/* May a packet without a flow make one? */
static __always_inline enum reason track_may_open(const struct pkt *p, const bool v6)
{
	if (p->protocol == PROTO_TCP && !tcp_opens(p))
		return REASON_NO_FLOW;
	if (is_icmp(p, v6) && icmp_reply(p->icmp_type, v6))
		return REASON_NO_FLOW;
	return REASON_CONTINUE;
}

/* Asks for the verdict on the connection, opened in direction `dir`. */
static __always_inline enum reason track_judge(const struct pkt *p, struct judge *j, __u8 dir,
					       bool internet, __u32 sender_nexthop, const bool v6)
{
	bool out = p->dir == DIR_OUT, opener = p->dir == dir;

	j->slot = p->slot;
	j->eni = p->eni;
	j->sender_nexthop = sender_nexthop;
	j->protocol = p->protocol;
	j->dir = dir;
	j->internet = internet;
	if (is_icmp(p, v6)) {
		j->port = icmp_request(p->icmp_type, v6) << 8 | (opener ? p->icmp_code : 0);
		j->reply_port = icmp_answer(p->icmp_type, v6) << 8;
	} else {
		j->port = opener ? p->dport : p->sport;
		j->reply_port = opener ? p->sport : p->dport;
	}
	addr_copy(j->local, out ? p->src : p->dst, v6);
	addr_copy(j->remote, out ? p->dst : p->src, v6);
	return v6 ? judge6(j) : judge4(j);
}

/* Takes a verdict over into a flow. The generation comes last: before it, a reader judges again. */
static __always_inline void track_settle(struct flow *f, const struct judge *j,
					 const struct nexthop *nh, const struct eni_conf *conf,
					 const bool v6)
{
	f->nexthop = j->nexthop;
	f->nexthop_generation = nh->generation;
	f->rule = j->rule;
	addr_copy(f->nat, j->eip, v6);
	f->flags = (f->flags & ~(FLOW_SAME_SUBNET | FLOW_REPLY_DENIED)) |
		   (j->same_subnet ? FLOW_SAME_SUBNET : 0) |
		   (j->reply_denied ? FLOW_REPLY_DENIED : 0);
	barrier();
	*(volatile __u32 *)&f->generation = conf->generation;
}

/* The ENI's configuration or the next hop has changed since the flow was judged. */
static __always_inline enum reason track_again(const struct pkt *p, const struct eni_conf *conf,
					       struct flow *f, bool internet, const bool v6)
{
	__u8 dir = f->flags & FLOW_OPENED_BY_PEER ? DIR_IN : DIR_OUT;
	const struct nexthop *nh = NULL;
	enum reason reason;
	struct judge *j;
	__u32 zero = 0;

	j = bpf_map_lookup_elem(&judges, &zero);
	if (!j)
		return REASON_HELPER;
	reason = track_judge(p, j, dir, internet, f->nexthop, v6);
	if (reason == REASON_CONTINUE) {
		nh = nexthop_find(j->nexthop);
		if (!nh || nh->kind == NH_NONE)
			reason = REASON_NO_NEXTHOP;
		else if ((j->nexthop == NEXTHOP_INTERNET) != internet)
			reason = REASON_NO_ROUTE; /* it would be another flow now */
	}
	if (reason != REASON_CONTINUE) {
		if (f->state != FLOW_BLOCKED)
			f->seen = p->now;
		f->state = FLOW_BLOCKED;
		f->reason = reason;
		f->generation = conf->generation;
		return reason;
	}
	if (f->state == FLOW_BLOCKED)
		f->state = FLOW_ESTABLISHED;
	track_settle(f, j, nh, conf, v6);
	return REASON_CONTINUE;
}

/* Does the packet fit the state of its flow, and what does it do to it? */
static __always_inline enum reason track_state(const struct pkt *p, struct flow *f, const bool v6)
{
	bool opener = (p->dir == DIR_IN) == !!(f->flags & FLOW_OPENED_BY_PEER);
	__u8 fin = p->dir == DIR_OUT ? FLOW_FIN_OUT : FLOW_FIN_IN;

	if (is_icmp(p, v6) && icmp_reply(p->icmp_type, v6) == opener)
		return REASON_NO_FLOW;
	if (!opener && (f->flags & FLOW_REPLY_DENIED))
		return REASON_NACL_DENIED;
	if (f->state == FLOW_OPENING && !opener) {
		if (p->protocol == PROTO_TCP && !(p->tcp_flags & (TCP_SYN | TCP_RST)))
			return REASON_NO_FLOW;
		f->state = FLOW_ESTABLISHED;
	}
	if (p->protocol != PROTO_TCP || !(p->tcp_flags & (TCP_FIN | TCP_RST)))
		return REASON_CONTINUE;
	if ((p->tcp_flags & TCP_FIN) && !(f->flags & fin))
		f->flags |= fin;
	if ((p->tcp_flags & TCP_RST) ||
	    (f->flags & (FLOW_FIN_OUT | FLOW_FIN_IN)) == (FLOW_FIN_OUT | FLOW_FIN_IN))
		f->state = FLOW_CLOSING;
	return REASON_CONTINUE;
}

/* A SYN may open a connection again whose old one is closing (RFC 9293 §3.6.1). */
static __always_inline bool track_reopens(const struct pkt *p, const struct flow *f)
{
	return p->protocol == PROTO_TCP && f->state == FLOW_CLOSING && tcp_opens(p);
}

/* A packet that has a flow. */
static __always_inline enum reason track_hit(const struct pkt *p, const struct eni_conf *conf,
					     struct flow *f, const struct nexthop **nh,
					     bool internet, const bool v6)
{
	*nh = nexthop_find(f->nexthop);
	if (!*nh || f->generation != conf->generation ||
	    f->nexthop_generation != (*nh)->generation) {
		TRY(track_again(p, conf, f, internet, v6));
		*nh = nexthop_find(f->nexthop);
		if (!*nh)
			return REASON_NO_NEXTHOP;
	}
	if (f->state == FLOW_BLOCKED)
		return f->reason;
	TRY(track_state(p, f, v6));
	flow_touch(f, p->now, p->dir, p->segments, p->wire_bytes);
	return REASON_CONTINUE;
}

/* Stores the flow that this packet opens. */
static __always_inline enum reason track_insert(const struct pkt *p, const struct flow *init,
						__u32 scope, __u32 class_bits, const bool v6)
{
	if (v6) {
		struct flow_key6 key;

		flow_key6_of(&key, p, scope, class_bits);
		return flow_insert(&key, init, p->now, true);
	} else {
		struct flow_key4 key;

		flow_key4_of(&key, p, scope, class_bits);
		return flow_insert(&key, init, p->now, false);
	}
}

/* A packet without a flow: judged, and if allowed the first of one, described in `f`. */
static __always_inline enum reason track_miss(const struct pkt *p, const struct eni_conf *conf,
					      struct flow *f, const struct nexthop **nh,
					      __u32 scope, __u32 class_bits, __u32 sender_nexthop,
					      const bool v6)
{
	bool internet = class_bits & CLASS_INTERNET;
	struct judge *j;
	__u32 zero = 0;

	if (icmp_error(p, v6))
		return REASON_ICMP_UNRELATED;
	TRY(track_may_open(p, v6));
	j = bpf_map_lookup_elem(&judges, &zero);
	if (!j)
		return REASON_HELPER;
	TRY(track_judge(p, j, p->dir, internet, sender_nexthop, v6));
	*nh = nexthop_find(j->nexthop);
	if (!*nh || (*nh)->kind == NH_NONE)
		return REASON_NO_NEXTHOP;
	if (p->dir == DIR_OUT && j->nexthop == NEXTHOP_INTERNET)
		class_bits |= CLASS_INTERNET;
	f->eni = p->eni;
	f->incarnation = conf->incarnation;
	f->seen = p->now;
	f->state = FLOW_OPENING;
	f->flags = p->dir == DIR_IN ? FLOW_OPENED_BY_PEER : 0;
	track_settle(f, j, *nh, conf, v6);
	flow_touch(f, p->now, p->dir, p->segments, p->wire_bytes);
	return track_insert(p, f, scope, class_bits, v6);
}
