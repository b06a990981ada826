/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Flows of an ENI that moves here, as the host that had it knows them. They are stored by the same text
 * as those that packets open: counted, within the quota of the ENI. Their generation is none that the ENI
 * ever has, so that the first packet of each asks for its verdict here.
 */
#pragma once

#include "store.h"

/* What the agent asks for and gets back; it alone runs import_all, once at a time. */
struct flow_imports {
	__u32 count;
	__u32 pad;
	struct flow_import flows[64]; /* FLOW_IMPORTS */
};
MAP(flow_imports, BPF_MAP_TYPE_ARRAY, __u32, struct flow_imports, 1, BPF_F_MMAPABLE);

/* Not that of packets, which may come in the middle, on this CPU too. */
MAP(import_works, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct work, 1, 0);

static __always_inline struct work *import_work(const struct flow_import *f)
{
	struct enis *both = bpf_map_lookup_elem(&enis, &f->eni);
	__u32 zero = 0;
	__u64 *word = bpf_map_lookup_elem(&active, &zero);
	struct work *w = bpf_map_lookup_elem(&import_works, &zero);
	const struct eni_conf *conf;

	if (!both || !word || !w)
		return NULL;
	w->slot = *(volatile __u64 *)word & 1;
	conf = &both->v[w->slot & 1];
	if (!(conf->flags & ENI_PRESENT) || !f->incarnation || conf->incarnation != f->incarnation)
		return NULL;
	w->now = flow_now();
	w->eni = f->eni;
	w->flows = conf->flows;
	w->generation = 0;
	w->vni = conf->vni;
	w->related = 0;
	w->idle = conf->idle;
	w->stored.evicts = 0;
	return w;
}

static __always_inline void import_flow_of(struct work *w, const struct flow_import *f)
{
	const struct nexthop *nh = nexthop_find(f->nexthop);

	__builtin_memset(&w->flow, 0, sizeof(w->flow));
	w->flow.eni = f->eni;
	w->flow.incarnation = w->flows;
	w->flow.nexthop = f->nexthop;
	w->flow.nexthop_generation = nh ? nh->generation : 0;
	w->flow.rule = f->rule;
	w->flow.state = f->state;
	w->flow.flags = f->flags;
	w->flow.reason = f->reason;
	__builtin_memcpy(w->flow.nat, f->nat, sizeof(w->flow.nat));
	__builtin_memcpy(&w->key4, &f->key4, sizeof(w->key4));
	__builtin_memcpy(&w->key6, &f->key6, sizeof(w->key6));
}

/* What a packet does not bring along, into the slot where the flow is. */
static __always_inline void import_rest(const struct work *w, const struct flow_import *f,
					struct flow_body *body, __u32 *expires, const bool v6)
{
	__u32 deadline = w->now + f->remaining, old = flow_load(expires);

	body->opened = w->now > f->age ? w->now - f->age : 0;
	body->packets[DIR_OUT] = f->packets[DIR_OUT];
	body->packets[DIR_IN] = f->packets[DIR_IN];
	body->bytes[DIR_OUT] = f->bytes[DIR_OUT];
	body->bytes[DIR_IN] = f->bytes[DIR_IN];
	flow_seq(body)[DIR_OUT] = f->seq[DIR_OUT];
	flow_seq(body)[DIR_IN] = f->seq[DIR_IN];
	flow_store(expires, deadline);
	if (deadline < old)
		flow_hurry(v6 ? (void *)&w->key6 : (void *)&w->key4, deadline, v6);
}

/*
 * The flow may be here already: from an earlier round, then it becomes as it is told now; or packets have
 * come for it, then only its state may go on.
 */
static __always_inline enum reason import_again(struct work *w, const struct flow_import *f,
						const bool v6)
{
	const __u32 flags = FLOW_FIN_OUT | FLOW_FIN_IN | FLOW_ANSWERED | FLOW_REFUSED;
	struct flow_ref ref;
	struct flow have;

	if (v6)
		TRY(flow_find(&w->key6, w->now, &have, &ref, true));
	else
		TRY(flow_find(&w->key4, w->now, &have, &ref, false));
	if (have.eni != w->eni || have.incarnation != w->flows)
		return REASON_NO_FLOW;
	if (!have.generation && (have.flags ^ f->flags) & FLOW_OPENED_BY_PEER)
		return REASON_NO_FLOW; /* opened anew, by the other side */
	if (have.state < f->state && f->state <= FLOW_CLOSING)
		flow_advance(&ref, f->state, f->flags & flags);
	if (!have.generation)
		import_rest(w, f, ref.body, ref.expires, v6);
	return REASON_CONTINUE;
}

/* A new one, stored at w->stored.slot. */
static __always_inline void import_fresh(const struct work *w, const struct flow_import *f,
					 const bool v6)
{
	struct flow_line *line = flow_set(w->stored.slot / FLOW_WAYS, v6);
	__u32 i = w->stored.slot % FLOW_WAYS;

	if (line)
		import_rest(w, f, flow_body(flow_slot(line, i, v6), v6), &line->expires[i], v6);
}

static __always_inline enum reason import_one(struct flow_import *f, const bool v6)
{
	struct work *w = import_work(f);
	enum reason reason;

	if (!w)
		return REASON_NOT_READY;
	import_flow_of(w, f);
	reason = import_again(w, f, v6);
	if (reason != REASON_NO_FLOW)
		return reason;
	reason = v6 ? store6(w) : store4(w);
	if (reason != REASON_CONTINUE)
		return reason;
	if (w->stored.evicts)
		evict(w);
	import_fresh(w, f, v6);
	return REASON_CONTINUE;
}

__noinline int import4(struct flow_import *f)
{
	return f ? import_one(f, false) : REASON_HELPER;
}

__noinline int import6(struct flow_import *f)
{
	return f ? import_one(f, true) : REASON_HELPER;
}

static __always_inline int import_all(void)
{
	__u32 zero = 0, n;
	struct flow_imports *all = bpf_map_lookup_elem(&flow_imports, &zero);

	if (!all)
		return 0;
#pragma clang loop unroll(disable)
	for (n = 0; n < FLOW_IMPORTS; n++) {
		struct flow_import *f = &all->flows[n];

		if (n >= all->count)
			break;
		f->result = f->v6 ? import6(f) : import4(f);
	}
	return n;
}
