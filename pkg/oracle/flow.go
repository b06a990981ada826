// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/eniplane/eniplane/pkg/api"
)

// State is what is known of a connection.
type State string

// The states.
const (
	Opening     State = "opening"     // half-open: the side that opened it was not heard since it was answered
	Established State = "established" // it was
	Closing     State = "closing"     // TCP: FIN of both sides, or RST
	Blocked     State = "blocked"     // denied by a later rule; kept so that an allow revives it
)

// flowKey is the identity of a connection as one ENI sees it. Both directions have the same.
type flowKey struct {
	vni           uint32 // of the ENI; 0 in transit
	transit       string // the ENI, if the local address is not its own
	internet      bool   // the other side is on the internet
	protocol      uint8
	local, remote netip.Addr
	localPort     uint16 // TCP, UDP; ICMP: the identifier
	remotePort    uint16 // TCP, UDP
	request       uint8  // ICMP: type of the request
	asks          bool   // ICMP: the local side asks
}

// flow is a connection.
type flow struct {
	key       flowKey
	eni       string
	life      int
	opener    Direction // of the packets of the side that opened it
	opening   service   // of its first packet
	sender    identity  // the ENI to which it led last: so it does as long as nobody owns the remote address
	foreign   bool      // because nobody owned it
	state     State
	place     int  // in the ring of half-open flows
	answered  bool // half-open, or once so: the other side was heard
	refused   bool // it was closed while it was half-open
	admitted  bool // by the security groups, under onPolicyChange: keep
	fin       map[Direction]bool
	seq       map[Direction]uint32 // TCP: where its sender is, by what it sent or the other side acknowledged
	reason    Reason               // why it is blocked
	rule      string
	peer      string // ENI to which it leads, "" = the internet
	nat       netip.Addr
	packets   map[Direction]int
	bytes     map[Direction]int
	dies      time.Duration // at the earliest
	diesLate  time.Duration // at the latest; later than dies if it may have been judged again
	evaluated int           // the revision in which a packet asked for the verdict last
}

// timeout of the contract and of the ENI.
func (m *Model) timeout(f *flow, protocol uint8) time.Duration {
	t := api.DefaultTimeouts()
	if e := m.objs.ENIs[f.eni]; e != nil {
		t = e.Timeouts
	}
	switch {
	case f.state == Blocked:
		return blockedFor
	case protocol == tcp && f.state == Established:
		return time.Duration(t.TCPEstablished) * time.Second
	case protocol == tcp && f.state == Closing:
		return 40 * time.Second
	case protocol == udp && f.state == Established:
		return time.Duration(t.UDPStream) * time.Second
	case protocol == udp:
		return time.Duration(t.UDP) * time.Second
	case protocol == tcp, protocol == icmp, protocol == icmpv6:
		return 30 * time.Second
	}
	return 600 * time.Second
}

// blockedFor is how long a blocked flow is kept, so that an allow revives it.
const blockedFor = 40 * time.Second

// extend: the flow lives on from now.
func (m *Model) extend(f *flow, key flowKey, now time.Duration) {
	f.dies = now + m.timeout(f, key.protocol)
	f.diesLate = f.dies
}

// slack is how far from its time a flow may expire.
const slack = time.Second

// Expire ends the flows whose time is over, and tells whether there were any.
func (m *Model) Expire(now time.Duration) bool {
	before := len(m.flows)
	for key, f := range m.flows {
		if f.diesLate <= now {
			delete(m.flows, key)
		}
	}
	return len(m.flows) < before
}

// Unsure tells whether it is not defined at this time whether some flow is still there.
func (m *Model) Unsure(now time.Duration) bool {
	if m.unsureFragments(now) {
		return true
	}
	for _, f := range m.flows {
		if f.dies-slack <= now && now <= f.diesLate+slack {
			return true
		}
	}
	return false
}

// Flow is a connection as users see it.
type Flow struct {
	ENI           string
	Transit       bool
	Protocol      uint8
	Local, Remote netip.Addr
	LocalPort     uint16 // ICMP: the identifier
	RemotePort    uint16
	Request       uint8 // ICMP: type of the request
	Asks          bool  // ICMP: the local side asks
	Internet      bool
	Opener        Direction
	State         State
	Answered      bool
	Refused       bool
	FINOut, FINIn bool
	Reason        Reason // why it is blocked
	Rule          string
	NAT           netip.Addr
	PacketsOut    int
	PacketsIn     int
	BytesOut      int
	BytesIn       int
	Evaluated     bool // in the revision in force, by the security groups too
}

// Flows lists what is alive, sorted.
func (m *Model) Flows(now time.Duration) []Flow {
	m.Expire(now)
	var all []Flow
	for k, f := range m.flows {
		if f.life != m.lives[f.eni].number {
			continue
		}
		all = append(all, Flow{
			ENI: f.eni, Transit: k.transit != "", Protocol: k.protocol, Local: k.local, Remote: k.remote,
			LocalPort: k.localPort, RemotePort: k.remotePort, Request: k.request, Asks: k.asks,
			Internet: k.internet, Opener: f.opener, State: f.state, Answered: f.answered, Refused: f.refused,
			FINOut: f.fin[Out], FINIn: f.fin[In], Reason: f.reason, Rule: f.rule, NAT: f.nat,
			PacketsOut: f.packets[Out], PacketsIn: f.packets[In], BytesOut: f.bytes[Out], BytesIn: f.bytes[In],
			Evaluated: f.evaluated == m.revision && !f.admitted,
		})
	}
	slices.SortFunc(all, func(a, b Flow) int { return strings.Compare(a.order(), b.order()) })
	return all
}

// ICMP messages that ask, and the type of their answer; every other type has none and opens a flow of its own.
func isReply(typ uint8, v6 bool) bool {
	if v6 {
		return typ == 129 || typ == 140
	}
	return typ == 0 || typ == 14 || typ == 16 || typ == 18
}

func requestOf(typ uint8, v6 bool) uint8 {
	switch {
	case !isReply(typ, v6):
		return typ
	case !v6 && typ == 0:
		return 8
	}
	return typ - 1
}

// isICMPError: about another packet.
func (p *packet) isICMPError() bool {
	if p.v6 {
		return p.isICMP() && p.typ < 128
	}
	return p.isICMP() && (p.typ == 3 || p.typ == 4 || p.typ == 5 || p.typ == 11 || p.typ == 12)
}

func (p *packet) key(dir Direction, vni uint32, transit string, internet bool) flowKey {
	k := flowKey{vni: vni, transit: transit, internet: internet, protocol: p.protocol}
	k.local, k.remote, k.localPort, k.remotePort = p.src, p.dst, p.sport, p.dport
	if dir == In {
		k.local, k.remote, k.localPort, k.remotePort = p.dst, p.src, p.dport, p.sport
	}
	if p.isICMP() {
		k.localPort, k.request = p.id, requestOf(p.typ, p.v6)
		k.asks = (dir == Out) != isReply(p.typ, p.v6)
	}
	if transit != "" {
		k.vni = 0
	}
	return k
}

// way names where a connection leads, for statistics.
func (k flowKey) way(v verdict) string {
	if k.transit != "" {
		return strings.TrimSpace("transit " + v.way)
	}
	return v.way
}

// service of the packet itself.
func (p *packet) service() service {
	return service{
		protocol: p.protocol, port: p.dport, typ: p.typ, code: p.code,
		isICMP: p.isICMP(), hasPortNum: p.protocol == tcp || p.protocol == udp,
	}
}

func onlySYN(flags uint8) bool { return flags&(syn|ack|rst|fin) == syn }

// find looks for the packet's flow. NoFlow: there is none, or the packet may open it again.
func (r *run) find(e *api.ENI, key flowKey) (*flow, Reason) {
	f := r.flows[key]
	if f == nil || !r.isOf(f, e) {
		return nil, NoFlow
	}
	switch {
	case key.protocol == tcp && f.state == Closing && onlySYN(r.p.flags):
		return nil, NoFlow
	case r.p.isICMP() && r.dir == f.opener && r.p.code != f.opening.code: // another question
		return nil, NoFlow
	}
	return f, goOn
}

// isOf: flows end with the life of their ENI.
func (r *run) isOf(f *flow, e *api.ENI) bool {
	return f.eni == e.Name && f.life == r.lives[e.Name].number
}

// judgeFlow asks for the verdict on a flow, whichever packet asks.
func (r *run) judgeFlow(e *api.ENI, key flowKey, f *flow) verdict {
	v := r.judge(e, key, asked{f.opener, f.opening, f.sender, f.foreign, r.isKept(e, key, f)})
	switch {
	case v.reason != goOn:
	case v.peer != "" && !r.isSomewhere(r.objs.ENIs[v.peer]):
		v.reason = NoNextHop
	case (v.peer == "") != key.internet:
		v.reason = NoRoute // it would be another flow now
	}
	return v
}

// pass asks for the verdict on the flow and, if it is allowed, lets the packet pass its state.
func (r *run) pass(e *api.ENI, key flowKey) (*flow, Reason) {
	f, reason := r.find(e, key)
	if reason != goOn {
		return nil, reason
	}
	fresh := f.evaluated != r.revision
	f.evaluated = r.revision
	v := r.judgeFlow(e, key, f)
	r.out.MayHit = append(r.out.MayHit, v.hits...)
	if v.reason != goOn {
		f.admitted = f.admitted && r.isKept(e, key, f) && v.reason != SGDenied
		r.block(f, v.reason, fresh)
		return nil, v.reason
	}
	if f.state == Blocked {
		f.revive(&r.p)
		if f.state == Opening {
			r.enterRing(e, f)
		}
		r.extend(f, key, r.now)
	}
	f.admitted = e.OnPolicyChange == api.Keep
	f.rule, f.peer, f.nat, f.sender, f.foreign = v.rule, v.peer, v.nat, r.identity(v.peer), v.foreign
	r.out.Rule, r.out.Way = v.rule, key.way(v)
	if reason := r.step(e, f); reason != goOn {
		if fresh {
			judged := r.now + r.timeout(f, key.protocol)
			f.dies, f.diesLate = min(f.dies, judged), max(f.diesLate, judged)
		}
		return nil, reason
	}
	r.extend(f, key, r.now)
	f.packets[r.dir] += r.wire.packets
	f.bytes[r.dir] += r.wire.bytes
	return f, goOn
}

// block: a verdict that turned to denied is kept, so that a later allow revives the flow. One whose peer is gone is
// kept as long as somebody asks for it, and so is one of an ENI that keeps.
func (r *run) block(f *flow, reason Reason, fresh bool) {
	asked := f.reason == NoEndpoint || f.reason == NoNextHop || f.reason == NotPeered ||
		r.objs.ENIs[f.eni].OnPolicyChange == api.Keep
	f.reason = reason
	switch {
	case f.state != Blocked || asked:
		f.state = Blocked
		f.dies = r.now + blockedFor
		f.diesLate = f.dies
	case fresh:
		f.diesLate = r.now + blockedFor
	}
}

// remote is the address of the other side.
func (p *packet) remote(dir Direction) netip.Addr {
	if dir == Out {
		return p.dst
	}
	return p.src
}

// open judges a packet without a flow and makes one.
func (r *run) open(e *api.ENI, key flowKey, sender identity) (*flow, Reason) {
	p := &r.p
	if p.protocol == tcp && !onlySYN(p.flags) || p.isICMP() && isReply(p.typ, p.v6) {
		return nil, NoFlow
	}
	v := r.judge(e, key, asked{r.dir, p.service(), sender, false, false})
	r.out.Hits = append(r.out.Hits, v.hits...)
	if v.reason != goOn {
		return nil, v.reason
	}
	key.internet = v.peer == ""
	if !key.internet && !r.isSomewhere(r.objs.ENIs[v.peer]) {
		return nil, NoNextHop
	}
	if reason := r.rateFlow(e); reason != goOn {
		return nil, reason
	}
	if reason := r.admit(e, key); reason != goOn {
		return nil, reason
	}
	f := &flow{
		key: key, eni: e.Name, life: r.lives[e.Name].number, opener: r.dir, opening: p.service(), sender: r.identity(v.peer),
		state: Opening, fin: map[Direction]bool{}, seq: map[Direction]uint32{r.dir: p.seq},
		rule: v.rule, peer: v.peer, nat: v.nat, foreign: v.foreign, admitted: e.OnPolicyChange == api.Keep,
		packets: map[Direction]int{r.dir: r.wire.packets}, bytes: map[Direction]int{r.dir: r.wire.bytes},
		evaluated: r.revision,
	}
	r.extend(f, key, r.now)
	r.flows[key] = f
	r.enterRing(e, f)
	r.out.Rule, r.out.Way = v.rule, key.way(v)
	return f, goOn
}

func (f Flow) order() string {
	return fmt.Sprint(f.ENI, f.Transit, f.Internet, f.Protocol, f.Local, f.Remote, f.LocalPort, f.RemotePort, f.Request, f.Asks)
}
