/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The flow table: find, touch, advance; flow_insert.h: insert, evict. No packet, no context, any hook. `v6` is always a
 * literal, so one text serves both tables.
 *
 * Who may write what:
 *  - a slot is rewritten only after its control word was claimed (busy) by compare-and-swap, and
 *    claimed only when it holds the same key, its deadline is FLOW_GRACE in the past, or it is
 *    half-open and its place in the ring was taken (flow_ring.h);
 *  - a key is inserted only under the lock word of its first set, so no key is stored twice;
 *  - a hit takes no lock: it copies, and looks whether the version changed meanwhile;
 *  - counters are added to, deadlines stored, by whoever has found the flow.
 * Nothing established that has not expired is ever displaced.
 */
#pragma once

#include "flow_due.h"
#include "reason.h"

enum flow_tries {
	FLOW_LOCK_TRIES = 64, /* then FLOW_BUSY: the packet is dropped, its sender tries again */
	FLOW_READ_TRIES = 16, /* likewise, when a slot is being rewritten */
	FLOW_CLAIM_TRIES = 4, /* against changes of state in the same moment */
	FLOW_FIRST_FILL = 4, /* slots used of the first set up to which the second is spared */
};

static __always_inline __u32 flow_now(void)
{
	return bpf_ktime_get_coarse_ns() >> FLOW_TICK_SHIFT;
}

/* Seconds to ticks, rounded up. */
static __always_inline __u32 flow_ticks(__u32 seconds)
{
	return (seconds * 1000000000ULL >> FLOW_TICK_SHIFT) + 1;
}

/* How long a flow of an ENI lives without a packet, in ticks. */
static __always_inline __u32 flow_timeout(__u32 class, __u32 state, const struct flow_idle *idle)
{
	if (state == FLOW_BLOCKED)
		return flow_ticks(40);
	switch (class & 7) { /* without origin and transit */
	case CLASS_TCP:
		if (state == FLOW_ESTABLISHED)
			return flow_ticks(idle->tcp_established);
		return state == FLOW_CLOSING ? flow_ticks(40) : flow_ticks(30);
	case CLASS_UDP:
		return flow_ticks(state == FLOW_ESTABLISHED ? idle->udp_stream : idle->udp);
	case CLASS_ICMP:
		return flow_ticks(30);
	default:
		return flow_ticks(600);
	}
}

enum flow_probe_result {
	FLOW_HIT = 0,
	FLOW_AGAIN = 1, /* the slot is being rewritten */
	FLOW_OTHER = 2, /* another key, or dead */
};

/*
 * Copies slot i if it holds the key and is alive. Returns enum flow_probe_result as bits. One way
 * through, without branches, so that the verifier walks each turn of the loop around it once.
 */
static __always_inline __u32 flow_probe(struct flow_line *line, __u32 i, const void *key, __u32 now,
					struct flow *copy, const bool v6)
{
	__u32 dead = ((__u64)flow_load(&line->expires[i]) - now - 1) >> 63;
	void *slot = flow_slot(line, i, v6);
	__u32 before, after, differs, bits, moved;

	/* The counters are in the slot's other cache line: let both come at once. */
	flow_load((__u32 *)&flow_body(slot, v6)->bytes[DIR_IN]);
	before = flow_load(slot);
	slot += flow_zero(before);
	differs = flow_differs(slot, key, v6);
	bits = flow_copy(slot, copy, v6) | differs;
	after = flow_load(slot + flow_zero(bits));
	moved = ((before | after) & FLOW_BUSY) |
		flow_nonzero((before ^ after) >> FLOW_VERSION_SHIFT);
	flow_state_of(after, copy);
	copy->seen = after;
	return (moved & ~dead) | (flow_nonzero(differs) | dead) << 1;
}

/* Looks for the key among all slots of a set whose tag is the key's. */
static __always_inline enum reason flow_search(struct flow_line *line, __u32 tag, const void *key,
					       __u32 now, struct flow *flow, struct flow_ref *ref,
					       const bool v6)
{
	__u64 slots = flow_match(*(volatile __u64 *)&line->tags, tag);

#pragma clang loop unroll(disable)
	for (__u32 n = 0; n < FLOW_READ_TRIES; n++) {
		__u32 i = flow_lowest(slots), result;
		struct flow copy;

		if (!slots)
			return REASON_NO_FLOW;
		result = flow_probe(line, i, key, now, &copy, v6);
		if (result == FLOW_HIT) {
			*flow = copy;
			flow_refer(ref, line, i, copy.seen, *(const __u32 *)key, v6);
			return REASON_CONTINUE;
		}
		slots &= (slots - 1) | -(__u64)(result & FLOW_AGAIN);
	}
	return REASON_FLOW_BUSY;
}

/*
 * Finds the live flow of a key and copies what it knows: CONTINUE, or NO_FLOW, or FLOW_BUSY (drop
 * the packet). The copy is of one moment; whether it still counts (eni, incarnation, generation) is
 * for the caller to judge.
 *
 * Most flows sit in their home, the slot of the first set that the hash names: it is looked at
 * without waiting for the set's first line, so that the two cache misses of a large table overlap.
 */
static __always_inline enum reason flow_find(const void *key, __u32 now, struct flow *flow,
					     struct flow_ref *ref, const bool v6)
{
	struct flow_choice choice;
	struct flow_line *line;
	enum reason reason;
	struct flow copy;

	if (!flow_hash(key, &choice, v6))
		return REASON_NO_FLOW;
	line = flow_set(choice.first, v6);
	if (!line)
		return REASON_NO_FLOW;
	if (flow_probe(line, choice.home, key, now, &copy, v6) == FLOW_HIT) {
		*flow = copy;
		flow_refer(ref, line, choice.home, copy.seen, *(const __u32 *)key, v6);
		return REASON_CONTINUE;
	}
	reason = flow_search(line, choice.tag, key, now, flow, ref, v6);
	if (reason != REASON_NO_FLOW)
		return reason;
	line = flow_set(choice.second, v6);
	if (!line)
		return REASON_NO_FLOW;
	return flow_search(line, choice.tag, key, now, flow, ref, v6);
}

/* Keeps the flow alive from now on. Writes only what moves the deadline by half a second. */
static __always_inline void flow_refresh(struct flow_ref *ref, const void *key, __u32 state,
					 __u32 now, const struct flow_idle *idle, const bool v6)
{
	__u32 deadline = now + flow_timeout(ref->class, state, idle);
	__u32 old = flow_load(ref->expires);

	if (deadline - old + 1 > 2 &&
	    (flow_load(ref->control) ^ ref->seen) >> FLOW_VERSION_SHIFT == 0) {
		flow_store(ref->expires, deadline);
		if (deadline < old)
			flow_hurry(key, deadline, v6);
	}
}

/* Counts a packet of the flow and keeps the flow alive. */
static __always_inline void flow_touch(struct flow_ref *ref, const void *key, __u32 now, __u32 dir,
				       __u32 packets, __u32 bytes, const struct flow_idle *idle,
				       const bool v6)
{
	struct flow_body *body = ref->body;

	__sync_fetch_and_add(&body->packets[dir & 1], packets);
	__sync_fetch_and_add(&body->bytes[dir & 1], bytes);
	flow_refresh(ref, key, ref->seen >> FLOW_STATE_SHIFT & FLOW_STATE_MASK, now, idle, v6);
}

/*
 * Moves the flow to `state`, unless another CPU has moved it first, and adds flags. Call flow_touch
 * afterwards. False: the flow was rewritten since it was found, and is as it was; drop the packet.
 */
static __always_inline bool flow_advance(struct flow_ref *ref, __u32 state, __u32 flags)
{
	const __u32 state_bits = FLOW_STATE_MASK << FLOW_STATE_SHIFT;

	for (__u32 n = 0; n < FLOW_CLAIM_TRIES; n++) {
		__u32 old = flow_load(ref->control);
		__u32 new = old | (flags & FLOW_FLAGS_MASK) << FLOW_FLAGS_SHIFT;

		if (old & FLOW_BUSY || (old ^ ref->seen) >> FLOW_VERSION_SHIFT)
			return false;
		if (!((old ^ ref->seen) & state_bits))
			new = (new & ~state_bits) | state << FLOW_STATE_SHIFT;
		if (new == old || __sync_val_compare_and_swap(ref->control, old, new) == old) {
			ref->seen = new;
			return true;
		}
	}
	return false;
}
