/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ICMP errors (RFC 792, RFC 4443) quote the packet that they are about. One passes if that packet
 * belongs to a flow of the ENI and the error is addressed to who sent it (RFC 5927); it changes
 * nothing of the flow. Network ACLs judge it like any packet. Under translation the quote is
 * rewritten too (quote.h; RFC 5508).
 */
#pragma once

#include "quote.h"
#include "track.h"

/* What of a packet makes way for the one that it quotes; per CPU. */
struct outside {
	__u8 src[16];
	__u8 dst[16];
	__u16 sport;
	__u16 dport;
	__u8 protocol;
	__u8 icmp_type;
	__u8 icmp_code;
	__u8 dir;
};

MAP(outsides, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct outside, 1, 0);

static __always_inline void outside_save(struct outside *o, const struct pkt *p, const bool v6)
{
	addr_copy(o->src, p->src, v6);
	addr_copy(o->dst, p->dst, v6);
	o->sport = p->sport;
	o->dport = p->dport;
	o->protocol = p->protocol;
	o->icmp_type = p->icmp_type;
	o->icmp_code = p->icmp_code;
	o->dir = p->dir;
}

static __always_inline void outside_restore(const struct outside *o, struct pkt *p, const bool v6)
{
	addr_copy(p->src, o->src, v6);
	addr_copy(p->dst, o->dst, v6);
	p->sport = o->sport;
	p->dport = o->dport;
	p->protocol = o->protocol;
	p->icmp_type = o->icmp_type;
	p->icmp_code = o->icmp_code;
	p->dir = o->dir;
}

/* Does the flow of the quoted packet exist? It went the other way, so p is turned round meanwhile. */
static __always_inline enum reason quote_flow(struct pkt *p, struct work *w, struct quote *q,
					      const struct outside *o, const __u8 *public,
					      __u32 class_bits, const bool v6)
{
	if (!addr_equal(q->src, public ? public : o->dst, v6))
		return REASON_ICMP_UNRELATED;
	if (p->dir == DIR_OUT && (class_bits & CLASS_INTERNET) && !addr_equal(q->dst, o->src, v6))
		return REASON_ICMP_UNRELATED; /* its EIP is not the quoted packet's */
	addr_copy(p->src, o->dst, v6);
	addr_copy(p->dst, q->dst, v6);
	p->sport = q->sport;
	p->dport = q->dport;
	p->protocol = q->protocol;
	p->icmp_type = q->icmp_type;
	p->icmp_code = q->icmp_code;
	if (icmp_error(p, v6))
		return REASON_ICMP_UNRELATED;
	p->dir = !p->dir;
	w->dir = p->dir;
	w->protocol = p->protocol;
	w->related = 1;
	return track_flow(p, w, class_bits & CLASS_TRANSIT ? p->eni : w->vni, class_bits, v6);
}

/* Network ACLs judge each packet, this one too. */
static __always_inline enum reason related_nacl(const struct pkt *p, struct work *w, const bool v6)
{
	struct judge *j = &w->judge;
	bool out = p->dir == DIR_OUT;

	j->slot = p->slot;
	j->eni = p->eni;
	j->protocol = p->protocol;
	j->dir = p->dir;
	j->packet = 1;
	j->port = p->icmp_type << 8 | p->icmp_code;
	addr_copy(j->remote, out ? p->dst : p->src, v6);
	return v6 ? judge6(j) : judge4(j);
}

/*
 * An ICMP error at an ENI. `public`: the EIP that it was addressed to, if it comes from the
 * internet. CONTINUE with the flow that it belongs to in w->flow.
 */
static __always_inline enum reason related(struct pkt *p, struct work *w, const __u8 *public,
					   __u32 class_bits, const bool v6, const bool xdp)
{
	struct quote *q = quote_get();
	struct outside *o;
	__u32 zero = 0;
	enum reason reason;

	o = bpf_map_lookup_elem(&outsides, &zero);
	if (!o || !q)
		return REASON_HELPER;
	if (p->fragment || (!v6 && (p->icmp_type == 4 || p->icmp_type == 5)) ||
	    (v6 && (!p->icmp_type || p->icmp_type > 4)))
		return REASON_ICMP_UNRELATED;
	q->start = p->l4 + 8;
	q->end = ETH_LEN + p->ip_len;
	TRY(quote_read(p, q, v6, xdp));
	outside_save(o, p, v6);
	reason = quote_flow(p, w, q, o, public, class_bits, v6);
	outside_restore(o, p, v6);
	w->dir = p->dir;
	if (reason != REASON_CONTINUE)
		return reason == REASON_NO_FLOW ? REASON_ICMP_UNRELATED : reason;
	p->quotes = true;
	return related_nacl(p, w, v6);
}
