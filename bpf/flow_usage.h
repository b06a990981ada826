/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How many flows an ENI has, and whether it may have one more.
 *
 * Every slot whose state is not FLOW_NONE is counted once, for the (ENI, flows id) in it: up before
 * it becomes visible, down after it is gone, both by who has claimed its control word. The number is
 * kept under the id, so that after a cut, or when another ENI takes the index, counting begins anew
 * while the old flows are still going.
 *
 * There are two numbers, told apart by a color that the slot carries. A pass of the sweep over
 * everything changes the color of new flows, then that of each slot it finds, moving its count. What
 * is left under the old color in the end belongs to no slot: it was an error and is forgotten. So
 * the numbers become right while flows come and go.
 */
#pragma once

#include "flow_slot.h"
#include "reason.h"

enum usage_tries {
	USAGE_TRIES =
		32, /* against CPUs that open or end flows of the same ENI in the same moment */
};

/* How many flows an ENI may have. */
struct flow_quota {
	__u32 limit;
	__u32 guaranteed;
	__u32 pool; /* how many the ENIs of the host may have together beyond what is guaranteed */
	__u32 half_open; /* per opening direction */
};

static __always_inline __u64 usage_load(const __u64 *held)
{
	return *(const volatile __u64 *)held;
}

static __always_inline struct flow_usage *usage_find(__u32 eni)
{
	return bpf_map_lookup_elem(&flow_usage, &eni);
}

static __always_inline struct sweep_state *sweep_find(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&flow_sweep, &zero);
}

static __always_inline __u32 usage_count(__u64 held, __u32 id)
{
	return held >> 32 == id ? (__u32)held : 0;
}

static __always_inline __u32 usage_total(const struct flow_usage *u, __u32 id)
{
	return usage_count(usage_load(&u->held[0]), id) + usage_count(usage_load(&u->held[1]), id);
}

/* Wants the numbers made right by the next pass. */
static __always_inline void usage_doubt(void)
{
	struct sweep_state *s = sweep_find();

	if (s)
		__sync_fetch_and_add(&s->asked, 1);
}

/* Ids only grow: a greater one takes the number over, a smaller one is nobody's any more. */
static __always_inline bool usage_is_past(__u64 held, __u32 id)
{
	return (__s32)(id - (__u32)(held >> 32)) < 0;
}

/*
 * Counts one more of an id, at most up to `limit`: CONTINUE, FLOW_QUOTA, or FLOW_BUSY. Not counted,
 * but CONTINUE all the same, if the id is not the ENI's any more: a packet of the revision before.
 */
static __always_inline enum reason usage_add(struct flow_usage *u, __u32 color, __u32 id,
					     __u32 limit, __u32 *before)
{
	__u64 *held = &u->held[color & 1], old;
	const __u64 *other = &u->held[~color & 1];

#pragma clang loop unroll(disable)
	for (__u32 n = 0; n < USAGE_TRIES; n++) {
		old = usage_load(held);
		*before = usage_count(old, id) + usage_count(usage_load(other), id);
		if (usage_is_past(old, id))
			return REASON_CONTINUE;
		if (*before >= limit)
			return REASON_FLOW_QUOTA;
		if (__sync_val_compare_and_swap(
			    held, old, ((__u64)id << 32 | usage_count(old, id)) + 1) == old)
			return REASON_CONTINUE;
	}
	return REASON_FLOW_BUSY;
}

/* Counts one less, unless the id is nobody's any more. */
static __always_inline void usage_drop(__u32 eni, __u32 color, __u32 id)
{
	struct flow_usage *u = usage_find(eni);
	struct sweep_state *s = sweep_find();
	__u64 *held, old;

	if (!u || !s)
		return;
	held = &u->held[color & 1];
#pragma clang loop unroll(disable)
	for (__u32 n = 0; n < USAGE_TRIES; n++) {
		old = usage_load(held);
		if (!usage_count(old, id))
			return;
		if (__sync_val_compare_and_swap(held, old, old - 1) != old)
			continue;
		if (usage_total(u, id) >= flow_load(&u->guaranteed))
			__sync_fetch_and_add(&s->borrowed, -1);
		return;
	}
	usage_doubt();
}

/* May the ENI have one more? If so it is counted. */
static __always_inline enum reason usage_take(struct flow_usage *u, __u32 eni, __u32 color,
					      __u32 id, const struct flow_quota *quota)
{
	struct sweep_state *s = sweep_find();
	__u32 before = 0;
	enum reason reason;

	if (!s)
		return REASON_FLOW_FULL;
	if (usage_is_past(usage_load(&u->held[color & 1]), id))
		return REASON_CONTINUE;
	if (flow_load(&u->guaranteed) != quota->guaranteed)
		flow_store(&u->guaranteed, quota->guaranteed);
	reason = usage_add(u, color, id, quota->limit, &before);
	if (reason != REASON_CONTINUE || before < quota->guaranteed)
		return reason;
	if (__sync_fetch_and_add(&s->borrowed, 1) < (__s64)quota->pool)
		return REASON_CONTINUE;
	usage_drop(eni, color, id); /* gives back what was borrowed, too */
	return REASON_FLOW_QUOTA;
}

/* Frees a slot that was claimed from `old`, and was counted. It may be taken at once. */
static __always_inline void flow_release(struct flow_line *line, __u32 i, __u32 old, const bool v6)
{
	void *slot = flow_slot(line, i, v6);
	struct flow_body *body = flow_body(slot, v6);
	__u32 eni = flow_load(&body->eni), id = flow_load(&body->incarnation);

	flow_store(slot + offsetof(struct flow_slot4, key), ~0U); /* no key */
	flow_store(&line->expires[i], 0);
	__sync_lock_test_and_set((__u32 *)slot,
				 flow_control((old >> FLOW_VERSION_SHIFT) + 1, FLOW_NONE, 0, 0));
	usage_drop(eni, old >> FLOW_COLOR_SHIFT, id);
}
