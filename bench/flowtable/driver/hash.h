/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The losing variant, kept to be measured against: a plain preallocated kernel hash with the same
 * keys and the same knowledge of a flow. It has no copy check (a value may change while it is read)
 * and no reuse without a sweep.
 */
#pragma once

#include "../../../bpf/sweep.h"

/* What an ENI lives by that says nothing. */
static const struct flow_idle idle = {.tcp_established = 7440, .udp = 30, .udp_stream = 180};

struct hash_flow4 {
	__u32 control;
	__u32 expires;
	__u8 nat[4];
	__u8 pad[4];
	struct flow_body body;
};

struct hash_flow6 {
	__u32 control;
	__u32 expires;
	__u8 nat[16];
	struct flow_body body;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 20);
	__type(key, struct flow_key4);
	__type(value, struct hash_flow4);
} hash4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 20);
	__type(key, struct flow_key6);
	__type(value, struct hash_flow6);
} hash6 SEC(".maps");

static __always_inline enum reason hash_find(const void *key, __u32 now, struct flow *flow,
					     struct flow_ref *ref, const bool v6)
{
	void *value = v6 ? bpf_map_lookup_elem(&hash6, key) : bpf_map_lookup_elem(&hash4, key);
	const __u32 words = v6 ? 4 : 1;
	struct flow_body *body;
	__u32 *nat, *to = (__u32 *)flow->nat;

	if (!value || ((struct hash_flow4 *)value)->expires <= now)
		return REASON_NO_FLOW;
	body = v6 ? &((struct hash_flow6 *)value)->body : &((struct hash_flow4 *)value)->body;
	nat = (__u32 *)((struct hash_flow4 *)value)->nat;
	flow->eni = flow_load(&body->eni);
	flow->incarnation = flow_load(&body->incarnation);
	flow->generation = flow_load(&body->generation);
	flow->nexthop = flow_load(&body->nexthop);
	flow->nexthop_generation = flow_load(&body->nexthop_generation);
	flow->rule = flow_load(&body->rule);
	flow->reason = *(volatile __u8 *)&body->reason;
#pragma clang loop unroll(full)
	for (__u32 i = 0; i < words; i++)
		to[i] = flow_load(&nat[i]);
	ref->control = value;
	ref->expires = &((struct hash_flow4 *)value)->expires;
	ref->body = body;
	ref->seen = flow_load(value);
	ref->class = *(const __u32 *)key & 255;
	flow_state_of(ref->seen, flow);
	return REASON_CONTINUE;
}

static __always_inline enum reason hash_insert(const void *key, const struct flow *flow, __u32 now,
					       const bool v6)
{
	struct hash_flow6 value = {
		.control = flow_control(0, flow->state, flow->flags, 0),
		.expires = now + flow_timeout(*(const __u32 *)key & 255, flow->state, &idle),
		.body =
			{
				.eni = flow->eni,
				.incarnation = flow->incarnation,
				.generation = flow->generation,
				.nexthop = flow->nexthop,
				.nexthop_generation = flow->nexthop_generation,
				.rule = flow->rule,
				.opened = now,
				.reason = flow->reason,
			},
	};
	struct hash_flow4 value4 = {};

	if (v6) {
		__builtin_memcpy(value.nat, flow->nat, 16);
		return bpf_map_update_elem(&hash6, key, &value, BPF_ANY) ? REASON_FLOW_FULL :
									   REASON_CONTINUE;
	}
	value4.control = value.control;
	value4.expires = value.expires;
	value4.body = value.body;
	__builtin_memcpy(value4.nat, flow->nat, 4);
	return bpf_map_update_elem(&hash4, key, &value4, BPF_ANY) ? REASON_FLOW_FULL :
								    REASON_CONTINUE;
}
