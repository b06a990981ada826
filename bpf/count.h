/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The only writer of counters. Per ENI and direction: what came in (slot REASON_CONTINUE) and what
 * became of it, both in wire packets, so that at rest the first is the sum of the others.
 */
#pragma once

#include "pkt.h"

static __always_inline void count(const struct pkt *p, enum reason reason)
{
	__u32 index = (p->eni * 2 + p->dir) * MAX_REASONS + (reason & (MAX_REASONS - 1));
	struct counter *c = bpf_map_lookup_elem(&counters, &index);

	if (!c)
		return;
	c->packets += p->segments;
	c->bytes += p->wire_bytes;
}

/* From here on the packet is at this ENI's port, in this direction. */
static __always_inline void count_enter(struct pkt *p, __u32 eni, __u8 dir)
{
	p->eni = eni;
	p->dir = dir;
	count(p, REASON_CONTINUE);
}
