// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"net/netip"
	"time"

	"github.com/eniplane/eniplane/pkg/api"
)

// fragment is which part of a packet a packet is.
type fragment int

const (
	whole         fragment = iota
	firstFragment          // has the transport header, but not all of the payload
	laterFragment          // has no transport header
)

// parseFragment: a part that begins `offset` bytes into the packet and is not the last one if `more`. It has
// payload, in multiples of 8 bytes if it is not the last one, and does not reach beyond the largest packet, of whose
// length `head` bytes count as headers.
func (p *packet) parseFragment(offset int, more bool, head int) Reason {
	payload := p.l3Len - (p.l4 - ethernet)
	p.fragment, p.upTo = firstFragment, payload
	if offset > 0 {
		p.fragment, p.upTo = laterFragment, offset
	}
	if p.isQuoted {
		return goOn
	}
	if payload <= 0 || more && payload%8 != 0 || head+offset+payload > 65535 {
		return Malformed
	}
	return goOn
}

// parseFragment6 reads the header of a fragment; in front of a whole packet it means nothing (RFC 6946).
func (p *packet) parseFragment6(head []byte) Reason {
	where := be.Uint16(head[2:])
	if where&0xfff9 == 0 {
		return goOn
	}
	if p.fragment != whole {
		return Extension
	}
	copy(p.fragmentID[:], head[4:8])
	return p.parseFragment(int(where&0xfff8), where&1 != 0, p.l4-ethernet-40-8)
}

// Fragments is what the fragments of one packet have in common at an ENI.
type Fragments struct {
	ENI       string
	Direction Direction
	Internet  bool // the other side is on the internet
	ID        [4]byte
	Protocol  uint8 // IPv4
	Src, Dst  netip.Addr
}

// firstSeen is what became of the first fragment.
type firstSeen struct {
	of       Fragments
	life     int
	revision int
	upTo     int
	peer     string
	nat      netip.Addr
	dies     time.Duration
}

// fragmentSlot is one place in an ENI's table.
type fragmentSlot struct {
	eni  string
	slot int
}

// For how long the first fragment is remembered, and how far from that it may be forgotten.
const (
	fragmentLife  = 2 * time.Second
	fragmentSlack = 300 * time.Millisecond
)

func (r *run) fragments(e *api.ENI, internet bool) (Fragments, fragmentSlot) {
	p := &r.p
	f := Fragments{ENI: e.Name, Direction: r.dir, Internet: internet, ID: p.fragmentID, Src: p.src, Dst: p.dst}
	if !p.v6 {
		f.Protocol = p.protocol
	}
	return f, fragmentSlot{e.Name, r.host.FragmentSlot(f)}
}

// remember: the others may follow this first fragment, which goes the way of the flow.
func (r *run) remember(e *api.ENI, f *flow, internet bool) {
	if r.p.fragment != firstFragment {
		return
	}
	of, slot := r.fragments(e, internet)
	r.firsts[slot] = &firstSeen{
		of: of, life: r.lives[e.Name].number, revision: r.revision, upTo: r.p.upTo, peer: f.peer, nat: f.nat,
		dies: r.now + fragmentLife,
	}
}

// follow is the way of a later fragment: that of the first one, if it does not reach into that. Nothing of the flow
// changes.
func (r *run) follow(e *api.ENI, internet bool) (*flow, Reason) {
	of, slot := r.fragments(e, internet)
	first := r.firsts[slot]
	if first == nil || first.of != of || first.life != r.lives[e.Name].number || first.revision != r.revision ||
		first.dies <= r.now || r.p.upTo < first.upTo {
		return nil, Fragment
	}
	return &flow{peer: first.peer, nat: first.nat}, goOn
}

// unsureFragments: whether first fragments are forgotten at this time, or by the revision in force, is not defined.
func (m *Model) unsureFragments(now time.Duration) bool {
	for slot, f := range m.firsts {
		switch {
		case f.dies+fragmentSlack < now:
			delete(m.firsts, slot)
		case f.dies-fragmentSlack <= now, f.revision != m.revision:
			return true
		}
	}
	return false
}
