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

/* Something was dropped at XDP: more of it may follow. */
static __always_inline void refuse_alert(void)
{
	struct watch *w = watch_get();

	if (w)
		w->left = refuse_every;
}

/* Would TC drop this packet to a local ENI? Why, or NOT_OURS: then it is TC's, untouched. */
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
	w = work_of(p, conf);
	if (!w)
		return REASON_HELPER;
	if (p->fragment == FRAGMENT_LATER || icmp_error(p, v6)) {
		TRY(arrival_sender(p, conf, w, a, from, v6));
		return REASON_NOT_OURS;
	}
	key = arrival_key_of(p, conf, from, v6);
	w->related = 1; /* looks, and changes nothing */
	reason = track_find(p, w, key.scope, key.class, v6);
	w->related = 0;
	if (reason == REASON_CONTINUE || reason == REASON_FLOW_BUSY)
		return REASON_NOT_OURS;
	if (reason != REASON_NO_FLOW)
		return reason;
	TRY(arrival_sender(p, conf, w, a, from, v6));
	TRY(track_may_open(p, v6));
	reason = track_verdict(p, w, key.class, a->sender_nexthop, v6);
	if (reason == REASON_CONTINUE)
		return REASON_NOT_OURS;
	track_hits(&w->judge);
	return reason;
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
	if (xdp && p->out == OUT_LEFT)
		return refuse(p, eni, a, from, v6);
	return to_eni(p, host, eni, a, from, v6, xdp);
}
