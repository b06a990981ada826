/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
//go:build ignore
/*
 * What stands between BPF_PROG_TEST_RUN and the program under test. The kernel runs a program many
 * times on one packet and restores nothing in between; so before each run these wrappers write the
 * packet anew, as the next one of many flows, and tail-call the program. Their own cost is measured
 * with an empty program in its place.
 */
#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

char _license[] SEC("license") = "Dual BSD/GPL";

#define TCX_DROP 2
#define FRAME 128 /* the longest frame */

/*
 * The packets of a run: a frame, and which numbers in it count with the flow. Flow n is that of ENI
 * n % enis; the others of its ENI count by remote address first, then by the ENI's port, then by the
 * remote one.
 */
struct path {
	__u32 next; /* packet number, counted up */
	__u32 base; /* number of the first flow */
	__u32 mask; /* flows - 1, a power of two less one */
	__u32 shift; /* half the bits of mask */
	__u32 ordered; /* flows in the order of their numbers, without mask */
	__u32 enis;
	__u32 remotes;
	__u32 step; /* from one remote address to the next; shares no factor with remotes */
	__u32 per_remote; /* addresses of one remote ENI */
	__u32 hosts; /* that the remote ENIs are on, in turn */
	__u32 local_addr; /* the first ones, last four bytes, host order */
	__u32 remote_addr;
	__u32 local_mac;
	__u32 remote_mac;
	__u32 vtep; /* of the first remote host */
	__u32 vni; /* 0 = not from a tunnel */
	__u32 mark;
	__u16 local_port;
	__u16 remote_port;
	__u16 at_local_addr; /* offsets in the frame, of the four bytes that count; 0 = nothing counts */
	__u16 at_remote_addr;
	__u16 at_local_mac;
	__u16 at_remote_mac;
	__u16 at_local_port;
	__u16 at_remote_port;
	__u32 len;
	__u32 failed; /* packets that could not be made */
	__u8 frame[FRAME + 4];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct path);
} paths SEC(".maps");

/* The program under test, in an array for each hook: the kernel mixes no kinds. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
	__uint(max_entries, 1);
} target_tc SEC(".maps"), target_xdp SEC(".maps");

static __always_inline void put32(struct path *p, __u32 at, __u32 value)
{
	if (at)
		*(__be32 *)(p->frame + (at & (FRAME - 1))) = bpf_htonl(value);
}

static __always_inline void put16(struct path *p, __u32 at, __u16 value)
{
	if (at)
		*(__be16 *)(p->frame + (at & (FRAME - 1))) = bpf_htons(value);
}

/* Numbers 0 to mask in an order that no cache foresees, each once. */
static __always_inline __u32 shuffled(const struct path *p, __u32 i)
{
	i = (i * 0x9e3779b1) & p->mask;
	i ^= i >> (p->shift & 31);
	return (i * 0x85ebca6b) & p->mask;
}

/* Makes the next packet. Returns the address of the host it comes from, if it comes from one. */
static __always_inline __u32 path_next(struct path *p)
{
	__u32 i = p->next++, n = p->base + (p->ordered ? i : shuffled(p, i));
	__u32 remotes = p->remotes ?: 1, enis = p->enis ?: 1;
	__u32 eni = n % enis, of_eni = n / enis;
	__u32 remote = (of_eni % remotes) * p->step % remotes, turn = of_eni / remotes;
	__u32 remote_eni = remote / (p->per_remote ?: 1);

	put32(p, p->at_local_addr, p->local_addr + eni);
	put32(p, p->at_remote_addr, p->remote_addr + remote);
	put32(p, p->at_local_mac, p->local_mac + eni);
	put32(p, p->at_remote_mac, p->remote_mac + remote_eni);
	put16(p, p->at_local_port, p->local_port + (turn & 0x7fff));
	put16(p, p->at_remote_port, p->remote_port + (turn >> 15));
	return p->vtep + remote_eni % (p->hosts ?: 1);
}

static __always_inline struct path *path_get(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&paths, &zero);
}

/* The packet as it came, also after an encapsulation. */
static __always_inline bool renew_tc(struct __sk_buff *skb, struct path *p, __u32 len)
{
	if (skb->len != len &&
	    bpf_skb_adjust_room(skb, (int)len - (int)skb->len, BPF_ADJ_ROOM_MAC, 0))
		return false;
	return !bpf_skb_store_bytes(skb, 0, p->frame, len, 0);
}

SEC("tcx/ingress")
int cost_tc(struct __sk_buff *skb)
{
	struct path *p = path_get();
	__u32 from, len;

	if (!p)
		return TCX_DROP;
	from = path_next(p);
	len = p->len;
	if (len < 14 || len > FRAME || !renew_tc(skb, p, len)) {
		p->failed++;
		return TCX_DROP;
	}
	skb->mark = p->mark;
	if (p->vni) {
		/* What is sent from `local` looks as if it had come from there. */
		struct bpf_tunnel_key key = {
			.tunnel_id = p->vni, .local_ipv4 = from, .tunnel_ttl = 64};

		if (bpf_skb_set_tunnel_key(skb, &key, sizeof(key), 0)) {
			p->failed++;
			return TCX_DROP;
		}
	}
	bpf_tail_call(skb, &target_tc, 0);
	p->failed++;
	return TCX_DROP;
}

SEC("xdp.frags")
int cost_xdp(struct xdp_md *ctx)
{
	struct path *p = path_get();
	__u32 len, now;

	if (!p)
		return XDP_ABORTED;
	path_next(p);
	len = p->len;
	now = ctx->data_end - ctx->data;
	if (len < 14 || len > FRAME ||
	    (now != len && bpf_xdp_adjust_head(ctx, (int)now - (int)len)) ||
	    bpf_xdp_store_bytes(ctx, 0, p->frame, len)) {
		p->failed++;
		return XDP_ABORTED;
	}
	bpf_tail_call(ctx, &target_xdp, 0);
	p->failed++;
	return XDP_ABORTED;
}

SEC("tcx/ingress")
int empty_tc(struct __sk_buff *skb)
{
	(void)skb;
	return TCX_DROP;
}

SEC("xdp.frags")
int empty_xdp(struct xdp_md *ctx)
{
	(void)ctx;
	return XDP_DROP;
}

/* Programs that leave a longer packet behind, as encapsulation does: to prove that the wrapper puts
 * it right. */
SEC("tcx/ingress")
int longer_tc(struct __sk_buff *skb)
{
	bpf_skb_adjust_room(skb, 50, BPF_ADJ_ROOM_MAC, 0);
	return TCX_DROP;
}

SEC("xdp.frags")
int longer_xdp(struct xdp_md *ctx)
{
	return bpf_xdp_adjust_head(ctx, -50) ? XDP_ABORTED : XDP_DROP;
}
