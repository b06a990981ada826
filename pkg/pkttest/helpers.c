//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * BPF_PROG_TEST_RUN has no tunnel, does not carry out redirects and knows only its own time. The
 * runner replaces the calls of these helpers in the programs under test, one call for another, by
 * the functions below: they give what a row says and note what the program asked for. Nothing else
 * of the program changes, and no test code is in the programs that ship.
 */
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

/* What the row says. */
struct given {
	__u32 vni; /* 0 = the packet came through no tunnel */
	__u32 remote; /* host order, as the helper gives it */
	__u32 local;
	__u32 policy; /* GBP bits */
	__u64 later; /* nanoseconds that have passed since the world was made */
	__u64 now; /* the time itself, if it does not pass by itself */
};

/* What the program asked for. */
struct asked {
	__u32 ifindex; /* of the last redirect */
	__u32 neighbour; /* 1 = by bpf_redirect_neigh */
	__u32 vni;
	__u32 remote;
	__u32 policy;
	__u32 tunnel_flags;
	__u8 via[16]; /* next hop of bpf_redirect_neigh, if any */
	__u32 via_family;
	__u32 pad;
};

/* Called by nobody here: "used" keeps clang from changing how arguments are passed. */
#define UNIT static __attribute__((noinline, used))

volatile struct given given;
volatile struct asked asked;

UNIT long unit_redirect(__u32 ifindex, __u64 flags)
{
	asked.ifindex = ifindex;
	return bpf_redirect(ifindex, flags);
}

UNIT long unit_redirect_neigh(__u32 ifindex, struct bpf_redir_neigh *params, int plen, __u64 flags)
{
	asked.ifindex = ifindex;
	asked.neighbour = 1;
	if (params && plen == sizeof(*params)) {
		asked.via_family = params->nh_family;
		for (int i = 0; i < 16; i++)
			asked.via[i] = ((__u8 *)params->ipv6_nh)[i];
	}
	return bpf_redirect_neigh(ifindex, params, plen, flags);
}

UNIT long unit_get_tunnel_key(struct __sk_buff *skb, struct bpf_tunnel_key *key, __u32 size,
			      __u64 flags)
{
	(void)skb, (void)flags;
	if (!given.vni)
		return -22;
	key->tunnel_id = given.vni;
	key->remote_ipv4 = given.remote;
	if (size >= sizeof(*key))
		key->local_ipv4 = given.local;
	return 0;
}

UNIT long unit_get_tunnel_opt(struct __sk_buff *skb, __u32 *policy, __u32 size)
{
	(void)skb, (void)size;
	if (!given.vni)
		return -22;
	*policy = given.policy;
	return 4;
}

UNIT long unit_set_tunnel_key(struct __sk_buff *skb, struct bpf_tunnel_key *key, __u32 size,
			      __u64 flags)
{
	asked.vni = key->tunnel_id;
	asked.remote = key->remote_ipv4;
	asked.tunnel_flags = flags;
	return bpf_skb_set_tunnel_key(skb, key, size, flags);
}

UNIT long unit_set_tunnel_opt(struct __sk_buff *skb, __u32 *policy, __u32 size)
{
	asked.policy = *policy;
	return bpf_skb_set_tunnel_opt(skb, policy, size);
}

UNIT __u64 unit_ktime(void)
{
	return given.now ?: bpf_ktime_get_coarse_ns() + given.later;
}

/* Names all of them, so that they are in the object. */
SEC("tc")
int unit_helpers(struct __sk_buff *skb)
{
	struct bpf_redir_neigh neigh = {};
	struct bpf_tunnel_key key = {};
	__u32 policy = 0;
	__u64 sum = unit_ktime();

	sum += unit_get_tunnel_key(skb, &key, sizeof(key), 0);
	sum += unit_get_tunnel_opt(skb, &policy, sizeof(policy));
	sum += unit_set_tunnel_key(skb, &key, sizeof(key), 0);
	sum += unit_set_tunnel_opt(skb, &policy, sizeof(policy));
	sum += unit_redirect_neigh(1, &neigh, sizeof(neigh), 0);
	return sum + unit_redirect(1, 0);
}

char _license[] SEC("license") = "GPL";
