/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What an ENI may claim to be: addresses (RFC 2827), and services that only a network offers. */
#pragma once

#include "eni.h"
#include "parse.h"
#include "rewrite.h"

/* A source address that is not the ENI's own. */
static __always_inline enum reason spoof_foreign(const struct eni_conf *conf, const __u8 *src,
						 const bool v6)
{
	if ((conf->flags & ENI_NO_SOURCE_CHECK) || eni_allowed(conf, src, v6))
		return REASON_CONTINUE;
	return REASON_SPOOFED_IP;
}

/*
 * A checksum that the sender leaves to a device (virtio's NEEDS_CSUM) lands where the sender says.
 * On anything that we judge or translate it would make another packet of it behind our back: it may
 * only be the transport's own checksum, or belong to what the packet carries.
 */
static __always_inline enum reason spoof_checksum(const struct pkt *p, const bool v6)
{
	__u32 at = pkt_late_bytes(p), field = l4_csum_offset(p, v6), judged = p->l4;

	if (p->protocol == PROTO_TCP)
		judged += 20;
	else if (p->protocol == PROTO_UDP || p->protocol == PROTO_ICMP ||
		 p->protocol == PROTO_ICMPV6)
		judged += 8;
	if (icmp_error(p, v6) && p->fragment != FRAGMENT_LATER)
		judged = ETH_LEN + p->ip_len; /* what it quotes is judged too */
	if (!at || at == field || at >= judged)
		return REASON_CONTINUE;
	return REASON_MALFORMED;
}

/*
 * DHCP (RFC 2131, RFC 8415): a client's messages end here, also those from the unspecified
 * address; a server's are the network's business. ICMP router advertisements (RFC 1256) and
 * redirects likewise.
 */
static __always_inline enum reason spoof_service(const struct pkt *p, const bool v6)
{
	const __u16 client = v6 ? 546 : 68, server = v6 ? 547 : 67;

	if (p->protocol == PROTO_UDP) {
		if (p->sport == client && p->dport == server)
			return REASON_CONSUMED;
		if (p->sport == server && p->dport == client)
			return REASON_GUEST_SERVER;
	}
	if (!v6 && p->protocol == PROTO_ICMP && (p->icmp_type == 5 || p->icmp_type == 9))
		return REASON_GUEST_SERVER;
	return REASON_CONTINUE;
}
