/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The flow table as a plain kernel hash: find, insert, touch, advance. */
#pragma once

#include "pkt.h"

/* What a flow knows, as copied out by flow_find and handed in to flow_insert. */
struct flow {
	__u32 eni;
	__u32 incarnation;
	__u32 generation;
	__u32 nexthop;
	__u32 nexthop_generation;
	__u32 rule;
	__u8 state; /* enum flow_state */
	__u8 flags; /* enum flow_flag */
	__u8 reason; /* why it is blocked */
	__u8 pad;
	__u8 nat[16]; /* the EIP of the local address; IPv4 in the first four bytes */
};

struct flow_entry {
	struct flow flow;
	__u32 seen;
	__u64 packets[2];
	__u64 bytes[2];
};

struct flow_ref {
	struct flow_entry *entry;
};

MAP(flows4, BPF_MAP_TYPE_HASH, struct flow_key4, struct flow_entry, 65536, 0);
MAP(flows6, BPF_MAP_TYPE_HASH, struct flow_key6, struct flow_entry, 65536, 0);

static __always_inline __u32 flow_ticks(__u32 seconds)
{
	return (seconds * 1000000000ULL >> 28) + 1;
}

static __always_inline __u32 flow_now(void)
{
	return bpf_ktime_get_coarse_ns() >> 28;
}

static __always_inline __u32 flow_timeout(__u32 class, __u8 state)
{
	if (state == FLOW_BLOCKED || state == FLOW_CLOSING)
		return flow_ticks(40);
	switch (class & 3) {
	case CLASS_TCP:
		return state == FLOW_ESTABLISHED ? flow_ticks(7440) : flow_ticks(30);
	case CLASS_UDP:
		return state == FLOW_ESTABLISHED ? flow_ticks(180) : flow_ticks(30);
	case CLASS_ICMP:
		return flow_ticks(30);
	}
	return flow_ticks(600);
}

static __always_inline enum reason flow_find(const void *key, __u32 now, struct flow *flow,
					     struct flow_ref *ref, const bool v6)
{
	struct flow_entry *f = v6 ? bpf_map_lookup_elem(&flows6, key) :
				    bpf_map_lookup_elem(&flows4, key);

	if (!f || now - f->seen > flow_timeout(*(const __u32 *)key, f->flow.state))
		return REASON_NO_FLOW;
	ref->entry = f;
	*flow = f->flow;
	return REASON_CONTINUE;
}

static __always_inline void flow_touch(struct flow_ref *ref, __u32 now, __u32 dir, __u32 packets,
				       __u32 bytes)
{
	if (ref->entry->seen != now)
		ref->entry->seen = now;
	ref->entry->packets[dir & 1] += packets;
	ref->entry->bytes[dir & 1] += bytes;
}

static __always_inline void flow_advance(struct flow_ref *ref, __u8 state, __u8 flags)
{
	ref->entry->flow.state = state;
	ref->entry->flow.flags = flags;
}

static __always_inline enum reason flow_insert(const void *key, const struct flow *flow, __u32 now,
					       struct flow_ref *ref, const bool v6)
{
	struct flow_entry entry = { .flow = *flow, .seen = now };

	if (v6 ? bpf_map_update_elem(&flows6, key, &entry, BPF_ANY) :
		 bpf_map_update_elem(&flows4, key, &entry, BPF_ANY))
		return REASON_FLOW_FULL;
	ref->entry = v6 ? bpf_map_lookup_elem(&flows6, key) : bpf_map_lookup_elem(&flows4, key);
	return ref->entry ? REASON_CONTINUE : REASON_FLOW_FULL;
}
