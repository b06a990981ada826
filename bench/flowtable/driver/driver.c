/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
//go:build ignore
/*
 * Runs flow.h without packets: each program does one operation on many numbered flows, in an order
 * that its run asks for. The run is the "packet" of BPF_PROG_TEST_RUN, in and out, so that two CPUs
 * can run at once.
 */
#include "hash.h"

char _license[] SEC("license") = "Dual BSD/GPL";

/* What to do, and what came of it. Flow number of step i: (base + (first + i) * stride) & mask. */
struct run {
	__u32 base;
	__u32 mask;
	__u32 first;
	__u32 stride;
	__u32 count;
	__u32 now;
	__u32 class; /* enum flow_class */
	__u32 state; /* of inserted flows; advance and rewrite: the state to move to */
	__u32 mark; /* eni and incarnation of inserted flows */
	__u32 ok;
	__u32 missing;
	__u32 full;
	__u32 busy;
	__u32 wrong; /* found flows that are not the one asked for, or torn */
	__u32 peers; /* CPUs that take each step at the same moment; 0 = alone */
	__u32 apart; /* steps at which the others did not come */
	__u32 delay; /* how long to hang back then, in turns of an empty loop */
	__u32 quota; /* flows refused for it */
	__u64 sum;
	__u32 flags; /* enum flow_flag of inserted flows */
	__u32 limit; /* struct flow_quota; 0 = none */
	__u32 guaranteed;
	__u32 pool;
	__u32 half_open;
	__u32 pad;
};

/* Where CPUs meet that take steps at the same moment. Zeroed before a run. */
struct meeting_point {
	__u32 arrived; /* CPUs, over all steps */
	__u32 begun; /* steps that all CPUs have come to */
	__u64 moment; /* at which to take the last of them */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct meeting_point);
} gate SEC(".maps");

/* A run under way. `chain` is always 0, but the CPU learns it only from the last result, so that
 * steps do not overlap: what is measured is the latency of each. */
struct work {
	struct run run;
	__u64 chain;
	__u32 eni;
	struct flow_quota quota;
	struct flow_stored stored;
};

/* Not on the stack, which the operations need. */
MAP(driver_work, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct work, 1, 0);

static __always_inline __u32 flow_number(const struct work *work, __u32 i)
{
	const struct run *run = &work->run;

	return (run->base + (run->first + i) * run->stride + (__u32)work->chain) & run->mask;
}

/* Consecutive numbers share addresses and count ports up, as the flows of a busy service do. */
static __always_inline void flow_key_of(void *to, __u32 number, __u32 class, const bool v6)
{
	struct flow_key4 *key4 = to;
	struct flow_key6 *key6 = to;
	__u32 remote = bpf_htonl(0xac100000 | (number >> 10 & 0xfffff));
	__u32 local = bpf_htonl(0x0a000000 | (number >> 4 & 7));
	__u16 port = 1024 + (number & 1023);

	if (v6) {
		__builtin_memset(key6, 0, sizeof(*key6));
		key6->scope_class = 100 << 8 | class;
		key6->local[0] = key6->remote[0] = 0xfd;
		*(__u32 *)&key6->local[12] = local;
		*(__u32 *)&key6->remote[12] = remote;
		key6->local_port = 443;
		key6->remote_port = port;
		return;
	}
	key4->scope_class = 100 << 8 | class;
	*(__u32 *)key4->local = local;
	*(__u32 *)key4->remote = remote;
	key4->local_port = 443;
	key4->remote_port = port;
}

static __always_inline void note(struct work *work, enum reason reason, __u64 value)
{
	switch (reason) {
	case REASON_CONTINUE:
		work->run.ok++;
		break;
	case REASON_FLOW_FULL:
		work->run.full++;
		break;
	case REASON_FLOW_BUSY:
		work->run.busy++;
		break;
	case REASON_FLOW_QUOTA:
		work->run.quota++;
		break;
	default:
		work->run.missing++;
	}
	work->run.sum += value;
	work->chain = flow_zero(value);
}

enum operation {
	EMPTY, /* only makes the key */
	FIND,
	HIT, /* find, touch: what an established packet does */
	INSERT,
	REWRITE, /* find, insert: what a packet does that finds its flow judged by old rules */
	ADVANCE,
	HASH_FIND,
	HASH_HIT,
	HASH_INSERT,
};

static __always_inline void flow_init(struct flow *flow, const struct run *run, __u32 number)
{
	__builtin_memset(flow, 0, sizeof(*flow));
	flow->eni = run->mark % MAX_ENIS;
	flow->incarnation = run->mark;
	flow->flags = run->flags;
	flow->rule = number;
	flow->state = run->state;
	*(__u32 *)flow->nat = ~number;
}

/* A half-open flow makes way, as it does in the packet path. */
__noinline int evict(struct work *work)
{
	const struct flow_stored *to;
	__u32 slot;

	if (!work)
		return 1;
	to = &work->stored;
	slot = (to->evicts & ~FLOW_RING6) - 1;
	if (to->evicts & FLOW_RING6)
		flow_evict(slot, work->eni, work->run.mark, to->opener, to->place, true);
	else
		flow_evict(slot, work->eni, work->run.mark, to->opener, to->place, false);
	return 0;
}

static __always_inline enum reason insert(const void *key, const struct flow *flow,
					  struct work *work, const bool v6)
{
	const struct run *run = &work->run;

	work->eni = flow->eni;
	work->quota.limit = run->limit ?: ~0U;
	work->quota.guaranteed = run->limit ? run->guaranteed : ~0U;
	work->quota.pool = run->pool;
	work->quota.half_open = run->half_open;
	return flow_insert(key, flow, run->now, &work->stored, &idle, &work->quota, v6);
}

static __always_inline enum reason find(const void *key, __u32 number, struct work *work,
					struct flow *flow, struct flow_ref *ref, const __u32 op,
					const bool v6)
{
	const struct run *run = &work->run;
	enum reason reason;

	if (op == HASH_FIND || op == HASH_HIT)
		reason = hash_find(key, run->now, flow, ref, v6);
	else
		reason = flow_find(key, run->now, flow, ref, v6);
	if (reason != REASON_CONTINUE)
		return reason;
	if (flow->rule != number || *(__u32 *)flow->nat != ~number ||
	    flow->eni != flow->incarnation % MAX_ENIS)
		work->run.wrong++;
	if (op == REWRITE) {
		flow->generation++;
		if (run->state)
			flow->state = run->state;
		return insert(key, flow, work, v6);
	}
	if (op == ADVANCE && !flow_advance(ref, run->state, 0))
		return REASON_FLOW_BUSY;
	if (op != FIND && op != HASH_FIND)
		flow_touch(ref, key, run->now, number, 1, 1500, &idle, v6);
	return reason;
}

struct meeting {
	struct meeting_point *point;
	__u32 step;
};

static long await_step(__u32 i, void *to)
{
	const struct meeting *meeting = to;

	(void)i;
	return (__s32)(flow_load(&meeting->point->begun) - meeting->step) > 0;
}

static long await_moment(__u32 i, void *to)
{
	const struct meeting *meeting = to;

	(void)i;
	return (__s64)(bpf_ktime_get_ns() - meeting->point->moment) >= 0;
}

static long delay_step(__u32 i, void *to)
{
	(void)i;
	(void)to;
	return 0;
}

/* Waits until all CPUs are at step i, for 100 us or so: one may have lost its CPU. Who comes last
 * names the moment, since the news of its coming takes longer than an insert. */
static __always_inline void meet(struct work *work, __u32 i)
{
	struct run *run = &work->run;
	struct meeting_point *point;
	struct meeting meeting;
	__u32 zero = 0, came, due;

	point = bpf_map_lookup_elem(&gate, &zero);
	if (!point)
		return;
	meeting.point = point;
	meeting.step = run->first + i;
	due = (meeting.step + 1) * run->peers;
	came = __sync_fetch_and_add(&point->arrived, 1) + 1;
	if (came == due) {
		point->moment = bpf_ktime_get_ns() + 1000;
		__sync_lock_test_and_set(&point->begun, meeting.step + 1);
	}
	if (came <= due) /* else the others are ahead: catch up */
		bpf_loop(50000, await_step, &meeting, 0);
	if (!await_step(0, &meeting)) {
		run->apart++;
		return;
	}
	bpf_loop(1000, await_moment, &meeting, 0);
	bpf_loop(run->delay & 1023, delay_step, &meeting, 0);
}

static __always_inline int step(__u32 i, struct work *work, const __u32 op, const bool v6)
{
	__u32 number = flow_number(work, i);
	enum reason reason = REASON_CONTINUE;
	struct flow_key6 key;
	struct flow_ref ref = {};
	struct flow flow = {};

	flow_key_of(&key, number, work->run.class, v6);
	if (op != EMPTY && work->run.peers)
		meet(work, i);
	switch (op) {
	case EMPTY:
		barrier_var(number);
		flow.eni = ((__u32 *)&key)[2];
		break;
	case INSERT:
		flow_init(&flow, &work->run, number);
		reason = insert(&key, &flow, work, v6);
		break;
	case HASH_INSERT:
		flow_init(&flow, &work->run, number);
		reason = hash_insert(&key, &flow, work->run.now, v6);
		break;
	default:
		reason = find(&key, number, work, &flow, &ref, op, v6);
	}
	note(work, reason, flow.eni);
	return 0;
}

/* One program per operation and family. The operation is a global function, as it is in the packet
 * path: verified once, not for each turn of the loop. */
#define PROGRAM(name, op, v6)                                                                      \
	__noinline int name##_once(struct work *work, __u32 i)                                     \
	{                                                                                          \
		return work ? step(i, work, op, v6) : 1;                                           \
	}                                                                                          \
	static long name##_step(__u32 i, void *to)                                                 \
	{                                                                                          \
		struct work *work = *(struct work **)to;                                           \
                                                                                                   \
		work->stored.evicts = 0;                                                           \
		name##_once(work, i);                                                              \
		if (work->stored.evicts)                                                           \
			evict(work);                                                               \
		return 0;                                                                          \
	}                                                                                          \
	SEC("xdp") int name(struct xdp_md *ctx)                                                    \
	{                                                                                          \
		struct run *run = (void *)(long)ctx->data;                                         \
		struct work *work;                                                                 \
		__u32 zero = 0;                                                                    \
		__u64 count;                                                                       \
                                                                                                   \
		work = bpf_map_lookup_elem(&driver_work, &zero);                                   \
		if (!work || (void *)(run + 1) > (void *)(long)ctx->data_end)                      \
			return XDP_ABORTED;                                                        \
		work->run = *run;                                                                  \
		work->chain = 0;                                                                   \
		count = work->run.count;                                                           \
		barrier_var(count); /* all 64 bits: the inlined bpf_loop compares them */          \
		bpf_loop(count, name##_step, &work, 0);                                            \
		run = (void *)(long)ctx->data;                                                     \
		if ((void *)(run + 1) > (void *)(long)ctx->data_end)                               \
			return XDP_ABORTED;                                                        \
		*run = work->run;                                                                  \
		return XDP_DROP;                                                                   \
	}

PROGRAM(empty4, EMPTY, false)
PROGRAM(empty6, EMPTY, true)
PROGRAM(find4, FIND, false)
PROGRAM(find6, FIND, true)
PROGRAM(hit4, HIT, false)
PROGRAM(hit6, HIT, true)
PROGRAM(insert4, INSERT, false)
PROGRAM(insert6, INSERT, true)
PROGRAM(rewrite4, REWRITE, false)
PROGRAM(rewrite6, REWRITE, true)
PROGRAM(advance4, ADVANCE, false)
PROGRAM(advance6, ADVANCE, true)
PROGRAM(hash_find4, HASH_FIND, false)
PROGRAM(hash_find6, HASH_FIND, true)
PROGRAM(hash_hit4, HASH_HIT, false)
PROGRAM(hash_hit6, HASH_HIT, true)
PROGRAM(hash_insert4, HASH_INSERT, false)
PROGRAM(hash_insert6, HASH_INSERT, true)

/* Both hooks: the table is used from XDP and from TC. */
SEC("tcx/ingress") int both_hooks(struct __sk_buff *ctx)
{
	struct flow_key4 key;
	struct flow_ref ref;
	struct flow flow;

	flow_key_of(&key, ctx->len, CLASS_TCP, false);
	if (flow_find(&key, flow_now(), &flow, &ref, false) != REASON_CONTINUE)
		return TCX_DROP;
	if (!flow_advance(&ref, FLOW_ESTABLISHED, 0))
		return TCX_DROP;
	flow_touch(&ref, &key, flow_now(), DIR_IN, 1, ctx->len, &idle, false);
	return TCX_PASS;
}

/* A whole pass of the sweep of the table, or a turn of one. */
SEC("xdp") int sweep(struct xdp_md *ctx)
{
	struct run *run = (void *)(long)ctx->data;
	bool done;

	if ((void *)(run + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	done = sweep_turn(run->now, run->count > 1 ? SWEEP_TURN : SWEEP_WHOLE);
	run = (void *)(long)ctx->data;
	if ((void *)(run + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	run->ok = done;
	return XDP_DROP;
}

/* The sweep that the hash needs before it takes anything: deletes what has expired. */
struct bpf_map;

static long sweep_step(struct bpf_map *map, const void *key, struct hash_flow4 *value, __u32 *now)
{
	if (value->expires <= *now)
		bpf_map_delete_elem(map, key);
	return 0;
}

#define SWEEP(name, hash)                                                                          \
	SEC("xdp") int name(struct xdp_md *ctx)                                                    \
	{                                                                                          \
		struct run *run = (void *)(long)ctx->data;                                         \
		__u32 now;                                                                         \
                                                                                                   \
		if ((void *)(run + 1) > (void *)(long)ctx->data_end)                               \
			return XDP_ABORTED;                                                        \
		now = run->now;                                                                    \
		bpf_for_each_map_elem(&hash, sweep_step, &now, 0);                                 \
		return XDP_DROP;                                                                   \
	}

SWEEP(hash_sweep4, hash4)
SWEEP(hash_sweep6, hash6)
