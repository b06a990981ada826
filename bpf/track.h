/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Connections: which flow a packet belongs to, whether it fits the flow's state, and what a packet
 * without a flow may open. Always the opening direction is judged, whichever packet asks.
 */
#pragma once

#include "budget.h"
#include "rate.h"
#include "state.h"
#include "store.h"

/*
 * Blocked for a cause whose end no generation of the ENI tells: the peer was gone and may be back, it was
 * of another VPC and may be gone, or the ENI keeps: its generation leaves the groups out, and they speak
 * before routes and network ACLs do.
 */
static __always_inline bool flow_may_revive(const struct work *w)
{
	__u8 reason = w->flow.reason;

	return reason == REASON_NO_ENDPOINT || reason == REASON_NO_NEXTHOP ||
	       reason == REASON_NOT_PEERED || (w->flags & ENI_KEEP);
}

/* Has somebody got the address by now that was nobody's? Delivery is by address. */
static __always_inline bool flow_came_home(const struct work *w, const bool v6)
{
	if (!(w->flow.flags & FLOW_FOREIGN))
		return false;
	return endpoint_find(w->slot, w->vni, v6 ? w->key6.remote : w->key4.remote, v6);
}

/*
 * A request of ICMP belongs to a flow only if it has the code of the one that opened it; another one
 * is asked about like a new connection.
 */
static __always_inline enum reason icmp_code(struct work *w, const struct flow_ref *ref)
{
	__u32 opener = w->flow.flags & FLOW_OPENED_BY_PEER ? DIR_IN : DIR_OUT;
	const void *control = ref->control;
	__u32 code = *(const volatile __u16 *)&flow_seq(ref->body)[opener];

	w->flow.opening = code;
	if ((flow_load(control + flow_zero(code)) ^ ref->seen) >> FLOW_VERSION_SHIFT)
		return REASON_FLOW_BUSY;
	return w->dir == opener && w->icmp_code != code && !w->related ? REASON_NO_FLOW :
									 REASON_CONTINUE;
}

/* An answer with a code, about which the network ACL was not asked yet. */
static __always_inline bool icmp_code_unknown(const struct work *w)
{
	bool opener = (w->dir == DIR_IN) == !!(w->flow.flags & FLOW_OPENED_BY_PEER);

	return !opener && w->icmp_code && !(w->icmp_code & CODE_ALLOWED);
}

/*
 * The packet's flow, if it is this incarnation's, copied to w->flow: CONTINUE, NO_FLOW, or why the
 * flow drops it. A SYN may open a connection again whose old one is closing (RFC 9293 §3.6.1).
 * A stale flow is left as it is: its verdict must be asked for first.
 */
static __always_inline enum reason flow_hit(struct work *w, const bool v6)
{
	const __u8 icmp = v6 ? PROTO_ICMPV6 : PROTO_ICMP;
	const struct nexthop *nh;
	struct flow_ref ref;

	if (v6)
		TRY(flow_find(&w->key6, w->now, &w->flow, &ref, true));
	else
		TRY(flow_find(&w->key4, w->now, &w->flow, &ref, false));
	if (w->flow.eni != w->eni || w->flow.incarnation != w->flows)
		return REASON_NO_FLOW;
	if (w->protocol == PROTO_TCP && w->flow.state == FLOW_CLOSING && tcp_opens(w->tcp_flags) &&
	    !w->related)
		return REASON_NO_FLOW;
	if (unlikely(w->protocol == icmp))
		TRY(icmp_code(w, &ref));
	nh = nexthop_find(w->flow.nexthop);
	w->stale = w->flow.generation != w->generation || !nh ||
		   (w->flow.state == FLOW_BLOCKED ?
			    flow_may_revive(w) :
			    w->flow.nexthop_generation != nh->generation || nh->kind == NH_NONE ||
				    flow_came_home(w, v6));
	if (w->stale)
		return REASON_CONTINUE;
	if (w->flow.state == FLOW_BLOCKED)
		return w->flow.reason;
	if (w->related)
		return REASON_CONTINUE;
	if (unlikely(w->protocol == icmp && icmp_code_unknown(w))) {
		w->stale = STALE_CODE;
		return REASON_CONTINUE;
	}
	TRY(flow_step(w, &ref));
	flow_touch(&ref, v6 ? (void *)&w->key6 : (void *)&w->key4, w->now, w->dir, w->packets,
		   w->bytes, &w->idle, v6);
	return REASON_CONTINUE;
}

__noinline int hit4(struct work *w)
{
	return w ? flow_hit(w, false) : REASON_HELPER;
}

__noinline int hit6(struct work *w)
{
	return w ? flow_hit(w, true) : REASON_HELPER;
}

/* May the stale flow be judged again now? A function of its own: it is asked in many places. */
__noinline int judge_again(struct work *w)
{
	if (!w || !work_quota(w))
		return REASON_HELPER;
	return judge_turn(w->eni, w->now, w->quota.limit) ? REASON_CONTINUE :
							    REASON_FLOW_JUDGE_LIMIT;
}

static __always_inline void track_key(const struct pkt *p, struct work *w, __u32 scope,
				      __u32 class_bits, const bool v6)
{
	if (v6)
		flow_key6_of(&w->key6, p, scope, class_bits);
	else
		flow_key4_of(&w->key4, p, scope, class_bits);
}

static __always_inline enum reason track_find(const struct pkt *p, struct work *w, __u32 scope,
					      __u32 class_bits, const bool v6)
{
	w->stale = 0;
	track_key(p, w, scope, class_bits, v6);
	return v6 ? hit6(w) : hit4(w);
}

static __always_inline enum reason track_store(struct work *w, const bool v6)
{
	enum reason reason = v6 ? store6(w) : store4(w);

	if (w->stored.evicts)
		evict(w);
	return reason;
}

/* May a packet without a flow make one? */
static __always_inline enum reason track_may_open(const struct pkt *p, const bool v6)
{
	if (p->protocol == PROTO_TCP && !tcp_opens(p->tcp_flags))
		return REASON_NO_FLOW;
	if (is_icmp(p, v6) && icmp_reply(p->icmp_type, v6))
		return REASON_NO_FLOW;
	return REASON_CONTINUE;
}

/*
 * Network ACLs judge each packet: an answer of ICMP with a code may differ from the others of its
 * flow, for which the flow knows the verdict.
 */
static __always_inline enum reason answer_nacl(struct work *w, const bool v6)
{
	__u8 request = v6 ? w->key6.remote_port : w->key4.remote_port;
	struct judge *j = &w->judge;
	enum reason reason;

	if (!icmp_code_unknown(w))
		return REASON_CONTINUE;
	j->slot = w->slot;
	j->eni = w->eni;
	j->protocol = w->protocol;
	j->dir = w->dir;
	j->packet = 1;
	j->port = icmp_answer(request, v6) << 8 | w->icmp_code;
	addr_copy(j->remote, v6 ? w->key6.remote : w->key4.remote, v6);
	reason = v6 ? judge6(j) : judge4(j);
	if (reason == REASON_CONTINUE)
		w->icmp_code |= CODE_ALLOWED;
	return reason;
}

__noinline int answer4(struct work *w)
{
	return w ? answer_nacl(w, false) : REASON_HELPER;
}

__noinline int answer6(struct work *w)
{
	return w ? answer_nacl(w, true) : REASON_HELPER;
}

/* Asks for the verdict on the connection w->flow, opened in direction `dir`. */
static __always_inline enum reason track_judge(const struct pkt *p, struct work *w, __u8 dir,
					       __u32 class_bits, __u32 sender_nexthop,
					       const bool v6)
{
	bool out = p->dir == DIR_OUT, opener = p->dir == dir;
	struct judge *j = &w->judge;

	j->slot = p->slot;
	j->packet = 0;
	j->eni = p->eni;
	j->sender_nexthop = sender_nexthop;
	j->protocol = p->protocol;
	j->dir = dir;
	j->internet = !!(class_bits & CLASS_INTERNET);
	j->transit = !!(class_bits & CLASS_TRANSIT);
	if (is_icmp(p, v6)) {
		j->port = icmp_request(p->icmp_type, v6) << 8 | w->flow.opening;
		j->reply_port = icmp_answer(p->icmp_type, v6) << 8;
	} else {
		j->port = opener ? p->dport : p->sport;
		j->reply_port = opener ? p->sport : p->dport;
	}
	addr_copy(j->local, out ? p->src : p->dst, v6);
	addr_copy(j->remote, out ? p->dst : p->src, v6);
	return v6 ? judge6(j) : judge4(j);
}

/* A rule has decided one connection more. */
static __always_inline void rule_hit(__u32 rule)
{
	__u64 *hits;

	if (!rule)
		return;
	hits = bpf_map_lookup_elem(&rule_hits, &rule);
	if (hits)
		__sync_fetch_and_add(hits, 1);
}

/* Counts the rules of the last verdict, denials too. */
static __always_inline void track_hits(const struct judge *j)
{
	rule_hit(j->rule);
	rule_hit(j->nacl_rule);
}

/* Takes a verdict over into the flow. */
static __always_inline void track_settle(struct work *w, const struct nexthop *nh, const bool v6)
{
	struct flow *f = &w->flow;

	f->nexthop = w->judge.nexthop;
	f->nexthop_generation = nh->generation;
	f->rule = w->judge.rule ?: f->rule; /* kept: no rule was asked */
	addr_copy(f->nat, w->judge.eip, v6);
	f->flags = (f->flags & ~(FLOW_REPLY_DENIED | FLOW_KEPT | FLOW_FOREIGN)) |
		   (w->judge.reply_denied ? FLOW_REPLY_DENIED : 0) |
		   (w->flags & ENI_KEEP ? FLOW_KEPT : 0) | (w->judge.foreign ? FLOW_FOREIGN : 0);
}

/* An allowed packet wakes a blocked flow; a SYN begins it anew. */
static __always_inline void track_revive(const struct pkt *p, struct flow *f)
{
	f->state = FLOW_ESTABLISHED;
	if (p->protocol != PROTO_TCP || !tcp_opens(p->tcp_flags))
		return;
	f->state = FLOW_OPENING;
	f->flags &= ~(FLOW_ANSWERED | FLOW_REFUSED | FLOW_FIN_OUT | FLOW_FIN_IN);
}

/*
 * Is the flow's next hop what it was? What its ENI may send from addresses that are not its own it may
 * also when its own have changed, as long as it is the same ENI.
 */
static __always_inline bool nexthop_still(const struct nexthop *nh, const struct flow *f)
{
	return nh->generation == f->nexthop_generation ||
	       ((f->flags & FLOW_FOREIGN) && nh->since && f->nexthop_generation >= nh->since);
}

/*
 * The ENI's configuration or the next hop has changed since the flow was judged: the opening
 * direction is judged again. Denied means blocked, and kept, so that a later allow revives it.
 * Whom the other side is a next hop tells, but for the internet, to which any gateway leads.
 */
static __always_inline enum reason track_again(const struct pkt *p, struct work *w,
					       __u32 class_bits, const bool v6)
{
	bool internet = class_bits & CLASS_INTERNET;
	struct flow *f = &w->flow;
	__u8 dir = f->flags & FLOW_OPENED_BY_PEER ? DIR_IN : DIR_OUT;
	const struct nexthop *nh = nexthop_find(f->nexthop);
	__u32 sender = internet ? NEXTHOP_INTERNET : f->nexthop;
	enum reason reason;

	TRY(judge_again(w));
	if (!internet && (!nh || !nexthop_still(nh, f)))
		sender = NEXTHOP_NONE; /* another ENI by now, maybe of another VPC */
	w->judge.kept = (w->flags & ENI_KEEP) && sender && (f->flags & FLOW_KEPT);
	reason = track_judge(p, w, dir, class_bits, sender, v6);
	if (reason == REASON_CONTINUE) {
		nh = nexthop_find(w->judge.nexthop);
		if (!nh || nh->kind == NH_NONE)
			reason = REASON_NO_NEXTHOP;
		else if (nexthop_public(nh) != internet)
			reason = REASON_NO_ROUTE; /* it would be another flow now */
	}
	if (w->related) { /* asks for the verdict, and leaves the flow as it is */
		if (reason == REASON_CONTINUE && nh)
			track_settle(w, nh, v6);
		return reason;
	}
	track_hits(&w->judge);
	f->generation = w->generation;
	if (reason == REASON_CONTINUE && nh) {
		if (f->state == FLOW_BLOCKED)
			track_revive(p, f);
		track_settle(w, nh, v6);
	} else {
		f->state = FLOW_BLOCKED;
		f->reason = reason;
		if (!w->judge.kept || reason == REASON_SG_DENIED)
			f->flags &= ~FLOW_KEPT;
	}
	/* If another CPU has judged it meanwhile, that is as good: the packet has its verdict. */
	track_store(w, v6);
	return reason;
}

/*
 * A packet that may have a flow: CONTINUE with the flow in w->flow, NO_FLOW, or why it is dropped.
 */
static __always_inline enum reason track_flow(const struct pkt *p, struct work *w, __u32 scope,
					      __u32 class_bits, const bool v6)
{
	TRY(track_find(p, w, scope, class_bits, v6));
	if (!w->stale)
		return REASON_CONTINUE;
	if (w->stale == STALE_FLOW)
		TRY(track_again(p, w, class_bits, v6));
	if (w->related)
		return REASON_CONTINUE;
	if (is_icmp(p, v6))
		TRY(v6 ? answer6(w) : answer4(w));
	TRY(track_find(p, w, scope, class_bits, v6));
	if (!w->stale)
		return REASON_CONTINUE;
	/* Judged meanwhile by a packet of another revision: this one goes by its own verdict. */
	w->flow.nexthop = w->judge.nexthop;
	addr_copy(w->flow.nat, w->judge.eip, v6);
	if (w->judge.reply_denied && !(w->icmp_code & CODE_ALLOWED) &&
	    (p->dir == DIR_IN) != !!(w->flow.flags & FLOW_OPENED_BY_PEER))
		return REASON_NACL_DENIED;
	return REASON_CONTINUE;
}

/* The verdict on a packet that may open a flow. Nothing is counted and nothing stored. */
static __always_inline enum reason track_verdict(const struct pkt *p, struct work *w,
						 __u32 class_bits, __u32 sender_nexthop,
						 const bool v6)
{
	const struct nexthop *nh;

	w->judge.kept = 0;
	w->flow.opening = is_icmp(p, v6) ? p->icmp_code : p->tcp_seq;
	TRY(track_judge(p, w, p->dir, class_bits, sender_nexthop, v6));
	nh = nexthop_find(w->judge.nexthop);
	return nh && nh->kind != NH_NONE ? REASON_CONTINUE : REASON_NO_NEXTHOP;
}

/* A packet without a flow: judged, and if allowed the first of one. */
static __always_inline enum reason track_open(const struct pkt *p, struct work *w, __u32 scope,
					      __u32 class_bits, __u32 sender_nexthop, const bool v6)
{
	struct flow *f = &w->flow;
	const struct nexthop *nh;
	enum reason reason;

	TRY(track_may_open(p, v6));
	reason = track_verdict(p, w, class_bits, sender_nexthop, v6);
	track_hits(&w->judge);
	if (reason != REASON_CONTINUE)
		return reason;
	nh = nexthop_find(w->judge.nexthop);
	if (!nh)
		return REASON_NO_NEXTHOP;
	if (unlikely(w->flags & ENI_FLOW_RATE))
		TRY(rate_flows(w));
	if (nexthop_public(nh))
		class_bits |= CLASS_INTERNET;
	f->eni = w->eni;
	f->incarnation = w->flows;
	f->generation = w->generation;
	f->state = FLOW_OPENING;
	f->flags = p->dir == DIR_IN ? FLOW_OPENED_BY_PEER : 0;
	f->reason = 0;
	f->seen = 0;
	f->dir = w->dir;
	f->packets = w->packets;
	f->bytes = w->bytes;
	track_settle(w, nh, v6);
	track_key(p, w, scope, class_bits, v6);
	return track_store(w, v6);
}
