// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"errors"
	"slices"

	"github.com/eniplane/eniplane/pkg/dataplane"
)

// ErrNoReply is returned by Reply when nobody answers the packet, or not in a way that could be known.
var ErrNoReply = errors.New("nobody answers this packet")

// Reply asks about what answers a packet that was delivered, with the connection that it has opened.
func (t *Tracer) Reply(r *Report) (*Report, error) {
	out := r.outcome
	if r.Reason.Reason != dataplane.ReasonDelivered || len(out.Crossings) == 0 {
		return nil, ErrNoReply
	}
	frame, outer := inside(out.Frame)
	if frame == nil {
		frame = out.Frame
	}
	q, ok := answer(frame)
	if !ok {
		return nil, ErrNoReply
	}
	last := out.Crossings[len(out.Crossings)-1]
	if last.Direction == dataplane.In {
		return t.Out(last.ENI, q)
	}
	switch {
	case r.hop == nil:
		return nil, ErrNoReply
	case r.hop.Internet:
		return t.fromInternet(q)
	}
	e, err := t.eni(last.ENI)
	if err != nil {
		return nil, err
	}
	vtep := r.hop.VTEP
	if outer.dst.IsValid() {
		vtep = outer.dst
	}
	back, err := q.build(r.hop.MAC, e.MAC)
	if err != nil {
		return nil, err
	}
	tunnel := Tunnel{VNI: e.VNI, Remote: vtep}
	if r.hop.Gateway {
		tunnel.Policy = policyInternet
	}
	return t.fromTunnel(tunnel, back)
}

// answer is what the receiver of a frame sends back.
func answer(frame []byte) (Question, bool) {
	all := tuples(frame)
	if len(all) != 1 || all[0].later {
		return Question{}, false
	}
	f := all[0]
	q := Question{Protocol: f.protocol, Src: f.dst, Dst: f.src, SrcPort: f.dport, DstPort: f.sport}
	switch {
	case f.protocol == protoTCP && f.flags&flagRST != 0:
		return q, false
	case f.protocol == protoTCP && f.flags&(flagSYN|flagACK) == flagSYN:
		q.Flags = flagSYN | flagACK
	case f.protocol == protoTCP:
		q.Flags = flagACK
	case f.icmp():
		reply, asks := map[uint8]uint8{8: 0, 13: 14, 15: 16, 17: 18}[f.icmpType]
		if f.v6() {
			reply, asks = f.icmpType+1, slices.Contains([]uint8{128, 139}, f.icmpType)
		}
		if !asks {
			return q, false
		}
		q.ICMP, q.ICMPID = &ICMP{Type: reply}, f.sport
		q.SrcPort, q.DstPort = 0, 0
	}
	return q, true
}
