// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"net/netip"
	"slices"
	"time"

	"github.com/eniplane/eniplane/pkg/api"
)

// Reason is the name of what became of a packet.
type Reason string

// The reasons, as users see them.
const (
	goOn Reason = "" // not decided yet

	Delivered Reason = "DELIVERED"
	Answered  Reason = "ANSWERED"
	Consumed  Reason = "CONSUMED"
	notOurs   Reason = "NOT_OURS"

	Malformed Reason = "MALFORMED"
	Ethertype Reason = "ETHERTYPE"
	Fragment  Reason = "FRAGMENT"
	Extension Reason = "EXTENSION"
	Address   Reason = "ADDRESS"

	NotReady    Reason = "NOT_READY"
	UnknownPort Reason = "UNKNOWN_PORT"
	SpoofedMAC  Reason = "SPOOFED_MAC"
	SpoofedIP   Reason = "SPOOFED_IP"
	SpoofedARP  Reason = "SPOOFED_ARP"
	WrongENI    Reason = "WRONG_ENI"
	ARPUnknown  Reason = "ARP_UNKNOWN"
	GuestServer Reason = "GUEST_SERVER"
	Multicast   Reason = "MULTICAST"
	ToGateway   Reason = "TO_GATEWAY"

	SGDenied   Reason = "SG_DENIED"
	NACLDenied Reason = "NACL_DENIED"
	NoRoute    Reason = "NO_ROUTE"
	Blackhole  Reason = "BLACKHOLE"
	NoEndpoint Reason = "NO_ENDPOINT"
	Infra      Reason = "INFRA"
	NoEIP      Reason = "NO_EIP"
	EIPSource  Reason = "EIP_SOURCE"
	EIPUnknown Reason = "EIP_UNKNOWN"

	NoFlow        Reason = "NO_FLOW"
	TCPWindow     Reason = "TCP_WINDOW"
	FlowQuota     Reason = "FLOW_QUOTA"
	PacketRate    Reason = "PACKET_RATE"
	FlowRate      Reason = "FLOW_RATE"
	ICMPUnrelated Reason = "ICMP_UNRELATED"

	TooBig    Reason = "TOO_BIG"
	NoNextHop Reason = "NO_NEXTHOP"
	NoFIB     Reason = "NO_FIB"

	StrayND Reason = "STRAY_ND"

	VXLANHeader   Reason = "VXLAN_HEADER"
	VXLANSource   Reason = "VXLAN_SOURCE"
	VXLANUnmarked Reason = "VXLAN_UNMARKED"
	VXLANNoENI    Reason = "VXLAN_NO_ENI"
	VXLANSender   Reason = "VXLAN_SENDER"
	RouteLoop     Reason = "ROUTE_LOOP"
	NotPeered     Reason = "NOT_PEERED"
	NoTransit     Reason = "NO_TRANSIT"
)

// Direction is seen from the ENI.
type Direction string

// The directions.
const (
	Out Direction = "out"
	In  Direction = "in"
)

// Verdict is what the kernel is told to do.
type Verdict string

// The verdicts.
const (
	Drop     Verdict = "drop"
	Pass     Verdict = "pass" // leave it to the host
	Redirect Verdict = "redirect"
)

// Host is what the model must know of the machine: the feed does not say it.
type Host struct {
	Name       string
	VXLAN      string             // name of the overlay device
	OverlayMTU int                // largest inner IP packet
	PortMTU    int                // of every port
	Uplinks    map[string]api.MAC // by device
	MaxFlows   int                // of all ENIs together
	HalfOpen   int                // of them, per ENI and opening direction, if it may have twice as many flows
	Hops       map[netip.Addr]Hop // by which VTEPs are reached; all others are the kernel's to find
	// Route is the host's own routing: the device to an address, "" if there is none.
	Route func(dst netip.Addr) string
	// FragmentSlot is where an ENI remembers the first fragment of a packet. What is remembered there before is
	// forgotten.
	FragmentSlot func(Fragments) int
}

// Kind is a kind of hook.
type Kind string

// The hooks.
const (
	AtPort      Kind = "port"       // of an ENI
	AtOverlay   Kind = "overlay"    // the VXLAN device, after decapsulation
	AtUplink    Kind = "uplink"     // TC
	AtUplinkXDP Kind = "uplink-xdp" // XDP that finishes all it can
)

// Port is where a packet comes in, and what it stands for.
type Port struct {
	Kind   Kind
	Device string
	VNI    uint32     // AtOverlay
	Source netip.Addr // AtOverlay: VTEP of the sender
	Marked bool       // AtOverlay: the uplink has vouched for it
	Public bool       // AtOverlay: under the group policy id of the internet, from where a gateway has sent it
	GSO    int        // bytes of payload of each of the wire packets that it stands for; 0 = it is one; not AtUplinkXDP
}

// Tunnel is what the overlay device is told.
type Tunnel struct {
	VNI      uint32
	Remote   netip.Addr
	Internet bool // the group policy id says: from the internet
}

// Count is what became of a packet at an ENI, in a direction. The host itself is the ENI "".
type Count struct {
	ENI       string
	Direction Direction
	Reason    Reason
	Packets   int // on the wire
}

// Outcome is everything that becomes of a packet.
type Outcome struct {
	Verdict   Verdict
	Reason    Reason   // the last one
	Rule      string   // of the security groups, that decided; "" if none was asked or none matched
	Device    string   // of a redirect
	Neighbour bool     // the kernel writes the next hop's MAC
	Tunnel    *Tunnel  // of a redirect to the overlay
	Outside   *Outside // what is sent in place of that
	Marked    bool     // at the uplink: vouched for
	Public    bool     // Marked: under the group policy id of the internet
	Moved     uint32   // Marked: the group policy id of a host that has sent it on, 0 = it came straight
	Leaves    bool     // Marked: to the internet by this gateway
	Packet    []byte   // as it leaves, unless dropped
	Counts    []Count
	Follows   string // what another packet vouches for: "fragment", "error"
	Way       string // what the routes said last: "local", "eni", "vpc by policy", "transit local"...
	// Hits are the rules that decided about a new connection, MayHit those about one that is known: whether it is
	// asked about again is the programs' to say. Both as "ingress web/https", a network ACL's as "egress acl/100".
	Hits, MayHit []string
}

// Model is one host, its objects and its flows.
type Model struct {
	host     Host
	objs     *api.Objects
	revision int
	lives    map[string]life
	known    map[string]int // ENI of a VPC that is here, or of a peer of one: the revision since when
	unready  map[string]bool
	flows    map[flowKey]*flow
	rings    map[ringOf]*ring
	firsts   map[fragmentSlot]*firstSeen
	buckets  map[string]*buckets
}

// life is one (UID, epoch) of an ENI on this host, or with onPolicyChange: cut, one policy of it: what it knows dies
// with it.
type life struct {
	uid    string
	epoch  uint64
	number int // never used again
	policy string
}

// New returns a host without flows, on which all ENIs are ready.
func New(objs *api.Objects, host Host) *Model {
	m := &Model{
		host: host, lives: map[string]life{}, unready: map[string]bool{}, flows: map[flowKey]*flow{}, rings: map[ringOf]*ring{},
		firsts: map[fragmentSlot]*firstSeen{}, buckets: map[string]*buckets{},
	}
	m.Set(objs)
	return m
}

// Set brings another revision into force.
func (m *Model) Set(objs *api.Objects) {
	m.objs = objs
	m.revision++
	lives, policies := map[string]life{}, m.policies()
	for name, e := range objs.ENIs {
		if !m.isLocal(e) {
			continue
		}
		l := life{uid: e.UID, epoch: e.Attachment.Epoch}
		old, ok := m.lives[name]
		if ok && old.uid == l.uid && old.epoch == l.epoch {
			l.number = old.number
		} else {
			l.number = m.revision
			delete(m.unready, name)
		}
		l.policy = policyOf(e, policies)
		if e.OnPolicyChange == api.Cut && l.policy != old.policy {
			l.number = m.revision
		}
		lives[name] = l
	}
	m.lives = lives
	for name := range m.buckets {
		if _, here := lives[name]; !here {
			delete(m.buckets, name)
		}
	}
	known, behind := map[string]int{}, m.allBehind()
	for name, e := range objs.ENIs {
		if !m.isKnown(m.vpcOf(e)) && !behind[name] {
			continue
		}
		if known[name] = m.known[name]; known[name] == 0 {
			known[name] = m.revision
		}
	}
	m.known = known
}

// SetReady closes and opens an ENI, as before and after its device exists.
func (m *Model) SetReady(eni string, ready bool) { m.unready[eni] = !ready }

func (m *Model) ready(e *api.ENI) bool { return !m.unready[e.Name] }

// Packet lets a frame come in. The frame is not changed.
func (m *Model) Packet(from Port, frame []byte, now time.Duration) Outcome {
	m.Expire(now)
	r := &run{Model: m, from: from, now: now, p: packet{frame: slices.Clone(frame)}, wire: segments(frame, from.GSO)}
	switch from.Kind {
	case AtPort:
		r.port()
	case AtOverlay:
		r.end(r.overlay())
		if r.answersTooBig() {
			if r.out.Tunnel != nil { // the way that it came
				r.answerTooBig(nil)
			} else {
				r.answerOverlay(m.objs.ENIs[r.eni])
			}
		}
	default:
		r.uplink()
	}
	return r.outcome()
}

// run is one packet on its way.
type run struct {
	*Model
	from Port
	now  time.Duration
	p    packet
	wire wire
	out  Outcome

	eni    string // whose port is being crossed
	dir    Direction
	tooBig int        // with TooBig: what would have fitted; 0 = nobody is told
	asker  netip.Addr // of an ARP packet that is not the sender's to send
}

// enter: from here on the packet is at this ENI, in this direction.
func (r *run) enter(eni string, dir Direction) { r.eni, r.dir = eni, dir }

// end says what became of the packet there.
func (r *run) end(reason Reason) {
	r.out.Reason = reason
	if reason != notOurs {
		r.out.Counts = append(r.out.Counts, Count{r.eni, r.dir, reason, r.wire.packets})
	}
}

func (r *run) outcome() Outcome {
	switch r.out.Reason {
	case notOurs:
		r.out.Verdict = Pass
	case Delivered, Answered:
		r.out.Verdict = Redirect
	default:
		r.out.Verdict = Drop
		return r.out
	}
	r.out.Packet = r.p.frame
	if r.p.fragment == laterFragment {
		r.out.Follows = "fragment"
	} else if r.p.quotes {
		r.out.Follows = "error"
	}
	return r.out
}
