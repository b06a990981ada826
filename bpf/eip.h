/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* EIPs held here: who has one. The translation itself is stateless 1:1 (rewrite.h). */
#pragma once

#include "table.h"

/*
 * The local ENI that has this EIP; `addr` becomes its private IP and the key of everything that
 * follows. False = not an EIP of this host.
 */
static __always_inline bool eip_find(const struct pkt *p, __u8 *addr, __u32 *eni, const bool v6)
{
	if (v6) {
		struct eip_key6 key;
		struct eips_in6 *e;

		addr_copy(key.addr, addr, true);
		e = bpf_map_lookup_elem(&eip_in6, &key);
		if (!e || !e->v[p->slot & 1].flags)
			return false;
		addr_copy(addr, e->v[p->slot & 1].addr, true);
		*eni = e->v[p->slot & 1].eni;
	} else {
		struct eip_key4 key;
		struct eips_in4 *e;

		addr_copy(key.addr, addr, false);
		e = bpf_map_lookup_elem(&eip_in4, &key);
		if (!e || !e->v[p->slot & 1].flags)
			return false;
		addr_copy(addr, e->v[p->slot & 1].addr, false);
		*eni = e->v[p->slot & 1].eni;
	}
	return true;
}
