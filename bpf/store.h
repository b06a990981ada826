/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Flows are stored: within the quota of their ENI, and a half-open one makes way for another. */
#pragma once

#include "flow_insert.h"
#include "work.h"

/* How many flows the ENI may have. */
static __always_inline bool work_quota(struct work *w)
{
	struct flow_quota *quota = &w->quota;
	const struct enis *both = bpf_map_lookup_elem(&enis, &w->eni);
	const struct host_confs *host;
	const struct eni_conf *conf;
	__u32 zero = 0;

	host = bpf_map_lookup_elem(&host_conf, &zero);
	if (!both || !host)
		return false;
	conf = &both->v[w->slot & 1];
	quota->limit = conf->max_flows;
	quota->half_open = conf->half_open;
	quota->guaranteed = host->v[w->slot & 1].flow_share;
	if (quota->guaranteed > quota->limit)
		quota->guaranteed = quota->limit;
	quota->pool = host->v[w->slot & 1].flow_pool;
	return true;
}

/* Stores w->flow under its key. */
static __always_inline enum reason work_store(struct work *w, const bool v6)
{
	w->stored.evicts = 0;
	if (!work_quota(w))
		return REASON_HELPER;
	if (v6)
		return flow_insert(&w->key6, &w->flow, w->now, &w->stored, &w->idle, &w->quota,
				   true);
	return flow_insert(&w->key4, &w->flow, w->now, &w->stored, &w->idle, &w->quota, false);
}

__noinline int store4(struct work *w)
{
	return w ? work_store(w, false) : REASON_HELPER;
}

__noinline int store6(struct work *w)
{
	return w ? work_store(w, true) : REASON_HELPER;
}

/* A half-open flow makes way for the one just stored. */
__noinline int evict(struct work *w)
{
	__u32 slot, opener;

	if (!w)
		return REASON_HELPER;
	slot = (w->stored.evicts & ~FLOW_RING6) - 1;
	opener = w->stored.opener;
	if (w->stored.evicts & FLOW_RING6)
		flow_evict(slot, w->eni, w->flows, opener, w->stored.place, true);
	else
		flow_evict(slot, w->eni, w->flows, opener, w->stored.place, false);
	return REASON_CONTINUE;
}
