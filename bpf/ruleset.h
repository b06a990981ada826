/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* One rule set applied to one packet: classes of peer and service, then one verdict (types.h). */
#pragma once

#include "table.h"

/* What a table of services says of one: 0 = its ports are a block, a policy's are not; NULL = nothing. */
static __always_inline const __u32 *service_entry(__u32 table, __u8 protocol, __u16 port)
{
	struct service_key key = {
		.prefixlen = 32 + 8 + 16,
		.table = table,
		.protocol = protocol,
		.port = {port >> 8, port & 0xff},
	};

	return bpf_map_lookup_elem(&services, &key);
}

static __always_inline __u32 service_find(__u32 table, __u8 protocol, __u16 port)
{
	const __u32 *class = service_entry(table, protocol, port);

	return class ? *class : 0;
}

static __always_inline __u32 service_class(__u32 table, __u8 protocol, __u16 port)
{
	struct block_key key = {.table = table, .protocol = protocol, .high = port >> 8};
	const __u32 *class = service_entry(table, protocol, port);
	const struct service_block *block;
	__u32 low = port;

	if (!class || *class)
		return class ? *class : 0;
	block = bpf_map_lookup_elem(&service_blocks, &key);
	if (!block)
		return 0;
	barrier_var(low); /* or clang adds it to what may be NULL */
	return block->classes[low & 0xff];
}

static __always_inline __u32 group_class(__u32 table, __u32 group_set)
{
	struct group_key key = {.table = table, .group_set = group_set};
	__u32 *class = bpf_map_lookup_elem(&groups, &key);

	return class ? *class : 0;
}

/*
 * The classes of a peer, by kind: kind and class, 0 = none. Of a kind that no rule names nothing is asked; a
 * network ACL names addresses only.
 */
static __always_inline void peer_classes(const struct rules *r, const __u8 *peer, __u32 group_set,
					 __u32 *classes, const bool acl, const bool v6)
{
	__u32 class = r->addrs ? peer_class(r->addrs, peer, v6) : 0;

	classes[CLASS_ADDR] = class;
	classes[CLASS_LIST] = classes[CLASS_GROUP] = 0;
	if (acl)
		return;
	class = r->lists ? peer_class(r->lists, peer, v6) : 0;
	if (class)
		classes[CLASS_LIST] = CLASS_LIST << CLASS_SHIFT | class;
	class = r->groups && group_set ? group_class(r->groups, group_set) : 0;
	if (class)
		classes[CLASS_GROUP] = CLASS_GROUP << CLASS_SHIFT | class;
}

static __always_inline const struct rule_set *rules_of_class(__u32 ruleset, __u32 class)
{
	struct class_key key = {.ruleset = ruleset, .classes = class / RULESET_CLASSES};
	const struct class_rules *rules = class ? bpf_map_lookup_elem(&class_rules, &key) : NULL;

	if (!rules)
		return NULL;
	barrier_var(class); /* or clang adds it to what may be NULL */
	return &rules->of[class % RULESET_CLASSES];
}

/* The first rule of a wide set that matches the service and one of the peer's classes. */
static __always_inline const struct verdict *wide_find(__u32 ruleset, const __u32 *peer,
						       __u32 service)
{
	const struct rule_set *services, *by_addr, *by_list, *by_group, *any;
	struct verdict_key rule = {.ruleset = ruleset};

	services = rules_of_class(ruleset, CLASS_SERVICE << CLASS_SHIFT | service);
	by_addr = rules_of_class(ruleset, peer[CLASS_ADDR]);
	by_list = rules_of_class(ruleset, peer[CLASS_LIST]);
	by_group = rules_of_class(ruleset, peer[CLASS_GROUP]);
	any = by_addr ?: by_list ?: by_group;
	if (!services || !any)
		return NULL;
	by_addr = by_addr ?: any;
	by_list = by_list ?: any;
	by_group = by_group ?: any;
#pragma clang loop unroll(disable)
	for (int i = 0; i < RULESET_WORDS; i++) {
		__u64 both = services->words[i] &
			     (by_addr->words[i] | by_list->words[i] | by_group->words[i]);

		if (both) {
			rule.service = 64 * i + __builtin_ctzll(both) + 1;
			return bpf_map_lookup_elem(&verdicts, &rule);
		}
	}
	return NULL;
}

/* The verdict of the first rule that matches the service and one of the peer's classes. */
static __always_inline const struct verdict *pair_find(__u32 ruleset, const __u32 *peer,
						       __u32 service)
{
	const struct verdict *first = NULL, *v;

#pragma clang loop unroll(full)
	for (int kind = CLASS_ADDR; kind < CLASS_SERVICE; kind++) {
		struct verdict_key key = {
			.ruleset = ruleset, .peer = peer[kind], .service = service};

		v = key.peer ? bpf_map_lookup_elem(&verdicts, &key) : NULL;
		if (v && (!first || v->word < first->word))
			first = v;
	}
	return first;
}

/*
 * Is it allowed? `port` is the destination port of the opening packet, or its ICMP type and code.
 * Address, prefix lists and groups of the peer are classified apart: of the rules that match, the first of
 * the set decides. `rule` becomes its id, 0 = none matches, or it has none.
 */
static __always_inline bool rules_allow(const struct rules *r, const __u8 *peer, __u32 group_set,
					__u8 protocol, __u16 port, __u32 *rule, const bool acl,
					const bool v6)
{
	__u32 service = r->services ? service_class(r->services, protocol, port) : 0;
	__u32 classes[CLASS_SERVICE];
	const struct verdict *first;

	*rule = 0;
	if (!service)
		return false;
	peer_classes(r, peer, group_set, classes, acl, v6);
	if (r->verdicts & RULESET_WIDE)
		first = wide_find(r->verdicts, classes, service);
	else
		first = pair_find(r->verdicts, classes, service);
	if (!first)
		return false;
	*rule = first->rule;
	return first->word & 1;
}
