// SPDX-License-Identifier: Apache-2.0

package pkttest

import (
	"fmt"
	"time"

	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/dataplane"
)

// Row is one story of a few packets: what comes in where, and all that must become of it. It runs in
// every family in which its packets exist and, if a packet comes in by an uplink, under TC and XDP.
type Row struct {
	Name  string
	Steps []Step
	Hooks Hooks
}

// Hooks limits where a row's packets at the uplink are proven.
type Hooks int

// The limits.
const (
	AllHooks   Hooks = iota
	TCOnly           // XDP leaves these packets to TC by design
	XDPOnly          // BPF_PROG_TEST_RUN makes no such skb
	DeviceOnly       // TC at the VXLAN device: with outer headers, the packet would not come so far
)

// Step is one packet. What came before it in the row still holds: flows, revisions, time.
type Step struct {
	At     Hook
	In     Packet
	Mark   uint32
	GSO    uint32  // gso_size
	Tunnel *Tunnel // what decapsulation left, at the VXLAN device only
	Bound  string  // at the far end of a shaper: where the packet was bound for, instead of Mark

	ByKernel bool // what goes into a tunnel takes the kernel's way, although there is another

	Later  time.Duration      // passes before the packet
	Revise func(*api.Objects) // a new revision comes into force before the packet
	Poke   func(*World) error // changes maps behind the feed's back, before the packet
	Ahead  []Packet           // come in where the packet does, before it, and nobody looks at them

	TCDrops bool // XDP leaves to TC what is dropped here: to know it takes more than a look

	Want Want
}

// Want is all that may become of a packet: nothing else may be counted or changed.
type Want struct {
	Verdict Verdict
	Device  string  // to which a redirect goes
	Tunnel  *Tunnel // that a redirect to the VXLAN device sets
	Via     Addr    // neighbour that a redirect to an uplink names, if the test wants to know
	// ByNeighbour: the kernel must write the MACs, although the programs could.
	ByNeighbour bool

	Mark   uint32
	Class  uint32 // in which it waits, by TC: 1 of what leaves by no EIP, 2 by the first EIP; 0 = none
	Bound  string // of a redirect to a shaper: where to it goes on, "eni NAME", "overlay NAME" or "uplink NAME"
	Packet Packet // as it leaves; the zero Packet = as it came
	Counts []Count
	Flows  []Flow // which must be there afterwards, others do not matter
	NoFlow bool   // there must be no flow at all
	// Hits are the rules that decide, "ingress web/https", or for IPv4 and IPv6 "ingress acl/1|ingress acl/2";
	// nil = the row does not say.
	Hits []string
}

// Hook is where packets come in: a program and the device that it belongs to.
type Hook struct {
	Program string
	Device  string
}

// Verdict is what the kernel is told to do.
type Verdict int

// The verdicts, whatever the hook calls them.
const (
	Drop Verdict = iota
	Pass         // leave it to the host
	Redirect
)

func (v Verdict) String() string {
	return [...]string{"drop", "pass", "redirect"}[v]
}

// Tunnel is what a collect-metadata VXLAN device keeps of, or makes, the outer header.
type Tunnel struct {
	VNI    uint32
	Remote string // the other VTEP
	Policy uint32 // group policy id
}

// Count is one packet that entered at an ENI in a direction and its one outcome. The host itself is
// the ENI "".
type Count struct {
	ENI       string
	Direction dataplane.Direction
	Reason    dataplane.Reason
	Packets   uint64 // 0 = one
}

// Flow is a connection as one ENI sees it.
type Flow struct {
	ENI    string
	State  string
	Opener dataplane.Direction
	Origin string
}

func (c Count) String() string {
	return fmt.Sprintf("%s %s %s x%d", c.ENI, c.Direction, c.Reason, max(c.Packets, 1))
}

// Families in which all packets of the row exist.
func (r *Row) Families() []Family {
	var in []Family
	for _, f := range Families() {
		if r.in(f) {
			in = append(in, f)
		}
	}
	return in
}

func (r *Row) in(f Family) bool {
	for _, s := range r.Steps {
		if !s.In.In(f) || !s.Want.Packet.None() && !s.Want.Packet.In(f) {
			return false
		}
	}
	return true
}

// UsesUplink tells whether a packet comes in by an uplink, where XDP could take it, or came in there before the VXLAN
// device took off its outer headers, which XDP can do itself.
func (r *Row) UsesUplink() bool {
	for _, s := range r.Steps {
		if s.At.Program == UplinkProgram || s.isDecapsulated() {
			return true
		}
	}
	return false
}

// isDecapsulated: the packet had outer headers that the uplink has vouched for.
func (s *Step) isDecapsulated() bool {
	return s.At.Program == VXLANProgram && s.Tunnel != nil && s.Mark != 0 && s.GSO == 0
}

// passesXDP: on its way to the step's hook the packet passed the uplink's XDP.
func (s *Step) passesXDP() bool {
	return s.GSO == 0 && (s.At.Program == UplinkProgram || s.isDecapsulated())
}
