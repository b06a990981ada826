/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The options of an IPv4 header (RFC 791 §3.1). They are not ours to follow, but none may reach
 * beyond the header, and none may name the way: a source route leads past what was judged
 * (RFC 7126 §4.3, §4.4; IPv6: RFC 5095). Functions of their own, for the sake of the stack.
 */
#pragma once

#include "hook.h"

enum ip4_option {
	IP4_OPTION_END = 0,
	IP4_OPTION_NOP = 1,
	IP4_OPTION_LSRR = 131,
	IP4_OPTION_SSRR = 137,
};

enum ip4_options {
	IP4_HEADER = 20, /* without options */
	IP4_OPTIONS = 40, /* bytes at most */
};

/* One way through each turn, so that the verifier need not try all sequences of options. */
static __always_inline enum reason options_walk(const __u8 *option, __u32 len)
{
	__u32 at = 0;

#pragma clang loop unroll(disable)
	for (__u32 n = 0; n < IP4_OPTIONS; n++) {
		__u32 kind, size, single;

		if (at >= IP4_OPTIONS || at >= len)
			return REASON_CONTINUE;
		kind = option[at];
		if (kind == IP4_OPTION_END)
			return REASON_CONTINUE;
		if (kind == IP4_OPTION_LSRR || kind == IP4_OPTION_SSRR)
			return REASON_EXTENSION;
		single = (kind - IP4_OPTION_NOP - 1) >> 31; /* 1: a byte without a length */
		barrier_var(single);
		size = single | (option[at + 1] & (single - 1));
		if (size + single < 2 || at + size > len)
			return REASON_MALFORMED;
		at += size;
	}
	return REASON_CONTINUE;
}

static __always_inline int options_read(void *ctx, __u32 header, const bool xdp)
{
	struct pkt p = {.ctx = ctx};
	__u8 options[IP4_OPTIONS + 8] = {}; /* one more may be read, and counts for nothing */
	__u32 len = header - IP4_HEADER;

	if (len > IP4_OPTIONS)
		return REASON_MALFORMED;
	barrier_var(
		len); /* two comparisons of this register: Linux 6.12 does not see through one */
	if (!len)
		return REASON_MALFORMED;
	if (!pkt_load(&p, ETH_LEN + IP4_HEADER, options, len, xdp))
		return REASON_MALFORMED;
	return options_walk(options, len);
}

__noinline int options4(struct __sk_buff *skb, __u32 header)
{
	return options_read(skb, header, false);
}

__noinline int options4_xdp(struct xdp_md *x, __u32 header)
{
	return options_read(x, header, true);
}

/* May the packet go on with the options that its IPv4 header has? */
static __always_inline enum reason options_check(const struct pkt *p, const bool xdp)
{
	if (!unlikely(p->l4 != ETH_LEN + IP4_HEADER))
		return REASON_CONTINUE;
	return xdp ? options4_xdp(p->ctx, p->l4 - ETH_LEN) : options4(p->ctx, p->l4 - ETH_LEN);
}
