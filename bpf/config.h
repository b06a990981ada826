/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Constants that the loader sets by name before a program is loaded; the verifier removes what
 * they make unreachable. */
#pragma once

#include "kernel.h"

/* Which packets XDP on the uplink finishes itself (own.h); the others it leaves to TC untouched. */
enum xdp_scope {
	XDP_OWNS_DENIED = 1 << 0, /* what TC would drop (refuse.h) */
	XDP_OWNS_UDP = 1 << 1, /* UDP to EIPs and from the overlay, where the port can take it */
	XDP_OWNS_ALL = 1 << 2, /* whatever is ours: tests run the whole text under both hooks */
};
volatile const __u32 xdp_owns = XDP_OWNS_DENIED | XDP_OWNS_UDP;

/* Of how many packets that XDP leaves to TC it asks about one, a power of two; and about how many after
 * one that it dropped. */
volatile const __u32 refuse_every = 64;

/* Places of a ring of half-open flows: how many of them an ENI may have per opening direction. The
 * loader makes the map half_open for it. */
volatile const __u32 half_open_slots = 4096;
