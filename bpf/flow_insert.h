/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The flow table: how a flow gets into it, and how a half-open one makes way. See flow.h. */
#pragma once

#include "flow.h"
#include "flow_ring.h"

static __always_inline bool flow_lock(__u32 *lock)
{
#pragma clang loop unroll(disable)
	for (__u32 n = 0; n < FLOW_LOCK_TRIES; n++) {
		if (!__sync_val_compare_and_swap(lock, 0, 1))
			return true;
	}
	return false;
}

/* Rewrites slot i, claimed. If a found flow goes on, so do its age and counters. */
static __always_inline void flow_write(struct flow_line *line, __u32 i, const void *key,
				       const struct flow *flow, __u32 now, const bool v6)
{
	const __u32 key_words = (v6 ? sizeof(struct flow_key6) : sizeof(struct flow_key4)) / 4;
	const __u32 nat_words = v6 ? 4 : 1;
	const __u32 *from = key, *nat = (const __u32 *)flow->nat;
	void *slot = flow_slot(line, i, v6);
	struct flow_body *body = flow_body(slot, v6);
	__u32 *to = slot + offsetof(struct flow_slot4, key), *to_nat = flow_nat(slot, v6);

#pragma clang loop unroll(full)
	for (__u32 n = 0; n < key_words; n++)
		to[n] = from[n];
#pragma clang loop unroll(full)
	for (__u32 n = 0; n < nat_words; n++)
		to_nat[n] = nat[n];
	if (!flow->seen) {
		body->opened = now;
		body->packets[DIR_OUT] = body->packets[DIR_IN] = 0;
		body->bytes[DIR_OUT] = body->bytes[DIR_IN] = 0;
		body->packets[flow->dir & 1] = flow->packets;
		body->bytes[flow->dir & 1] = flow->bytes;
		flow_seq(body)[flow->dir & 1] = flow->opening;
		flow_seq(body)[~flow->dir & 1] = 0; /* not what another flow left here */
	}
	body->eni = flow->eni;
	body->incarnation = flow->incarnation;
	body->generation = flow->generation;
	body->nexthop = flow->nexthop;
	body->nexthop_generation = flow->nexthop_generation;
	body->rule = flow->rule;
	body->reason = flow->reason;
}

/* The slot of a set that has the key, alive or not, as a set of slots; or none. */
static __always_inline __u64 flow_own(struct flow_line *line, __u32 tag, const void *key,
				      const bool v6)
{
	__u64 slots = flow_match(*(volatile __u64 *)&line->tags, tag);

#pragma clang loop unroll(disable)
	for (__u32 n = 0; n < FLOW_WAYS; n++) {
		if (!slots || !flow_differs(flow_slot(line, flow_lowest(slots), v6), key, v6))
			break;
		slots &= slots - 1;
	}
	return slots & -slots;
}

/* The slots of a set that may be taken: never used, or dead for so long that no packet that found
 * them alive is still on its way. */
static __always_inline bool flow_is_free(const __u32 *expires, __u32 now)
{
	return flow_load(expires) + FLOW_GRACE <= now;
}

static __always_inline __u64 flow_free(struct flow_line *line, __u32 now)
{
	__u64 slots = 0;

#pragma clang loop unroll(full)
	for (__u32 i = 0; i < FLOW_WAYS; i++) {
		__u64 used = (__u64)now - flow_load(&line->expires[i]) - FLOW_GRACE;

		slots |= (~used >> 63) << (8 * i + 7);
	}
	return slots;
}

/* What an insert is about. */
struct flow_order {
	const void *key;
	const struct flow *flow;
	const struct flow_idle *idle;
	const struct flow_quota *quota;
	struct flow_choice choice;
	__u32 now;
};

/*
 * Writes the flow into slot i, claimed from `old`, and counts it unless it goes on what the slot was
 * counted for already. What must be done afterwards, without the lock, is in `to`.
 */
static __always_inline enum reason flow_fill(struct flow_line *line, __u32 i, __u32 old,
					     const struct flow_order *o, struct flow_stored *to,
					     const bool v6)
{
	const struct flow *flow = o->flow;
	__u32 was = old >> FLOW_STATE_SHIFT & FLOW_STATE_MASK, color = old >> FLOW_COLOR_SHIFT;
	struct flow_body *body = flow_body(flow_slot(line, i, v6), v6);
	__u32 eni = flow->eni, id = flow->incarnation, control;
	struct flow_usage *u = usage_find(eni);
	__u64 *tags;
	enum reason reason;
	bool same;

	if (!u)
		return REASON_FLOW_FULL;
	if (was && !flow->seen) {
		/* Whose it was is in another line, read only if unknown: one that was found is ours. */
		eni = flow_load(&body->eni);
		id = flow_load(&body->incarnation);
	}
	same = was && eni == flow->eni && id == flow->incarnation;
	if (!same) {
		color = flow_load(&u->color);
		reason = usage_take(u, flow->eni, color, flow->incarnation, o->quota);
		if (reason != REASON_CONTINUE)
			return reason;
	}
	tags = flow_tags(to->slot / FLOW_WAYS, v6);
	if (tags)
		*((volatile __u8 *)tags + i) = o->choice.tag;
	flow_write(line, i, o->key, flow, o->now, v6);
	control = flow_control((old >> FLOW_VERSION_SHIFT) + 1, flow->state, flow->flags, color);
	to->opener = flow_opener(control);
	to->opens = flow_half_open(control) && (!flow->seen || !flow_half_open(old));
	if (to->opens) {
		to->place = ring_place(u, flow->incarnation, to->opener, o->quota);
		body->place = to->place;
	}
	to->deadline = o->now + flow_timeout(*(const __u32 *)o->key & 255, flow->state, o->idle);
	flow_store(&line->expires[i], to->deadline);
	__sync_lock_test_and_set((__u32 *)flow_slot(line, i, v6), control);
	*((volatile __u8 *)&line->tags + i) = o->choice.tag;
	if (was && !same)
		usage_drop(eni, old >> FLOW_COLOR_SHIFT, id);
	return REASON_CONTINUE;
}

/*
 * Claims one of the slots. `own`: it is the slot that has the key, tried again while its state
 * changes; otherwise any of the slots will do that is free. `old` is what its control word was.
 */
static __always_inline enum reason flow_claim(struct flow_line *line, __u64 slots, bool own,
					      const struct flow_order *o, __u32 *slot, __u32 *was,
					      const bool v6)
{
	__u64 home = slots & 0x80ULL << 8 * o->choice.home;
	__u32 seen = o->flow->seen;

#pragma clang loop unroll(disable)
	for (__u32 n = 0; n < FLOW_WAYS; n++) {
		__u32 i = flow_lowest(home ?: slots), old;
		__u32 *control = flow_slot(line, i, v6), *expires = &line->expires[i];

		if (!slots)
			return REASON_FLOW_FULL;
		old = flow_load(control) & ~FLOW_BUSY;
		if (__sync_val_compare_and_swap(control, old, old | FLOW_BUSY) == old) {
			/* Since we looked, the slot may have gone to another key. */
			if (own ? !flow_differs(control, o->key, v6) && (!seen || seen == old) :
				  flow_is_free(expires, o->now)) {
				*slot = i;
				*was = old;
				return REASON_CONTINUE;
			}
			__sync_lock_test_and_set(control, old);
		}
		slots &= ~(0x80ULL << 8 * i) | -(__u64)own;
		home = 0;
	}
	return REASON_FLOW_BUSY;
}

/* Under the lock of the first set: the key's own slot, or a free one: of the first set unless it
 * fills up, then of the emptier one. */
static __always_inline enum reason flow_put(struct flow_line *first, struct flow_line *second,
					    const struct flow_order *o, struct flow_stored *to,
					    const bool v6)
{
	__u64 slots = flow_own(first, o->choice.tag, o->key, v6), other;
	struct flow_line *line = first;
	__u32 set = o->choice.first, i = 0, old = 0;
	enum reason reason;
	bool own = true;

	if (!slots) {
		line = second;
		set = o->choice.second;
		slots = flow_own(second, o->choice.tag, o->key, v6);
	}
	if (!slots && o->flow->seen)
		return REASON_FLOW_BUSY;
	if (!slots) {
		own = false;
		slots = flow_free(second, o->now);
		other = flow_free(first, o->now);
		if (flow_count(other) > FLOW_WAYS - FLOW_FIRST_FILL ||
		    flow_count(other) >= flow_count(slots)) {
			line = first;
			set = o->choice.first;
			slots = other;
		}
	}
	reason = flow_claim(line, slots, own, o, &i, &old, v6);
	if (reason != REASON_CONTINUE)
		return reason;
	to->slot = set * FLOW_WAYS + i;
	reason = flow_fill(line, i, old, o, to, v6);
	if (reason != REASON_CONTINUE)
		__sync_lock_test_and_set((__u32 *)flow_slot(line, i, v6), old);
	return reason;
}

/*
 * Stores a flow under a key: CONTINUE, FLOW_FULL, FLOW_QUOTA, or FLOW_BUSY (drop the packet). With
 * flow->seen 0 it is a new connection, counted from 0, that takes the place of one with the same
 * key. Otherwise it is a flow that was found and judged anew: stored only if nobody has changed it
 * meanwhile, so that no state is lost; FLOW_BUSY if somebody has. `to` is set with CONTINUE only.
 * If to->evicts is not 0, a half-open flow must make way: call flow_evict.
 */
static __always_inline enum reason flow_insert(const void *key, const struct flow *flow, __u32 now,
					       struct flow_stored *to, const struct flow_idle *idle,
					       const struct flow_quota *quota, const bool v6)
{
	struct flow_order o = {.key = key, .flow = flow, .idle = idle, .quota = quota, .now = now};
	struct flow_line *first, *second;
	enum reason reason;

	to->slot = 0;
	to->evicts = 0;
	to->place = 0;
	if (!flow_hash(key, &o.choice, v6))
		return REASON_FLOW_FULL;
	first = flow_set(o.choice.first, v6);
	second = flow_set(o.choice.second, v6);
	if (!first || !second)
		return REASON_FLOW_FULL;
	if (!flow_lock(&first->lock))
		return REASON_FLOW_BUSY;
	reason = flow_put(first, second, &o, to, v6);
	__sync_lock_test_and_set(&first->lock, 0);
	if (reason != REASON_CONTINUE)
		return reason;
	flow_due_lower(to->slot / FLOW_WAYS, to->deadline, v6);
	if (to->opens)
		to->evicts = ring_enter(flow->eni, to->opener, to->place, to->slot, v6);
	return reason;
}

static __always_inline bool flow_has_place(const struct flow_body *body, __u32 eni, __u32 id,
					   __u32 place)
{
	return flow_load(&body->eni) == eni && flow_load(&body->incarnation) == id &&
	       *(const volatile __u16 *)&body->place == place;
}

/* Ends the flow of this (ENI, id, direction) in a slot, if it is half-open and the place is its own. */
static __always_inline void flow_evict(__u32 slot, __u32 eni, __u32 id, __u32 opener, __u32 place,
				       const bool v6)
{
	struct flow_line *line = flow_set(slot / FLOW_WAYS, v6);
	__u32 i = slot % FLOW_WAYS, old;
	struct flow_body *body;
	__u32 *control;

	if (!line)
		return;
	control = flow_slot(line, i, v6);
	body = flow_body(control, v6);
#pragma clang loop unroll(disable)
	for (__u32 n = 0; n < FLOW_LOCK_TRIES; n++) {
		old = flow_load(control) & ~FLOW_BUSY;
		if (!flow_half_open(old) || flow_opener(old) != opener ||
		    !flow_has_place(body, eni, id, place))
			return;
		if (__sync_val_compare_and_swap(control, old, old | FLOW_BUSY) != old)
			continue;
		if (flow_has_place(body, eni, id, place))
			flow_release(line, i, old, v6);
		else
			__sync_lock_test_and_set(control, old);
		return;
	}
}
