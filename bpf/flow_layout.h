/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The flow table in memory: what flow.h writes and pkg/dataplane/flowtable reads through mmap.
 *
 * A table is an array of sets; a key may live in one of two sets, in one of eight slots each. The
 * first cache line of a set answers "is it here, is it alive" for all its slots; only then is a
 * slot read. A slot is free, or free again, by its deadline alone: nobody has to delete anything.
 */
#pragma once

#include "kernel.h"
#include "types.h"

#pragma clang diagnostic push
#pragma clang diagnostic error "-Wpadded"

enum flow_layout {
	FLOW_WAYS = 8, /* slots of a set */
	FLOW_TICK_SHIFT = 28, /* a tick is 2^28 ns = 0.27 s: 32 bits last 36 years of uptime */
	FLOW_GRACE = 2, /* ticks from the deadline of a slot to its reuse */
	FLOW_DUE_SETS = 16, /* sets per line of flow_due4, flow_due6 */
	FLOW_SETS = 196608, /* default: 1,048,576 flows in two thirds of the slots */
};

/* flow_tables: one per family. Made with the table, kept as long as it: a new seed loses all flows. */
struct flow_table {
	__u64 seed;
	__u32 words[10]; /* random multipliers, one per word of a key */
	__u32 sets; /* 0 = not prepared yet: nothing is found, everything is refused */
	__u32 max_flows; /* for which the sets were made */
	__u32 tagged; /* flow_tags4, flow_tags6 know all flows; not so in a table from before they were */
	__u32 pad;
};

/* The first line of a set. */
struct flow_line {
	__u64 tags; /* a byte per slot: of the key's hash, 0 = never used */
	__u32 expires[FLOW_WAYS]; /* deadline of each slot in ticks; in the past = free */
	__u32 lock; /* held while a key is inserted whose first choice is this set */
	__u32 pad[5];
};

/*
 * The control word of a slot: version << 13 | color << 12 | flags << 4 | state << 1 | busy. The
 * version grows with each rewrite, state, flags and color change by compare-and-swap under one
 * version, busy is set while the slot is rewritten. What a reader copied is whole if the version is
 * the same before and after. A slot is counted for its ENI (flow_usage.h) unless its state is
 * FLOW_NONE; the color says in which of two numbers.
 */
enum flow_control {
	FLOW_BUSY = 1,
	FLOW_STATE_SHIFT = 1,
	FLOW_STATE_MASK = 7,
	FLOW_FLAGS_SHIFT = 4,
	FLOW_FLAGS_MASK = 255,
	FLOW_COLOR_SHIFT = 12,
	FLOW_COLOR = 1 << 12,
	FLOW_VERSION_SHIFT = 13,
};

struct flow_body {
	__u32 eni;
	__u32 incarnation; /* eni_conf.flows */
	__u32 generation;
	__u32 nexthop;
	__u32 nexthop_generation;
	__u32 rule;
	__u32 opened; /* tick */
	__u8 reason;
	__u8 pad;
	__u16 place; /* in the ring of half-open flows (flow_ring.h) */
	__u64 packets[2]; /* by enum direction */
	__u64 bytes[2];
};

struct flow_slot4 {
	__u32 control;
	struct flow_key4 key;
	__u8 nat[4];
	__u8 pad[4];
	__u16 seq[2]; /* by direction of the sender: TCP: upper half of its last number; ICMP: the
		       * code of its request */
	struct flow_body body;
};

struct flow_slot6 {
	__u32 control;
	struct flow_key6 key;
	__u8 nat[16];
	__u16 seq[2];
	struct flow_body body;
};

/* Ticks: no counted slot of a set may be taken before; 0 = none is counted. */
struct flow_due_line {
	__u32 due[FLOW_DUE_SETS];
};

/* flow_usage: how many flows an ENI has. */
struct flow_usage {
	__u64 held
		[2]; /* by color: eni_conf.flows << 32 | flows counted; of an older id: nobody's */
	__u32 color; /* of new flows */
	__u32 guaranteed; /* to the ENI, as of the last insert or pass of the sweep */
	__u32 ring; /* eni_conf.flows whose half-open flows `opened` counts */
	__u32 opened[2]; /* half-open flows so far, by opening direction */
	__u32 pad[7];
};

/* flow_sweep: the one that frees what has expired (sweep.h), and what is counted for the host. */
struct sweep_state {
	__s64 borrowed; /* flows of all ENIs beyond what is guaranteed to each */
	__u64 pad[7];
	__u32 asked; /* counted up by who wants a pass over everything */
	__u32 done; /* the value of `asked` that the last whole one has answered */
	__u32 full; /* this pass looks at everything */
	__u32 answers; /* the value of `asked` that it answers */
	__u32 unsure; /* a slot stayed busy: what is counted cannot be made right by this pass */
	__u32 passes;
	__u32 turns;
	__u32 running; /* some CPU is at it */
	__u32 family; /* where the pass has come to */
	__u32 line;
	__u32 begun; /* 0 = the next turn begins a pass */
	__u32 pad2[5];
};

struct flow_set4 {
	struct flow_line line;
	struct flow_slot4 slots[FLOW_WAYS];
};

struct flow_set6 {
	struct flow_line line;
	struct flow_slot6 slots[FLOW_WAYS];
};

#pragma clang diagnostic pop

/* Whole cache lines, the same place of control and key in both families; 156 and 204 bytes per
 * connection with two thirds of the slots in use. */
_Static_assert(sizeof(struct flow_table) == 64, "one line");
_Static_assert(sizeof(struct flow_line) == 64, "one line");
_Static_assert(sizeof(struct flow_due_line) == 64, "one line");
_Static_assert(sizeof(struct flow_usage) == 64, "one line");
_Static_assert(sizeof(struct flow_set4) == 13 * 64, "whole lines");
_Static_assert(sizeof(struct flow_set6) == 17 * 64, "whole lines");
_Static_assert(offsetof(struct flow_slot4, key) == offsetof(struct flow_slot6, key), "one text");
_Static_assert(offsetof(struct flow_slot4, seq) + 4 == offsetof(struct flow_slot4, body) &&
		       offsetof(struct flow_slot6, seq) + 4 == offsetof(struct flow_slot6, body),
	       "flow_seq");

/* Index 0 = IPv4, 1 = IPv6. Written once by the agent when it makes the tables. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct flow_table);
} flow_tables SEC(".maps");

/* The flows; written by the programs only (the agent ends a flow by its deadline). The agent sets
 * max_entries from --max-flows when it makes the map. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, FLOW_SETS);
	__type(key, __u32);
	__type(value, struct flow_set4);
	__uint(map_flags, BPF_F_MMAPABLE);
} flows4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, FLOW_SETS);
	__type(key, __u32);
	__type(value, struct flow_set6);
	__uint(map_flags, BPF_F_MMAPABLE);
} flows6 SEC(".maps");

/* The tags of all sets again, and nothing between them: what surely has no flow is known without a line of the table
 * (refuse.h). A tag is here before the flow can be found. The agent sets max_entries of these with that of the flows. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, FLOW_SETS);
	__type(key, __u32);
	__type(value, __u64);
	__uint(map_flags, BPF_F_MMAPABLE);
} flow_tags4 SEC(".maps"), flow_tags6 SEC(".maps");

/* When the sweep must look at a set. One entry for 16 sets; written by the programs, lowered by who
 * ends flows from outside. The agent sets max_entries of these with that of the flows. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, FLOW_SETS / FLOW_DUE_SETS);
	__type(key, __u32);
	__type(value, struct flow_due_line);
	__uint(map_flags, BPF_F_MMAPABLE);
} flow_due4 SEC(".maps"), flow_due6 SEC(".maps");

/* By ENI index. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_ENIS);
	__type(key, __u32);
	__type(value, struct flow_usage);
	__uint(map_flags, BPF_F_MMAPABLE);
} flow_usage SEC(".maps");

/* One entry. User space writes `asked` only. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct sweep_state);
	__uint(map_flags, BPF_F_MMAPABLE);
} flow_sweep SEC(".maps");

/* (eni * 2 + opening direction) * half_open_slots + place -> slot number + 1, FLOW_RING6 for IPv6. */
enum flow_ring {
	FLOW_RING6 = 1 << 31,
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_ENIS * 2 * 4096);
	__type(key, __u32);
	__type(value, __u32);
} half_open SEC(".maps");
