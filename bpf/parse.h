/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Frame -> struct pkt. Whatever is truncated, contradicts itself or is not followed is a drop with
 * a reason: RFC 791, RFC 8200, RFC 9293, RFC 768, RFC 792, RFC 4443.
 */
#pragma once

#include "options.h"

#define IP4_FRAGMENT 0x3fff /* more fragments, or an offset */
#define IP4_MORE 0x2000
#define IP4_OFFSET 0x1fff
#define EXT_HEADERS 6

enum ip_protocol {
	PROTO_HOPOPTS = 0,
	PROTO_ICMP = 1,
	PROTO_TCP = 6,
	PROTO_UDP = 17,
	PROTO_ROUTING = 43,
	PROTO_FRAGMENT = 44,
	PROTO_ICMPV6 = 58,
	PROTO_DSTOPTS = 60,
	PROTO_MOBILITY = 135,
};

enum tcp_flag {
	TCP_FIN = 0x01,
	TCP_SYN = 0x02,
	TCP_RST = 0x04,
	TCP_ACK = 0x10,
};

/* An ICMP error quotes a packet; RFC 4443 §2.1, and those of RFC 792. */
static __always_inline bool icmp_error(const struct pkt *p, const bool v6)
{
	__u8 t = p->icmp_type;

	if (v6)
		return p->protocol == PROTO_ICMPV6 && t < 128;
	return p->protocol == PROTO_ICMP && (t == 3 || t == 4 || t == 5 || t == 11 || t == 12);
}

/* Length of all headers of a GSO packet; a guess where it cannot be read, the same guess always. */
static __always_inline __u32 gso_headers(struct pkt *p)
{
	void *data, *end;
	__u32 l4 = ETH_LEN + sizeof(struct ipv6hdr);
	__u8 *b, *tcp, protocol;

	pkt_bounds(p, &data, &end, false);
	b = data;
	if (data + ETH_LEN + sizeof(struct ipv6hdr) > end)
		return ETH_LEN + 40;
	protocol = b[ETH_LEN + 6];
	if (b[ETH_LEN] >> 4 == 4) {
		l4 = ETH_LEN + (b[ETH_LEN] & 15) * 4;
		protocol = b[ETH_LEN + 9];
	}
	if (protocol == PROTO_UDP)
		return l4 + 8;
	pkt_pull(p, l4 + 20, false);
	pkt_bounds(p, &data, &end, false);
	tcp = data + l4;
	barrier_var(tcp); /* or clang checks one sum and reads by another */
	if ((void *)(tcp + 20) > end)
		return l4 + 20;
	return l4 + (tcp[12] >> 4) * 4;
}

/* Wire packets and their bytes: a GSO packet stands for several. */
static __always_inline void pkt_segments(struct pkt *p)
{
	__u32 headers;

	p->segments = 1;
	p->wire_bytes = p->len;
	if (!p->gso_size)
		return;
	headers = gso_headers(p);
	if (p->len <= headers)
		return;
	p->segments = (p->len - headers + p->gso_size - 1) / p->gso_size;
	p->wire_bytes = p->len + (p->segments - 1) * headers;
}

static __always_inline void pkt_init_tc(struct pkt *p, struct __sk_buff *skb)
{
	p->ctx = skb;
	p->len = skb->len;
	p->ifindex = skb->ifindex;
	p->gso_size = skb->gso_size;
	pkt_pull(p, ETH_LEN + sizeof(struct ipv6hdr), false);
	pkt_segments(p);
}

static __always_inline void pkt_init_xdp(struct pkt *p, struct xdp_md *x)
{
	p->ctx = x;
	p->len = bpf_xdp_get_buff_len(x);
	p->ifindex = x->ingress_ifindex;
	p->segments = 1;
	p->wire_bytes = p->len;
}

static __always_inline enum reason parse_eth(struct pkt *p, const bool xdp)
{
	void *data, *end;
	struct ethhdr *eth;

	pkt_bounds(p, &data, &end, xdp);
	eth = data;
	if ((void *)(eth + 1) > end)
		return REASON_MALFORMED;
	mac_copy(p->dmac, eth->h_dest);
	mac_copy(p->smac, eth->h_source);
	p->ethertype = bpf_ntohs(eth->h_proto);
	return REASON_CONTINUE;
}

static __always_inline enum reason parse_tcp(struct pkt *p, const __u8 *l4, __u32 room)
{
	const __be16 *half = (const __be16 *)l4;
	__u32 header = (l4[12] >> 4) * 4;
	__u8 flags = l4[13];

	if (header < 20 || header > room)
		return REASON_MALFORMED;
	if ((flags & TCP_SYN) && (flags & (TCP_FIN | TCP_RST)))
		return REASON_MALFORMED;
	p->tcp_flags = flags;
	p->sport = bpf_ntohs(half[0]);
	p->dport = bpf_ntohs(half[1]);
	p->tcp_seq = bpf_ntohs(half[2]);
	p->tcp_ack = bpf_ntohs(half[4]);
	if (p->gso_size)
		p->ip_len = p->l4 - ETH_LEN + header + p->gso_size;
	return REASON_CONTINUE;
}

static __always_inline enum reason parse_udp(struct pkt *p, const __u8 *l4, __u32 room)
{
	const __be16 *half = (const __be16 *)l4;
	__u32 length = bpf_ntohs(half[2]);

	if (length < 8 || (length > room && p->fragment == FRAGMENT_NONE))
		return REASON_MALFORMED;
	p->sport = bpf_ntohs(half[0]);
	p->dport = bpf_ntohs(half[1]);
	if (p->gso_size)
		p->ip_len = p->l4 - ETH_LEN + 8 + p->gso_size;
	return REASON_CONTINUE;
}

/* The transport header. `protocol` and `l4` are set, ip_len is checked against the frame. */
static __always_inline enum reason parse_l4(struct pkt *p, const bool v6, const bool xdp)
{
	__u32 l4_off = p->l4, room;
	void *data, *end;
	__u8 *l4;

	p->sport = 0;
	p->dport = 0;
	if (p->fragment == FRAGMENT_LATER)
		return REASON_CONTINUE;
	if (p->protocol != PROTO_TCP && p->protocol != PROTO_UDP &&
	    p->protocol != (v6 ? PROTO_ICMPV6 : PROTO_ICMP)) {
		if (p->protocol == (v6 ? PROTO_ICMP : PROTO_ICMPV6))
			return REASON_MALFORMED;
		return REASON_CONTINUE;
	}
	room = p->ip_len - (l4_off - ETH_LEN);
	if (room > 0xffff || room < (p->protocol == PROTO_TCP ? 20 : 8))
		return REASON_MALFORMED;
	pkt_pull(p, l4_off + 20, xdp);
	pkt_bounds(p, &data, &end, xdp);
	barrier_var(l4_off); /* clang knows that it is small, the verifier does not */
	l4 = data + (l4_off & 0xff);
	barrier_var(l4);
	if (p->protocol == PROTO_TCP)
		return (void *)(l4 + 20) > end ? REASON_MALFORMED : parse_tcp(p, l4, room);
	if ((void *)(l4 + 8) > end)
		return REASON_MALFORMED;
	if (p->protocol == PROTO_UDP)
		return parse_udp(p, l4, room);
	p->icmp_type = l4[0];
	p->icmp_code = l4[1];
	p->sport = l4[4] << 8 | l4[5];
	p->dport = l4[0] << 8 | l4[1];
	return REASON_CONTINUE;
}

/* Source and destination that no packet may have. Multicast destinations are judged later. */
static __always_inline enum reason parse_addresses(struct pkt *p, const bool v6)
{
	if (addr_never(p->src, v6) || addr_multicast(p->src, v6) || addr_never(p->dst, v6))
		return REASON_ADDRESS;
	if (v6 && (addr_link_local6(p->src) || addr_link_local6(p->dst)))
		return REASON_ADDRESS;
	return REASON_CONTINUE;
}

/*
 * A fragment: `offset` bytes into a packet that goes on if `more`, after `head` bytes that count in
 * that packet's length. One that is not the last has a multiple of 8 bytes, and none reaches beyond
 * the largest packet (RFC 791, RFC 8200 §4.5). A quoted one may have been cut off.
 */
static __always_inline enum reason parse_fragment(struct pkt *p, __u32 offset, bool more,
						  __u32 head, const bool quoted)
{
	__u32 payload = p->ip_len - (p->l4 - ETH_LEN);

	p->fragment = offset ? FRAGMENT_LATER : FRAGMENT_FIRST;
	p->fragment_offset = offset ? offset : payload;
	if (quoted)
		return REASON_CONTINUE;
	if (!payload || payload > 0xffff || (more && (payload & 7)) ||
	    head + offset + payload > 0xffff)
		return REASON_MALFORMED;
	return REASON_CONTINUE;
}

static __always_inline enum reason parse_ip4(struct pkt *p, const bool xdp)
{
	void *data, *end;
	struct iphdr *ip;
	__u32 header, total;

	pkt_bounds(p, &data, &end, xdp);
	ip = data + ETH_LEN;
	if ((void *)(ip + 1) > end)
		return REASON_MALFORMED;
	header = ip->ihl * 4;
	total = bpf_ntohs(ip->tot_len);
	if (ip->version != 4 || header < 20 || total < header || total + ETH_LEN > p->len)
		return REASON_MALFORMED;
	__builtin_memcpy(p->src, &ip->saddr, 4);
	__builtin_memcpy(p->dst, &ip->daddr, 4);
	p->protocol = ip->protocol;
	p->ip_len = total;
	p->l4 = ETH_LEN + header;
	if (ip->frag_off & bpf_htons(IP4_FRAGMENT)) {
		__u32 where = bpf_ntohs(ip->frag_off);

		p->fragment_id = ip->id;
		TRY(parse_fragment(p, (where & IP4_OFFSET) * 8, where & IP4_MORE, header, false));
	}
	TRY(parse_l4(p, false, xdp));
	return options_check(p, xdp);
}

/* An IPv6 fragment header; one of a whole packet means nothing (RFC 6946). */
static __always_inline enum reason parse_fragment6(struct pkt *p, const __u8 *head,
						   const bool quoted)
{
	__u32 where = head[2] << 8 | head[3];

	if (!(where & 0xfff9))
		return REASON_CONTINUE;
	if (p->fragment != FRAGMENT_NONE)
		return REASON_EXTENSION;
	p->fragment_id = head[4] | head[5] << 8 | head[6] << 16 | (__u32)head[7] << 24;
	return parse_fragment(p, where & 0xfff8, where & 1,
			      p->l4 - ETH_LEN - sizeof(struct ipv6hdr) - 8, quoted);
}

/* Follows the extension headers up to the transport header (RFC 8200 §4; RFC 5095: no source routes). */
static __always_inline enum reason parse_extensions(struct pkt *p, const bool quoted,
						    const bool xdp)
{
	__u8 head[8];

	for (int i = 0; i < EXT_HEADERS; i++) {
		switch (p->protocol) {
		case PROTO_HOPOPTS:
			if (i)
				return REASON_EXTENSION;
			break;
		case PROTO_ROUTING:
		case PROTO_DSTOPTS:
		case PROTO_FRAGMENT:
			break;
		case PROTO_MOBILITY:
			return REASON_EXTENSION;
		default:
			return REASON_CONTINUE;
		}
		if (!pkt_load(p, p->l4, head, sizeof(head), xdp))
			return REASON_MALFORMED;
		if (p->protocol == PROTO_ROUTING && head[3])
			return REASON_EXTENSION;
		p->l4 += p->protocol == PROTO_FRAGMENT ? 8 : (head[1] + 1) * 8;
		if (p->l4 > 200)
			return REASON_EXTENSION;
		if (p->protocol == PROTO_FRAGMENT)
			TRY(parse_fragment6(p, head, quoted));
		p->protocol = head[0];
		if (p->fragment == FRAGMENT_LATER)
			return REASON_CONTINUE;
	}
	return REASON_EXTENSION;
}

static __always_inline enum reason parse_ip6(struct pkt *p, const bool xdp)
{
	void *data, *end;
	struct ipv6hdr *ip;
	__u32 total;

	pkt_bounds(p, &data, &end, xdp);
	ip = data + ETH_LEN;
	if ((void *)(ip + 1) > end)
		return REASON_MALFORMED;
	total = sizeof(*ip) + bpf_ntohs(ip->payload_len);
	if (ip->version != 6 || total > 0xffff || total + ETH_LEN > p->len)
		return REASON_MALFORMED;
	__builtin_memcpy(p->src, &ip->saddr, 16);
	__builtin_memcpy(p->dst, &ip->daddr, 16);
	p->protocol = ip->nexthdr;
	p->ip_len = total;
	p->l4 = ETH_LEN + sizeof(*ip);
	TRY(parse_extensions(p, false, xdp));
	if (p->l4 > ETH_LEN + total)
		return REASON_MALFORMED;
	return parse_l4(p, true, xdp);
}

static __always_inline enum reason parse_ip(struct pkt *p, const bool v6, const bool xdp)
{
	return v6 ? parse_ip6(p, xdp) : parse_ip4(p, xdp);
}
