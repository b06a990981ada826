/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The short way of most packets: an established flow, in the slot where it is looked for first, that
 * the packet changes nothing of. It asks what flow_hit (track.h) asks, without copies and calls. What
 * is not plain at a glance goes the long way, which decides everything anew; so nothing is written
 * before all is known.
 *
 * It counts without atomic instructions, which cost as much as all other memory here: if two CPUs
 * count packets of one flow and direction within the same nanosecond, one count is lost.
 */
#pragma once

#include "state.h"

enum quick {
	QUICK_FLAGS = FLOW_REPLY_DENIED | FLOW_FOREIGN, /* that ask for more */
	QUICK_MASK =
		FLOW_BUSY | FLOW_STATE_MASK << FLOW_STATE_SHIFT | QUICK_FLAGS << FLOW_FLAGS_SHIFT,
	QUICK_CONTROL = FLOW_ESTABLISHED << FLOW_STATE_SHIFT,
};

/* The words that tell a flow from others, in the order of its key. */
struct quick_key {
	__u32 scope_class;
	const __u8 *local;
	const __u8 *remote;
	__u32 ports;
};

static __always_inline bool quick_packet(const struct pkt *p)
{
	if (p->fragment != FRAGMENT_NONE)
		return false;
	if (p->protocol == PROTO_UDP)
		return true;
	return p->protocol == PROTO_TCP && !(p->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST));
}

/* What of a slot is not as it must be, as bits; 0 = it is the packet's flow, and as it was judged. */
static __always_inline __u32 quick_differs(const struct pkt *p, const struct eni_conf *conf,
					   void *slot, const struct quick_key *key, __u32 origins,
					   const bool v6)
{
	const __u32 words = v6 ? 4 : 1;
	const __u32 *have = slot + offsetof(struct flow_slot4, key);
	const __u32 *local = (const __u32 *)key->local, *remote = (const __u32 *)key->remote;
	struct flow_body *body = flow_body(slot, v6);
	__u32 differs = (flow_load(&have[0]) ^ key->scope_class) & ~origins;

#pragma clang loop unroll(full)
	for (__u32 i = 0; i < words; i++)
		differs |= (flow_load(&have[1 + i]) ^ local[i]) |
			   (flow_load(&have[1 + words + i]) ^ remote[i]);
	differs |= flow_load(&have[1 + 2 * words]) ^ key->ports;
	differs |= flow_load(&body->eni) ^ p->eni;
	differs |= flow_load(&body->incarnation) ^ conf->flows;
	differs |= flow_load(&body->generation) ^ conf->generation;
	barrier_var(differs); /* one comparison, not one of each word, kept until here */
	return differs;
}

/* Follows TCP as tcp_follow does, for a packet of an established flow that neither begins nor ends it. */
static __always_inline void quick_follow(const struct pkt *p, __u16 *seq, const __u8 dir)
{
	volatile __u16 *mine = &seq[dir], *other = &seq[!dir];
	__u16 now = *mine;

	if (p->tcp_seq != now && tcp_near(p->tcp_seq, now))
		*mine = p->tcp_seq;
	if ((p->tcp_flags & TCP_ACK) && !tcp_near(p->tcp_ack, *other))
		*other = p->tcp_ack;
}

/*
 * Are there others that might have the key in `sets`, besides the home slot of the first? A flow
 * with the VPC goes before one with the internet (port_flow), wherever it is.
 */
static __always_inline bool quick_others(const struct flow_line *line,
					 const struct flow_choice *choice, const bool v6)
{
	const struct flow_line *second = flow_set(choice->second, v6);
	__u64 home = 0x80ULL << 8 * choice->home;

	return !second || flow_match(*(const volatile __u64 *)&second->tags, choice->tag) ||
	       (flow_match(*(const volatile __u64 *)&line->tags, choice->tag) & ~home);
}

/*
 * The next hop of the packet's flow, which is counted and kept alive; NULL = the long way. `class` is
 * CLASS_INTERNET or 0; `origins` are bits of it that do not count: an ENI sends to either. `nat` is where
 * the flow's EIP goes, or NULL.
 */
static __always_inline const struct nexthop *quick_flow(const struct pkt *p,
							const struct eni_conf *conf, __u32 class,
							const __u32 origins, const __u8 dir,
							__u8 *nat, const bool v6)
{
	__u32 tcp = p->protocol == PROTO_TCP, before, after, wrong, bits, index, generation;
	__u32 idle = tcp ? conf->idle.tcp_established : conf->idle.udp_stream;
	__u32 deadline = p->now + flow_ticks(idle), old;
	const struct nexthop *nh;
	struct flow_choice choice;
	struct flow_body *body;
	struct flow_line *line;
	struct quick_key key;
	void *slot;

	if (!quick_packet(p))
		return NULL;
	key.scope_class = conf->vni << 8 | (tcp ? CLASS_TCP : CLASS_UDP) | class;
	key.local = dir == DIR_OUT ? p->src : p->dst;
	key.remote = dir == DIR_OUT ? p->dst : p->src;
	key.ports = dir == DIR_OUT ? p->sport | (__u32)p->dport << 16 :
				     p->dport | (__u32)p->sport << 16;
	if (!flow_hash_words(key.scope_class, (const __u32 *)key.local, (const __u32 *)key.remote,
			     key.ports, &choice, v6))
		return NULL;
	line = flow_set(choice.first, v6);
	if (!line)
		return NULL;
	barrier(); /* loads the key again from the packet's struct: there is no room to keep it */
	slot = flow_slot(line, choice.home, v6);
	body = flow_body(slot, v6);
	old = flow_load(&line->expires[choice.home]);
	/* The counters are in the slot's other cache line: let both come at once. */
	flow_load((__u32 *)&body->bytes[DIR_IN]);
	before = flow_load(slot);
	wrong = quick_differs(p, conf, slot + flow_zero(before), &key, origins, v6) |
		((before & QUICK_MASK) ^ QUICK_CONTROL);
	index = flow_load(&body->nexthop);
	generation = flow_load(&body->nexthop_generation);
	bits = wrong | index | generation;
	if (nat) {
		const __u32 *from = flow_nat(slot, v6);
		__u32 *to = (__u32 *)nat;

#pragma clang loop unroll(full)
		for (__u32 i = 0; i < (v6 ? 4 : 1); i++) {
			to[i] = flow_load(&from[i]);
			bits |= to[i];
		}
	}
	if (origins)
		class = flow_load(slot + offsetof(struct flow_slot4, key)) & origins;
	after = flow_load(slot + flow_zero(bits | class));
	if (wrong | (before ^ after))
		return NULL;
	if (old <= p->now || (__s32)(deadline - old) < -1)
		return NULL; /* dead; or shorter lived than it was, of which the sweep must hear */
	if (origins && class && quick_others(line, &choice, v6))
		return NULL;
	nh = nexthop_find(index);
	if (!nh || nh->generation != generation || nh->kind == NH_NONE)
		return NULL;
	if (tcp)
		quick_follow(p, flow_seq(body), dir);
	body->packets[dir] += p->segments;
	body->bytes[dir] += p->wire_bytes;
	if ((__s32)(deadline - old) > 1 && !((flow_load(slot) ^ before) >> FLOW_VERSION_SHIFT))
		flow_store(&line->expires[choice.home], deadline);
	return nh;
}

/* Functions of their own, for the sake of the stack: one per direction and family. */
static __noinline const struct nexthop *quick_out4(const struct pkt *p, const struct eni_conf *conf,
						   __u8 *nat)
{
	return quick_flow(p, conf, 0, CLASS_INTERNET, DIR_OUT, nat, false);
}

static __noinline const struct nexthop *quick_out6(const struct pkt *p, const struct eni_conf *conf,
						   __u8 *nat)
{
	return quick_flow(p, conf, 0, CLASS_INTERNET, DIR_OUT, nat, true);
}

static __noinline const struct nexthop *quick_in4(const struct pkt *p, const struct eni_conf *conf,
						  __u32 class)
{
	return quick_flow(p, conf, class, 0, DIR_IN, NULL, false);
}

static __noinline const struct nexthop *quick_in6(const struct pkt *p, const struct eni_conf *conf,
						  __u32 class)
{
	return quick_flow(p, conf, class, 0, DIR_IN, NULL, true);
}

/* The same for a packet that `conf` sends; `nat` becomes the flow's EIP. */
static __always_inline const struct nexthop *
quick_out(const struct pkt *p, const struct eni_conf *conf, __u8 *nat, const bool v6)
{
	return v6 ? quick_out6(p, conf, nat) : quick_out4(p, conf, nat);
}

/* The same for a packet to `conf`. */
static __always_inline const struct nexthop *
quick_in(const struct pkt *p, const struct eni_conf *conf, __u32 class, const bool v6)
{
	return v6 ? quick_in6(p, conf, class) : quick_in4(p, conf, class);
}
