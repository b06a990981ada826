/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Temporary: a kernel hash, until the flow table's spike is decided. */
#pragma once

#include "pkt.h"

struct flow {
	__u32 eni;
	__u32 incarnation;
	__u32 generation;
	__u32 nexthop;
	__u32 nexthop_generation;
	__u32 rule;
	__u32 seen;
	__u8 state;
	__u8 flags;
	__u8 reason;
	__u8 pad;
	__u8 nat[16];
	__u64 packets_out;
	__u64 bytes_out;
	__u64 packets_in;
	__u64 bytes_in;
};

MAP(flows4, BPF_MAP_TYPE_HASH, struct flow_key4, struct flow, 65536, 0);
MAP(flows6, BPF_MAP_TYPE_HASH, struct flow_key6, struct flow, 65536, 0);

#define FLOW_TICKS(seconds) ((seconds) * 1000000000ULL >> 24)

static __always_inline __u32 flow_now(void)
{
	return bpf_ktime_get_coarse_ns() >> 24;
}

static __always_inline __u32 flow_timeout(__u32 class, __u8 state)
{
	if (state == FLOW_BLOCKED || state == FLOW_CLOSING)
		return FLOW_TICKS(40);
	switch (class & 3) {
	case CLASS_TCP:
		return state == FLOW_ESTABLISHED ? FLOW_TICKS(7440) : FLOW_TICKS(30);
	case CLASS_UDP:
		return state == FLOW_ESTABLISHED ? FLOW_TICKS(180) : FLOW_TICKS(30);
	case CLASS_ICMP:
		return FLOW_TICKS(30);
	}
	return FLOW_TICKS(600);
}

static __always_inline struct flow *flow_find(const void *key, __u32 now, const bool v6)
{
	struct flow *f = v6 ? bpf_map_lookup_elem(&flows6, key) : bpf_map_lookup_elem(&flows4, key);

	if (!f || now - f->seen > flow_timeout(*(const __u32 *)key, f->state))
		return NULL;
	return f;
}

static __always_inline enum reason flow_insert(const void *key, const struct flow *init, __u32 now,
					       const bool v6)
{
	(void)now;
	if (v6 ? bpf_map_update_elem(&flows6, key, init, BPF_ANY) :
		 bpf_map_update_elem(&flows4, key, init, BPF_ANY))
		return REASON_FLOW_FULL;
	return REASON_CONTINUE;
}

static __always_inline void flow_touch(struct flow *f, __u32 now, __u8 dir, __u32 packets,
				       __u32 bytes)
{
	if (now - f->seen > 30)
		f->seen = now;
	if (dir == DIR_OUT) {
		f->packets_out += packets;
		f->bytes_out += bytes;
	} else {
		f->packets_in += packets;
		f->bytes_in += bytes;
	}
}
