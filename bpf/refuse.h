/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What XDP on the uplink leaves to TC it may still refuse: a packet that TC would drop ends at XDP, before it costs an
 * sk_buff, with the same reason, counted once. The flow of a packet is looked at and left as it is; a packet that may
 * open one is judged. Whatever would change something (a flow, a budget, the fragments) is for TC, and so is the packet.
 *
 * To ask about each packet would cost those that are welcome. So one in REFUSE_EVERY is asked about, and after a packet
 * that was dropped here so many in a row: under a flood all of them. No clock and no other CPU has a part in that.
 */
#pragma once

#include "deliver.h"

struct watch {
	__u32 left; /* packets that are asked about yet */
	__u32 passed; /* that were not asked about, or by turn */
};

MAP(watches, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct watch, 1, 0);

static __always_inline struct watch *watch_get(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&watches, &zero);
}

/* Is it this packet's turn to be asked about? */
static __always_inline bool refuse_asks(void)
{
	struct watch *w = watch_get();

	if (!w)
		return false;
	if (w->left) {
		w->left--;
		return true;
	}
	w->passed++;
	return !(w->passed & (refuse_every - 1));
}

/* Was something dropped at XDP of late? Then it is cheaper to ask that first. */
static __always_inline bool refuse_alerted(void)
{
	struct watch *w = watch_get();

	if (!w || !w->left)
		return false;
	w->left--;
	return true;
}

/* Something was dropped at XDP: more of it may follow. */
static __always_inline void refuse_alert(void)
{
	struct watch *w = watch_get();

	if (w)
		w->left = refuse_every;
}

/*
 * Has the key no flow, sure? What only might be a flow is looked at as usual. The tags that stand apart are asked: a line of
 * each of the key's sets would cost more than all that is asked besides (README.md).
 */
static __always_inline bool flow_absent(const void *key, const bool v6)
{
	const volatile __u64 *first, *second;
	const struct flow_table *table;
	struct flow_choice choice;
	__u32 family = v6;

	table = bpf_map_lookup_elem(&flow_tables, &family);
	if (!table || !table->tagged || !flow_hash(key, &choice, v6))
		return false;
	first = flow_tags(choice.first, v6);
	second = flow_tags(choice.second, v6);
	if (!first || !second)
		return false;
	return !(flow_match(*first, choice.tag) | flow_match(*second, choice.tag));
}

/* Would a packet that no flow knows be dropped? Why, or CONTINUE. */
static __always_inline enum reason refuse_new(const struct pkt *p, const struct eni_conf *conf,
					      struct work *w, struct arrival *a, enum origin from,
					      __u32 class, const bool v6)
{
	enum reason reason;

	TRY(arrival_opens(p, conf, w, a, from, v6));
	reason = track_verdict(p, w, class, a->sender_nexthop, v6);
	if (reason != REASON_CONTINUE)
		track_hits(&w->judge);
	return reason;
}

/*
 * Would this packet to a local ENI be dropped? Why, or NOT_OURS: then it is TC's, untouched, or goes on as usual if XDP
 * finishes it. Of that only what surely has no flow is asked about here.
 */
static __always_inline enum reason refuse(struct pkt *p, __u32 eni, struct arrival *a,
					  enum origin from, const bool v6)
{
	const struct eni_conf *conf;
	const struct live *device;
	struct arrival_key key;
	enum reason reason;
	struct work *w;

	conf = eni_ready(p->slot, eni, &device);
	if (!conf)
		return REASON_NOT_READY;
	if (unlikely(device->flags & (LIVE_CLOSED | LIVE_LEFT)))
		return REASON_NOT_OURS; /* it moves: who is dropped then is for TC to say */
	w = work_of(p, conf);
	if (!w)
		return REASON_HELPER;
	if (p->fragment == FRAGMENT_LATER || icmp_error(p, v6)) {
		TRY(arrival_sender(p, conf, w, a, from, v6));
		return REASON_NOT_OURS;
	}
	key = arrival_key_of(p, conf, from, v6);
	track_key(p, w, key.scope, key.class, v6);
	if (!flow_absent(v6 ? (void *)&w->key6 : (void *)&w->key4, v6)) {
		if (p->out != OUT_LEFT)
			return REASON_NOT_OURS;
		w->stale = 0;
		w->related = 1; /* looks, and changes nothing */
		reason = v6 ? hit6(w) : hit4(w);
		w->related = 0;
		if (reason == REASON_CONTINUE || reason == REASON_FLOW_BUSY)
			return REASON_NOT_OURS;
		if (reason != REASON_NO_FLOW) /* a request of another code may be a new one */
			return is_icmp(p, v6) ? REASON_NOT_OURS : reason;
	}
	reason = refuse_new(p, conf, w, a, from, key.class, v6);
	return reason == REASON_CONTINUE ? REASON_NOT_OURS : reason;
}

/* A packet comes to an ENI. What is only asked about is counted if it ends here (refuse_count). */
static __always_inline void arrival_enter(struct pkt *p, __u32 eni, const bool xdp)
{
	p->eni = eni;
	p->dir = DIR_IN;
	if (!xdp || p->out != OUT_LEFT)
		count(p, REASON_CONTINUE);
}

/* What became of a packet at XDP, counted once: what was only asked about has not come in before. */
static __always_inline void refuse_count(struct pkt *p, enum reason reason)
{
	if (p->out == OUT_LEFT)
		count(p, REASON_CONTINUE);
	count(p, reason);
}

/* To a local ENI, or, where XDP only asks, to the answer. */
static __always_inline enum reason arrive(struct pkt *p, const struct host_conf *host, __u32 eni,
					  struct arrival *a, enum origin from, const bool v6,
					  const bool xdp)
{
	if (xdp && (p->out == OUT_LEFT || refuse_alerted())) {
		enum reason reason = refuse(p, eni, a, from, v6);

		if (reason != REASON_NOT_OURS || p->out == OUT_LEFT)
			return reason;
	}
	return to_eni(p, host, eni, a, from, v6, xdp);
}
