/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Changes to the packet: MACs, and 1:1 address translation with its checksums. */
#pragma once

#include "hook.h"
#include "parse.h"
#include "quote.h"

static __always_inline bool rewrite_macs(struct pkt *p, const __u8 *dst, const __u8 *src,
					 const bool xdp)
{
	__u8 *to = pkt_bytes(p, 0, 12, xdp);

	if (!to)
		return false; /* parse_eth has seen them there */
	mac_copy(to, dst);
	mac_copy(to + 6, src);
	return true;
}

/* Difference of two addresses as a ones' complement sum (RFC 1071). */
static __always_inline __u32 addr_diff(const __u8 *old, const __u8 *new, const bool v6)
{
	const __u32 *o = (const __u32 *)old, *n = (const __u32 *)new;
	__u64 sum = (__u64)(__u32)~o[0] + n[0];

	if (v6) {
		sum += (__u64)(__u32)~o[1] + n[1];
		sum += (__u64)(__u32)~o[2] + n[2];
		sum += (__u64)(__u32)~o[3] + n[3];
	}
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	return sum;
}

/* Offset of the checksum that covers the addresses, 0 = there is none. */
static __always_inline __u32 l4_csum_offset(const struct pkt *p, const bool v6)
{
	if (p->fragment == FRAGMENT_LATER)
		return 0;
	switch (p->protocol) {
	case PROTO_TCP:
		return p->l4 + 16;
	case PROTO_UDP:
		return p->l4 + 6;
	case PROTO_ICMPV6:
		return v6 ? p->l4 + 2 : 0;
	}
	return 0;
}

/* The same address in the packet that an ICMP error quotes. */
static __always_inline bool rewrite_quote(struct pkt *p, const __u8 *new, bool source, __u32 diff,
					  const bool v6, const bool xdp)
{
	struct quote *q = quote_get();

	if (!q)
		return false;
	q->source = source;
	q->diff = diff;
	q->icmp_csum = p->l4 + 2;
	addr_copy(q->new, new, v6);
	return quote_rewrite(p, q, v6, xdp) == REASON_CONTINUE;
}

/* Replaces the source (or destination) address of the packet. */
static __always_inline bool rewrite_addr(struct pkt *p, const __u8 *old, const __u8 *new,
					 bool source, const bool v6, const bool xdp)
{
	__u32 off = ETH_LEN + (v6 ? (source ? 8 : 24) : (source ? 12 : 16));
	__u32 csum = l4_csum_offset(p, v6), diff = addr_diff(old, new, v6);
	__u8 addr[16] __attribute__((aligned(8)));

	addr_copy(addr, new, v6);
	if (p->quotes && !rewrite_quote(p, new, !source, diff, v6, xdp))
		return false;
	if (csum && !csum_l4(p, csum, diff, p->protocol == PROTO_UDP, v6, xdp))
		return false;
	if (!v6 && !csum_ip4(p, diff, xdp))
		return false;
	return pkt_store_few(p, off, addr, v6 ? 16 : 4, xdp);
}
