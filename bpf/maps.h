/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Every map but the flow table's (flow.h). All are written by the agent and read by the programs
 * unless it says otherwise. "Slotted": see types.h.
 *
 * The sizes of what grows with a region are upper bounds: hash and LPM maps take memory by use.
 */
#pragma once

#include "kernel.h"
#include "reason.h"
#include "types.h"

#define MAP(name_, type_, key_, value_, max_, flags_)                                              \
	struct {                                                                                   \
		__uint(type, type_);                                                               \
		__type(key, key_);                                                                 \
		__type(value, value_);                                                             \
		__uint(max_entries, max_);                                                         \
		__uint(map_flags, flags_);                                                         \
	} name_ SEC(".maps")

/* The host word: revision << 1 | slot. Read once per packet. One store (which is why it can be
 * mapped) brings a revision in force. */
MAP(active, BPF_MAP_TYPE_ARRAY, __u32, __u64, 1, BPF_F_MMAPABLE);

/* Slotted. Facts of this host. */
struct host_confs {
	struct host_conf v[2];
};
MAP(host_conf, BPF_MAP_TYPE_ARRAY, __u32, struct host_confs, 1, 0);

/* Slotted. ENI index -> what its verdicts depend on. Absent (no ENI_PRESENT) = NOT_READY. */
struct enis {
	struct eni_conf v[2];
};
MAP(enis, BPF_MAP_TYPE_ARRAY, __u32, struct enis, MAX_ENIS, 0);

/* ENI index -> its device and READY mark, for both directions. Not ready = nothing in or out. */
MAP(live, BPF_MAP_TYPE_ARRAY, __u32, struct live, MAX_ENIS, 0);

/* Up to which tick of the flow clock XDP may deliver. The agent renews it as long as it hears of what
 * ports can do: what XDP sends to one that takes no frames any more is lost in silence. Past = TC
 * delivers. */
MAP(xdp_lease, BPF_MAP_TYPE_ARRAY, __u32, __u32, 1, 0);

/* ifindex -> ENI. Miss = UNKNOWN_PORT: dropped. */
MAP(ports, BPF_MAP_TYPE_HASH, __u32, struct port, 2 * MAX_ENIS, 0);

/* ifindex, as many of its bits as count here -> the ENI of the last port that had it: saves the look-up in
 * `ports`. A guess, written by the programs, that counts only if `live` confirms it. */
MAP(port_hints, BPF_MAP_TYPE_ARRAY, __u32, __u32, PORT_HINTS, 0);

/* VNI and MAC, mixed -> the ENI of this host that had them last: saves looking it up in `macs`. Likewise. */
MAP(mac_hints, BPF_MAP_TYPE_ARRAY, __u32, __u32, MAC_HINTS, 0);

/* ifindex -> uplink. Miss = the packet is left to the host; nothing is sent out there. */
MAP(uplinks, BPF_MAP_TYPE_HASH, __u32, struct uplink, MAX_UPLINKS, 0);

/* Index -> uplink of a way. `until` past = the kernel's ways. */
MAP(exits, BPF_MAP_TYPE_ARRAY, __u32, struct exit, MAX_UPLINKS, BPF_F_MMAPABLE);

/* way_bucket(VTEP) -> ways of the underlay; edited in place through a mapping. Miss = the kernel's way. */
MAP(vtep_ways, BPF_MAP_TYPE_ARRAY, __u32, struct vtep_ways, WAY_BUCKETS, BPF_F_MMAPABLE);

/* Slotted. (VNI, address) -> where and who. Miss = no ENI of the VPC has this address. */
struct endpoints {
	struct endpoint v[2];
};
MAP(endpoints4, BPF_MAP_TYPE_HASH, struct addr_key4, struct endpoints, MAX_ENDPOINTS,
    BPF_F_NO_PREALLOC);
MAP(endpoints6, BPF_MAP_TYPE_HASH, struct addr_key6, struct endpoints, MAX_ENDPOINTS,
    BPF_F_NO_PREALLOC);

/* Slotted. (VNI, MAC) -> ENI. Miss = VXLAN_NO_ENI as destination, VXLAN_SENDER as source. */
struct macs {
	struct mac_entry v[2];
};
MAP(macs, BPF_MAP_TYPE_HASH, struct mac_key, struct macs, MAX_NEXTHOPS, BPF_F_NO_PREALLOC);

/* Index -> where an ENI is; edited in place through a mapping. NH_NONE = NO_NEXTHOP. */
MAP(nexthops, BPF_MAP_TYPE_ARRAY, __u32, struct nexthop, MAX_NEXTHOPS, BPF_F_MMAPABLE);

/* Slotted. Next hop -> where its ENI comes from and goes to. Miss = it does not move. */
struct moves {
	struct move v[2];
};
MAP(moves, BPF_MAP_TYPE_HASH, __u32, struct moves, MAX_NEXTHOPS, BPF_F_NO_PREALLOC);

/* (VNI and role, VTEP) -> 1. Miss = VXLAN_SOURCE: that host has nothing of this kind to send to this VPC. */
MAP(vteps, BPF_MAP_TYPE_HASH, struct vtep_key, __u32, MAX_ENDPOINTS, BPF_F_NO_PREALLOC);

/* Slotted. EIP -> private IP and ENI. Miss = not ours: the packet is left to the host; EIP_UNKNOWN in a range
 * for which the host is a gateway. Two revisions may have as many as a host can have, each other ones. */
struct eips_in4 {
	struct eip_in4 v[2];
};
struct eips_in6 {
	struct eip_in6 v[2];
};
MAP(eip_in4, BPF_MAP_TYPE_HASH, struct eip_key4, struct eips_in4, MAX_EIPS, BPF_F_NO_PREALLOC);
MAP(eip_in6, BPF_MAP_TYPE_HASH, struct eip_key6, struct eips_in6, MAX_EIPS, BPF_F_NO_PREALLOC);

/* Slotted. (VNI, private IP) -> EIP. Miss = NO_EIP. */
struct eips_out4 {
	struct eip_out4 v[2];
};
struct eips_out6 {
	struct eip_out6 v[2];
};
MAP(eip_out4, BPF_MAP_TYPE_HASH, struct addr_key4, struct eips_out4, MAX_EIPS, BPF_F_NO_PREALLOC);
MAP(eip_out6, BPF_MAP_TYPE_HASH, struct addr_key6, struct eips_out6, MAX_EIPS, BPF_F_NO_PREALLOC);

/* (table, prefix) -> route, longest first. Tables are never changed. Miss = NO_ROUTE. */
MAP(routes4, BPF_MAP_TYPE_LPM_TRIE, struct lpm_key4, struct route, 1 << 22, BPF_F_NO_PREALLOC);
MAP(routes6, BPF_MAP_TYPE_LPM_TRIE, struct lpm_key6, struct route, 1 << 22, BPF_F_NO_PREALLOC);

/* (policy, bit) -> route of the policy route (route.h). Never changed. A miss does not happen. */
MAP(policies, BPF_MAP_TYPE_HASH, struct policy_key, struct route, 1 << 16, BPF_F_NO_PREALLOC);

/* (table, prefix) -> class of the peer, longest first. Miss = class 0: no CIDR rule, no list matches. */
MAP(addrs4, BPF_MAP_TYPE_LPM_TRIE, struct lpm_key4, __u32, 1 << 22, BPF_F_NO_PREALLOC);
MAP(addrs6, BPF_MAP_TYPE_LPM_TRIE, struct lpm_key6, __u32, 1 << 22, BPF_F_NO_PREALLOC);

/* (table, group set of the peer) -> class of the peer. Miss = class 0: no sg/ rule matches. */
MAP(groups, BPF_MAP_TYPE_HASH, struct group_key, __u32, 1 << 20, BPF_F_NO_PREALLOC);

/* (table, protocol, port) -> class, longest first; 0 = see service_blocks. Miss: denied. */
MAP(services, BPF_MAP_TYPE_LPM_TRIE, struct service_key, __u32, 1 << 20, BPF_F_NO_PREALLOC);

/* (table, protocol, high byte of the port) -> classes. Miss: denied. */
MAP(service_blocks, BPF_MAP_TYPE_HASH, struct block_key, struct service_block, 1 << 17,
    BPF_F_NO_PREALLOC);

/* Wide rule sets: (rule set, classes) -> rules of each. */
MAP(class_rules, BPF_MAP_TYPE_HASH, struct class_key, struct class_rules, 1 << 17,
    BPF_F_NO_PREALLOC);

/* (rule set, class of peer, class of service) -> verdict. Miss = denied. */
MAP(verdicts, BPF_MAP_TYPE_HASH, struct verdict_key, struct verdict, 1 << 22, BPF_F_NO_PREALLOC);

/* Rule id -> how many connections the rule has decided: allowed by a security group, allowed or denied
 * by a network ACL. Counted when a connection is judged (track.h), read by the CLI through a mapping. */
MAP(rule_hits, BPF_MAP_TYPE_ARRAY, __u32, __u64, MAX_RULES, BPF_F_MMAPABLE);

/* Written by the programs (count.h), read by CLI and metrics. */
MAP(counters, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct counter, MAX_ENIS * 2 * MAX_REASONS, 0);

/* The programs in force, by enum program_slot; the stubs in the links call them. */
enum program_slot {
	PROGRAM_PORT = 0,
	PROGRAM_VXLAN = 1,
	PROGRAM_UPLINK = 2,
	PROGRAM_SHAPER = 3,
	PROGRAM_SLOTS = 4,
};
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
	__uint(max_entries, PROGRAM_SLOTS);
} progs_tc SEC(".maps"), progs_xdp SEC(".maps");
