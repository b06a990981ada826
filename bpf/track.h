/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Connections: which flow a packet belongs to, whether it fits the flow's state, and what a packet
 * without a flow may open. Always the opening direction is judged, whichever packet asks.
 */
#pragma once

#include "budget.h"
#include "flow_insert.h"
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
		s.remote_port = icmp_request(p->icmp_type, v6) |
				(out != icmp_reply(p->icmp_type, v6) ? FLOW_ICMP_LOCAL : 0);
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
	addr_copy(key->local, out ? p->src : p->dst, false);
	addr_copy(key->remote, out ? p->dst : p->src, false);
	key->local_port = s.local_port;
	key->remote_port = s.remote_port;
}

static __always_inline void flow_key6_of(struct flow_key6 *key, const struct pkt *p, __u32 scope,
					 __u32 class_bits)
{
	struct sides s = sides_of(p, true);
	bool out = p->dir == DIR_OUT;

	key->scope_class = scope << 8 | s.class | class_bits;
	addr_copy(key->local, out ? p->src : p->dst, true);
	addr_copy(key->remote, out ? p->dst : p->src, true);
	key->local_port = s.local_port;
	key->remote_port = s.remote_port;
}

/*
 * What is at hand while a packet is judged for one ENI. Per CPU: the stack has no room for it, and
 * functions of their own (verified once, not per caller) get all they need in one argument.
 */
struct work {
	/* the packet, and the ENI that asks */
	__u32 now;
	__u32 packets;
	__u32 bytes;
	__u32 slot;
	__u32 eni;
	__u32 flows;
	__u32 generation;
	__u32 vni;
	__u32 related; /* an ICMP error asks: nothing of the flow changes */
	__u32 keep; /* ENI_KEEP */
	struct flow_idle idle;
	__u16 tcp_seq;
	__u16 tcp_ack;
	__u8 dir;
	__u8 protocol;
	__u8 tcp_flags;
	__u16 icmp_code; /* of a query; CODE_ALLOWED */
	/* answered by flow_hit */
	__u32 stale; /* enum stale */
	struct flow flow; /* a copy of the packet's flow, or the one to be made */
	struct flow_key4 key4; /* the flow that is looked for */
	struct flow_key6 key6;
	struct flow_quota quota; /* of store */
	struct flow_stored stored;
	struct judge judge;
};

/* Why the packet must be judged before its flow lets it pass. */
enum stale {
	STALE_NOT = 0,
	STALE_FLOW = 1, /* the flow was judged under another configuration or next hop */
	STALE_CODE = 2, /* an ICMP answer with a code, which the flow's verdict does not know */
};

enum icmp_code_flag {
	CODE_ALLOWED = 1 << 8, /* the network ACL was asked about an answer with this code */
};

MAP(works, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct work, 1, 0);

static __always_inline struct work *work_of(const struct pkt *p, const struct eni_conf *conf)
{
	__u32 zero = 0;
	struct work *w = bpf_map_lookup_elem(&works, &zero);

	if (!w)
		return NULL;
	w->now = p->now;
	w->packets = p->segments;
	w->bytes = p->wire_bytes;
	w->slot = p->slot;
	w->eni = p->eni;
	w->flows = conf->flows;
	w->generation = conf->generation;
	w->vni = conf->vni;
	w->related = 0;
	w->keep = conf->flags & ENI_KEEP;
	w->idle = conf->idle;
	w->tcp_seq = p->tcp_seq;
	w->tcp_ack = p->tcp_ack;
	w->dir = p->dir;
	w->protocol = p->protocol;
	w->tcp_flags = p->tcp_flags;
	w->icmp_code = p->icmp_code;
	return w;
}

enum tcp_window {
	TCP_NEAR = 256, /* of the upper halves of sequence numbers: 16 MiB */
};

static __always_inline bool tcp_opens(__u8 flags)
{
	return (flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN)) == TCP_SYN;
}

/*
 * A SYN to a peer that remembers an older connection is answered by an ACK alone, so that its sender
 * resets the old one and tries again (RFC 5961 §4.2). It establishes nothing.
 */
static __always_inline bool tcp_challenges(__u8 flags)
{
	return (flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN)) == TCP_ACK;
}

/* 16 MiB and less apart. */
static __always_inline bool tcp_near(__u16 a, __u16 b)
{
	return (__u16)(a - b + TCP_NEAR) <= 2 * TCP_NEAR;
}

/* Half-open, and only its opener was heard. */
static __always_inline bool tcp_unanswered(const struct flow *f)
{
	return f->state == FLOW_OPENING && !(f->flags & FLOW_ANSWERED);
}

/*
 * Where each direction is: where its sender has come to in small steps, or what the other side says
 * to have received, which nobody else can move. A RST from elsewhere was not sent by the peer. To a
 * SYN it must acknowledge the SYN (RFC 9293 §3.10.7.3); what answered before that was unheard.
 * A SYN begins at any number, also when a side that forgot its first one tries again.
 */
static __always_inline enum reason tcp_follow(const struct work *w, __u16 *seq,
					      const struct flow *f, bool opener)
{
	volatile __u16 *mine = &seq[w->dir & 1], *other = &seq[~w->dir & 1];
	bool acks = w->tcp_flags & TCP_ACK;
	__u16 now = *mine;

	if (unlikely(w->tcp_flags & TCP_RST)) {
		if (!opener && tcp_unanswered(f))
			return acks && tcp_near(w->tcp_ack, *other) ? REASON_CONTINUE :
								      REASON_TCP_WINDOW;
		return tcp_near(w->tcp_seq, now) ? REASON_CONTINUE : REASON_TCP_WINDOW;
	}
	if (w->tcp_seq != now && (tcp_near(w->tcp_seq, now) || tcp_unanswered(f) ||
				  (f->state == FLOW_OPENING && (w->tcp_flags & TCP_SYN))))
		*mine = w->tcp_seq;
	if (acks && !tcp_near(w->tcp_ack, *other))
		*other = w->tcp_ack;
	return REASON_CONTINUE;
}

/*
 * What a packet does to a half-open flow: the other side answers, and when the opener is heard again
 * both know of each other. Who sends from an address that is not his does not hear the answer: of
 * TCP's opener only a packet counts that acknowledges it.
 */
static __always_inline enum reason flow_shake(const struct work *w, const __u16 *seq, bool opener,
					      __u8 *state, __u8 *flags)
{
	bool tcp = w->protocol == PROTO_TCP, answered = *flags & FLOW_ANSWERED;

	if (tcp && (w->tcp_flags & TCP_RST))
		return REASON_CONTINUE;
	if (!opener) {
		if (!tcp || (w->tcp_flags & TCP_SYN))
			*flags |= FLOW_ANSWERED;
		else if (!answered && !tcp_challenges(w->tcp_flags))
			return REASON_NO_FLOW;
		return REASON_CONTINUE;
	}
	if (!answered || (tcp && !(w->tcp_flags & TCP_ACK)))
		return REASON_CONTINUE;
	if (tcp && !tcp_near(w->tcp_ack, *(const volatile __u16 *)&seq[~w->dir & 1]))
		return REASON_TCP_WINDOW;
	*state = FLOW_ESTABLISHED;
	return REASON_CONTINUE;
}

/* Does the packet fit the state of its flow, and what does it do to it? */
static __always_inline enum reason flow_step(const struct work *w, struct flow_ref *ref)
{
	const struct flow *f = &w->flow;
	bool opener = (w->dir == DIR_IN) == !!(f->flags & FLOW_OPENED_BY_PEER);
	const __u8 fins = FLOW_FIN_OUT | FLOW_FIN_IN;
	__u8 state = f->state, flags = f->flags;

	if (!opener && (flags & FLOW_REPLY_DENIED) && !(w->icmp_code & CODE_ALLOWED))
		return REASON_NACL_DENIED;
	if (unlikely(state == FLOW_OPENING))
		TRY(flow_shake(w, flow_seq(ref->body), opener, &state, &flags));
	if (w->protocol == PROTO_TCP) {
		TRY(tcp_follow(w, flow_seq(ref->body), f, opener));
		if (w->tcp_flags & TCP_FIN)
			flags |= w->dir == DIR_OUT ? FLOW_FIN_OUT : FLOW_FIN_IN;
		if (unlikely((w->tcp_flags & TCP_RST) || (flags & fins) == fins)) {
			flags |= state == FLOW_OPENING ? FLOW_REFUSED : 0;
			state = FLOW_CLOSING;
		}
	}
	if ((state != f->state || flags != f->flags) && !flow_advance(ref, state, flags))
		return REASON_FLOW_BUSY;
	return REASON_CONTINUE;
}

/*
 * Blocked for a cause whose end no generation of the ENI tells: the peer was gone and may be back,
 * or the groups denied it and the ENI keeps (its generation leaves the groups out).
 */
static __always_inline bool flow_may_revive(const struct work *w)
{
	__u8 reason = w->flow.reason;

	return reason == REASON_NO_ENDPOINT || reason == REASON_NO_NEXTHOP ||
	       (w->keep && reason == REASON_SG_DENIED);
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

/* How many flows the ENI may have. */
static __always_inline bool work_quota(struct work *w)
{
	struct flow_quota *quota = &w->quota;
	const struct enis *both = bpf_map_lookup_elem(&enis, &w->eni);
	const struct host_confs *host;
	const struct eni_conf *conf;
	__u32 zero = 0;

	host = bpf_map_lookup_elem(&host_conf, &zero);
	if (!both || !host)
		return false;
	conf = &both->v[w->slot & 1];
	quota->limit = conf->max_flows;
	quota->half_open = conf->half_open;
	quota->guaranteed = host->v[w->slot & 1].flow_share;
	if (quota->guaranteed > quota->limit)
		quota->guaranteed = quota->limit;
	quota->pool = host->v[w->slot & 1].flow_pool;
	return true;
}

/* Stores w->flow under its key. */
static __always_inline enum reason work_store(struct work *w, const bool v6)
{
	w->stored.evicts = 0;
	if (!work_quota(w))
		return REASON_HELPER;
	if (v6)
		return flow_insert(&w->key6, &w->flow, w->now, &w->stored, &w->idle, &w->quota,
				   true);
	return flow_insert(&w->key4, &w->flow, w->now, &w->stored, &w->idle, &w->quota, false);
}

__noinline int store4(struct work *w)
{
	return w ? work_store(w, false) : REASON_HELPER;
}

__noinline int store6(struct work *w)
{
	return w ? work_store(w, true) : REASON_HELPER;
}

/* A half-open flow makes way for the one just stored. */
__noinline int evict(struct work *w)
{
	__u32 slot, opener;

	if (!w)
		return REASON_HELPER;
	slot = (w->stored.evicts & ~FLOW_RING6) - 1;
	opener = w->stored.opener;
	if (w->stored.evicts & FLOW_RING6)
		flow_evict(slot, w->eni, w->flows, opener, w->stored.place, true);
	else
		flow_evict(slot, w->eni, w->flows, opener, w->stored.place, false);
	return REASON_CONTINUE;
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
		   (w->judge.reply_denied ? FLOW_REPLY_DENIED : 0) | (w->keep ? FLOW_KEPT : 0) |
		   (w->judge.foreign ? FLOW_FOREIGN : 0);
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
 */
static __always_inline enum reason track_again(const struct pkt *p, struct work *w,
					       __u32 class_bits, const bool v6)
{
	bool internet = class_bits & CLASS_INTERNET;
	struct flow *f = &w->flow;
	__u8 dir = f->flags & FLOW_OPENED_BY_PEER ? DIR_IN : DIR_OUT;
	const struct nexthop *nh = nexthop_find(f->nexthop);
	__u32 sender = f->nexthop;
	enum reason reason;

	TRY(judge_again(w));
	if (!nh || !nexthop_still(nh, f))
		sender = NEXTHOP_NONE; /* another ENI by now, maybe of another VPC */
	w->judge.kept = w->keep && sender && (f->flags & FLOW_KEPT);
	reason = track_judge(p, w, dir, class_bits, sender, v6);
	if (reason == REASON_CONTINUE) {
		nh = nexthop_find(w->judge.nexthop);
		if (!nh || nh->kind == NH_NONE)
			reason = REASON_NO_NEXTHOP;
		else if ((w->judge.nexthop == NEXTHOP_INTERNET) != internet)
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

/* A packet without a flow: judged, and if allowed the first of one. */
static __always_inline enum reason track_open(const struct pkt *p, struct work *w, __u32 scope,
					      __u32 class_bits, __u32 sender_nexthop, const bool v6)
{
	struct flow *f = &w->flow;
	const struct nexthop *nh;
	enum reason reason;

	TRY(track_may_open(p, v6));
	w->judge.kept = 0;
	f->opening = is_icmp(p, v6) ? p->icmp_code : p->tcp_seq;
	reason = track_judge(p, w, p->dir, class_bits, sender_nexthop, v6);
	track_hits(&w->judge);
	if (reason != REASON_CONTINUE)
		return reason;
	nh = nexthop_find(w->judge.nexthop);
	if (!nh || nh->kind == NH_NONE)
		return REASON_NO_NEXTHOP;
	if (w->judge.nexthop == NEXTHOP_INTERNET)
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
