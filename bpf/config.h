/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Constants that the loader sets by name before a program is loaded; the verifier removes what
 * they make unreachable. */
#pragma once

#include "kernel.h"

/* Which packets XDP on the uplink finishes itself; the others it leaves to TC untouched. */
enum xdp_scope {
	XDP_OWNS_OVERLAY = 1 << 0, /* VXLAN to our VTEP that nobody may send: dropped */
	XDP_OWNS_NEIGHBOURS = 1 << 1, /* ARP and neighbour discovery for EIPs: answered */
	XDP_OWNS_EIPS = 1 << 2, /* IP packets to EIPs: delivered */
};
/* Answering and delivering need devices that take XDP frames; not every one does (veth). */
volatile const __u32 xdp_owns = XDP_OWNS_OVERLAY;

/* Places of a ring of half-open flows: how many of them an ENI may have per opening direction. The
 * loader makes the map half_open for it. */
volatile const __u32 half_open_slots = 4096;
