/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * When the sweep has something to do: per set the first tick at which one of its counted slots may be
 * free, in a dense array, so that looking for work costs next to nothing. Whoever sets a deadline
 * stores it first and lowers this afterwards; who only prolongs one leaves it, and the sweep comes
 * once in vain. So no slot is ever overlooked.
 */
#pragma once

#include "flow_slot.h"

enum due_tries {
	DUE_TRIES = 16, /* against CPUs that lower it in the same moment */
};

static __always_inline __u32 *flow_due(__u32 set, const bool v6)
{
	__u32 index = set / FLOW_DUE_SETS;
	struct flow_due_line *line;

	line = v6 ? bpf_map_lookup_elem(&flow_due6, &index) :
		    bpf_map_lookup_elem(&flow_due4, &index);
	return line ? &line->due[set % FLOW_DUE_SETS] : NULL;
}

/* 0 means never, so that later than any tick. */
static __always_inline void due_lower(__u32 *due, __u32 tick)
{
#pragma clang loop unroll(disable)
	for (__u32 n = 0; n < DUE_TRIES; n++) {
		__u32 old = flow_load(due);

		if (old - 1 <= tick - 1 || __sync_val_compare_and_swap(due, old, tick) == old)
			return;
	}
}

static __always_inline void flow_due_lower(__u32 set, __u32 deadline, const bool v6)
{
	__u32 *due = flow_due(set, v6);

	if (due)
		due_lower(due, deadline + FLOW_GRACE);
}

/* The deadline of a known flow has moved closer; it is in one of two sets. */
static __always_inline void flow_hurry(const void *key, __u32 deadline, const bool v6)
{
	struct flow_choice choice;

	if (!flow_hash(key, &choice, v6))
		return;
	flow_due_lower(choice.first, deadline, v6);
	flow_due_lower(choice.second, deadline, v6);
}
