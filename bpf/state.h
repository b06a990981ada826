/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The states of a flow (RFC 9293 for TCP): what a packet of either side does to one, and what does not
 * fit it. A flow is established only when its opener is heard again after an answer.
 */
#pragma once

#include "flow_insert.h"
#include "work.h"

enum tcp_window {
	TCP_NEAR = 256, /* of the upper halves of sequence numbers: 16 MiB */
};

static __always_inline bool tcp_opens(__u8 flags)
{
	return (flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN)) == TCP_SYN;
}

/*
 * A SYN to a peer that remembers an older connection is answered by an ACK alone, so that its sender
 * resets the old one and tries again (RFC 5961 §4.2). It establishes nothing.
 */
static __always_inline bool tcp_challenges(__u8 flags)
{
	return (flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN)) == TCP_ACK;
}

/* 16 MiB and less apart. */
static __always_inline bool tcp_near(__u16 a, __u16 b)
{
	return (__u16)(a - b + TCP_NEAR) <= 2 * TCP_NEAR;
}

/* Half-open, and only its opener was heard. */
static __always_inline bool tcp_unanswered(const struct flow *f)
{
	return f->state == FLOW_OPENING && !(f->flags & FLOW_ANSWERED);
}

/*
 * Where each direction is: where its sender has come to in small steps, or what the other side says
 * to have received, which nobody else can move. A RST from elsewhere was not sent by the peer. To a
 * SYN it must acknowledge the SYN (RFC 9293 §3.10.7.3); what answered before that was unheard.
 * A SYN begins at any number, also when a side that forgot its first one tries again.
 */
static __always_inline enum reason tcp_follow(const struct work *w, __u16 *seq,
					      const struct flow *f, bool opener)
{
	volatile __u16 *mine = &seq[w->dir & 1], *other = &seq[~w->dir & 1];
	bool acks = w->tcp_flags & TCP_ACK;
	__u16 now = *mine;

	if (unlikely(w->tcp_flags & TCP_RST)) {
		if (!opener && tcp_unanswered(f))
			return acks && tcp_near(w->tcp_ack, *other) ? REASON_CONTINUE :
								      REASON_TCP_WINDOW;
		return tcp_near(w->tcp_seq, now) ? REASON_CONTINUE : REASON_TCP_WINDOW;
	}
	if (w->tcp_seq != now && (tcp_near(w->tcp_seq, now) || tcp_unanswered(f) ||
				  (f->state == FLOW_OPENING && (w->tcp_flags & TCP_SYN))))
		*mine = w->tcp_seq;
	if (acks && !tcp_near(w->tcp_ack, *other))
		*other = w->tcp_ack;
	return REASON_CONTINUE;
}

/*
 * What a packet does to a half-open flow: the other side answers, and when the opener is heard again
 * both know of each other. Who sends from an address that is not his does not hear the answer: of
 * TCP's opener only a packet counts that acknowledges it.
 */
static __always_inline enum reason flow_shake(const struct work *w, const __u16 *seq, bool opener,
					      __u8 *state, __u8 *flags)
{
	bool tcp = w->protocol == PROTO_TCP, answered = *flags & FLOW_ANSWERED;

	if (tcp && (w->tcp_flags & TCP_RST))
		return REASON_CONTINUE;
	if (!opener) {
		if (!tcp || (w->tcp_flags & TCP_SYN))
			*flags |= FLOW_ANSWERED;
		else if (!answered && !tcp_challenges(w->tcp_flags))
			return REASON_NO_FLOW;
		return REASON_CONTINUE;
	}
	if (!answered || (tcp && !(w->tcp_flags & TCP_ACK)))
		return REASON_CONTINUE;
	if (tcp && !tcp_near(w->tcp_ack, *(const volatile __u16 *)&seq[~w->dir & 1]))
		return REASON_TCP_WINDOW;
	*state = FLOW_ESTABLISHED;
	return REASON_CONTINUE;
}

/* Does the packet fit the state of its flow, and what does it do to it? */
static __always_inline enum reason flow_step(const struct work *w, struct flow_ref *ref)
{
	const struct flow *f = &w->flow;
	bool opener = (w->dir == DIR_IN) == !!(f->flags & FLOW_OPENED_BY_PEER);
	const __u8 fins = FLOW_FIN_OUT | FLOW_FIN_IN;
	__u8 state = f->state, flags = f->flags;

	if (!opener && (flags & FLOW_REPLY_DENIED) && !(w->icmp_code & CODE_ALLOWED))
		return REASON_NACL_DENIED;
	if (unlikely(state == FLOW_OPENING))
		TRY(flow_shake(w, flow_seq(ref->body), opener, &state, &flags));
	if (w->protocol == PROTO_TCP) {
		TRY(tcp_follow(w, flow_seq(ref->body), f, opener));
		if (w->tcp_flags & TCP_FIN)
			flags |= w->dir == DIR_OUT ? FLOW_FIN_OUT : FLOW_FIN_IN;
		if (unlikely((w->tcp_flags & TCP_RST) || (flags & fins) == fins)) {
			flags |= state == FLOW_OPENING ? FLOW_REFUSED : 0;
			state = FLOW_CLOSING;
		}
	}
	if ((state != f->state || flags != f->flags) && !flow_advance(ref, state, flags))
		return REASON_FLOW_BUSY;
	return REASON_CONTINUE;
}
