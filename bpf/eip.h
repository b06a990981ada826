/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* EIPs that this host knows: who has one. The translation itself is stateless 1:1 (rewrite.h). */
#pragma once

#include "table.h"

_Static_assert(offsetof(struct eip_in4, nexthop) == offsetof(struct eip_in6, nexthop) &&
		       offsetof(struct eip_out4, nexthop) == offsetof(struct eip_out6, nexthop),
	       "one text for both families");

/*
 * Who has this EIP; `addr` becomes its private IP and the key of everything that follows. NULL = this host
 * does not know it. Of the answer only what the families have in common may be read.
 */
static __always_inline const struct eip_in4 *eip_find(const struct pkt *p, __u8 *addr,
						      const bool v6)
{
	if (v6) {
		const struct eip_in6 *e;
		struct eip_key6 key;
		struct eips_in6 *both;

		addr_copy(key.addr, addr, true);
		both = bpf_map_lookup_elem(&eip_in6, &key);
		if (!both)
			return NULL;
		e = &both->v[p->slot & 1];
		if (!e->flags)
			return NULL;
		addr_copy(addr, e->addr, true);
		return (const struct eip_in4 *)e;
	} else {
		const struct eip_in4 *e;
		struct eip_key4 key;
		struct eips_in4 *both;

		addr_copy(key.addr, addr, false);
		both = bpf_map_lookup_elem(&eip_in4, &key);
		if (!both)
			return NULL;
		e = &both->v[p->slot & 1];
		if (!e->flags)
			return NULL;
		addr_copy(addr, e->addr, false);
		return e;
	}
}

/* The EIP of a private IP, copied to `eip`. As above. */
static __always_inline const struct eip_out4 *
eip_of_private(__u32 slot, __u32 vni, const __u8 *private, __u8 *eip, const bool v6)
{
	if (v6) {
		struct addr_key6 key = {.vni = vni};
		const struct eip_out6 *e;
		struct eips_out6 *both;

		addr_copy(key.addr, private, true);
		both = bpf_map_lookup_elem(&eip_out6, &key);
		if (!both)
			return NULL;
		e = &both->v[slot & 1];
		if (!e->flags)
			return NULL;
		addr_copy(eip, e->addr, true);
		return (const struct eip_out4 *)e;
	} else {
		struct addr_key4 key = {.vni = vni};
		const struct eip_out4 *e;
		struct eips_out4 *both;

		addr_copy(key.addr, private, false);
		both = bpf_map_lookup_elem(&eip_out4, &key);
		if (!both)
			return NULL;
		e = &both->v[slot & 1];
		if (!e->flags)
			return NULL;
		addr_copy(eip, e->addr, false);
		return e;
	}
}
