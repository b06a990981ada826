/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The ABI between the programs and Go: every key and value of a map.
 *
 * Addresses and MACs are byte arrays in network order. Ports, VNIs, ids and indexes are host
 * (little-endian) integers. Structs are flat, unpadded (-Wpadded is an error here) and never
 * unions: bpf2go turns them into Go, pkg/dataplane/testdata/abi.golden records their layout.
 *
 * A map called "slotted" in maps.h holds two of the structs below in one value, one for each slot
 * of the host word `active`: a revision is written into the slot that no packet reads, read back,
 * and comes into force by one store of `active`.
 */
#pragma once

#include <linux/types.h>

#pragma clang diagnostic push
#pragma clang diagnostic error "-Wpadded"

enum limit {
	MAX_ENIS = 1024, /* index 0 is the host itself: packets that belong to no ENI */
	MAX_NEXTHOPS = 1 << 20,
	MAX_ENDPOINTS = 1 << 20,
	MAX_EIPS = 1 << 17, /* of each family: those of two revisions */
	MAX_REASONS = 64, /* per ENI and direction, a power of two */
	MAX_UPLINKS = 16,
	WAY_BUCKETS = 4096, /* a power of two */
	WAYS = 4, /* of a bucket: one cache line */
	PORT_HINTS = 4096, /* a power of two */
	MAC_HINTS = 4096, /* a power of two */
	MAX_RULES = 1 << 18, /* rules with an id; 0 is none */
};

/* Which way a packet crosses an ENI's port, seen from the ENI. */
enum direction {
	DIR_OUT = 0, /* sent by the ENI */
	DIR_IN = 1, /* sent to the ENI */
};

/* enis (slotted): all that a verdict for one local ENI depends on. */
enum eni_flag {
	ENI_PRESENT = 1 << 0,
	ENI_NO_SOURCE_CHECK = 1 << 1, /* sourceDestCheck: false */
	ENI_NACL = 1 << 2, /* the subnet has a network ACL: nacl_in and nacl_out count */
	ENI_KEEP = 1 << 3, /* onPolicyChange: keep: security groups judge a flow once */
	ENI_PACKET_RATE = 1 << 4, /* limits.packetsPerSecond: packets counts */
	ENI_FLOW_RATE = 1 << 5, /* limits.newFlowsPerSecond: new_flows counts */
};

/* Seconds that a flow lives without a packet, where an ENI may choose. */
struct flow_idle {
	__u32 tcp_established;
	__u32 udp; /* only the opening side was heard */
	__u32 udp_stream;
};

/* A rule set (below): ids of its tables, 0 = it names no peers of that kind. */
struct rules {
	__u32 addrs; /* addrs4/6: what its rules themselves write */
	__u32 lists; /* addrs4/6: the prefix lists that they name */
	__u32 groups; /* the security groups that they name */
	__u32 services; /* 0 = no rule: everything is denied */
	__u32 verdicts; /* | RULESET_WIDE */
};

struct eni_conf {
	__u32 flags; /* enum eni_flag */
	__u32 vni;
	__u32 subnet; /* id of the subnet, as in struct route */
	__u32 incarnation; /* one (uid, attachment epoch): never used again for another */
	__u32 generation; /* grows when a verdict of this ENI may have changed */
	__u32 nexthop; /* its own next hop */
	__u32 routes; /* route table */
	__u32 allowed; /* addrs4/6: addresses that the ENI may send from; 0 = none */
	__u32 policy_from; /* policy routes (route.h): addrs4/6 of the sources; */
	__u32 policy_to; /* of destinations and services; 0 = none */
	__u32 flows; /* which flows are its: the incarnation until a cut, then a greater number */
	__u32 max_flows; /* how many flows it may have */
	__u32 half_open; /* of them half-open, per opening direction; at most half_open_slots */
	__u32 packets; /* how many may pass in a second, both directions together (rate.h) */
	__u32 new_flows; /* how many flows may be opened in a second */
	struct flow_idle idle;
	__u32 instance; /* the same number for all ENIs of an instance, for messages only */
	__u8 mac[6];
	__u8 pad[2];
	__u8 gateway4[4]; /* of the subnet; 0 = it has none of the family */
	__u8 gateway6[16];
	struct rules sg_in;
	struct rules sg_out;
	struct rules nacl_in; /* counts only with ENI_NACL */
	struct rules nacl_out;
};

enum live_flag {
	LIVE_XDP = 1 << 0, /* the device takes frames from XDP now */
	LIVE_CAP_IN = 1 << 1, /* the device has classes (shape.h): limits.ingressMbps */
	LIVE_CAP_OUT = 1 << 2, /* all that the ENI sends goes by `shaper`: limits.egressMbps */
	LIVE_CAP_EIPS = 1 << 3, /* what it sends to the internet does: egressMbps of an EIP */
	LIVE_CLOSED = 1 << 4, /* prepared: gets what others send to it here, is not heard */
	LIVE_LEFT = 1 << 5, /* the ENI is elsewhere: what comes for it is sent on */
};

/* live: the device of an ENI and its READY mark. Written last, cleared first. */
struct live {
	__u32 incarnation; /* READY if it equals eni_conf.incarnation and is not 0 */
	__u32 ifindex;
	__u32 mtu; /* of the device, bytes of layer 3 */
	__u32 flags; /* enum live_flag */
	__u32 shaper; /* ifindex of the device whose queues hold back what the ENI sends; 0 = there is none */
};

/*
 * Classes of the queueing discipline that caps an ENI, on its own device and on its shaper. Handle 1:, the
 * cap of the ENI 1:1, then SHAPE_GROUP numbers for each group: that of what has no EIP, and one for each
 * EIP by its class. The first is the cap of the group, the next SHAPE_BUCKETS are queues of flows.
 */
enum shape {
	SHAPE_HANDLE = 1 << 16,
	SHAPE_ROOT = 1,
	SHAPE_GROUP = 32,
	SHAPE_BUCKETS = 16,
};

/* ports: device -> ENI. */
struct port {
	__u32 eni;
	__u32 incarnation;
};

/* host_conf (slotted, one entry): facts of this host. */
struct host_conf {
	__u8 vtep[4];
	__u32 vxlan_ifindex;
	__u32 overlay_mtu; /* largest inner IP packet that the underlay carries */
	__u32 flow_share; /* so many flows are guaranteed to an ENI whose max_flows is not less */
	__u32 flow_pool; /* so many may all ENIs have beyond what is guaranteed to each */
	__u32 infra; /* table of what no ENI may reach: Region.infraCIDRs, VTEPs and peers */
	__u32 gatewayed; /* route table of the ranges of EIPs for which the host is a gateway; 0 = none */
	__u8 gateway_mac[6];
	__u8 pad[2];
};

struct uplink {
	__u8 mac[6];
	__u8 pad[2];
};

/*
 * exits: uplinks by which packets leave without asking the kernel. Index 0 is none. The agent follows the
 * kernel's routes and neighbours and renews the lease as long as it has heard of all that happened to
 * them.
 */
struct exit {
	__u32 ifindex;
	__u32 until; /* tick of the flow clock; past = all packets take the kernel's ways */
	__u8 mac[6]; /* of the uplink */
	__u8 pad[2];
};

/*
 * vtep_ways: which neighbour of the underlay leads to a VTEP. A bucket is found by way_bucket, and whose ways it
 * has no room for takes the kernel's. `mac` and `exit` are one store; `vtep` changes only while exit is 0.
 */
struct vtep_way {
	__u8 vtep[4];
	__u32 pad;
	__u8 mac[6];
	__u16 exit; /* index of exits; 0 = the kernel's way */
};

struct vtep_ways {
	struct vtep_way v[4]; /* WAYS */
};

/* endpoints4, endpoints6 (slotted): every private address of the VPCs present here. */
struct addr_key4 {
	__u32 vni;
	__u8 addr[4];
};

struct addr_key6 {
	__u32 vni;
	__u8 addr[16];
};

enum endpoint_flag {
	EP_PRESENT = 1 << 0,
	EP_GATEWAY = 1 << 1, /* the subnet's gateway: answers ARP/ND and nothing else */
};

struct endpoint {
	__u32 flags; /* enum endpoint_flag */
	__u32 nexthop;
	__u32 group_set; /* which security groups the owner is a member of */
};

/* macs (slotted): every ENI of the VPCs present here, by MAC. */
struct mac_key {
	__u32 vni;
	__u8 mac[6];
	__u8 pad[2];
};

enum mac_flag {
	MAC_PRESENT = 1 << 0,
	MAC_FOREIGN = 1 << 1, /* may send from addresses that are not its own */
};

struct mac_entry {
	__u32 flags; /* enum mac_flag */
	__u32 nexthop;
};

/* nexthops: where an ENI is. The only table edited in place; the first 8 bytes are one store. */
enum nexthop_kind {
	NH_NONE = 0,
	NH_LOCAL = 1, /* eni */
	NH_VTEP = 2, /* vtep; eni not 0: it is prepared here too */
	NH_INTERNET = 3, /* the host's own routes, over its uplinks */
	NH_MOVED = 4, /* eni: judged here by its flows, then sent on to vtep */
	NH_GATEWAY = 5, /* vtep: from a VPC to the internet by a gateway, which translates */
};

enum nexthop_index {
	NEXTHOP_NONE = 0,
	NEXTHOP_INTERNET = 1,
	NEXTHOP_FIRST = 2, /* the first that belongs to an ENI */
};

struct nexthop {
	__u8 kind; /* enum nexthop_kind */
	__u8 pad;
	__u16 eni;
	__u8 vtep[4];
	__u32 generation; /* grows when flows that name this next hop must be judged again */
	__u32 vni; /* of the ENI's VPC; NH_GATEWAY: of those who send there */
	__u32 subnet; /* of the ENI */
	__u8 mac[6]; /* of the ENI; NH_GATEWAY: the region's gateway MAC */
	__u8 pad2[2];
	__u32 since; /* the generation in which the entry became this ENI's */
};

/*
 * moves (slotted): next hop -> the two hosts between which its ENI moves. Meanwhile both send as the
 * ENI, and what `from` sends on to `to` was judged there.
 */
struct move {
	__u8 from[4];
	__u8 to[4]; /* 0 = it does not move */
};

/* The VXLAN group policy id (draft-smith-vxlan-group-policy). */
enum group_policy {
	GROUP_NONE = 0,
	GROUP_INTERNET = 1 << 0, /* from the internet, by a gateway */
	GROUP_MOVED = 1 << 1, /* judged and sent on by the host that had the ENI before */
};

/* vteps: what a host may send in a VNI; no entry = such packets from there are dropped. */
enum vtep_role {
	VTEP_ENIS = 0, /* from its ENIs of the VPC or of a peer */
	VTEP_GATEWAY = 1, /* from the internet, to an ENI of the VPC here: GROUP_INTERNET */
	VTEP_BEHIND = 2, /* to the internet by this host, from its ENIs: gateway's MAC */
	VTEP_ROLE_SHIFT = 24,
};

struct vtep_key {
	__u32 vni; /* | enum vtep_role << VTEP_ROLE_SHIFT */
	__u8 vtep[4];
};

enum eip_flag {
	EIP_PRESENT = 1 << 0,
	EIP_UPLINK = 1 << 1, /* eip_in: packets to it are taken from the uplinks here */
	EIP_BEHIND = 1 << 2, /* of an ENI of another host: this one is a gateway for it */
	EIP_GATEWAYED = 1 << 3, /* eip_out: its range has gateways: packets may come by them */
};

/*
 * eip_in4, eip_in6 (slotted): EIPs held by ENIs of this host, and as a gateway those of its ranges. The first
 * words of both are the same.
 */
struct eip_in4 {
	__u32 flags; /* enum eip_flag */
	__u32 eni; /* with EIP_BEHIND 0 */
	__u32 nexthop; /* with EIP_BEHIND: of the ENI */
	__u8 addr[4]; /* the private IP */
};

struct eip_in6 {
	__u32 flags;
	__u32 eni;
	__u32 nexthop;
	__u8 addr[16];
};

struct eip_key4 {
	__u8 addr[4] __attribute__((aligned(4)));
};

struct eip_key6 {
	__u8 addr[16] __attribute__((aligned(4)));
};

/* eip_out4, eip_out6 (slotted): private IP -> its EIP, of the same ENIs. */
struct eip_out4 {
	__u32 flags; /* enum eip_flag */
	__u32 nexthop; /* the way to the internet; with EIP_BEHIND: of the ENI */
	__u32 class; /* of what leaves by it, among the EIPs of its ENI: from 1; else 0 */
	__u8 addr[4]; /* the EIP */
};

struct eip_out6 {
	__u32 flags;
	__u32 nexthop;
	__u32 class;
	__u8 addr[16];
};

/* routes4, routes6: longest prefix within a table. prefixlen counts the 32 bits of `table`. */
enum route_kind {
	ROUTE_NONE = 0,
	ROUTE_LOCAL = 1, /* inside the VPC, by address */
	ROUTE_INTERNET = 2,
	ROUTE_BLACKHOLE = 3,
	ROUTE_INFRA = 4,
	ROUTE_ENI = 5, /* through an ENI, which forwards; arg = its next hop */
	ROUTE_VPC = 6, /* to a peer; arg = its VNI */
	ROUTE_NOT_PEERED = 7, /* to another VPC, without routes on both sides */
	ROUTE_GATEWAY = 8, /* a range of EIPs for which the host is a gateway */
};

struct lpm_key4 {
	__u32 prefixlen;
	__u32 table;
	__u8 addr[4];
};

struct lpm_key6 {
	__u32 prefixlen;
	__u32 table;
	__u8 addr[16];
};

struct route {
	__u32 kind; /* enum route_kind */
	__u32 arg;
	__u32 subnet; /* the subnet whose CIDR this is, 0 = none; not 0 = inside the VPC */
};

/* policies: where a policy route leads. */
struct policy_key {
	__u32 policy; /* eni_conf.policy_to */
	__u32 bit; /* of the route in the classes of its rule sets; the lowest counts first */
};

/*
 * Rule sets (security groups united per ENI and direction, one direction of a network ACL), by equivalence
 * classes: peer address -> class (addrs4/6, the longest prefix), once for what the rules themselves write
 * and once for the prefix lists that they name; peer's group set -> class (groups); protocol and port ->
 * class (services); and one verdict per pair of classes. Class 0 = matches no rule and is never stored.
 * Tables are written once and never changed; a change makes new ones of those that it is about, under
 * other ids. All ids are of one series.
 */
struct service_key {
	__u32 prefixlen; /* counts the 32 bits of table, 8 of protocol, 16 of port */
	__u32 table;
	__u8 protocol;
	__u8 port[2]; /* network order: destination port, or ICMP type and code, or 0 */
	__u8 pad;
};

/* Ports that would be many prefixes: the entry of 256 ports has class 0 and leads to their classes. */
struct block_key {
	__u32 table;
	__u8 protocol;
	__u8 high; /* byte of the port */
	__u8 pad[2];
};

struct service_block {
	__u32 classes[256]; /* by low byte of the port; 0 = none */
};

struct group_key {
	__u32 table;
	__u32 group_set;
};

/* Of what something is a class: every table of a set counts its own from 1. */
enum class_kind {
	CLASS_ADDR = 0,
	CLASS_LIST = 1,
	CLASS_GROUP = 2,
	CLASS_SERVICE = 3,
	CLASS_SHIFT = 28, /* kind << CLASS_SHIFT | class */
};

struct verdict_key {
	__u32 ruleset;
	__u32 peer; /* kind and class of the peer; wide: 0 */
	__u32 service; /* class of protocol and port; wide: ordinal of a rule */
};

struct verdict {
	__u32 word; /* ordinal of the deciding rule in its set, from 1, << 1 | allow: the lowest decides */
	__u32 rule; /* its id on this host, index of rule_hits; 0 = it has none */
};

/*
 * A set whose rules overlap so much that pairs of classes would be too many is *wide*: class_rules holds the
 * set of rules that each class matches, the first rule that peer and service have in common decides, and
 * verdicts has an entry per rule.
 */
enum ruleset {
	RULESET_WIDE = 1 << 31, /* in the id of a wide set */
	RULESET_WORDS = 16, /* 64 rules each */
	RULESET_CLASSES = 8, /* that share an entry of class_rules */
};

struct rule_set {
	__u64 words[16]; /* RULESET_WORDS; bit n = the rule with ordinal n + 1 */
};

struct class_key {
	__u32 ruleset;
	__u32 classes; /* (kind and class) / RULESET_CLASSES */
};

struct class_rules {
	struct rule_set of[8]; /* RULESET_CLASSES, by the rest */
};

/* counters: index = (eni * 2 + direction) * MAX_REASONS + reason, per CPU. */
struct counter {
	__u64 packets; /* wire segments */
	__u64 bytes; /* of layer 2, as on the wire */
};

/*
 * Flows: one entry per connection and side, seen from the ENI, found by packets of both directions.
 * scope_class = scope << 8 | class. Scope: the VNI when the local address is the ENI's own, the
 * ENI's index when it is not (transit). `port`: TCP and UDP ports; ICMP: local = identifier,
 * remote = type of the request, plus FLOW_ICMP_LOCAL if the local side asks; others: local =
 * protocol number, remote = 0.
 */
enum flow_class {
	CLASS_TCP = 0,
	CLASS_UDP = 1,
	CLASS_ICMP = 2,
	CLASS_OTHER = 3,
	CLASS_INTERNET = 1 << 3, /* the peer is on the internet, not in the VPC */
	CLASS_TRANSIT = 1 << 4, /* the local address is not the ENI's own */
};

struct flow_key4 {
	__u32 scope_class;
	__u8 local[4];
	__u8 remote[4];
	__u16 local_port;
	__u16 remote_port;
};

struct flow_key6 {
	__u32 scope_class;
	__u8 local[16];
	__u8 remote[16];
	__u16 local_port;
	__u16 remote_port;
};

enum flow_icmp {
	FLOW_ICMP_LOCAL = 1 << 8,
};

enum flow_state {
	FLOW_NONE = 0,
	FLOW_OPENING = 1, /* half-open: the opener was not heard since it was answered */
	FLOW_ESTABLISHED = 2, /* it was */
	FLOW_CLOSING = 3, /* TCP: FIN or RST seen */
	FLOW_BLOCKED = 4, /* denied by a later rule; kept so that an allow revives it */
};

enum flow_flag {
	FLOW_OPENED_BY_PEER = 1 << 0,
	FLOW_FIN_OUT = 1 << 1,
	FLOW_FIN_IN = 1 << 2,
	FLOW_REPLY_DENIED = 1 << 3, /* the network ACL denies the packets that answer the opener */
	FLOW_KEPT = 1 << 4, /* security groups admitted it under ENI_KEEP: they judge it no more */
	FLOW_FOREIGN = 1 << 5, /* nobody had the peer's address: it leads to who sent from it */
	FLOW_ANSWERED = 1 << 6, /* the other side was heard while it was half-open */
	FLOW_REFUSED = 1 << 7, /* closed while half-open: worth no more than a half-open one */
};

/* flow_imports: a flow of another host on its way into the table (import.h). */
struct flow_import {
	__u32 eni;
	__u32 incarnation; /* of the ENI, to which the flow shall belong */
	__u32 nexthop; /* NEXTHOP_NONE = not known here */
	__u32 rule;
	__u32 v6;
	__u32 state; /* enum flow_state */
	__u32 flags; /* enum flow_flag */
	__u32 reason; /* why it is blocked */
	__u32 remaining; /* ticks to its deadline */
	__u32 age; /* ticks since it was opened */
	__u32 result; /* answered: enum reason */
	struct flow_key4 key4;
	struct flow_key6 key6;
	__u16 seq[2];
	__u8 nat[16];
	__u64 packets[2]; /* by enum direction */
	__u64 bytes[2];
};

enum flow_import_batch {
	FLOW_IMPORTS = 64, /* flows that one run takes */
};

#pragma clang diagnostic pop
