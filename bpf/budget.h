/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What an ENI may cost in a moment: how many of its flows may be judged again, and how many ICMP errors may be sent.
 * A revision can make all of them stale at
 * once, and some are judged with each packet (flow_may_revive): without a bound, their packets would
 * take the CPU time of everybody's new connections, which need none of this.
 */
#pragma once

#include "maps.h"

enum judge_budget {
	JUDGE_LEAST = 1024, /* per tick of the flow clock, also for an ENI with few flows */
};

/* ENI -> the tick in which its flows were judged again last, << 32 | how many. */
MAP(judge_turns, BPF_MAP_TYPE_ARRAY, __u32, __u64, MAX_ENIS, 0);

/*
 * One more in this tick, of at most `limit`? Several CPUs at once may lose count by a few.
 */
static __always_inline bool turn_take(__u64 *turn, __u32 now, __u32 limit)
{
	__u64 seen, fresh = (__u64)now << 32 | 1;

	seen = __sync_fetch_and_add(turn, 1);
	if ((__s32)(now - (__u32)(seen >> 32)) <= 0)
		return (__u32)seen < limit;
	if (__sync_val_compare_and_swap(turn, seen + 1, fresh) != seen + 1)
		__sync_fetch_and_add(turn, 1); /* of the tick that somebody else has begun */
	return true;
}

/* May one more flow of an ENI be judged again, which may have so many? In a tick each of them twice. */
static __always_inline bool judge_turn(__u32 eni, __u32 now, __u32 max_flows)
{
	__u32 limit = max_flows > JUDGE_LEAST / 2 ? 2 * max_flows : JUDGE_LEAST;
	__u64 *turn = bpf_map_lookup_elem(&judge_turns, &eni);

	return turn && turn_take(turn, now, limit);
}
