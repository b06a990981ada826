/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Fragments. The first one has the ports and is judged; the others inherit what became of it,
 * through a small table per ENI: they carry the same addresses, protocol and id. One that comes
 * before the first, after a while, or reaches into what the first one said, is dropped (RFC 1858,
 * RFC 3128). A new entry takes the place of another of the same ENI, never of another ENI's.
 */
#pragma once

#include "track.h"

enum fragment_table {
	FRAGMENTS = 64, /* of an ENI at once, a power of two */
	FRAGMENT_TICKS = 8, /* of the flow clock, about 2 s */
};

/* What identifies the fragments of one packet at one ENI. */
struct fragment_key {
	__u32 id;
	__u32 incarnation;
	__u8 dir;
	__u8 internet; /* the peer is on the internet */
	__u8 protocol;
	__u8 v6;
	__u8 src[16];
	__u8 dst[16];
};

struct fragment_entry {
	struct bpf_spin_lock lock;
	__u32 expires; /* tick */
	__u32 generation;
	__u32 nexthop;
	__u32 nexthop_generation;
	__u32 first_len; /* bytes in the first fragment */
	struct fragment_key key;
	__u8 nat[16];
};

/* ENI * FRAGMENTS + hash of the key; written and read by the programs. */
MAP(fragments, BPF_MAP_TYPE_ARRAY, __u32, struct fragment_entry, MAX_ENIS *FRAGMENTS, 0);

/* A question to the table; per CPU. */
struct fragment_ask {
	struct fragment_key key;
	__u32 index;
	__u32 offset; /* p->fragment_offset */
	__u32 store; /* 1 = the first fragment was let through */
};

MAP(fragment_asks, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct fragment_ask, 1, 0);

static __always_inline bool fragment_same(const struct fragment_key *a,
					  const struct fragment_key *b)
{
	const __u32 *x = (const __u32 *)a, *y = (const __u32 *)b;
	__u32 differs = 0;

#pragma clang loop unroll(full)
	for (__u32 i = 0; i < sizeof(*a) / 4; i++)
		differs |= x[i] ^ y[i];
	return !differs;
}

static __always_inline enum reason fragment_store(struct work *w, const struct fragment_ask *ask,
						  struct fragment_entry *e)
{
	bpf_spin_lock(&e->lock);
	__builtin_memcpy(&e->key, &ask->key, sizeof(e->key));
	__builtin_memcpy(e->nat, w->flow.nat, sizeof(e->nat));
	e->expires = w->now + FRAGMENT_TICKS;
	e->generation = w->generation;
	e->nexthop = w->flow.nexthop;
	e->nexthop_generation = w->flow.nexthop_generation;
	e->first_len = ask->offset;
	bpf_spin_unlock(&e->lock);
	return REASON_CONTINUE;
}

static __always_inline enum reason fragment_find(struct work *w, const struct fragment_ask *ask,
						 struct fragment_entry *e)
{
	const struct nexthop *nh;
	__u32 found;

	bpf_spin_lock(&e->lock);
	found = fragment_same(&e->key, &ask->key) && e->expires > w->now &&
		e->generation == w->generation && ask->offset >= e->first_len;
	w->flow.nexthop = e->nexthop;
	w->flow.nexthop_generation = e->nexthop_generation;
	__builtin_memcpy(w->flow.nat, e->nat, sizeof(e->nat));
	bpf_spin_unlock(&e->lock);
	nh = nexthop_find(w->flow.nexthop);
	if (!found || !nh || nh->generation != w->flow.nexthop_generation)
		return REASON_FRAGMENT;
	return REASON_CONTINUE;
}

/* A function of its own: verified once, its stack is not the programs'. */
__noinline int fragment_table(struct work *w)
{
	struct fragment_entry *e;
	struct fragment_ask *ask;
	__u32 zero = 0;

	ask = bpf_map_lookup_elem(&fragment_asks, &zero);
	if (!w || !ask)
		return REASON_HELPER;
	e = bpf_map_lookup_elem(&fragments, &ask->index);
	if (!e)
		return REASON_FRAGMENT;
	return ask->store ? fragment_store(w, ask, e) : fragment_find(w, ask, e);
}

/* Fills in the question for this packet. */
static __always_inline struct fragment_ask *
fragment_ask_of(const struct pkt *p, const struct work *w, bool internet, const bool v6)
{
	struct fragment_ask *ask;
	__u32 zero = 0, hash;

	ask = bpf_map_lookup_elem(&fragment_asks, &zero);
	if (!ask)
		return NULL;
	__builtin_memset(&ask->key, 0, sizeof(ask->key));
	ask->key.id = p->fragment_id;
	ask->key.incarnation = w->flows;
	ask->key.dir = p->dir;
	ask->key.internet = internet;
	ask->key.protocol = v6 ? 0 : p->protocol; /* RFC 8200: only the first one's counts */
	ask->key.v6 = v6;
	addr_copy(ask->key.src, p->src, v6);
	addr_copy(ask->key.dst, p->dst, v6);
	hash = p->fragment_id ^ *(const __u32 *)(p->src + (v6 ? 12 : 0)) ^
	       *(const __u32 *)(p->dst + (v6 ? 12 : 0)) ^ p->dir;
	hash *= 0x9e3779b1;
	ask->index = p->eni * FRAGMENTS + (hash >> 26) % FRAGMENTS;
	ask->offset = p->fragment_offset;
	ask->store = 0;
	return ask;
}

/* A later fragment: what became of the first one, in w->flow; or FRAGMENT. */
static __always_inline enum reason fragment_later(const struct pkt *p, struct work *w,
						  bool internet, const bool v6)
{
	if (!fragment_ask_of(p, w, internet, v6))
		return REASON_HELPER;
	return fragment_table(w);
}

/* The first fragment was let through: the others may follow it. */
static __always_inline void fragment_first(const struct pkt *p, struct work *w, bool internet,
					   const bool v6)
{
	struct fragment_ask *ask = fragment_ask_of(p, w, internet, v6);

	if (!ask)
		return;
	ask->store = 1;
	fragment_table(w);
}
