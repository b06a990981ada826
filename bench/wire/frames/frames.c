/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
//go:build ignore
/*
 * What stands at the ends of a measured path: a generator of frames, sinks that count them, and the
 * least that a path can do (the floors).
 *
 * The generator runs by BPF_PROG_TEST_RUN with live frames: every run gets a page, which is sent by
 * the redirect. Pages come back changed by the path, so the whole header is written each time.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/types.h>
#include <stdbool.h>
#include <stddef.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

char _license[] SEC("license") = "Dual BSD/GPL";

#define HEADER_MAX 192 /* bytes that are written for every frame */
#define DEVICES_MAX 1024
#define SAMPLE 256
#define LATE_MAX 100000 /* ns of delay that a paced generator makes up for */

enum tcx_action { TCX_DROP = 2 };

/* ---- generator ---- */

/*
 * Where in a frame the things are that differ from flow to flow; 0 = nowhere. Addresses and MACs
 * are patched in their lowest 32 bits.
 */
struct layout {
	__u32 words; /* 8-byte words of the header */
	__u32 eni_addr;
	__u32 peer_addr;
	__u32 peer_port;
	__u32 eni_mac;
	__u32 peer_mac;
	__u32 ip_csum;
	__u32 l4_csum;
	__u32 outer_port; /* of VXLAN: the source port spreads flows */
	__u32 udp; /* a checksum of 0 is written as 0xffff */
	__u32 ip_sum; /* of everything that is not patched, not yet folded */
	__u32 l4_sum;
	__u32 eni_base; /* address of ENI 0 and of peer 0, host order */
	__u32 peer_base;
	__u32 eni_mac_base;
	__u32 peer_mac_base;
	__u32 port_base;
	__u32 eni_bits; /* the flow's number is port | peer | ENI, from the highest bit */
	__u32 peer_bits;
	__u32 by_eni; /* one output per ENI */
};
const volatile struct layout layout;

__u64 header[HEADER_MAX / 8];

/* Which flows: base + the numbers 0..mask, each once per pass, in an order that looks random. */
__u32 order_base;
__u32 order_mask;
__u32 order_shift;
__u32 order_seed;
__u64 next_step;

__u64 wanted;
__u64 sent;
__u64 interval; /* ns between two frames; 0 = as fast as it goes */
__u64 due;

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, DEVICES_MAX);
	__type(key, __u32);
	__type(value, __u32);
} outputs SEC(".maps");

/* A bijection of 0..order_mask: odd factors and shifts to the right can be undone. */
static __always_inline __u32 shuffled(__u32 n)
{
	__u32 mask = order_mask, shift = order_shift;

	n = ((n ^ order_seed) * 0x9e3779b1u) & mask;
	n ^= n >> shift;
	n = (n * 0x85ebca6bu) & mask;
	return n ^ (n >> shift);
}

/* Is the next frame not due yet? What is late is made up for, but not without end. */
static __always_inline bool too_early(void)
{
	__u64 now;

	if (!interval)
		return false;
	now = bpf_ktime_get_ns();
	if (now < due)
		return true;
	if (due + LATE_MAX < now)
		due = now - LATE_MAX;
	due += interval;
	return false;
}

static __always_inline __u32 halves(__u32 host_order)
{
	return bpf_htons(host_order >> 16) + bpf_htons(host_order & 0xffff);
}

static __always_inline __u16 fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

static __always_inline void put32(void *data, __u32 off, __u32 host_order)
{
	if (off)
		*(__u32 *)(data + off) = bpf_htonl(host_order);
}

/* Writes the headers of flow number `flow`. The caller has checked that they fit. */
static __always_inline void write_flow(void *data, __u32 flow)
{
	__u32 eni = flow & ((1u << layout.eni_bits) - 1), rest = flow >> layout.eni_bits;
	__u32 peer = rest & ((1u << layout.peer_bits) - 1);
	__u32 port = (layout.port_base + (rest >> layout.peer_bits)) & 0xffff;
	__u32 eni_addr = layout.eni_base + eni, peer_addr = layout.peer_base + peer, sum;
	__u16 csum;

	put32(data, layout.eni_addr, eni_addr);
	put32(data, layout.peer_addr, peer_addr);
	put32(data, layout.eni_mac, layout.eni_mac_base + eni);
	put32(data, layout.peer_mac, layout.peer_mac_base + peer);
	if (layout.peer_port)
		*(__u16 *)(data + layout.peer_port) = bpf_htons(port);
	if (layout.outer_port)
		*(__u16 *)(data + layout.outer_port) = bpf_htons(49152 + (flow & 0x3fff));
	sum = halves(eni_addr) + halves(peer_addr);
	if (layout.ip_csum)
		*(__u16 *)(data + layout.ip_csum) = fold(layout.ip_sum + sum);
	if (layout.l4_csum) {
		csum = fold(layout.l4_sum + sum + bpf_htons(port));
		*(__u16 *)(data + layout.l4_csum) = csum || !layout.udp ? csum : 0xffff;
	}
}

SEC("xdp")
int generate(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 flow, i;

	if (sent >= wanted || too_early())
		return XDP_DROP;
	if (data + layout.words * 8 > end)
		return XDP_ABORTED;
#pragma unroll
	for (i = 0; i < HEADER_MAX / 8; i++)
		if (i < layout.words)
			*(__u64 *)(data + 8 * i) = header[i];
	flow = order_base + shuffled((__u32)next_step);
	next_step++;
	write_flow(data, flow);
	sent++;
	return bpf_redirect_map(&outputs, layout.by_eni ? flow & ((1u << layout.eni_bits) - 1) : 0,
				0);
}

/* ---- sinks ---- */

/* Frames to or from this port of UDP or TCP are the measured ones. Host order. */
__u16 sink_port;
/* One at a time is kept whole. */
__u32 sample_wanted;
__u32 sample_len;
__u8 sample[SAMPLE];
/* When the first and the last measured frame came, of those since first_seen was cleared. */
__u32 watch;
__u64 first_seen;
__u64 last_seen;

struct seen {
	__u64 measured;
	__u64 bytes; /* of the measured ones */
	__u64 unwanted; /* UDP and TCP of other ports */
	__u64 others;
};

enum what { MEASURED, UNWANTED, OTHER };

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct seen);
} arrived SEC(".maps");

static __always_inline enum what what_is(void *data, void *end)
{
	struct ethhdr *eth = data;
	__u32 off = sizeof(*eth) + 20, proto;
	__be16 *ports;

	if (data + sizeof(*eth) + 40 + 4 > end)
		return OTHER;
	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		proto = *(__u8 *)(data + sizeof(*eth) + 9);
	} else if (eth->h_proto == bpf_htons(ETH_P_IPV6)) {
		proto = *(__u8 *)(data + sizeof(*eth) + 6);
		off = sizeof(*eth) + 40;
	} else {
		return OTHER;
	}
	ports = data + off;
	if (proto != IPPROTO_UDP && proto != IPPROTO_TCP)
		return OTHER;
	if (ports[0] == bpf_htons(sink_port) || ports[1] == bpf_htons(sink_port))
		return MEASURED;
	return UNWANTED;
}

static __always_inline void keep_sample(void *data, void *end)
{
	__u32 i;

	sample_wanted = 0;
	for (i = 0; i < SAMPLE && data + i + 1 <= end; i++)
		sample[i] = *(__u8 *)(data + i);
	sample_len = i;
}

static __always_inline void arrive(void *data, void *end, __u32 len)
{
	__u32 zero = 0;
	struct seen *s = bpf_map_lookup_elem(&arrived, &zero);

	if (!s)
		return;
	switch (what_is(data, end)) {
	case UNWANTED:
		s->unwanted++;
		return;
	case OTHER:
		s->others++;
		return;
	case MEASURED:
		s->measured++;
	}
	s->bytes += len;
	if (watch) {
		last_seen = bpf_ktime_get_ns();
		if (!first_seen)
			first_seen = last_seen;
	}
	if (sample_wanted)
		keep_sample(data, end);
}

SEC("xdp")
int sink(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

	arrive(data, end, end - data);
	return XDP_DROP;
}

SEC("tcx/ingress")
int sink_tc(struct __sk_buff *skb)
{
	arrive((void *)(long)skb->data, (void *)(long)skb->data_end, skb->len);
	return TCX_DROP;
}

/* ---- floors ---- */

/* Where the address is by which a device is chosen, and how many bits of it count. */
const volatile __u32 choose_off;
const volatile __u32 choose_mask;
const volatile __u32 choose_base; /* host order */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, DEVICES_MAX);
	__type(key, __u32);
	__type(value, __u32);
} ifindexes SEC(".maps");

static __always_inline bool choose(void *data, void *end, __u32 *device)
{
	*device = 0;
	if (!choose_mask)
		return true;
	if (data + choose_off + 4 > end)
		return false;
	*device = (bpf_ntohl(*(__u32 *)(data + choose_off)) - choose_base) & choose_mask;
	return true;
}

SEC("xdp")
int redirect_xdp(struct xdp_md *ctx)
{
	__u32 device;

	if (!choose((void *)(long)ctx->data, (void *)(long)ctx->data_end, &device))
		return XDP_PASS;
	return bpf_redirect_map(&outputs, device, 0);
}

SEC("tcx/ingress")
int redirect_tc(struct __sk_buff *skb)
{
	__u32 device, *ifindex;

	if (!choose((void *)(long)skb->data, (void *)(long)skb->data_end, &device))
		return TCX_DROP;
	ifindex = bpf_map_lookup_elem(&ifindexes, &device);
	return ifindex ? bpf_redirect(*ifindex, 0) : TCX_DROP;
}
