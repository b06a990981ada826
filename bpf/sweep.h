/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The sweep: frees the slots of flows that have expired, so that they no longer count. A timer of the
 * kernel calls it, with or without an agent. It looks at a dense array that says which sets are due
 * (flow_due.h) and comes by a tick of the flow clock at a time, each time in turns that are short.
 *
 * A full pass looks at everything: it also ends the flows of an ENI that is gone or was cut, and makes
 * the numbers of flow_usage.h right.
 */
#pragma once

#include "flow_insert.h"
#include "maps.h"

enum sweep_cost { /* of what a turn does, in about 10 ns */
		  SWEEP_LINE = 1,
		  SWEEP_SET = 8,
		  SWEEP_SLOT = 16,
		  SWEEP_TURN = 40000,
		  SWEEP_WHOLE = 1 << 30,
};

enum sweep_time {
	SWEEP_PAUSE = 250000, /* ns between the turns of a pass */
	SWEEP_LATE = 8000000, /* ns after the flow clock's tick: the coarse clock is late by some */
};

enum sweep_tries {
	SWEEP_TRIES = 64, /* against whoever rewrites a slot */
	SWEEP_LINES = 1 << 20, /* at most in a turn */
};

/* A turn under way. */
struct sweep_turn {
	__u32 now;
	__u32 full;
	__u32 unsure;
	__u32 begin; /* line */
	__u32 done; /* lines */
	__s32 budget;
	__u32 slot; /* of the host word */
	__s32 borrowed;
};

/* Not on the stack, where the verifier would follow each count. */
MAP(sweep_turns, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct sweep_turn, 1, 0);

/* Is the owner of a flow nobody that is here, or about to be? Both slots of a revision count. */
static __always_inline bool sweep_orphan(__u32 eni, __u32 id)
{
	const struct enis *both = bpf_map_lookup_elem(&enis, &eni);

	if (!both)
		return true;
#pragma clang loop unroll(full)
	for (__u32 n = 0; n < 2; n++) {
		const struct eni_conf *conf = &both->v[n];

		if ((conf->flags & ENI_PRESENT) && conf->flows == id)
			return false;
	}
	return true;
}

/* Gives a slot's count the color of new flows. False: the slot has changed meanwhile. */
static __always_inline bool sweep_recolor(__u32 *control, __u32 old, __u32 eni, __u32 id)
{
	struct flow_usage *u = usage_find(eni);
	__u32 color = old >> FLOW_COLOR_SHIFT & 1, before;

	if (!u || flow_load(&u->color) == color)
		return true;
	if (usage_is_past(usage_load(&u->held[~color & 1]), id))
		return true;
	if (usage_add(u, ~color, id, ~0U, &before) != REASON_CONTINUE)
		return false;
	if (__sync_val_compare_and_swap(control, old, old ^ FLOW_COLOR) != old) {
		usage_drop(eni, ~color, id);
		return false;
	}
	usage_drop(eni, color, id);
	return true;
}

enum sweep_result {
	SWEEP_KEEP = 0,
	SWEEP_FREE = 1,
	SWEEP_AGAIN = 2,
};

/* Claims a slot and frees it, if it is still to be freed. */
static __always_inline enum sweep_result sweep_free(struct sweep_turn *t, struct flow_line *line,
						    __u32 i, __u32 old, const bool v6)
{
	__u32 *control = flow_slot(line, i, v6);
	struct flow_body *body = flow_body(control, v6);

	if (__sync_val_compare_and_swap(control, old, old | FLOW_BUSY) != old)
		return SWEEP_AGAIN;
	if (!flow_is_free(&line->expires[i], t->now) &&
	    !(t->full && sweep_orphan(flow_load(&body->eni), flow_load(&body->incarnation)))) {
		__sync_lock_test_and_set(control, old);
		return SWEEP_KEEP;
	}
	if (old >> FLOW_STATE_SHIFT & FLOW_STATE_MASK) {
		flow_release(line, i, old, v6);
		return SWEEP_FREE;
	}
	flow_store(&line->expires[i], 0); /* set by who had found it before it was freed */
	__sync_lock_test_and_set(control, old);
	return SWEEP_FREE;
}

/* Looks at a slot that may be free or, in a full pass, at any. */
static __always_inline enum sweep_result sweep_slot(struct sweep_turn *t, struct flow_line *line,
						    __u32 i, const bool v6)
{
	__u32 *control = flow_slot(line, i, v6), old = flow_load(control), eni, id;
	struct flow_body *body = flow_body(control, v6);

	if (old & FLOW_BUSY)
		return SWEEP_AGAIN;
	if (flow_is_free(&line->expires[i], t->now))
		return sweep_free(t, line, i, old, v6);
	if (!t->full || !(old >> FLOW_STATE_SHIFT & FLOW_STATE_MASK))
		return SWEEP_KEEP;
	eni = flow_load(&body->eni + flow_zero(old));
	id = flow_load(&body->incarnation + flow_zero(old));
	if (sweep_orphan(eni, id))
		return sweep_free(t, line, i, old, v6);
	return sweep_recolor(control, old, eni, id) ? SWEEP_KEEP : SWEEP_AGAIN;
}

__noinline int sweep_slot4(struct sweep_turn *t, __u32 slot)
{
	struct flow_line *line = flow_set(slot / FLOW_WAYS, false);

	return t && line ? sweep_slot(t, line, slot % FLOW_WAYS, false) : SWEEP_KEEP;
}

__noinline int sweep_slot6(struct sweep_turn *t, __u32 slot)
{
	struct flow_line *line = flow_set(slot / FLOW_WAYS, true);

	return t && line ? sweep_slot(t, line, slot % FLOW_WAYS, true) : SWEEP_KEEP;
}

/* Until the slot has stood still. Returns when it may be free, 0 = it is not counted. */
static __always_inline __u32 sweep_way(struct sweep_turn *t, struct flow_line *line, __u32 slot,
				       const bool v6)
{
	__u32 *deadline = &line->expires[slot % FLOW_WAYS], expires = flow_load(deadline);
	int result = SWEEP_AGAIN;

	if (!t->full && (!expires || expires + FLOW_GRACE > t->now))
		return expires ? expires + FLOW_GRACE : 0;
	t->budget -= SWEEP_SLOT;
#pragma clang loop unroll(disable)
	for (__u32 n = 0; n < SWEEP_TRIES; n++) {
		result = v6 ? sweep_slot6(t, slot) : sweep_slot4(t, slot);
		if (result != SWEEP_AGAIN)
			break;
	}
	if (result == SWEEP_FREE)
		return 0;
	if (result == SWEEP_AGAIN)
		t->unsure = 1;
	expires = flow_load(deadline);
	return expires ? expires + FLOW_GRACE : 0;
}

/*
 * Looks at a set. First nothing is due: what is set from here on lowers that again. Then comes what
 * is found.
 */
static __always_inline int sweep_set(struct sweep_turn *t, __u32 set, const bool v6)
{
	struct flow_line *line = flow_set(set, v6);
	__u32 *due = flow_due(set, v6), next = ~0U;

	if (!line || !due)
		return 0;
	t->budget -= SWEEP_SET;
	__sync_lock_test_and_set(due, 0);
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < FLOW_WAYS; i++) {
		__u32 tick = sweep_way(t, line, set * FLOW_WAYS + i, v6);

		if (tick && tick < next)
			next = tick;
	}
	if (next != ~0U)
		due_lower(due, next);
	return 0;
}

__noinline int sweep_set4(struct sweep_turn *t, __u32 set)
{
	return t ? sweep_set(t, set, false) : 0;
}

__noinline int sweep_set6(struct sweep_turn *t, __u32 set)
{
	return t ? sweep_set(t, set, true) : 0;
}

/* Which sets of a line are due, as bits. */
static __always_inline __u32 sweep_due(const struct flow_due_line *line, __u32 now)
{
	__u32 sets = 0;

#pragma clang loop unroll(full)
	for (__u32 i = 0; i < FLOW_DUE_SETS; i++) {
		__u64 ahead = (__u64)(__u32)(flow_load(&line->due[i]) - 1) - now;

		barrier_var(ahead); /* no branch, or the verifier walks each set of sets */
		sets |= (__u32)(ahead >> 63) << i;
	}
	return sets;
}

static __always_inline long sweep_line(__u32 n, struct sweep_turn *t, const bool v6)
{
	__u32 index = t->begin + n, sets;
	struct flow_due_line *line;

	line = v6 ? bpf_map_lookup_elem(&flow_due6, &index) :
		    bpf_map_lookup_elem(&flow_due4, &index);
	if (!line)
		return 1;
	sets = t->full ? (1U << FLOW_DUE_SETS) - 1 : sweep_due(line, t->now);
	t->budget -= SWEEP_LINE;
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < FLOW_DUE_SETS; i++) {
		if (!(sets >> i & 1))
			continue;
		if (v6)
			sweep_set6(t, index * FLOW_DUE_SETS + i);
		else
			sweep_set4(t, index * FLOW_DUE_SETS + i);
	}
	t->done = n + 1;
	return t->budget <= 0;
}

/* What bpf_loop hands on must be on the stack: a pointer to the turn. */
static long sweep_line4(__u32 n, void *turn)
{
	return sweep_line(n, *(struct sweep_turn **)turn, false);
}

static long sweep_line6(__u32 n, void *turn)
{
	return sweep_line(n, *(struct sweep_turn **)turn, true);
}

/* New flows get the other color, which no slot has. */
static long sweep_color(__u32 eni, void *t)
{
	struct flow_usage *u = usage_find(eni);

	(void)t;
	if (!u)
		return 1;
	__sync_lock_test_and_set(&u->held[~flow_load(&u->color) & 1], 0);
	__sync_fetch_and_xor(&u->color, 1);
	return 0;
}

/* What is left of the color that no slot has any more was an error. */
static long sweep_forget(__u32 eni, void *t)
{
	struct flow_usage *u = usage_find(eni);
	__u64 *held;

	(void)t;
	if (!u)
		return 1;
	held = &u->held[~flow_load(&u->color) & 1];
	if (usage_load(held))
		__sync_lock_test_and_set(held, 0);
	return 0;
}

/* What an ENI has beyond what is guaranteed to it. */
static long sweep_borrowed(__u32 eni, void *turn)
{
	struct flow_usage *u = usage_find(eni);
	const struct enis *both = bpf_map_lookup_elem(&enis, &eni);
	struct sweep_turn *t = *(struct sweep_turn **)turn;
	const struct host_confs *host;
	const struct eni_conf *conf;
	__u32 zero = 0, share, has;

	host = bpf_map_lookup_elem(&host_conf, &zero);
	if (!u || !both || !host)
		return 1;
	conf = &both->v[t->slot & 1];
	if (!(conf->flags & ENI_PRESENT))
		return 0;
	share = host->v[t->slot & 1].flow_share;
	if (share > conf->max_flows)
		share = conf->max_flows;
	if (flow_load(&u->guaranteed) != share)
		flow_store(&u->guaranteed, share);
	has = usage_total(u, conf->flows);
	if (has > share)
		t->borrowed += has - share;
	return 0;
}

static __always_inline void sweep_begin(struct sweep_state *s)
{
	__u32 asked = flow_load(&s->asked);

	s->begun = 1;
	s->family = 0;
	s->line = 0;
	s->full = asked != s->done;
	s->answers = asked;
	if (s->full && !s->unsure)
		bpf_loop(MAX_ENIS, sweep_color, NULL, 0);
	s->unsure = 0;
}

static __always_inline void sweep_end(struct sweep_state *s, struct sweep_turn *t)
{
	__s64 before = *(volatile __s64 *)&s->borrowed;
	__u64 *word;
	__u32 zero = 0;

	if (s->full && !s->unsure) {
		bpf_loop(MAX_ENIS, sweep_forget, NULL, 0);
		s->done = s->answers;
	}
	word = bpf_map_lookup_elem(&active, &zero);
	t->slot = word ? *(volatile __u64 *)word & 1 : 0;
	t->borrowed = 0;
	bpf_loop(MAX_ENIS, sweep_borrowed, &t, 0);
	__sync_fetch_and_add(&s->borrowed, t->borrowed - before);
	if (!s->full)
		s->unsure = 0;
	s->begun = 0;
	s->passes++;
}

/* One family's lines, as far as the budget reaches. True: all are done. */
static __always_inline bool sweep_family(struct sweep_state *s, struct sweep_turn *t)
{
	__u32 family = s->family, lines;
	const struct flow_table *table = bpf_map_lookup_elem(&flow_tables, &family);

	if (!table)
		return true;
	lines = (table->sets + FLOW_DUE_SETS - 1) / FLOW_DUE_SETS;
	t->begin = s->line;
	t->done = 0;
	if (t->begin >= lines)
		return true;
	lines -= t->begin;
	if (lines > SWEEP_LINES)
		lines = SWEEP_LINES;
	if (family)
		bpf_loop(lines, sweep_line6, &t, 0);
	else
		bpf_loop(lines, sweep_line4, &t, 0);
	s->line = t->begin + t->done;
	return t->done == lines && lines < SWEEP_LINES;
}

/* A turn. True: the pass is at its end. */
static __always_inline bool sweep_run(struct sweep_state *s, struct sweep_turn *t)
{
	if (!s->begun)
		sweep_begin(s);
	t->full = s->full;
	t->unsure = 0;
	s->turns++;
#pragma clang loop unroll(disable)
	for (__u32 n = 0; n < 2; n++) {
		bool whole = sweep_family(s, t);

		s->unsure |= t->unsure;
		if (!whole)
			return false;
		if (s->family) {
			sweep_end(s, t);
			return true;
		}
		s->family = 1;
		s->line = 0;
		if (t->budget <= 0)
			return false;
	}
	return false;
}

/* One CPU at a time. */
static __always_inline bool sweep_turn(__u32 now, __s32 budget)
{
	struct sweep_state *s = sweep_find();
	struct sweep_turn *t;
	__u32 zero = 0;
	bool done;

	t = bpf_map_lookup_elem(&sweep_turns, &zero);
	if (!s || !t || __sync_val_compare_and_swap(&s->running, 0, 1))
		return true;
	t->now = now;
	t->budget = budget;
	done = sweep_run(s, t);
	__sync_lock_test_and_set(&s->running, 0);
	return done;
}

/* The timer. Its map holds nothing else: an update from outside would end it. */
struct sweep_timer {
	struct bpf_timer timer;
};
MAP(sweep_timers, BPF_MAP_TYPE_ARRAY, __u32, struct sweep_timer, 1, 0);

/* To the next tick of the flow clock. */
static __always_inline __u64 sweep_wait(void)
{
	__u64 now = bpf_ktime_get_ns() - SWEEP_LATE, tick = 1ULL << FLOW_TICK_SHIFT;

	return tick - (now & (tick - 1));
}

static int sweep_tick(void *map, __u32 *key, struct sweep_timer *t)
{
	bool done = sweep_turn(flow_now(), SWEEP_TURN);

	(void)map;
	(void)key;
	bpf_timer_start(&t->timer, done ? sweep_wait() : SWEEP_PAUSE, 0);
	return 0;
}

/* Starts the timer, or gives a running one this program's text. 0 or an error of the kernel. */
static __always_inline int sweep_start_timer(void)
{
	struct sweep_timer *t;
	__u32 zero = 0;
	long err;

	t = bpf_map_lookup_elem(&sweep_timers, &zero);
	if (!t)
		return -2;
	bpf_timer_init(&t->timer, &sweep_timers, 1 /* CLOCK_MONOTONIC */); /* or it was already */
	err = bpf_timer_set_callback(&t->timer, sweep_tick);
	if (err)
		return err;
	return bpf_timer_start(&t->timer, 0, 0);
}
