/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The packet that an ICMP error quotes: read, and rewritten under translation. Both are functions
 * of their own, one per hook and family, for the sake of the stack and the verifier.
 */
#pragma once

#include "parse.h"

struct quote {
	/* asked: where the quoted IP header begins and the error ends, in the frame */
	__u32 start;
	__u32 end;
	/* answered by quote_read */
	__u32 csum; /* offset of the transport checksum; 0 = not quoted */
	__u16 sport; /* as in struct pkt */
	__u16 dport;
	__u8 protocol;
	__u8 icmp_type;
	__u8 icmp_code;
	__u8 pad;
	__u8 src[16];
	__u8 dst[16];
	/* asked of quote_rewrite */
	__u32 source; /* 1 = the quoted source, 0 = the quoted destination */
	__u32 diff; /* of the address, as a ones' complement sum */
	__u32 icmp_csum; /* offset of the error's own checksum */
	__u8 new[16];
	__u8 head[40];
};

MAP(quotes, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct quote, 1, 0);

static __always_inline struct quote *quote_get(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&quotes, &zero);
}

/* The quoted IP header; `p` is a packet of its own that stands in for the quoted one. */
static __always_inline enum reason quote_ip(struct pkt *p, struct quote *q, const bool v6,
					    const bool xdp)
{
	__u8 *head = q->head;

	if (!pkt_load(p, q->start, head, v6 ? 40 : 20, xdp))
		return REASON_MALFORMED;
	if (v6) {
		addr_copy(q->src, head + 8, true);
		addr_copy(q->dst, head + 24, true);
		p->protocol = head[6];
		p->l4 = q->start + 40;
		p->ip_len = q->end - ETH_LEN;
		if (head[0] >> 4 != 6)
			return REASON_ICMP_UNRELATED;
		return parse_extensions(p, true, xdp) == REASON_CONTINUE &&
				       p->fragment != FRAGMENT_LATER ?
			       REASON_CONTINUE :
			       REASON_ICMP_UNRELATED;
	}
	addr_copy(q->src, head + 12, false);
	addr_copy(q->dst, head + 16, false);
	p->protocol = head[9];
	p->l4 = q->start + (head[0] & 15) * 4;
	if (head[0] >> 4 != 4 || (head[0] & 15) < 5 || (head[6] & 0x1f) ||
	    head[7]) /* a later fragment */
		return REASON_ICMP_UNRELATED;
	return REASON_CONTINUE;
}

/* The first 8 bytes of the quoted transport header: all that every host quotes. */
static __always_inline enum reason quote_l4(struct pkt *p, struct quote *q, const bool v6,
					    const bool xdp)
{
	__u8 *l4 = q->head;

	q->protocol = p->protocol;
	q->sport = 0;
	q->dport = 0;
	q->csum = 0;
	if (p->l4 + 8 > q->end || !pkt_load(p, p->l4, l4, 8, xdp))
		return REASON_ICMP_UNRELATED;
	if (p->protocol == PROTO_TCP || p->protocol == PROTO_UDP) {
		q->sport = l4[0] << 8 | l4[1];
		q->dport = l4[2] << 8 | l4[3];
		q->csum = p->l4 + (p->protocol == PROTO_TCP ? 16 : 6);
	} else if (p->protocol == (v6 ? PROTO_ICMPV6 : PROTO_ICMP)) {
		q->icmp_type = l4[0];
		q->icmp_code = l4[1];
		q->sport = l4[4] << 8 | l4[5];
		q->dport = l4[0] << 8 | l4[1];
		q->csum = v6 ? p->l4 + 2 : 0;
	}
	if (q->csum + 2 > q->end)
		q->csum = 0;
	return REASON_CONTINUE;
}

static __always_inline int quote_parse(void *ctx, struct quote *q, const bool v6, const bool xdp)
{
	struct pkt p = {.ctx = ctx};

	if (!q)
		return REASON_HELPER;
	TRY(quote_ip(&p, q, v6, xdp));
	return quote_l4(&p, q, v6, xdp);
}

/* Adds the difference to the checksum of the quoted IPv4 header. */
static __always_inline bool quote_csum_ip4(struct pkt *p, const struct quote *q, const bool xdp)
{
	__u16 csum;

	if (!pkt_load(p, q->start + 10, &csum, sizeof(csum), xdp))
		return false;
	csum = csum_apply(csum, q->diff);
	return pkt_store(p, q->start + 10, &csum, sizeof(csum), xdp);
}

/*
 * Takes the difference from the quoted transport checksum, if it was quoted and is one: zero means
 * none in UDP over IPv4. `rest` is by how much the sum of the whole quote has changed then.
 */
static __always_inline bool quote_csum_l4(struct pkt *p, const struct quote *q, __u32 *rest,
					  const bool v6, const bool xdp)
{
	bool udp = q->protocol == PROTO_UDP;
	__u16 csum;

	if (!q->csum)
		return true;
	if (!pkt_load(p, q->csum, &csum, sizeof(csum), xdp))
		return false;
	if (!v6 && udp && !csum)
		return true;
	csum = csum_apply(csum, q->diff);
	if (udp && !csum)
		csum = 0xffff;
	*rest = v6 ? 0 : ~q->diff;
	return pkt_store(p, q->csum, &csum, sizeof(csum), xdp);
}

/*
 * Replaces an address of the quoted packet, with all checksums. What is added to an address and
 * taken from a checksum that covers it leaves the sum of the payload as it was; the rest is taken
 * from the error's own checksum.
 */
static __always_inline int quote_replace(void *ctx, struct quote *q, const bool v6, const bool xdp)
{
	struct pkt p = {.ctx = ctx};
	__u32 off, rest;

	if (!q)
		return REASON_HELPER;
	off = q->start + (v6 ? (q->source ? 8 : 24) : (q->source ? 12 : 16));
	rest = v6 ? q->diff : 0;
	if (!pkt_store(&p, off, q->new, v6 ? 16 : 4, xdp))
		return REASON_HELPER;
	if (!v6 && !quote_csum_ip4(&p, q, xdp))
		return REASON_HELPER;
	if (!quote_csum_l4(&p, q, &rest, v6, xdp))
		return REASON_HELPER;
	return csum_icmp(&p, q->icmp_csum, rest, xdp) ? REASON_CONTINUE : REASON_HELPER;
}

__noinline int quote_read4(struct __sk_buff *skb, struct quote *q)
{
	return quote_parse(skb, q, false, false);
}

__noinline int quote_read6(struct __sk_buff *skb, struct quote *q)
{
	return quote_parse(skb, q, true, false);
}

__noinline int quote_read4_xdp(struct xdp_md *x, struct quote *q)
{
	return quote_parse(x, q, false, true);
}

__noinline int quote_read6_xdp(struct xdp_md *x, struct quote *q)
{
	return quote_parse(x, q, true, true);
}

__noinline int quote_rewrite4(struct __sk_buff *skb, struct quote *q)
{
	return quote_replace(skb, q, false, false);
}

__noinline int quote_rewrite6(struct __sk_buff *skb, struct quote *q)
{
	return quote_replace(skb, q, true, false);
}

__noinline int quote_rewrite4_xdp(struct xdp_md *x, struct quote *q)
{
	return quote_replace(x, q, false, true);
}

__noinline int quote_rewrite6_xdp(struct xdp_md *x, struct quote *q)
{
	return quote_replace(x, q, true, true);
}

static __always_inline enum reason quote_read(struct pkt *p, struct quote *q, const bool v6,
					      const bool xdp)
{
	if (xdp)
		return v6 ? quote_read6_xdp(p->ctx, q) : quote_read4_xdp(p->ctx, q);
	return v6 ? quote_read6(p->ctx, q) : quote_read4(p->ctx, q);
}

static __always_inline enum reason quote_rewrite(struct pkt *p, struct quote *q, const bool v6,
						 const bool xdp)
{
	if (xdp)
		return v6 ? quote_rewrite6_xdp(p->ctx, q) : quote_rewrite4_xdp(p->ctx, q);
	return v6 ? quote_rewrite6(p->ctx, q) : quote_rewrite4(p->ctx, q);
}
