/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Lookups in the configuration: one function per table, the slot already chosen. */
#pragma once

#include "pkt.h"

static __always_inline const struct host_conf *host_find(const struct pkt *p)
{
	__u32 zero = 0;
	struct host_confs *h = bpf_map_lookup_elem(&host_conf, &zero);

	return h ? &h->v[p->slot & 1] : NULL;
}

/* Which slot of the slotted tables is in force; read once per packet. */
static __always_inline void slot_read(struct pkt *p)
{
	__u32 zero = 0;
	__u64 *word = bpf_map_lookup_elem(&active, &zero);

	p->slot = word ? *(volatile __u64 *)word & 1 : 0;
}

static __always_inline const struct endpoint *endpoint_find(__u32 slot, __u32 vni, const __u8 *addr,
							    const bool v6)
{
	const struct endpoint *e;
	struct endpoints *both;

	if (v6) {
		struct addr_key6 key = {.vni = vni};

		addr_copy(key.addr, addr, true);
		both = bpf_map_lookup_elem(&endpoints6, &key);
	} else {
		struct addr_key4 key = {.vni = vni};

		addr_copy(key.addr, addr, false);
		both = bpf_map_lookup_elem(&endpoints4, &key);
	}
	if (!both)
		return NULL;
	e = &both->v[slot & 1];
	return e->flags & EP_PRESENT ? e : NULL;
}

static __always_inline const struct mac_entry *mac_find(const struct pkt *p, __u32 vni,
							const __u8 *mac)
{
	struct mac_key key = {.vni = vni};
	const struct mac_entry *e;
	struct macs *both;

	mac_copy(key.mac, mac);
	both = bpf_map_lookup_elem(&macs, &key);
	if (!both)
		return NULL;
	e = &both->v[p->slot & 1];
	return e->flags & MAC_PRESENT ? e : NULL;
}

static __always_inline const struct nexthop *nexthop_find(__u32 index)
{
	return bpf_map_lookup_elem(&nexthops, &index);
}

enum move_end {
	MOVE_FROM = 1 << 0,
	MOVE_TO = 1 << 1,
};

/*
 * Does the ENI of a next hop move from or to the host? A function of its own: few packets ask, and its
 * stack is not the programs'.
 */
__noinline int move_end(__u32 slot, __u32 nexthop, __u32 vtep)
{
	struct moves *both = bpf_map_lookup_elem(&moves, &nexthop);
	const struct move *m;

	if (!both)
		return 0;
	m = &both->v[slot & 1];
	if (!*(const __u32 *)m->to)
		return 0;
	return (*(const __u32 *)m->from == vtep ? MOVE_FROM : 0) |
	       (*(const __u32 *)m->to == vtep ? MOVE_TO : 0);
}

/* Is its ENI on another host, moved there or not? */
static __always_inline bool nexthop_away(const struct nexthop *nh)
{
	return nh->kind == NH_VTEP || nh->kind == NH_MOVED;
}

/* Does it lead to the internet, by this host or by a gateway? */
static __always_inline bool nexthop_public(const struct nexthop *nh)
{
	return nh->kind == NH_INTERNET || nh->kind == NH_GATEWAY;
}

static __always_inline const struct route *route_find(__u32 table, const __u8 *addr, const bool v6)
{
	if (v6) {
		struct lpm_key6 key = {.prefixlen = 32 + 128, .table = table};

		addr_copy(key.addr, addr, true);
		return bpf_map_lookup_elem(&routes6, &key);
	} else {
		struct lpm_key4 key = {.prefixlen = 32 + 32, .table = table};

		addr_copy(key.addr, addr, false);
		return bpf_map_lookup_elem(&routes4, &key);
	}
}

/* The class of an address in a table of rules; 0 = it is not in it. */
static __always_inline __u32 peer_class(__u32 table, const __u8 *addr, const bool v6)
{
	__u32 *class;

	if (v6) {
		struct lpm_key6 key = {.prefixlen = 32 + 128, .table = table};

		addr_copy(key.addr, addr, true);
		class = bpf_map_lookup_elem(&addrs6, &key);
	} else {
		struct lpm_key4 key = {.prefixlen = 32 + 32, .table = table};

		addr_copy(key.addr, addr, false);
		class = bpf_map_lookup_elem(&addrs4, &key);
	}
	return class ? *class : 0;
}

/* Is the address inside the ENI's subnet? */
static __always_inline bool same_subnet(const struct eni_conf *conf, const __u8 *addr,
					const bool v6)
{
	const struct route *r = route_find(conf->routes, addr, v6);

	return r && r->subnet && r->subnet == conf->subnet;
}
