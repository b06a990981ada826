/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ARP (RFC 826, RFC 5227) and IPv6 neighbour discovery (RFC 4861) are answered here, from the
 * tables, and never forwarded. An ENI learns the owner's MAC for addresses of its subnet and the
 * region's gateway MAC for the gateway; the uplink learns its own MAC for EIPs held here.
 */
#pragma once

#include "eni.h"
#include "parse.h"
#include "rewrite.h"

#define ARP_LEN 28

struct arp {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_len;
	__u8 protocol_len;
	__be16 operation;
	__u8 sender_mac[6];
	__u8 sender_ip[4];
	__u8 target_mac[6];
	__u8 target_ip[4];
} __attribute__((packed, aligned(2)));

enum nd_type {
	ND_MLD_QUERY = 130,
	ND_MLD_REPORT = 131,
	ND_MLD_DONE = 132,
	ND_ROUTER_SOLICIT = 133,
	ND_ROUTER_ADVERT = 134,
	ND_SOLICIT = 135,
	ND_ADVERT = 136,
	ND_REDIRECT = 137,
	ND_MLD2_REPORT = 143,
};

enum nd_option {
	ND_SOURCE_MAC = 1,
	ND_TARGET_MAC = 2,
};

#define ND_OPTIONS 4
#define ND_ROUTER 0x80
#define ND_SOLICITED 0x40
#define ND_OVERRIDE 0x20

struct nd {
	__u8 type;
	__u8 code;
	__u16 checksum;
	__u8 flags;
	__u8 reserved[3];
	__u8 target[16];
} __attribute__((aligned(8)));

/* A neighbour advertisement as it is sent. Written here, per CPU: too large for the stack. */
struct nd_frame {
	__u8 pad[2];
	__u8 dmac[6];
	__u8 smac[6];
	__u8 ethertype[2];
	__u8 version[4];
	__u8 payload_len[2];
	__u8 next_header;
	__u8 hop_limit;
	__u8 src[16];
	__u8 dst[16];
	struct nd nd;
	__u8 option;
	__u8 option_len;
	__u8 mac[6];
};
#define ND_FRAME_LEN (ETH_LEN + 40 + 32)

MAP(nd_frames, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct nd_frame, 1, 0);

/* Who answers for `target` inside the ENI's subnet, with which MAC? */
static __always_inline bool resolve(const struct pkt *p, const struct host_conf *host,
				    const struct eni_conf *conf, const __u8 *target, __u8 *mac,
				    bool *router, const bool v6)
{
	const struct endpoint *e;
	const struct nexthop *nh;

	*router = true;
	mac_copy(mac, host->gateway_mac);
	if (v6 && addr_link_local6(target)) {
		const __u32 *w = (const __u32 *)target;

		return w[0] == bpf_htonl(0xfe800000) && !w[1] && !w[2] && w[3] == bpf_htonl(1);
	}
	e = endpoint_find(p->slot, conf->vni, target, v6);
	if (!e || !same_subnet(conf, target, v6))
		return false;
	if (e->flags & EP_GATEWAY)
		return true;
	*router = false;
	if (e->nexthop == conf->nexthop)
		return false;
	nh = nexthop_find(e->nexthop);
	if (!nh)
		return false;
	mac_copy(mac, nh->mac);
	return nh->kind != NH_NONE;
}

/* An ARP packet with its addresses where they can be looked up. */
struct arp_facts {
	struct arp arp;
	__u8 sender[4] __attribute__((aligned(4)));
	__u8 target[4] __attribute__((aligned(4)));
};

static __always_inline __u32 arp_word(const __u8 *ip)
{
	const __u16 *half = (const __u16 *)ip;

	return half[0] | (__u32)half[1] << 16;
}

static __always_inline bool arp_load(struct pkt *p, struct arp_facts *f, const bool xdp)
{
	const struct arp *arp = &f->arp;

	if (!pkt_load(p, ETH_LEN, &f->arp, ARP_LEN, xdp) || arp->hardware != bpf_htons(1) ||
	    arp->protocol != bpf_htons(ETH_P_IP) || arp->hardware_len != 6 ||
	    arp->protocol_len != 4 ||
	    (arp->operation != bpf_htons(1) && arp->operation != bpf_htons(2)))
		return false;
	*(__u32 *)f->sender = arp_word(arp->sender_ip);
	*(__u32 *)f->target = arp_word(arp->target_ip);
	return true;
}

/* Turns the request into its answer, on the device that it came from. */
static __always_inline enum reason arp_answer(struct pkt *p, struct arp_facts *f, const __u8 *mac,
					      const bool xdp)
{
	struct arp *arp = &f->arp;

	arp->operation = bpf_htons(2);
	mac_copy(arp->target_mac, arp->sender_mac);
	__builtin_memcpy(arp->target_ip, f->sender, 4);
	mac_copy(arp->sender_mac, mac);
	__builtin_memcpy(arp->sender_ip, f->target, 4);
	if (!rewrite_macs(p, p->smac, mac, xdp) || !pkt_store(p, ETH_LEN, arp, ARP_LEN, xdp))
		return REASON_HELPER;
	p->out_ifindex = p->ifindex;
	return REASON_ANSWERED;
}

static __always_inline enum reason arp_from_eni(struct pkt *p, const struct host_conf *host,
						const struct eni_conf *conf)
{
	struct arp_facts f;
	bool router;
	__u8 mac[6];

	if (!arp_load(p, &f, false))
		return REASON_MALFORMED;
	if (!mac_equal(f.arp.sender_mac, conf->mac))
		return REASON_SPOOFED_ARP;
	if (!*(__u32 *)f.sender) /* a probe */
		return f.arp.operation == bpf_htons(1) ? REASON_CONSUMED : REASON_SPOOFED_ARP;
	if (!eni_owns(p->slot, conf, f.sender, false) && !eni_allowed(conf, f.sender, false)) {
		addr_copy(p->src, f.sender, false); /* for port_spoofed */
		return REASON_SPOOFED_ARP;
	}
	if (f.arp.operation == bpf_htons(2) ||
	    *(__u32 *)f.sender == *(__u32 *)f.target) /* an announcement */
		return REASON_CONSUMED;
	if (!resolve(p, host, conf, f.target, mac, &router, false))
		return REASON_ARP_UNKNOWN;
	return arp_answer(p, &f, mac, false);
}

/* Every option of this kind must name `mac`; malformed options are an error (RFC 4861 §7.1). */
static __always_inline enum reason nd_options(struct pkt *p, __u8 kind, const __u8 *mac,
					      const bool xdp)
{
	__u32 off = p->l4 + sizeof(struct nd), end = ETH_LEN + p->ip_len;
	__u8 option[8];

	for (int i = 0; i < ND_OPTIONS; i++) {
		if (off >= end)
			return REASON_CONTINUE;
		if (off > 512 || off + sizeof(option) > end ||
		    !pkt_load(p, off, option, sizeof(option), xdp) || !option[1])
			return REASON_MALFORMED;
		if (option[0] == kind && !mac_equal(option + 2, mac))
			return REASON_SPOOFED_ARP;
		off += option[1] * 8;
	}
	return off >= end ? REASON_CONTINUE : REASON_MALFORMED;
}

/* Replaces the solicitation by the advertisement for `target` at `mac`. */
static __always_inline enum reason nd_answer(struct pkt *p, const struct nd *solicit,
					     const __u8 *mac, bool router, const bool xdp)
{
	struct nd_frame *f;
	__u32 zero = 0;
	__s64 sum;

	f = bpf_map_lookup_elem(&nd_frames, &zero);
	if (!f)
		return REASON_HELPER;
	mac_copy(f->dmac, p->smac);
	mac_copy(f->smac, mac);
	*(__u16 *)f->ethertype = bpf_htons(ETH_P_IPV6);
	*(__u32 *)f->version = bpf_htonl(0x60000000);
	*(__u16 *)f->payload_len = bpf_htons(32);
	f->next_header = PROTO_ICMPV6;
	f->hop_limit = 255;
	addr_copy(f->src, solicit->target, true);
	addr_copy(f->dst, p->src, true);
	__builtin_memset(&f->nd, 0, sizeof(f->nd));
	f->nd.type = ND_ADVERT;
	f->nd.flags = ND_SOLICITED | ND_OVERRIDE | (router ? ND_ROUTER : 0);
	addr_copy(f->nd.target, solicit->target, true);
	f->option = ND_TARGET_MAC;
	f->option_len = 1;
	mac_copy(f->mac, mac);
	sum = bpf_csum_diff(NULL, 0, (__be32 *)f->src, 64, bpf_htonl(32 + PROTO_ICMPV6));
	sum = (sum & 0xffff) + ((sum >> 16) & 0xffff);
	sum = (sum & 0xffff) + (sum >> 16);
	f->nd.checksum = ~sum;
	if (!pkt_resize(p, ND_FRAME_LEN, xdp) || !pkt_store(p, 0, f->dmac, ND_FRAME_LEN, xdp))
		return REASON_HELPER;
	p->out_ifindex = p->ifindex;
	return REASON_ANSWERED;
}

/* Loads a solicitation or advertisement; RFC 4861 §7.1: hop limit 255, code 0, a whole target. */
static __always_inline bool nd_load(struct pkt *p, struct nd *nd, const bool xdp)
{
	__u8 hop_limit;

	return pkt_load(p, ETH_LEN + offsetof(struct ipv6hdr, hop_limit), &hop_limit, 1, xdp) &&
	       hop_limit == 255 && !p->icmp_code && p->ip_len >= p->l4 - ETH_LEN + sizeof(*nd) &&
	       p->l4 <= 256 && pkt_load(p, p->l4, nd, sizeof(*nd), xdp) && nd->target[0] != 0xff;
}

static __always_inline bool addr_unspecified6(const __u8 *a)
{
	const __u64 *w = (const __u64 *)a;

	return !w[0] && !w[1];
}

static __always_inline enum reason nd_solicit(struct pkt *p, const struct host_conf *host,
					      const struct eni_conf *conf)
{
	struct nd nd;
	bool router;
	__u8 mac[6];

	if (!nd_load(p, &nd, false))
		return REASON_MALFORMED;
	if (addr_unspecified6(p->src)) /* duplicate address detection (RFC 4862) */
		return REASON_CONSUMED;
	if (!addr_link_local6(p->src) && !eni_owns(p->slot, conf, p->src, true) &&
	    !eni_allowed(conf, p->src, true))
		return REASON_SPOOFED_ARP;
	TRY(nd_options(p, ND_SOURCE_MAC, conf->mac, false));
	if (!resolve(p, host, conf, nd.target, mac, &router, true))
		return REASON_ARP_UNKNOWN;
	return nd_answer(p, &nd, mac, router, false);
}

static __always_inline enum reason nd_advert(struct pkt *p, const struct eni_conf *conf)
{
	struct nd nd;

	if (!nd_load(p, &nd, false))
		return REASON_MALFORMED;
	if (!addr_link_local6(nd.target) && !eni_owns(p->slot, conf, nd.target, true) &&
	    !eni_allowed(conf, nd.target, true))
		return REASON_SPOOFED_ARP;
	TRY(nd_options(p, ND_TARGET_MAC, conf->mac, false));
	return REASON_CONSUMED;
}

static __always_inline bool nd_type(__u8 type)
{
	return (type >= ND_MLD_QUERY && type <= ND_REDIRECT) || type == ND_MLD2_REPORT;
}

/* From an uplink or the overlay it has crossed more than the link that it is about. */
static __always_inline enum reason nd_stray(const struct pkt *p, const bool v6)
{
	if (v6 && p->protocol == PROTO_ICMPV6 && p->fragment != FRAGMENT_LATER &&
	    nd_type(p->icmp_type))
		return REASON_STRAY_ND;
	return REASON_CONTINUE;
}

/* Neighbour discovery and multicast listener discovery of an ENI; CONTINUE = another packet. */
static __always_inline enum reason nd_from_eni(struct pkt *p, const struct host_conf *host,
					       const struct eni_conf *conf)
{
	if (p->protocol != PROTO_ICMPV6 || p->fragment == FRAGMENT_LATER)
		return REASON_CONTINUE;
	if (p->fragment && nd_type(p->icmp_type))
		return REASON_FRAGMENT; /* RFC 6980 */
	switch (p->icmp_type) {
	case ND_SOLICIT:
		return nd_solicit(p, host, conf);
	case ND_ADVERT:
		return nd_advert(p, conf);
	case ND_ROUTER_SOLICIT:
	case ND_MLD_REPORT:
	case ND_MLD_DONE:
	case ND_MLD2_REPORT:
		return REASON_CONSUMED;
	case ND_ROUTER_ADVERT:
	case ND_REDIRECT:
	case ND_MLD_QUERY:
		return REASON_GUEST_SERVER;
	default:
		return REASON_CONTINUE;
	}
}
