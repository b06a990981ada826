// SPDX-License-Identifier: Apache-2.0

package oracle

import "github.com/eniplane/eniplane/pkg/api"

// step: does the packet fit the state, and what does it do to it? A packet that is dropped does nothing.
func (r *run) step(e *api.ENI, f *flow) Reason {
	p := &r.p
	if r.dir != f.opener && !r.aclAllows(e, r.dir, p.remote(r.dir), p.service()) {
		return NACLDenied
	}
	state, answered := f.state, f.answered
	if f.state == Opening && p.protocol == tcp {
		var reason Reason
		if state, answered, reason = f.handshake(p, r.dir); reason != goOn {
			return reason
		}
	} else if f.state == Opening {
		state, answered = f.exchange(r.dir)
	}
	if p.protocol == tcp {
		if !f.hear(p, r.dir) {
			return TCPWindow
		}
		f.fin[r.dir] = f.fin[r.dir] || p.flags&fin != 0
		if p.flags&rst != 0 || f.fin[Out] && f.fin[In] {
			f.refused = f.refused || state == Opening
			state = Closing
		}
	}
	f.state, f.answered = state, answered
	return goOn
}

// exchange is what a packet does to a half-open flow that is not TCP: the other side answers, and when the opener is
// heard again, both know of each other.
func (f *flow) exchange(dir Direction) (State, bool) {
	switch {
	case dir != f.opener:
		return Opening, true
	case f.answered:
		return Established, true
	}
	return Opening, false
}

// handshake is what a packet does to a half-open TCP flow. Whoever sends a SYN from an address that is not his own
// never hears the answer, so he cannot acknowledge it: only what does makes the flow established.
func (f *flow) handshake(p *packet, dir Direction) (State, bool, Reason) {
	var (
		isReset     = p.flags&rst != 0
		isSYN       = p.flags&syn != 0
		acks        = p.flags&ack != 0
		isChallenge = p.flags&(syn|ack|rst|fin) == ack // of the SYN (RFC 5961 section 4.2)
	)
	switch {
	case isReset: // hear says whether it counts
		return Opening, f.answered, goOn

	case dir != f.opener && isSYN: // with an acknowledgement, or of a simultaneous opening
		return Opening, true, goOn
	case dir != f.opener && (f.answered || isChallenge):
		return Opening, f.answered, goOn
	case dir != f.opener:
		return Opening, false, NoFlow

	case f.answered && acks && !near(p.ack, f.seq[opposite(dir)]):
		return Opening, true, TCPWindow
	case f.answered && acks:
		return Established, true, goOn
	}
	return Opening, f.answered, goOn // the SYN again
}

// near: 16 MiB and less apart, told by the upper halves of the numbers.
func near(a, b uint32) bool {
	d := int16(a>>16 - b>>16)
	return -256 <= d && d <= 256
}

// hear says whether a RST comes from where its sender is. To a SYN it acknowledges the SYN. Other packets move that
// place: a SYN of a half-open flow and what comes before the answer to anywhere, the others if they are near it; and
// that of the other side, by what they acknowledge, if it is not near that.
func (f *flow) hear(p *packet, dir Direction) bool {
	other := opposite(dir)
	acks := p.flags&ack != 0
	unanswered := f.state == Opening && !f.answered
	if p.flags&rst != 0 {
		if unanswered && dir != f.opener {
			return acks && near(p.ack, f.seq[other])
		}
		return near(p.seq, f.seq[dir])
	}
	if unanswered || f.state == Opening && p.flags&syn != 0 || near(p.seq, f.seq[dir]) {
		f.seq[dir] = p.seq
	}
	if acks && !near(p.ack, f.seq[other]) {
		f.seq[other] = p.ack
	}
	return true
}

// revive: an allowed packet wakes a blocked flow. A SYN begins it anew.
func (f *flow) revive(p *packet) {
	f.state, f.reason = Established, goOn
	if p.protocol == tcp && onlySYN(p.flags) {
		f.state, f.answered, f.refused, f.fin = Opening, false, false, map[Direction]bool{}
	}
}
