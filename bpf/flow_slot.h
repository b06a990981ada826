/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The parts of the flow table that flow.h is made of: which sets and which slot belong to a key,
 * and how to read a slot that others may be writing.
 *
 * Order of memory accesses: x86 keeps loads in order, arm64 does not, and the object is the same.
 * Stores are ordered by the fetching atomics around them. Loads are ordered by making the address
 * of the later one depend on the value of the earlier one (flow_zero), which costs no barrier.
 */
#pragma once

#include "flow_layout.h"

/* What a flow knows, as copied out by flow_find and handed in to flow_insert. */
struct flow {
	__u32 eni;
	__u32 incarnation; /* eni_conf.flows */
	__u32 generation;
	__u32 nexthop;
	__u32 nexthop_generation;
	__u32 rule;
	__u8 state; /* enum flow_state */
	__u8 flags; /* enum flow_flag */
	__u8 reason; /* why it is blocked */
	__u8 dir; /* of a new connection's first packet, with what it counts: enum direction */
	__u32 packets;
	__u32 bytes;
	__u32 opening; /* TCP: upper half of its number; ICMP: the code of the request */
	__u32 seen; /* set by flow_find; flow_insert: 0 = a new connection, else the found one goes on */
	__u8 nat[16]; /* the EIP of the local address; IPv4 in the first four bytes */
};

/* Where a found or inserted flow is. Valid for this packet only; never share it. */
struct flow_ref {
	__u32 *control;
	__u32 *expires;
	struct flow_body *body;
	__u32 seen; /* the control word that belongs to the copy */
	__u32 class; /* enum flow_class */
};

/* What an insert has done. */
struct flow_stored {
	__u32 slot; /* number in the table */
	__u32 deadline;
	__u32 opens; /* it became half-open, and has a place in the ring: */
	__u32 opener; /* enum direction */
	__u32 place;
	__u32 evicts; /* who had it, as in the map half_open; 0 = nobody */
};

/* Both choices of a key. */
struct flow_choice {
	__u32 first;
	__u32 second;
	__u32 tag; /* 1-255 */
	__u32 home; /* slot to be in if it is free, 0-7 */
};

static __always_inline __u32 flow_load(const __u32 *word)
{
	return *(const volatile __u32 *)word;
}

static __always_inline void flow_store(__u32 *word, __u32 value)
{
	*(volatile __u32 *)word = value;
}

/* 0, computed from `value` in a way that neither compiler nor CPU can cut short. */
static __always_inline __u64 flow_zero(__u64 value)
{
	asm volatile("%0 &= 0" : "+r"(value));
	return value;
}

/*
 * Keyed hash: NH (two words, two random words, one multiplication: collisions of chosen keys are
 * no likelier than 2^-32), then a mixer, so that the bits are independent enough to be cut up.
 *
 * The origin does not count: a flow with the VPC and one with the internet that are else the same have
 * the same places, so that one look tells whether a packet of an ENI belongs to either.
 */
static __always_inline bool flow_hash_words(__u32 scope_class, const __u32 *local,
					    const __u32 *remote, __u32 ports,
					    struct flow_choice *to, const bool v6)
{
	const __u32 each = v6 ? 4 : 1, words = 2 + 2 * each;
	__u32 word[10] = {scope_class & ~CLASS_INTERNET}, family = v6;
	const struct flow_table *table;
	__u64 hash;

	table = bpf_map_lookup_elem(&flow_tables, &family);
	if (!table || !table->sets)
		return false;
	hash = table->seed;
#pragma clang loop unroll(full)
	for (__u32 i = 0; i < each; i++) {
		word[1 + i] = local[i];
		word[1 + each + i] = remote[i];
	}
	word[1 + 2 * each] = ports;
#pragma clang loop unroll(full)
	for (__u32 i = 0; i < words; i += 2)
		hash += (__u64)(__u32)(word[i] + table->words[i]) *
			(__u32)(word[i + 1] + table->words[i + 1]);
	hash ^= hash >> 32;
	hash *= 0x9fb21c651e98df25ULL;
	hash ^= hash >> 29;
	hash *= 0xd6e8feb86659fd93ULL;
	hash ^= hash >> 32;
	to->first = (hash >> 32) * table->sets >> 32;
	to->second = (__u64)(__u32)hash * table->sets >> 32;
	to->tag = (hash >> 32 & 255) ?: 255;
	to->home = hash >> 40 & (FLOW_WAYS - 1);
	return true;
}

static __always_inline bool flow_hash(const void *key, struct flow_choice *to, const bool v6)
{
	const __u32 *word = key, each = v6 ? 4 : 1;

	return flow_hash_words(word[0], word + 1, word + 1 + each, word[1 + 2 * each], to, v6);
}

/*
 * Sets of slots are words with bit 8i+7 for slot i. flow_match may name a slot too many above a
 * true one; keys are compared anyway.
 */
static __always_inline __u64 flow_match(__u64 tags, __u32 tag)
{
	const __u64 ones = 0x0101010101010101ULL;
	__u64 x = tags ^ tag * ones;

	return (x - ones) & ~x & ones << 7;
}

/* The lowest slot of a set of slots that is not empty. */
static __always_inline __u32 flow_lowest(__u64 slots)
{
	return ((slots & -slots) >> 7) * 0x20406080a0c0e0ULL >> 61;
}

static __always_inline __u32 flow_count(__u64 slots)
{
	return (slots >> 7) * 0x0101010101010101ULL >> 56;
}

static __always_inline void *flow_set(__u32 index, const bool v6)
{
	return v6 ? bpf_map_lookup_elem(&flows6, &index) : bpf_map_lookup_elem(&flows4, &index);
}

static __always_inline __u64 *flow_tags(__u32 index, const bool v6)
{
	return v6 ? bpf_map_lookup_elem(&flow_tags6, &index) :
		    bpf_map_lookup_elem(&flow_tags4, &index);
}

/* The control word of slot i, which is the beginning of the slot. */
static __always_inline void *flow_slot(void *set, __u32 i, const bool v6)
{
	if (v6)
		return &((struct flow_set6 *)set)->slots[i];
	return &((struct flow_set4 *)set)->slots[i];
}

static __always_inline struct flow_body *flow_body(void *slot, const bool v6)
{
	return v6 ? &((struct flow_slot6 *)slot)->body : &((struct flow_slot4 *)slot)->body;
}

static __always_inline __u32 *flow_nat(void *slot, const bool v6)
{
	return v6 ? (__u32 *)((struct flow_slot6 *)slot)->nat :
		    (__u32 *)((struct flow_slot4 *)slot)->nat;
}

/* Where TCP is, by direction of the sender: the upper halves of sequence numbers. */
static __always_inline __u16 *flow_seq(struct flow_body *body)
{
	return (__u16 *)body - 2;
}

/* 0 if the slot holds the key. */
static __always_inline __u32 flow_differs(void *slot, const void *key, const bool v6)
{
	const __u32 words = (v6 ? sizeof(struct flow_key6) : sizeof(struct flow_key4)) / 4;
	const __u32 *have = slot + offsetof(struct flow_slot4, key), *want = key;
	__u32 differs = 0;

#pragma clang loop unroll(full)
	for (__u32 i = 0; i < words; i++)
		differs |= flow_load(&have[i]) ^ want[i];
	return differs;
}

/* Copies the slot. Returns the bits of all that was loaded. */
static __always_inline __u32 flow_copy(void *slot, struct flow *flow, const bool v6)
{
	const __u32 words = v6 ? 4 : 1;
	struct flow_body *body = flow_body(slot, v6);
	__u32 *nat = flow_nat(slot, v6), *to = (__u32 *)flow->nat, bits;

	flow->eni = flow_load(&body->eni);
	flow->incarnation = flow_load(&body->incarnation);
	flow->generation = flow_load(&body->generation);
	flow->nexthop = flow_load(&body->nexthop);
	flow->nexthop_generation = flow_load(&body->nexthop_generation);
	flow->rule = flow_load(&body->rule);
	flow->reason = *(volatile __u8 *)&body->reason;
	flow->dir = 0;
	flow->packets = 0;
	flow->bytes = 0;
	flow->opening = 0;
	bits = flow->eni | flow->incarnation | flow->generation | flow->nexthop |
	       flow->nexthop_generation | flow->rule | flow->reason;
#pragma clang loop unroll(full)
	for (__u32 i = 0; i < words; i++) {
		to[i] = flow_load(&nat[i]);
		bits |= to[i];
	}
	return bits;
}

static __always_inline void flow_refer(struct flow_ref *ref, struct flow_line *line, __u32 i,
				       __u32 control, __u32 scope_class, const bool v6)
{
	void *slot = flow_slot(line, i, v6);

	ref->control = slot;
	ref->expires = &line->expires[i];
	ref->body = flow_body(slot, v6);
	ref->seen = control;
	ref->class = scope_class & 255;
}

static __always_inline void flow_state_of(__u32 control, struct flow *flow)
{
	flow->state = control >> FLOW_STATE_SHIFT & FLOW_STATE_MASK;
	flow->flags = control >> FLOW_FLAGS_SHIFT & FLOW_FLAGS_MASK;
}

static __always_inline __u32 flow_control(__u32 version, __u32 state, __u32 flags, __u32 color)
{
	return version << FLOW_VERSION_SHIFT | (color & 1) << FLOW_COLOR_SHIFT |
	       (flags & FLOW_FLAGS_MASK) << FLOW_FLAGS_SHIFT |
	       (state & FLOW_STATE_MASK) << FLOW_STATE_SHIFT;
}

/* 1 if the value is not 0, without a branch. */
static __always_inline __u32 flow_nonzero(__u32 value)
{
	return (value | -value) >> 31;
}
