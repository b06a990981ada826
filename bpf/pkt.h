/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A packet while it is judged: what the parser copied out of the headers. Stages read and change
 * this struct; only hook.h touches the packet itself. IPv4 addresses are the first four bytes.
 */
#pragma once

#include "kernel.h"
#include "maps.h"

#define ETH_LEN 14

/* The one control-flow macro: go on only if the stage says so. */
#define TRY(stage)                                                                                 \
	do {                                                                                       \
		enum reason try_ = (stage);                                                        \
		if (try_ != REASON_CONTINUE)                                                       \
			return try_;                                                               \
	} while (0)

/* Bits: how a packet leaves, and how it has come. Here, because the stack is near. */
enum out {
	OUT_DEVICE = 0, /* as it is */
	OUT_NEIGHBOUR = 1 << 0, /* the kernel writes the next hop's MAC */
	OUT_LEFT = 1 << 1, /* XDP only asks whether it is dropped: TC takes it on (refuse.h) */
	OUT_SHAPED = 1 << 2, /* by the sender's shaper (shape.h) */
	OUT_SHAPED_EIPS = 1 << 3, /* if it goes to the internet */
	OUT_CLASS = 1 << 4, /* in a class of the receiver's device */
	CAME_MOVED = 1 << 5, /* from the host that had the ENI before, which has judged it */
};

enum fragment {
	FRAGMENT_NONE = 0,
	FRAGMENT_FIRST = 1, /* has the transport header, but not all of the payload */
	FRAGMENT_LATER = 2, /* has no transport header */
};

struct pkt {
	void *ctx;
	__u32 ifindex;
	__u32 len; /* of the frame */
	__u32 gso_size; /* 0 = one wire packet */
	__u32 segments; /* wire packets */
	__u32 wire_bytes; /* of all of them, layer 2 */
	__u32 slot; /* of `active`, read once */
	__u32 now; /* flow clock */
	__u32 eni; /* whose port is being crossed: the owner of the counters */
	__u32 out_ifindex; /* where a delivered or answered packet goes */
	__u32 mtu; /* with REASON_TOO_BIG: the largest IP packet that would do; 0 = no answer */
	__u16 ethertype; /* host order */
	__u16 ip_len; /* IP header to end of payload, of one wire packet */
	__u16 l4; /* offset of the transport header in the frame */
	__u16 fragment_offset; /* bytes in front of a later fragment; in the first one itself */
	__u32 fragment_id; /* as in the packet */
	__u16 sport; /* ports; ICMP: identifier, and type << 8 | code; else 0 */
	__u16 dport;
	__u16 tcp_seq; /* upper halves of the numbers */
	__u16 tcp_ack;
	__u8 dir; /* enum direction */
	__u8 protocol;
	__u8 tcp_flags;
	__u8 icmp_type;
	__u8 icmp_code;
	__u8 out; /* enum out */
	__u8 fragment; /* enum fragment */
	__u8 quotes; /* an ICMP error; struct quote says of what */
	__u8 smac[6];
	__u8 dmac[6];
	__u8 src[16] __attribute__((aligned(8)));
	__u8 dst[16] __attribute__((aligned(8)));
};

/* Keeps the struct in one piece: clang would spill each field into a stack slot of 8 bytes. */
static __always_inline void keep(struct pkt *p)
{
	asm volatile("" : : "r"(p) : "memory");
}

/* Addresses are aligned to 4 bytes everywhere; clang would copy them byte by byte. */
static __always_inline void addr_copy(__u8 *to, const __u8 *from, const bool v6)
{
	const __u32 *f = (const __u32 *)from;
	__u32 *t = (__u32 *)to;

	t[0] = f[0];
	if (v6) {
		t[1] = f[1];
		t[2] = f[2];
		t[3] = f[3];
	}
}

static __always_inline bool addr_equal(const __u8 *a, const __u8 *b, const bool v6)
{
	const __u32 *x = (const __u32 *)a, *y = (const __u32 *)b;

	if (!v6)
		return x[0] == y[0];
	return x[0] == y[0] && x[1] == y[1] && x[2] == y[2] && x[3] == y[3];
}

static __always_inline bool mac_equal(const __u8 *a, const __u8 *b)
{
	const __u16 *x = (const __u16 *)a, *y = (const __u16 *)b;

	return x[0] == y[0] && x[1] == y[1] && x[2] == y[2];
}

static __always_inline void mac_copy(__u8 *to, const __u8 *from)
{
	const __u16 *x = (const __u16 *)from;
	__u16 *y = (__u16 *)to;

	y[0] = x[0];
	y[1] = x[1];
	y[2] = x[2];
}

/* fe80::/10 */
static __always_inline bool addr_link_local6(const __u8 *a)
{
	return a[0] == 0xfe && (a[1] & 0xc0) == 0x80;
}

static __always_inline bool addr_multicast(const __u8 *a, const bool v6)
{
	return v6 ? a[0] == 0xff : a[0] >= 224; /* 224/4, and 240/4 with the broadcast address */
}

/* Addresses that no packet between hosts may carry: 0/8, 127/8, 169.254/16; ::, ::1, mapped IPv4. */
static __always_inline bool addr_never(const __u8 *a, const bool v6)
{
	const __u32 *w = (const __u32 *)a;

	if (!v6)
		return a[0] == 0 || a[0] == 127 || (a[0] == 169 && a[1] == 254);
	if (w[0] || w[1])
		return false;
	return (!w[2] && (!w[3] || w[3] == bpf_htonl(1))) || w[2] == bpf_htonl(0xffff);
}
