/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which ENI is this, and is it ready? Nothing passes an ENI before its READY mark is set. */
#pragma once

#include "count.h"
#include "table.h"

/* The configuration of a local ENI in force, READY or not, or NULL. */
static __always_inline const struct eni_conf *eni_conf_of(__u32 slot, __u32 eni)
{
	struct enis *both = bpf_map_lookup_elem(&enis, &eni);

	return both && (both->v[slot & 1].flags & ENI_PRESENT) ? &both->v[slot & 1] : NULL;
}

/* The configuration of a local ENI in force, or NULL if it is not READY. */
static __always_inline const struct eni_conf *eni_ready(__u32 slot, __u32 eni,
							const struct live **device)
{
	const struct live *l = bpf_map_lookup_elem(&live, &eni);
	struct enis *both = bpf_map_lookup_elem(&enis, &eni);
	const struct eni_conf *conf;

	if (!l || !both)
		return NULL;
	conf = &both->v[slot & 1];
	if (!(conf->flags & ENI_PRESENT) || !conf->incarnation ||
	    conf->incarnation != l->incarnation)
		return NULL;
	*device = l;
	return conf;
}

/* What an ENI sends that has caps does not leave at once (shape.h). */
static __always_inline void eni_caps(struct pkt *p, const struct live *device)
{
	if (unlikely(device->flags & (LIVE_CAP_OUT | LIVE_CAP_EIPS)))
		p->out = device->flags & LIVE_CAP_OUT ? OUT_SHAPED : OUT_SHAPED_EIPS;
}

/*
 * The ENI whose port this packet came in by. `live` alone says whose device this is and whether it is
 * ready; `ports` only leads there, so that another way there will do.
 */
static __always_inline enum reason eni_of_port(struct pkt *p, const struct eni_conf **conf)
{
	__u32 place = p->ifindex & (PORT_HINTS - 1), *hint;
	const struct live *device;
	const struct port *port;
	__u32 eni;

	hint = bpf_map_lookup_elem(&port_hints, &place);
	if (!hint)
		return REASON_NOT_READY;
	eni = *(volatile __u32 *)hint;
	*conf = eni_ready(p->slot, eni, &device);
	if (*conf && device->ifindex == p->ifindex && !(device->flags & LIVE_CLOSED)) {
		count_enter(p, eni, DIR_OUT);
		eni_caps(p, device);
		return REASON_CONTINUE;
	}
	port = bpf_map_lookup_elem(&ports, &p->ifindex);
	if (!port) {
		count_enter(p, 0, DIR_OUT);
		return REASON_UNKNOWN_PORT;
	}
	count_enter(p, port->eni, DIR_OUT);
	*conf = eni_ready(p->slot, port->eni, &device);
	if (!*conf || (*conf)->incarnation != port->incarnation || device->ifindex != p->ifindex ||
	    device->flags & LIVE_CLOSED)
		return REASON_NOT_READY;
	*(volatile __u32 *)hint = port->eni;
	eni_caps(p, device);
	return REASON_CONTINUE;
}

/* Is the ENI at home here? */
static __always_inline bool eni_here(const struct eni_conf *conf, __u32 eni)
{
	const struct nexthop *nh = nexthop_find(conf->nexthop);

	return nh && nh->kind == NH_LOCAL && nh->eni == eni;
}

/*
 * May the ENI of a next hop get a packet here? One that has left or is prepared may. What another host has
 * sent on only from the one that had the ENI before; it is not sent on again.
 */
static __always_inline enum reason eni_receives(const struct pkt *p, __u32 index,
						const struct nexthop *nh, __u32 sent_on)
{
	if (unlikely(!nh->eni)) /* neither here nor prepared */
		return REASON_VXLAN_NO_ENI;
	if (!sent_on)
		return REASON_CONTINUE;
	if (nh->kind == NH_MOVED || !(move_end(p->slot, index, sent_on) & MOVE_FROM))
		return REASON_STALE_EPOCH;
	return REASON_CONTINUE;
}

/*
 * The ENI of this host that has the packet's destination MAC, or why there is none, negative. What `macs` says
 * of an ENI that is ready, its configuration and its next hop say too; so they confirm a guess. Of ENIs that move
 * and of what the host `sent_on` has sent on (0 = nobody has) they say nothing.
 */
static __always_inline __s32 eni_of_mac(const struct pkt *p, __u32 vni, __u32 sent_on)
{
	__u32 place = (vni * 61 ^ p->dmac[4] << 8 ^ p->dmac[5]) & (MAC_HINTS - 1);
	const struct eni_conf *conf;
	const struct mac_entry *m;
	const struct nexthop *nh;
	const struct live *device;
	enum reason reason;
	__u32 *hint, eni;

	hint = bpf_map_lookup_elem(&mac_hints, &place);
	if (!hint)
		return -REASON_VXLAN_NO_ENI;
	eni = *(volatile __u32 *)hint;
	conf = eni_ready(p->slot, eni, &device);
	if (!sent_on && conf && conf->vni == vni && mac_equal(conf->mac, p->dmac) &&
	    eni_here(conf, eni))
		return eni;
	m = mac_find(p, vni, p->dmac);
	nh = m ? nexthop_find(m->nexthop) : NULL;
	if (!nh || nh->vni != vni) /* a peer's ENI is no receiver */
		return -REASON_VXLAN_NO_ENI;
	reason = eni_receives(p, m->nexthop, nh, sent_on);
	if (reason != REASON_CONTINUE)
		return -reason;
	*(volatile __u32 *)hint = nh->eni;
	return nh->eni;
}

/* Is it one of the ENI's own private IPs? */
static __always_inline bool eni_owns(__u32 slot, const struct eni_conf *conf, const __u8 *addr,
				     const bool v6)
{
	const struct endpoint *e = endpoint_find(slot, conf->vni, addr, v6);

	return e && !(e->flags & EP_GATEWAY) && e->nexthop == conf->nexthop;
}

/* May the ENI send from addresses that are not its own? Then such packets are in transit there. */
static __always_inline bool eni_forwards(const struct eni_conf *conf)
{
	return (conf->flags & ENI_NO_SOURCE_CHECK) || conf->allowed;
}

/* May the ENI send from it although it is not its own? */
static __always_inline bool eni_allowed(const struct eni_conf *conf, const __u8 *addr,
					const bool v6)
{
	return conf->allowed && peer_class(conf->allowed, addr, v6);
}
