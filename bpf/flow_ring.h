/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Half-open flows. An ENI has a ring of places for each opening direction; each flow that becomes
 * half-open takes the next one, and whatever half-open flow had it ends. So there are never more of
 * them than places, the oldest goes first, and a flood in one direction touches nothing of the other
 * or of another ENI. A slot knows its place: one that is named in a place that is not its own was
 * taken by another flow meanwhile.
 */
#pragma once

#include "config.h"
#include "flow_usage.h"

/* One that was refused is nothing better: who floods a closed port is answered by RSTs. */
static __always_inline bool flow_half_open(__u32 control)
{
	__u32 state = control >> FLOW_STATE_SHIFT & FLOW_STATE_MASK;

	return state == FLOW_OPENING ||
	       (state == FLOW_CLOSING && (control >> FLOW_FLAGS_SHIFT & FLOW_REFUSED));
}

static __always_inline __u32 flow_opener(__u32 control)
{
	return control >> FLOW_FLAGS_SHIFT & FLOW_OPENED_BY_PEER ? DIR_IN : DIR_OUT;
}

/* The place for a new half-open flow. Places are counted from 0 for each id. */
static __always_inline __u32 ring_place(struct flow_usage *u, __u32 id, __u32 opener,
					const struct flow_quota *quota)
{
	__u32 places = quota->half_open < half_open_slots ? quota->half_open : half_open_slots;

	if (flow_load(&u->ring) != id) {
		flow_store(&u->opened[DIR_OUT], 0);
		flow_store(&u->opened[DIR_IN], 0);
		flow_store(&u->ring, id);
	}
	return __sync_fetch_and_add(&u->opened[opener & 1], 1) % (places ?: 1);
}

/* Writes a slot into its place; returns which other one was named there. */
static __always_inline __u32 ring_enter(__u32 eni, __u32 opener, __u32 place, __u32 slot,
					const bool v6)
{
	__u32 index = (eni * 2 + (opener & 1)) * half_open_slots + place;
	__u32 *entry = bpf_map_lookup_elem(&half_open, &index);
	__u32 ours = (slot + 1) | (v6 ? FLOW_RING6 : 0), before;

	if (!entry)
		return 0;
	before = __sync_lock_test_and_set(entry, ours);
	return before == ours ? 0 : before;
}
