// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The programs: one per kind of hook, and the stubs that the links hold. A stub tail-calls the
 * program in force, so that an upgrade replaces a slot of an array and never touches a link. If a
 * slot is empty, ports and the VXLAN device drop and the uplink, which is the host's too, passes.
 */
#include "import.h"
#include "port.h"
#include "shape.h"
#include "sweep.h"
#include "toobig.h"
#include "uplink.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* What every packet is asked first: its size, the revision in force, the time. */
static __always_inline void begin_tc(struct pkt *p, struct __sk_buff *skb)
{
	keep(p);
	pkt_init_tc(p, skb);
	slot_read(p);
	p->now = flow_now();
}

static __always_inline void begin_xdp(struct pkt *p, struct xdp_md *ctx)
{
	keep(p);
	pkt_init_xdp(p, ctx);
	slot_read(p); /* the time is asked for when it matters: own.h */
}

/* What a reason means to TC. `otherwise` = for what is not ours. */
static __always_inline int tc_action(const struct pkt *p, enum reason reason, int otherwise)
{
	switch (reason) {
	case REASON_NOT_OURS:
		return otherwise;
	case REASON_DELIVERED:
	case REASON_REDIRECTED:
	case REASON_ANSWERED:
		if (p->out & OUT_NEIGHBOUR)
			return bpf_redirect_neigh(p->out_ifindex, NULL, 0, 0);
		return bpf_redirect(p->out_ifindex, 0);
	default:
		return TCX_DROP;
	}
}

static __always_inline int xdp_action(const struct pkt *p, enum reason reason)
{
	switch (reason) {
	case REASON_NOT_OURS:
		return XDP_PASS;
	case REASON_ANSWERED:
		return XDP_TX;
	case REASON_DELIVERED:
		return bpf_redirect(p->out_ifindex, 0);
	default:
		refuse_alert();
		return XDP_DROP;
	}
}

SEC("tcx/ingress")
int port(struct __sk_buff *skb)
{
	struct pkt p = {};
	enum reason reason;

	begin_tc(&p, skb);
	reason = port_run(&p);
	if (reason == REASON_SPOOFED_IP || reason == REASON_SPOOFED_ARP)
		reason = port_spoofed(&p, reason);
	count(&p, reason);
	if (reason == REASON_TOO_BIG && p.mtu)
		reason = too_big_at_port(&p);
	if (unlikely(p.out & (OUT_SHAPED | OUT_CLASS)) && reason == REASON_DELIVERED)
		shape(&p);
	return tc_action(&p, reason, TCX_DROP);
}

SEC("tcx/ingress")
int vxlan(struct __sk_buff *skb)
{
	struct scratch *s = scratch_get();
	struct pkt p = {};
	enum reason reason;

	if (!s)
		return TCX_DROP;
	begin_tc(&p, skb);
	overlay_tunnel(skb, s);
	reason = overlay_run(&p, s, false);
	count(&p, reason);
	if (reason == REASON_TOO_BIG && p.mtu)
		reason = too_big_in_tunnel(&p);
	if (unlikely(p.out & OUT_CLASS) && reason == REASON_DELIVERED)
		shape_in(&p);
	return tc_action(&p, reason, TCX_DROP);
}

SEC("tcx/ingress")
int uplink(struct __sk_buff *skb)
{
	struct pkt p = {};
	enum reason reason;

	begin_tc(&p, skb);
	reason = uplink_run(&p);
	if (reason != REASON_NOT_OURS)
		count(&p, reason);
	if (reason == REASON_TOO_BIG && p.mtu)
		reason = too_big_at_uplink(&p);
	if (unlikely(p.out & OUT_CLASS) && reason == REASON_DELIVERED)
		shape_in(&p);
	return tc_action(&p, reason, TCX_NEXT);
}

/* What has waited for its turn was judged and counted before; only what gets lost here is counted again. */
SEC("tcx/ingress")
int shaper(struct __sk_buff *skb)
{
	struct pkt p = {};
	enum reason reason;

	begin_tc(&p, skb);
	reason = shape_run(&p);
	if (reason != REASON_DELIVERED) {
		count_enter(&p, 0, DIR_OUT);
		count(&p, reason);
	}
	return tc_action(&p, reason, TCX_DROP);
}

SEC("xdp.frags")
int uplink_xdp(struct xdp_md *ctx)
{
	struct pkt p = {};
	enum reason reason;

	begin_xdp(&p, ctx);
	reason = uplink_run_xdp(&p);
	if (reason != REASON_NOT_OURS)
		refuse_count(&p, reason);
	return xdp_action(&p, reason);
}

SEC("tcx/ingress")
int stub_port(struct __sk_buff *skb)
{
	bpf_tail_call(skb, &progs_tc, PROGRAM_PORT);
	return TCX_DROP;
}

SEC("tcx/ingress")
int stub_vxlan(struct __sk_buff *skb)
{
	bpf_tail_call(skb, &progs_tc, PROGRAM_VXLAN);
	return TCX_DROP;
}

SEC("tcx/ingress")
int stub_uplink(struct __sk_buff *skb)
{
	bpf_tail_call(skb, &progs_tc, PROGRAM_UPLINK);
	return TCX_NEXT;
}

SEC("tcx/ingress")
int stub_shaper(struct __sk_buff *skb)
{
	bpf_tail_call(skb, &progs_tc, PROGRAM_SHAPER);
	return TCX_DROP;
}

SEC("xdp.frags")
int stub_uplink_xdp(struct xdp_md *ctx)
{
	bpf_tail_call(ctx, &progs_xdp, PROGRAM_UPLINK);
	return XDP_PASS;
}

/* Run by the loader, not by packets: starts the sweep of the flow tables. */
SEC("tcx/ingress")
int sweep_start(struct __sk_buff *skb)
{
	(void)skb;
	return sweep_start_timer();
}

/* Run by the agent: takes the flows in flow_imports into the table. */
SEC("tcx/ingress")
int flow_import(struct __sk_buff *skb)
{
	(void)skb;
	return import_all();
}

/* Run by tests: a whole pass at once. */
SEC("tcx/ingress")
int sweep_all(struct __sk_buff *skb)
{
	(void)skb;
	return sweep_turn(flow_now(), SWEEP_WHOLE);
}
