/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * All that differs between TC and XDP, and the only code that touches the packet. `xdp` is always a
 * literal, so each program contains the calls of its own hook only.
 */
#pragma once

#include "config.h"
#include "pkt.h"

static __always_inline void pkt_bounds(const struct pkt *p, void **data, void **end, const bool xdp)
{
	if (xdp) {
		const struct xdp_md *x = p->ctx;

		*data = (void *)(long)x->data;
		*end = (void *)(long)x->data_end;
	} else {
		const struct __sk_buff *s = p->ctx;

		*data = (void *)(long)s->data;
		*end = (void *)(long)s->data_end;
	}
}

/* Makes the first n bytes of the frame readable in place; a shorter frame as far as it goes. */
static __always_inline void pkt_pull(struct pkt *p, __u32 n, const bool xdp)
{
	void *data, *end;

	if (xdp)
		return; /* the first fragment of a frame always holds the headers */
	pkt_bounds(p, &data, &end, xdp);
	if (n > p->len)
		n = p->len;
	if (data + n > end)
		bpf_skb_pull_data(p->ctx, n);
}

/*
 * n bytes of the packet where they are, or NULL: beyond its first piece, or too far for the verifier
 * to follow. Saves a call of a helper, which costs more than all that it does.
 */
static __always_inline void *pkt_bytes(const struct pkt *p, __u32 off, __u32 n, const bool xdp)
{
	void *data, *end;
	__u32 at = off & 0x1ff;

	pkt_bounds(p, &data, &end, xdp);
	if (!__builtin_constant_p(off))
		barrier_var(at); /* clang would check one sum and read by another */
	data += at & 0x1ff;
	return at == off && data + n <= end ? data : NULL;
}

/* Packets are aligned to two bytes. */
static __always_inline void copy_words(void *to, const void *from, __u32 n)
{
	const __u16 *f = from;
	__u16 *t = to;

#pragma clang loop unroll(full)
	for (__u32 i = 0; i < n / 2; i++)
		t[i] = f[i];
}

static __always_inline bool pkt_load(struct pkt *p, __u32 off, void *to, __u32 n, const bool xdp)
{
	if (xdp)
		return !bpf_xdp_load_bytes(p->ctx, off, to, n);
	return !bpf_skb_load_bytes(p->ctx, off, to, n);
}

/* The same for a few bytes, an even number, that every packet is asked for. */
static __always_inline bool pkt_load_few(struct pkt *p, __u32 off, void *to, const __u32 n,
					 const bool xdp)
{
	void *bytes = pkt_bytes(p, off, n, xdp);

	if (!bytes)
		return pkt_load(p, off, to, n, xdp);
	copy_words(to, bytes, n);
	return true;
}

static __always_inline bool pkt_store(struct pkt *p, __u32 off, void *from, __u32 n, const bool xdp)
{
	if (xdp)
		return !bpf_xdp_store_bytes(p->ctx, off, from, n);
	return !bpf_skb_store_bytes(p->ctx, off, from, n, 0);
}

static __always_inline bool pkt_store_few(struct pkt *p, __u32 off, void *from, const __u32 n,
					  const bool xdp)
{
	void *bytes = pkt_bytes(p, off, n, xdp);

	if (!bytes)
		return pkt_store(p, off, from, n, xdp);
	copy_words(bytes, from, n);
	return true;
}

/* What we read of the kernel's own view of a packet. */
struct sk_buff {
	unsigned char *head;
	unsigned char *data;
	__u16 csum_start;
	__u16 csum_offset;
	__u8 ip_summed : 2;
} __attribute__((preserve_access_index));

enum ip_summed {
	CHECKSUM_NONE = 0,
	CHECKSUM_UNNECESSARY = 1,
	CHECKSUM_COMPLETE = 2, /* the kernel holds the sum of all bytes */
	CHECKSUM_PARTIAL = 3, /* a device completes it, later */
};

extern void *bpf_cast_to_kern_ctx(void *) __ksym;

/* Who vouches for the transport's checksum: enum ip_summed. Only TC has packets with a choice. */
static __always_inline __u32 pkt_summed(const struct pkt *p)
{
	const struct sk_buff *skb = bpf_cast_to_kern_ctx(p->ctx);

	return BPF_CORE_READ_BITFIELD(skb, ip_summed);
}

/*
 * A sender may leave a checksum to a device further on: two bytes that are written after we have
 * looked. Their offset in the frame, 0 = there are none. Only TC sees such packets.
 */
static __always_inline __u32 pkt_late_bytes(const struct pkt *p)
{
	const struct sk_buff *skb = bpf_cast_to_kern_ctx(p->ctx);

	if (BPF_CORE_READ_BITFIELD(skb, ip_summed) != CHECKSUM_PARTIAL)
		return 0;
	return (__u32)skb->csum_start + skb->csum_offset - (__u32)(skb->data - skb->head);
}

/* Sets the length of the frame. */
static __always_inline bool pkt_resize(struct pkt *p, __u32 len, const bool xdp)
{
	if (xdp) {
		if (bpf_xdp_adjust_tail(p->ctx, (int)len - (int)p->len))
			return false;
	} else if (bpf_skb_change_tail(p->ctx, len, 0)) {
		return false;
	}
	p->len = len;
	return true;
}

/* A sum of words as the 16 bits that a checksum is made of (RFC 1071). */
static __always_inline __u16 csum_fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* Adds a difference of the checksummed bytes to a checksum (RFC 1624, equation 3). */
static __always_inline __u16 csum_apply(__u16 csum, __u32 diff)
{
	__u32 sum = (__u16)~csum;

	sum += diff & 0xffff;
	sum += diff >> 16;
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* The checksum at `off` after a difference. `late`: a device will complete it; it is a plain sum. */
static __always_inline bool csum_apply_at(struct pkt *p, __u32 off, __u32 diff, bool zero_is_none,
					  bool late, const bool xdp)
{
	__u16 csum;

	if (!pkt_load_few(p, off, &csum, sizeof(csum), xdp))
		return false;
	if (zero_is_none && !csum)
		return true;
	csum = late ? ~csum_apply(~csum, diff) : csum_apply(csum, diff);
	if (zero_is_none && !csum)
		csum = 0xffff;
	return pkt_store_few(p, off, &csum, sizeof(csum), xdp);
}

/* The checksum of the IPv4 header after `diff`. */
static __always_inline bool csum_ip4(struct pkt *p, __u32 diff, const bool xdp)
{
	return csum_apply_at(p, ETH_LEN + offsetof(struct iphdr, check), diff, false, false, xdp);
}

/*
 * The transport checksum at `off` after `diff` in the pseudo header. If the device that received the
 * packet has summed up all of it, that sum is the kernel's and changes with it: a helper's business.
 */
static __always_inline bool csum_l4(struct pkt *p, __u32 off, __u32 diff, bool udp, const bool v6,
				    const bool xdp)
{
	__u64 flags = BPF_F_PSEUDO_HDR | (udp ? BPF_F_MARK_MANGLED_0 : 0);
	__u32 summed = xdp ? CHECKSUM_NONE : pkt_summed(p);

	if (summed != CHECKSUM_COMPLETE)
		return csum_apply_at(p, off, diff, udp, summed == CHECKSUM_PARTIAL, xdp);
	if (v6 && !bpf_l4_csum_replace(p->ctx, off, 0, diff, flags | CSUM_F_IPV6))
		return true; /* older kernels refuse the flag and change nothing */
	return !bpf_l4_csum_replace(p->ctx, off, 0, diff, flags);
}

/* The checksum of an ICMP error after its payload has changed by `diff`. */
static __always_inline bool csum_icmp(struct pkt *p, __u32 off, __u32 diff, const bool xdp)
{
	if (!diff || diff == 0xffffffff)
		return true;
	if (xdp)
		return csum_apply_at(p, off, diff, false, false, true);
	return !bpf_l4_csum_replace(p->ctx, off, 0, diff, 0);
}
