/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How many packets (limits.packetsPerSecond) and new flows (limits.newFlowsPerSecond) of an ENI pass in a
 * second, both directions together. A bucket holds what passes in RATE_DEPTH, and one more that takes it
 * into debt: what counts for several, a GSO packet, passes whole and is paid for later, so that the sum over
 * time is exact whatever the sizes are. A bucket is one number, the time at which it is full again: taking
 * something moves that on by what it takes at the ENI's rate (the generic cell rate algorithm, ITU-T I.371),
 * and several CPUs do it by compare-and-swap.
 *
 * The coarse clock does: it steps by a few ms at most, and RATE_DEPTH bridges that.
 */
#pragma once

#include "work.h"

#define RATE_SECOND (1000000000ULL << RATE_SHIFT)
#define RATE_DEPTH (1ULL << (25 + RATE_SHIFT)) /* 34 ms */

enum rate {
	RATE_SHIFT = 4, /* times are in 1/16 ns: 10 million a second are 1600 each */
	RATE_TRIES = 8, /* against other CPUs in the same moment; then it is taken unseen */
};

struct bucket {
	__u64 full; /* when it is full again */
	__u32 rate; /* at which it was asked last */
	__u32 incarnation; /* whose it is */
};

struct rates {
	struct bucket packets;
	struct bucket flows;
	__u8 pad[32]; /* ENIs do not share a cache line */
};

/* ENI -> its buckets. Only those of ENIs with such limits are touched. */
MAP(rates, BPF_MAP_TYPE_ARRAY, __u32, struct rates, MAX_ENIS, 0);

/*
 * When the bucket will be full again, for who asks now. Another incarnation begins with a full one. Another
 * rate finds it as full as it was, but owes nothing: a debt is a time, and at a higher rate it would
 * be one of many packets.
 */
static __always_inline __u64 bucket_full(const struct bucket *b, __u64 full, __u64 now, __u32 rate,
					 __u32 incarnation)
{
	if (b->incarnation != incarnation || (__s64)(full - now) < 0)
		return now;
	if (b->rate != rate && full - now > RATE_DEPTH)
		return now + RATE_DEPTH;
	return full;
}

/* Takes n out of the bucket, if it is not empty. */
static __always_inline bool bucket_take(struct bucket *b, __u32 rate, __u32 incarnation, __u32 n)
{
	__u64 now = bpf_ktime_get_coarse_ns() << RATE_SHIFT, cost, seen, full;
	bool taken = true, done = false;

	if (!rate)
		return true;
	cost = n * RATE_SECOND / rate;
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < RATE_TRIES && !done; i++) {
		seen = *(volatile __u64 *)&b->full;
		full = bucket_full(b, seen, now, rate, incarnation);
		taken = full - now < RATE_DEPTH;
		if (taken)
			full += cost;
		done = full == seen || __sync_val_compare_and_swap(&b->full, seen, full) == seen;
	}
	if (!done && taken)
		__sync_fetch_and_add(&b->full, cost);
	if (b->rate != rate || b->incarnation != incarnation) {
		b->rate = rate;
		b->incarnation = incarnation;
	}
	return taken;
}

/* May a packet of so many wire segments pass the ENI? A function of its own: few ENIs have the limit. */
__noinline int rate_packets(__u32 eni, __u32 incarnation, __u32 rate, __u32 segments)
{
	struct rates *r = bpf_map_lookup_elem(&rates, &eni);

	return r && bucket_take(&r->packets, rate, incarnation, segments) ? REASON_CONTINUE :
									    REASON_PACKET_RATE;
}

/* May the ENI have a new flow? */
__noinline int rate_flows(struct work *w)
{
	const struct eni_conf *conf;
	struct enis *both;
	struct rates *r;

	if (!w)
		return REASON_HELPER;
	both = bpf_map_lookup_elem(&enis, &w->eni);
	r = bpf_map_lookup_elem(&rates, &w->eni);
	if (!both || !r)
		return REASON_HELPER;
	conf = &both->v[w->slot & 1];
	return bucket_take(&r->flows, conf->new_flows, conf->incarnation, 1) ? REASON_CONTINUE :
									       REASON_FLOW_RATE;
}

/* What every packet of an ENI is asked. */
static __always_inline enum reason rate_packet(const struct pkt *p, const struct eni_conf *conf)
{
	if (!unlikely(conf->flags & ENI_PACKET_RATE))
		return REASON_CONTINUE;
	return rate_packets(p->eni, conf->incarnation, conf->packets, p->segments);
}
