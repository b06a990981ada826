/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What is at hand while a packet is judged: which side of its flow is which, the key, and struct work.
 */
#pragma once

#include "flow_usage.h"
#include "judge.h"
#include "parse.h"

/* Which side of the ENI's flow key each address and port of the packet is. */
struct sides {
	__u16 local_port;
	__u16 remote_port;
	__u32 class;
};

/* ICMP query types come in pairs; the higher (IPv6) or the listed (IPv4) one is the reply. */
static __always_inline bool icmp_reply(__u8 type, const bool v6)
{
	if (v6)
		return type == 129 || type == 140;
	return type == 0 || type == 14 || type == 16 || type == 18;
}

static __always_inline __u8 icmp_request(__u8 type, const bool v6)
{
	if (!icmp_reply(type, v6))
		return type;
	return type ? type - 1 : 8;
}

static __always_inline __u8 icmp_answer(__u8 type, const bool v6)
{
	__u8 request = icmp_request(type, v6);

	return !v6 && request == 8 ? 0 : request + 1;
}

static __always_inline bool is_icmp(const struct pkt *p, const bool v6)
{
	return p->protocol == (v6 ? PROTO_ICMPV6 : PROTO_ICMP);
}

static __always_inline struct sides sides_of(const struct pkt *p, const bool v6)
{
	bool out = p->dir == DIR_OUT;
	struct sides s = {
		.local_port = out ? p->sport : p->dport,
		.remote_port = out ? p->dport : p->sport,
	};

	if (p->protocol == PROTO_TCP) {
		s.class = CLASS_TCP;
	} else if (p->protocol == PROTO_UDP) {
		s.class = CLASS_UDP;
	} else if (is_icmp(p, v6)) {
		s.class = CLASS_ICMP;
		s.local_port = p->sport;
		s.remote_port = icmp_request(p->icmp_type, v6) |
				(out != icmp_reply(p->icmp_type, v6) ? FLOW_ICMP_LOCAL : 0);
	} else {
		s.class = CLASS_OTHER;
		s.local_port = p->protocol;
		s.remote_port = 0;
	}
	return s;
}

static __always_inline void flow_key4_of(struct flow_key4 *key, const struct pkt *p, __u32 scope,
					 __u32 class_bits)
{
	struct sides s = sides_of(p, false);
	bool out = p->dir == DIR_OUT;

	key->scope_class = scope << 8 | s.class | class_bits;
	addr_copy(key->local, out ? p->src : p->dst, false);
	addr_copy(key->remote, out ? p->dst : p->src, false);
	key->local_port = s.local_port;
	key->remote_port = s.remote_port;
}

static __always_inline void flow_key6_of(struct flow_key6 *key, const struct pkt *p, __u32 scope,
					 __u32 class_bits)
{
	struct sides s = sides_of(p, true);
	bool out = p->dir == DIR_OUT;

	key->scope_class = scope << 8 | s.class | class_bits;
	addr_copy(key->local, out ? p->src : p->dst, true);
	addr_copy(key->remote, out ? p->dst : p->src, true);
	key->local_port = s.local_port;
	key->remote_port = s.remote_port;
}

/*
 * What is at hand while a packet is judged for one ENI. Per CPU: the stack has no room for it, and
 * functions of their own (verified once, not per caller) get all they need in one argument.
 */
struct work {
	/* the packet, and the ENI that asks */
	__u32 now;
	__u32 packets;
	__u32 bytes;
	__u32 slot;
	__u32 eni;
	__u32 flows;
	__u32 generation;
	__u32 vni;
	__u32 related; /* an ICMP error asks: nothing of the flow changes */
	__u32 flags; /* enum eni_flag */
	struct flow_idle idle;
	__u16 tcp_seq;
	__u16 tcp_ack;
	__u8 dir;
	__u8 protocol;
	__u8 tcp_flags;
	__u16 icmp_code; /* of a query; CODE_ALLOWED */
	/* answered by flow_hit */
	__u32 stale; /* enum stale */
	struct flow flow; /* a copy of the packet's flow, or the one to be made */
	struct flow_key4 key4; /* the flow that is looked for */
	struct flow_key6 key6;
	struct flow_quota quota; /* of store */
	struct flow_stored stored;
	struct judge judge;
};

/* Why the packet must be judged before its flow lets it pass. */
enum stale {
	STALE_NOT = 0,
	STALE_FLOW = 1, /* the flow was judged under another configuration or next hop */
	STALE_CODE = 2, /* an ICMP answer with a code, which the flow's verdict does not know */
};

enum icmp_code_flag {
	CODE_ALLOWED = 1 << 8, /* the network ACL was asked about an answer with this code */
};

MAP(works, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct work, 1, 0);

static __always_inline struct work *work_of(const struct pkt *p, const struct eni_conf *conf)
{
	__u32 zero = 0;
	struct work *w = bpf_map_lookup_elem(&works, &zero);

	if (!w)
		return NULL;
	w->now = p->now;
	w->packets = p->segments;
	w->bytes = p->wire_bytes;
	w->slot = p->slot;
	w->eni = p->eni;
	w->flows = conf->flows;
	w->generation = conf->generation;
	w->vni = conf->vni;
	w->related = 0;
	w->flags = conf->flags;
	w->idle = conf->idle;
	w->tcp_seq = p->tcp_seq;
	w->tcp_ack = p->tcp_ack;
	w->dir = p->dir;
	w->protocol = p->protocol;
	w->tcp_flags = p->tcp_flags;
	w->icmp_code = p->icmp_code;
	w->judge.arrives = 0;
	return w;
}
