/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* One rule set applied to one packet: classes of peer and service, then one verdict (types.h). */
#pragma once

#include "table.h"

static __always_inline const struct verdict *verdict_find(__u32 ruleset, __u32 peer, __u32 service)
{
	struct verdict_key key = {.ruleset = ruleset, .peer = peer, .service = service};

	return peer ? bpf_map_lookup_elem(&verdicts, &key) : NULL;
}

static __always_inline struct service_key service_key_of(__u32 ruleset, __u8 protocol, __u16 port)
{
	struct service_key key = {
		.prefixlen = 32 + 8 + 16,
		.ruleset = ruleset,
		.protocol = protocol,
		.port = {port >> 8, port & 0xff},
	};

	return key;
}

static __always_inline __u32 service_class(__u32 ruleset, __u8 protocol, __u16 port)
{
	struct service_key key = service_key_of(ruleset, protocol, port);
	__u32 *class = bpf_map_lookup_elem(&services, &key);

	return class ? *class : 0;
}

static __always_inline __u32 group_class(__u32 ruleset, __u32 group_set)
{
	struct group_key key = {.ruleset = ruleset, .group_set = group_set};
	__u32 *class;

	if (!group_set)
		return 0;
	class = bpf_map_lookup_elem(&groups, &key);
	return class ? *class : 0;
}

static __always_inline const struct rule_set *rules_of_class(__u32 ruleset, __u32 class)
{
	struct class_key key = {.ruleset = ruleset, .class = class};

	return class ? bpf_map_lookup_elem(&peer_rules, &key) : NULL;
}

/* The first rule of a wide set that matches the service and the peer's address or groups. */
static __always_inline const struct verdict *wide_find(__u32 ruleset, const __u8 *peer,
						       __u32 group_set, __u8 protocol, __u16 port,
						       const bool v6)
{
	struct service_key key = service_key_of(ruleset, protocol, port);
	const struct rule_set *by_addr, *by_group, *services;
	struct verdict_key rule = {.ruleset = ruleset};

	services = bpf_map_lookup_elem(&service_rules, &key);
	if (!services)
		return NULL;
	by_addr = rules_of_class(ruleset, peer_class(ruleset, peer, v6));
	by_group = rules_of_class(ruleset, group_class(ruleset, group_set));
	if (!by_addr)
		by_addr = by_group;
	if (!by_addr)
		return NULL;
	if (!by_group)
		by_group = by_addr;
#pragma clang loop unroll(disable)
	for (int i = 0; i < RULESET_WORDS; i++) {
		__u64 both = services->words[i] & (by_addr->words[i] | by_group->words[i]);

		if (both) {
			rule.service = 64 * i + __builtin_ctzll(both) + 1;
			return bpf_map_lookup_elem(&verdicts, &rule);
		}
	}
	return NULL;
}

/*
 * Is it allowed? `port` is the destination port of the opening packet, or its ICMP type and code.
 * Address and groups of the peer are classified apart: of two rules that match, the first of the set
 * decides. `rule` becomes its id, 0 = none matches, or it has none.
 */
static __always_inline bool ruleset_allows(__u32 ruleset, const __u8 *peer, __u32 group_set,
					   __u8 protocol, __u16 port, __u32 *rule, const bool v6)
{
	const struct verdict *by_addr, *by_group;
	__u32 service, word = 0;

	*rule = 0;
	if (ruleset & RULESET_WIDE) {
		by_addr = wide_find(ruleset, peer, group_set, protocol, port, v6);
		if (!by_addr)
			return false;
		*rule = by_addr->rule;
		return by_addr->word & 1;
	}
	service = service_class(ruleset, protocol, port);
	if (!service)
		return false;
	by_addr = verdict_find(ruleset, peer_class(ruleset, peer, v6), service);
	if (by_addr) {
		word = by_addr->word;
		*rule = by_addr->rule;
	}
	by_group = verdict_find(ruleset, group_class(ruleset, group_set), service);
	if (by_group && (!word || by_group->word < word)) {
		word = by_group->word;
		*rule = by_group->rule;
	}
	return word & 1;
}
