/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Where a judged packet goes: a local ENI, another host's ENI, or the internet. */
#pragma once

#include "eni.h"
#include "fragment.h"
#include "quick.h"
#include "related.h"
#include "rewrite.h"
#include "underlay.h"

/* From where a packet reaches an ENI; decides what its sender must prove. */
enum origin {
	FROM_LOCAL = 0, /* an ENI of this host, checked at its own port */
	FROM_OVERLAY = 1, /* another host */
	FROM_INTERNET = 2,
	FROM_GATEWAY = 3, /* the internet, translated by a gateway */
};

static __always_inline bool from_internet(enum origin from)
{
	return from >= FROM_INTERNET;
}

/* What is known of a packet on its way to a local ENI. */
struct arrival {
	__u32 sender_nexthop; /* FROM_LOCAL */
	__u32 vtep; /* FROM_OVERLAY: the host that sent it, network order */
	__u8 eip[16]; /* FROM_INTERNET: the destination before translation */
	__u32 uplink; /* FROM_INTERNET: it came by an uplink here, where its EIP is taken: the answers leave here */
	__u32 pad;
};

/* The outer headers of a VXLAN packet, and who sent it. */
struct outer {
	__u8 ip[20] __attribute__((aligned(4))); /* struct iphdr */
	__be32 udp[2];
	__be32 vxlan[2];
	__u8 dmac[6]; /* of the frame inside */
	__u8 pad[2];
	__u32 policy; /* enum group_policy of what a host has sent on, else GROUP_NONE */
	struct vtep_key source;
};

/* What was in front of a decapsulated packet. */
struct tunnel {
	__u32 vni;
	__u32 vtep; /* of the sender, network order */
	__u32 mark;
};

/* What would crowd the stack; per CPU. */
struct scratch {
	__u8 tunnel[64] __attribute__((aligned(8))); /* struct bpf_tunnel_key */
	struct encap encap;
	struct outer outer;
	struct tunnel came;
	__u32 group_policy; /* enum group_policy */
	__u32 turned; /* by gateway_out: the local ENI to which a packet turns */
	__u32 class; /* of the sender's EIP, 0 = it leaves by none */
	struct arrival arrival;
	__u8 nat[16]; /* the sender's EIP */
	__u8 private[16]; /* what eip_find makes of an EIP */
	__u8 fib[64] __attribute__((aligned(8))); /* struct bpf_fib_lookup */
	__u32 next_known; /* ... and it has the MACs of the uplink and of the next hop, and the MTU */
};
_Static_assert(sizeof(struct bpf_tunnel_key) <= 64 && sizeof(struct bpf_fib_lookup) <= 64, "fits");

MAP(scratches, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct scratch, 1, 0);

static __always_inline struct scratch *scratch_get(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&scratches, &zero);
}

static __always_inline enum reason too_big_for(struct pkt *p, __u32 mtu)
{
	p->mtu = mtu;
	return REASON_TOO_BIG;
}

/* Is the ENI of a next hop behind the host, or was it or will it be there, since it moves? */
static __always_inline bool nexthop_behind(const struct pkt *p, __u32 nexthop, __u32 vtep)
{
	const struct nexthop *nh = nexthop_find(nexthop);

	if (nh && nexthop_away(nh) && *(const __u32 *)nh->vtep == vtep)
		return true;
	return move_end(p->slot, nexthop, vtep);
}

/*
 * A new flow from the overlay: the source MAC must name an ENI behind the sending host, and the
 * source IP must be that ENI's own unless it may send foreign ones. The host from which the receiver
 * moves has looked where the sender is.
 */
static __always_inline enum reason overlay_sender(const struct pkt *p, const struct eni_conf *conf,
						  struct arrival *a, const bool v6)
{
	const struct mac_entry *m = mac_find(p, conf->vni, p->smac);
	const struct nexthop *nh;
	const struct endpoint *e;

	if (!m)
		return REASON_VXLAN_SENDER;
	nh = nexthop_find(m->nexthop);
	if (!nh || (!(p->out & CAME_MOVED) && !nexthop_behind(p, m->nexthop, a->vtep)))
		return REASON_VXLAN_SENDER;
	a->sender_nexthop = m->nexthop;
	e = endpoint_find(p->slot, nh->vni, p->src, v6);
	if (e && (e->flags & EP_GATEWAY ? icmp_error(p, v6) && p->fragment != FRAGMENT_LATER :
					  e->nexthop == m->nexthop))
		return REASON_CONTINUE; /* a gateway says that something is too big (toobig.h) */
	return m->flags & MAC_FOREIGN ? REASON_CONTINUE : REASON_VXLAN_SENDER;
}

/*
 * From the internet: would the answers go there? Fragments and ICMP errors are asked too, whose answers
 * have no ports.
 */
static __always_inline enum reason arrival_internet(const struct pkt *p, struct work *w,
						    bool gateway, const bool v6)
{
	struct judge *j = &w->judge;

	j->slot = p->slot;
	j->eni = p->eni;
	j->gateway = gateway;
	j->protocol = p->protocol;
	j->reply_port = is_icmp(p, v6) ? 0 : p->sport;
	addr_copy(j->local, p->dst, v6);
	addr_copy(j->remote, p->src, v6);
	return v6 ? source6(j) : source4(j);
}

/* Is the address one of the ENI's private IPs? */
static __always_inline bool is_own(const struct pkt *p, struct work *w, const __u8 *addr,
				   const bool v6)
{
	struct judge *j = &w->judge;

	j->slot = p->slot;
	j->eni = p->eni;
	addr_copy(j->local, addr, v6);
	return v6 ? owns6(j) : owns4(j);
}

/* What a packet that no flow vouches for must prove of its sender. */
static __always_inline enum reason arrival_sender(const struct pkt *p, const struct eni_conf *conf,
						  struct work *w, struct arrival *a,
						  enum origin from, const bool v6)
{
	if (from_internet(from))
		return arrival_internet(p, w, from == FROM_GATEWAY, v6);
	if (from == FROM_OVERLAY)
		return overlay_sender(p, conf, a, v6);
	return REASON_CONTINUE;
}

/*
 * What a packet must prove that no flow knows, before it may open one. Of one from the internet the judge asks the same
 * itself.
 */
static __always_inline enum reason arrival_opens(const struct pkt *p, const struct eni_conf *conf,
						 struct work *w, struct arrival *a,
						 enum origin from, const bool v6)
{
	if (from != FROM_INTERNET || track_may_open(p, v6) != REASON_CONTINUE) {
		TRY(arrival_sender(p, conf, w, a, from, v6));
		return track_may_open(p, v6);
	}
	w->judge.arrives = a->uplink;
	addr_copy(w->judge.eip, a->eip, v6);
	return REASON_CONTINUE;
}

/* In which part of the flow table a packet to an ENI belongs. */
struct arrival_key {
	__u32 scope;
	__u32 class;
};

/* What is not addressed to the ENI, which may forward, is in transit there. */
static __always_inline struct arrival_key
arrival_key_of(const struct pkt *p, const struct eni_conf *conf, enum origin from, const bool v6)
{
	bool transit =
		!from_internet(from) && eni_forwards(conf) && !eni_owns(p->slot, conf, p->dst, v6);
	struct arrival_key key = {
		.scope = transit ? p->eni : conf->vni,
		.class = from_internet(from) ? CLASS_INTERNET :
			 transit	     ? CLASS_TRANSIT :
					       0,
	};

	return key;
}

/* The flow of a packet to an ENI, made if need be. */
static __always_inline enum reason arrival_flow(struct pkt *p, const struct eni_conf *conf,
						struct work *w, struct arrival *a, enum origin from,
						const bool v6, const bool xdp)
{
	struct arrival_key key = arrival_key_of(p, conf, from, v6);
	enum reason reason;

	if (p->fragment == FRAGMENT_LATER || icmp_error(p, v6)) {
		TRY(arrival_sender(p, conf, w, a, from, v6));
		if (p->fragment == FRAGMENT_LATER)
			return fragment_later(p, w, from_internet(from), v6);
		return related(p, w, from == FROM_INTERNET ? a->eip : NULL, key.class, v6, xdp);
	}
	reason = track_flow(p, w, key.scope, key.class, v6);
	if (reason != REASON_NO_FLOW)
		return reason;
	TRY(arrival_opens(p, conf, w, a, from, v6));
	return track_open(p, w, key.scope, key.class, a->sender_nexthop, v6);
}

/* What the kernel's VXLAN device is to write in front of the packet. */
static __always_inline bool tunnel_set(struct pkt *p, const struct host_conf *host, __u32 vni,
				       __u32 vtep, enum group_policy policy)
{
	struct scratch *s = scratch_get();
	struct bpf_tunnel_key *key;

	if (!s)
		return false;
	key = (struct bpf_tunnel_key *)s->tunnel;
	__builtin_memset(key, 0, sizeof(*key));
	key->tunnel_id = vni;
	key->tunnel_ttl = OUTER_TTL;
	key->remote_ipv4 = bpf_ntohl(vtep);
	key->local_ipv4 = bpf_ntohl(*(const __u32 *)host->vtep);
	/* Options too, or those of whoever used a tunnel last on this CPU would be sent. */
	s->group_policy = policy;
	return !bpf_skb_set_tunnel_key(p->ctx, key, sizeof(*key),
				       BPF_F_ZERO_CSUM_TX | BPF_F_DONT_FRAGMENT) &&
	       !bpf_skb_set_tunnel_opt(p->ctx, &s->group_policy, sizeof(s->group_policy));
}

/* To another host: the kernel's VXLAN device writes the outer headers and finds the way. */
static __always_inline enum reason to_vtep(struct pkt *p, const struct host_conf *host,
					   const struct nexthop *nh, enum group_policy policy)
{
	if (!tunnel_set(p, host, nh->vni, *(const __u32 *)nh->vtep, policy))
		return REASON_HELPER;
	p->out_ifindex = host->vxlan_ifindex;
	return REASON_DELIVERED;
}

/*
 * To an ENI of another host: by a way of our own, else by the kernel's. Likewise to a gateway of the sender's EIP,
 * which gets the packet as it is, at the region's gateway MAC under the sender's VNI.
 */
static __always_inline enum reason to_overlay(struct pkt *p, const struct host_conf *host,
					      const struct eni_conf *conf, const struct nexthop *nh,
					      const bool v6)
{
	struct scratch *s = scratch_get();

	if (p->ip_len > host->overlay_mtu)
		return too_big_for(p, host->overlay_mtu);
	if (!s)
		return REASON_HELPER;
	TRY(encapsulate(p, &s->encap, host, conf, nh, v6));
	if (!rewrite_macs(p, nh->mac, conf->mac, false))
		return REASON_HELPER;
	return to_vtep(p, host, nh, GROUP_NONE);
}

/*
 * The ENI is elsewhere by now, and another host or the internet does not know it yet. What its flows or
 * rules here let through is sent on with a mark, as it came. What is of no flow here may be of one that was
 * opened there: without a mark nothing else gets in. Only TC: XDP leaves such packets. A function of its own, since
 * the stack is near. CONTINUE = it is here after all.
 */
static __noinline enum reason to_moved(struct pkt *p, const struct host_conf *host,
				       const struct eni_conf *conf, enum reason judged,
				       enum origin from)
{
	const struct nexthop *own = nexthop_find(conf->nexthop);
	const bool internet = from_internet(from);
	__u32 policy = GROUP_MOVED | (internet ? GROUP_INTERNET : 0);

	if (!own || own->kind != NH_MOVED)
		return judged;
	if (judged == REASON_NO_FLOW || judged == REASON_SG_DENIED) {
		if (internet)
			return judged;
		policy = GROUP_NONE;
	} else if (judged != REASON_CONTINUE) {
		return judged;
	}
	if (p->ip_len > host->overlay_mtu)
		return too_big_for(p, internet ? host->overlay_mtu : 0);
	if (!rewrite_macs(p, conf->mac, internet ? host->gateway_mac : p->smac, false))
		return REASON_HELPER;
	if (to_vtep(p, host, own, policy) != REASON_DELIVERED)
		return REASON_HELPER;
	return REASON_REDIRECTED;
}

/* Judges a packet for the ENI that it is addressed to and hands it to its port. */
static __always_inline enum reason to_eni(struct pkt *p, const struct host_conf *host, __u32 eni,
					  struct arrival *a, enum origin from, const bool v6,
					  const bool xdp)
{
	const struct nexthop *nh = NULL;
	enum reason reason = REASON_CONTINUE;
	const struct eni_conf *conf;
	const struct live *device;
	struct work *w;

	conf = eni_ready(p->slot, eni, &device);
	if (!conf)
		return REASON_NOT_READY;
	if (from != FROM_OVERLAY && unlikely(device->flags & LIVE_CLOSED) &&
	    (xdp || !(p->out & CAME_MOVED)))
		return REASON_NOT_READY;
	if (!eni_forwards(conf))
		nh = quick_in(p, conf, from_internet(from) ? CLASS_INTERNET : 0, v6);
	if (!nh) {
		w = work_of(p, conf);
		if (!w)
			return REASON_HELPER;
		reason = arrival_flow(p, conf, w, a, from, v6, xdp);
		if (xdp && reason != REASON_CONTINUE)
			return reason;
		if (reason == REASON_CONTINUE && p->fragment == FRAGMENT_FIRST)
			fragment_first(p, w, from_internet(from), v6);
		/* An error may come from a third party; all else comes from the flow's peer. */
		nh = nexthop_find(p->quotes && !from_internet(from) ? a->sender_nexthop :
								      w->flow.nexthop);
	}
	if (!xdp && unlikely(device->flags & LIVE_LEFT))
		reason = to_moved(p, host, conf, reason, from);
	if (reason != REASON_CONTINUE)
		return reason;
	if (p->ip_len > device->mtu)
		return too_big_for(p, device->mtu);
	p->out_ifindex = device->ifindex;
	if (!xdp && unlikely(device->flags & LIVE_CAP_IN))
		p->out |= OUT_CLASS;
	TRY(rate_packet(p, conf));
	if (from == FROM_INTERNET && !rewrite_addr(p, a->eip, p->dst, false, v6, xdp))
		return REASON_HELPER;
	if (!nh || !rewrite_macs(p, conf->mac,
				 nh->subnet == conf->subnet ? nh->mac : host->gateway_mac, xdp))
		return REASON_HELPER;
	return REASON_DELIVERED;
}

/*
 * To the internet: by the host's own routes, but only out of an uplink. The route is looked up as
 * for a packet that arrives by our VXLAN device, the one device here that may forward.
 */
static __always_inline enum reason to_internet(struct pkt *p, const struct host_conf *host,
					       const __u8 *src, const bool v6)
{
	struct scratch *s = scratch_get();
	struct bpf_fib_lookup *fib;
	long ret;

	if (!s)
		return REASON_HELPER;
	fib = (struct bpf_fib_lookup *)s->fib;
	__builtin_memset(fib, 0, sizeof(*fib));
	fib->family = v6 ? AF_INET6 : AF_INET;
	fib->l4_protocol = p->protocol;
	fib->tot_len = p->ip_len;
	fib->ifindex = host->vxlan_ifindex;
	addr_copy((__u8 *)&fib->ipv4_src, src, v6);
	addr_copy((__u8 *)&fib->ipv4_dst, p->dst, v6);
	ret = bpf_fib_lookup(p->ctx, fib, sizeof(*fib), 0);
	if (ret == BPF_FIB_LKUP_RET_FRAG_NEEDED)
		return too_big_for(p, fib->mtu_result);
	if ((ret != BPF_FIB_LKUP_RET_SUCCESS && ret != BPF_FIB_LKUP_RET_NO_NEIGH) ||
	    !bpf_map_lookup_elem(&uplinks, &fib->ifindex))
		return REASON_NO_FIB;
	s->next_known = ret == BPF_FIB_LKUP_RET_SUCCESS;
	p->out_ifindex = fib->ifindex;
	p->out |= OUT_NEIGHBOUR;
	return REASON_DELIVERED;
}
