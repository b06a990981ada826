/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Where what an ENI sends goes: through an ENI to a subnet of the VPC (a middlebox), to an ENI of the
 * VPC, then by the ENI's policy routes, then by the longest prefix of its subnet's table.
 *
 * Policy routes are matched all at once: the classes of source, destination and service are sets of
 * routes, one bit each, and the lowest bit that all three have is the first that matches. So a first
 * packet costs the same however many there are, and a packet of a flow costs nothing.
 */
#pragma once

#include "eni.h"
#include "ruleset.h"

struct way {
	const __u8 *local;
	const __u8 *remote;
	__u16 port; /* destination port of what goes out */
	__u8 protocol;
	__u8 pad[5];
};

/* Inside the VPC: nothing but a middlebox precedes that. */
static __always_inline bool route_inside(const struct route *r)
{
	return r && (r->kind == ROUTE_LOCAL || r->subnet);
}

static __always_inline const struct route *policy_find(const struct eni_conf *conf,
						       const struct way *w, const bool v6)
{
	struct policy_key key = {.policy = conf->policy_to};
	__u32 routes;

	if (!key.policy)
		return NULL;
	routes = peer_class(conf->policy_from, w->local, v6) &
		 peer_class(key.policy, w->remote, v6) &
		 service_find(key.policy, w->protocol, w->port);
	key.bit = routes & -routes;
	return routes ? bpf_map_lookup_elem(&policies, &key) : NULL;
}

static __always_inline const struct route *route_of(const struct eni_conf *conf,
						    const struct way *w, const bool v6)
{
	const struct route *r = route_find(conf->routes, w->remote, v6), *policy;

	if (route_inside(r))
		return r;
	policy = policy_find(conf, w, v6);
	return policy ?: r;
}

/* A private IP of an ENI of the VPC. */
static __always_inline const struct endpoint *endpoint_of_eni(__u32 slot, __u32 vni,
							      const __u8 *addr, const bool v6)
{
	const struct endpoint *e = endpoint_find(slot, vni, addr, v6);

	return e && !(e->flags & EP_GATEWAY) ? e : NULL;
}

/* May no ENI reach it, nor hear from it? Without the facts of the host everything is taken for that. */
static __always_inline bool infra_has(__u32 slot, const __u8 *addr, const bool v6)
{
	__u32 zero = 0;
	const struct host_confs *both = bpf_map_lookup_elem(&host_conf, &zero);

	return !both || route_find(both->v[slot & 1].infra, addr, v6);
}

/* From the internet: the source must be one to which the ENI's answers would go that way. */
static __always_inline enum reason internet_source(__u32 slot, const struct route *r,
						   const __u8 *src, const bool v6)
{
	if (!r || r->kind != ROUTE_INTERNET || infra_has(slot, src, v6))
		return REASON_EIP_SOURCE;
	return REASON_CONTINUE;
}
