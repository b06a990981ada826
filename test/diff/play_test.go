// SPDX-License-Identifier: Apache-2.0

package diff

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/dataplane/flowtable"
	"github.com/eniplane/eniplane/pkg/oracle"
	"github.com/eniplane/eniplane/pkg/pkttest"
)

// Case is a story that both sides play: revisions of the feed, and packets.
type Case struct {
	Limits limits
	Worlds []*api.Objects // the first one is in force at the beginning
	Steps  []Step
}

// limits of the host.
type limits struct {
	Flows    int
	HalfOpen int // per ENI and opening direction
}

// generous is more than any case needs.
var generous = limits{pkttest.MaxFlows, 64}

// Step is one packet, and what happens before it.
type Step struct {
	After    time.Duration // that passes first
	Revision int           // index in Worlds that comes into force; 0 = none
	Toggle   string        // ENI that loses or gets its READY mark
	From     oracle.Port
	Frame    []byte
	Linear   int // how much of the frame is in one piece of memory; 0 = all of it
}

var uplinkMAC = api.MAC{2, 0, 0, 0, 0xaa, 1}

const uplinkDevice = "uplink0"

// refused is what the host itself has no route to, own what it is.
var (
	refused = []netip.Prefix{netip.MustParsePrefix("198.51.100.192/26"), netip.MustParsePrefix("2001:db8:c:bad::/64")}
	own     = []netip.Prefix{netip.MustParsePrefix("192.168.100.1/24"), netip.MustParsePrefix("2001:db8:64::1/64")}
)

// XDP finishes all that it can, or as it is shipped, but asks about each packet that it leaves to TC.
var (
	ownsAll = map[string]any{"xdp_owns": uint32(7)}
	asksAll = map[string]any{"refuse_every": uint32(1)}
)

// newHost makes the host on which the programs run.
func newHost(t testing.TB, knobs map[string]any) *pkttest.Quick {
	t.Helper()
	setup := pkttest.QuickSetup{
		Uplinks: []string{uplinkDevice}, Uplink: pkttest.MAC(uplinkMAC), Sets: 256,
		Knobs: knobs,
		Ways:  map[string]pkttest.MAC{vteps[1].String(): pkttest.MAC(routerMAC)},
		Underlay: pkttest.Underlay{
			Addresses: own, Refused: refused, Neighbour: pkttest.MAC(routerMAC),
			Gateways: []netip.Addr{netip.MustParseAddr("192.168.100.254"), netip.MustParseAddr("2001:db8:64::fe")},
		},
	}
	for i := range ports {
		setup.Ports = append(setup.Ports, devicePort(i))
	}
	return pkttest.NewQuick(t, setup)
}

// model is the same host for the reference.
func model(l limits) oracle.Host {
	return oracle.Host{
		Name: hosts[0], VXLAN: pkttest.VXLANDevice, OverlayMTU: 1450, PortMTU: 1500,
		Uplinks:  map[string]api.MAC{uplinkDevice: uplinkMAC},
		MaxFlows: l.Flows, HalfOpen: l.HalfOpen,
		Hops: map[netip.Addr]oracle.Hop{vteps[1]: {Device: uplinkDevice, MAC: routerMAC}},
		Route: func(dst netip.Addr) string {
			for _, p := range refused {
				if p.Contains(dst) {
					return ""
				}
			}
			for _, p := range own {
				// Its own addresses, the broadcast of an IPv4 subnet, any router of an IPv6 one (RFC 4291 section 2.6.1).
				// The lowest address of an IPv4 subnet is a neighbour like others since Linux 5.14.
				special := p.Masked().Addr()
				if dst.Is4() {
					special = api.LastAddr(p.Masked())
				}
				if p.Addr() == dst || p.Contains(dst) && dst == special {
					return ""
				}
			}
			return uplinkDevice
		},
		FragmentSlot: fragmentSlot,
	}
}

// fragmentSlot is the hash of bpf/fragment.h: which two packets displace each other is a property of the programs,
// that they do is one of the contract.
func fragmentSlot(f oracle.Fragments) int {
	last := func(a netip.Addr) uint32 {
		b := a.AsSlice()
		return binary.LittleEndian.Uint32(b[len(b)-4:])
	}
	hash := binary.LittleEndian.Uint32(f.ID[:]) ^ last(f.Src) ^ last(f.Dst)
	if f.Direction == oracle.In {
		hash ^= 1
	}
	return int(hash * 0x9e3779b1 >> 26)
}

// player plays cases on one host.
type player struct {
	q      *pkttest.Quick
	model  *oracle.Model
	now    time.Duration
	state  *compile.State
	ids    *compile.IDs
	wide   bool // all rule sets are
	inTurn bool // packets from outside are seen by XDP first, and by TC if XDP leaves them to it
	shut   map[string]bool
	sent   int
	seen   map[seen]int  // what became of the packets
	stages map[stage]int // what flows came to

	reasons map[oracle.Reason]dataplane.Reason
	counts  []pkttest.Count // scratch
	tracing *tracing        // asks about packets before they are sent; nil = none
}

// seen is what became of a packet, and what was special about it: what it belongs to, or how it came.
type seen struct {
	reason oracle.Reason
	how    string
}

func newPlayer(q *pkttest.Quick) *player {
	p := &player{q: q, now: 1000 * time.Second, seen: map[seen]int{}, stages: map[stage]int{}, reasons: map[oracle.Reason]dataplane.Reason{}}
	for _, r := range dataplane.Reasons() {
		p.reasons[oracle.Reason(r.String())] = r
	}
	return p
}

// start brings the first revision into force, on an empty host.
func (p *player) start(c *Case) error {
	o := c.Worlds[0]
	p.q.Reset()
	p.q.Limit(c.Limits.Flows, c.Limits.HalfOpen)
	p.now += time.Minute // the fragments of another case are forgotten
	p.state, p.ids, p.shut = nil, nil, map[string]bool{}
	p.model = oracle.New(o, model(c.Limits))
	return p.apply(o)
}

func (p *player) apply(o *api.Objects) error {
	in := compile.Input{Objects: o, Host: hosts[0], Revision: 1, Previous: p.state, IDs: p.ids, WideRules: p.wide}
	if p.state != nil {
		in.Revision = p.state.Revision + 1
	}
	result, err := compile.Compile(in)
	if err != nil {
		return err
	}
	for name, err := range result.Degraded {
		return fmt.Errorf("compile ENI %s: %w", name, err)
	}
	p.state, p.ids = result.State, result.IDs
	return p.q.Apply(p.state, p.shut)
}

// revise brings another revision into force.
func (p *player) revise(o *api.Objects) error {
	was := incarnations(p.state)
	p.model.Set(o)
	if err := p.apply(o); err != nil {
		return err
	}
	for name, n := range incarnations(p.state) {
		if was[name] != n {
			delete(p.shut, name)
		}
	}
	return p.q.Open(p.shut)
}

func incarnations(st *compile.State) map[string]uint32 {
	m := map[string]uint32{}
	for _, e := range st.ENIs {
		m[e.Name] = e.Incarnation
	}
	return m
}

// step plays one step and says how both sides differ. err is a failure of the test itself.
func (p *player) step(c *Case, s *Step) (diff string, out oracle.Outcome, err error) {
	p.pass(s.After)
	if s.Revision > 0 {
		if err := p.revise(c.Worlds[s.Revision]); err != nil {
			return "", out, err
		}
		p.pass(0)
	}
	if p.model.Expire(p.now) || s.Revision > 0 {
		if err := p.q.Sweep(p.now, s.Revision > 0); err != nil {
			return "", out, err
		}
	}
	if s.Toggle != "" {
		p.shut[s.Toggle] = !p.shut[s.Toggle]
		p.model.SetReady(s.Toggle, !p.shut[s.Toggle])
		if err := p.q.Open(p.shut); err != nil {
			return "", out, err
		}
	}
	if len(s.Frame) == 0 {
		return "", out, nil
	}
	got, ok, err := p.come(s)
	if err != nil || !ok {
		return "", out, err
	}
	p.sent++
	out = p.model.Packet(s.From, s.Frame, p.now)
	how := out.Follows
	switch {
	case s.From.GSO > 0:
		how = "segments"
	case s.Linear > 0:
		how = "pieces"
	}
	if p.seen[seen{out.Reason, how}]++; out.Reason == oracle.Delivered && out.Follows == "" {
		p.seen[seen{out.Reason, "way " + out.Way}]++
	}
	if out.Reason == oracle.Answered && out.Tunnel != nil { // to another host
		p.seen[seen{out.Reason, "far"}]++
	}
	if s.From.Public {
		p.seen[seen{out.Reason, "public"}]++
	}
	if leaves(s) {
		p.seen[seen{out.Reason, "leaves"}]++
	}
	if out.Tunnel != nil && out.Tunnel.Internet {
		p.seen[seen{out.Reason, "by a gateway"}]++
	}
	hits := p.q.Hits()
	return p.compareOutcome(s, out, got) + compareHits(&out, hits) + p.compareTrace(hits), out, nil
}

// come runs the programs that see the packet of a step, up to the one that does not leave it to the next.
func (p *player) come(s *Step) (pkttest.QuickResult, bool, error) {
	wire := onWire(s)
	if !p.inTurn || wire == nil {
		return p.send(quickPacket(s, p.now))
	}
	got, ok, err := p.q.Send(pkttest.QuickPacket{
		At: pkttest.Hook{Program: pkttest.UplinkXDPProgram, Device: uplinkDevice}, Frame: wire, Now: p.now, Linear: s.Linear,
	})
	switch {
	case err != nil:
		return got, ok, err
	case ok && got.Verdict == pkttest.Pass && (!bytes.Equal(wire, got.Frame) || len(got.Counts) > 0):
		return got, ok, fmt.Errorf("XDP leaves a packet to TC that it has changed or counted (%v):\n%s", got.Counts, pkttest.Diff(wire, got.Frame))
	case ok && got.Verdict != pkttest.Pass && !outsideOnly(got.Counts):
		return got, ok, nil
	}
	s = &Step{From: s.From, Frame: s.Frame}
	return p.send(quickPacket(s, p.now))
}

// outsideOnly: what dropped the packet are its outer headers, of which the model at the VXLAN device knows nothing.
func outsideOnly(counts []pkttest.Count) bool {
	return slices.ContainsFunc(counts, func(c pkttest.Count) bool { return c.Reason == dataplane.ReasonVXLANSource })
}

// onWire is the packet of a step as it came to the uplink; nil if XDP does not see it, or sees more of it than TC.
func onWire(s *Step) []byte {
	switch {
	case s.From.GSO > 0:
		return nil
	case s.From.Kind == oracle.AtOverlay && s.From.Marked:
		return wrap(s.From, s.Frame)
	case s.From.Kind == oracle.AtUplink && !toVTEP(s.Frame):
		return s.Frame
	}
	return nil
}

// toVTEP: what is inside VXLAN the uplink's TC does not look at.
func toVTEP(f []byte) bool {
	return len(f) >= 34 && be.Uint16(f[12:]) == 0x0800 && netip.AddrFrom4([4]byte(f[30:34])) == vteps[0]
}

// pass lets time pass, until it is sure which flows are still there.
func (p *player) pass(d time.Duration) {
	p.now += d
	for p.model.Unsure(p.now) {
		p.now += 2 * time.Second
	}
}

const vxlanMark = 0xe41b0d01

func quickPacket(s *Step, now time.Duration) pkttest.QuickPacket {
	p := pkttest.QuickPacket{
		At: pkttest.Hook{Program: program(s.From.Kind), Device: s.From.Device}, Frame: s.Frame, Now: now,
		GSO: uint32(s.From.GSO), Linear: s.Linear,
	}
	if s.From.Marked {
		p.Mark = vxlanMark + role(s)
	}
	if s.From.VNI != 0 {
		p.Tunnel = &pkttest.Tunnel{VNI: s.From.VNI, Remote: s.From.Source.String()}
	}
	return p
}

// role is what the mark says of a packet of the overlay: 1 = by a gateway from the internet, 2 = to it by this gateway.
func role(s *Step) uint32 {
	switch {
	case s.From.Public:
		return 1
	case leaves(s):
		return 2
	}
	return 0
}

// leaves: to the internet by this gateway.
func leaves(s *Step) bool {
	gateway := api.NewObjects().Region.GatewayMAC
	return s.From.Kind == oracle.AtOverlay && !s.From.Public && bytes.HasPrefix(s.Frame, gateway[:])
}

func program(at oracle.Kind) string {
	switch at {
	case oracle.AtPort:
		return pkttest.PortProgram
	case oracle.AtOverlay:
		return pkttest.VXLANProgram
	case oracle.AtUplink:
		return pkttest.UplinkProgram
	}
	return pkttest.UplinkXDPProgram
}

// outcome is what both sides say, in the same words.
type outcome struct {
	Verdict, Device                   string
	Tunnel                            pkttest.Tunnel
	Neighbour, Marked, Public, Leaves bool
	Moved                             uint32
}

func (p *player) compareOutcome(s *Step, want oracle.Outcome, got pkttest.QuickResult) string {
	w, g := outcome{Verdict: string(want.Verdict)}, outcome{Verdict: got.Verdict.String()}
	if want.Outside != nil {
		want.Device, want.Tunnel, want.Packet = want.Outside.Device, nil, withSourcePort(want.Outside.Packet, got.Frame)
	}
	if want.Neighbour && got.Verdict == pkttest.Redirect && !got.Neighbour {
		want.Neighbour, want.Packet = false, resolved(want.Packet)
	}
	if want.Verdict == oracle.Redirect {
		w.Device, w.Neighbour = want.Device, want.Neighbour
		if want.Tunnel != nil {
			w.Tunnel = pkttest.Tunnel{VNI: want.Tunnel.VNI, Remote: want.Tunnel.Remote.String()}
			if want.Tunnel.Internet {
				w.Tunnel.Policy = 1
			}
		}
	}
	if got.Verdict == pkttest.Redirect {
		g.Device, g.Neighbour = got.Device, got.Neighbour
		if got.Tunnel != nil {
			g.Tunnel = *got.Tunnel
		}
	}
	if s.From.Kind == oracle.AtUplink {
		role, moved := (got.Mark-vxlanMark)&15, (got.Mark-vxlanMark)>>4
		marked := role <= 2 && (moved == 0 || moved == 2 || moved == 3)
		w.Marked, g.Marked = want.Marked, marked
		w.Public, g.Public = want.Public, marked && role == 1
		w.Leaves, g.Leaves = want.Leaves, marked && role == 2
		w.Moved = want.Moved
		if marked {
			g.Moved = moved
		}
	}
	text := ""
	if counts := p.countsOf(want.Counts); w != g || !sameCounts(counts, got.Counts) {
		text = fmt.Sprintf("model    %+v %v (%s)\nprograms %+v %v\n", w, counts, want.Reason, g, got.Counts)
	}
	if want.Verdict != oracle.Drop && got.Verdict != pkttest.Drop && !bytes.Equal(want.Packet, got.Frame) {
		text += "the packet leaves (want = model):\n" + pkttest.Diff(want.Packet, got.Frame)
	}
	return text
}

// resolved is a frame with the MACs that the kernel's neighbour would write: the programs may write them themselves.
func resolved(frame []byte) []byte {
	frame = slices.Clone(frame)
	copy(frame, routerMAC[:])
	copy(frame[6:], uplinkMAC[:])
	return frame
}

// withSourcePort is the model's packet with the outer source port that the programs chose, if that is one they may choose.
func withSourcePort(model, got []byte) []byte {
	const at, first = 14 + 20, 49152
	if len(got) > at+2 && binary.BigEndian.Uint16(got[at:]) >= first {
		copy(model[at:], got[at:at+2])
	}
	return model
}

// compareHits: new connections count the rules that decide, known ones may.
func compareHits(want *oracle.Outcome, got []string) string {
	if slices.Equal(want.Hits, got) {
		return ""
	}
	var more []string
	missing, may := slices.Clone(want.Hits), slices.Clone(want.MayHit)
	for _, rule := range got {
		if i := slices.Index(missing, rule); i >= 0 {
			missing = slices.Delete(missing, i, i+1)
		} else if i := slices.Index(may, rule); i >= 0 {
			may = slices.Delete(may, i, i+1)
		} else {
			more = append(more, rule)
		}
	}
	if len(missing)+len(more) == 0 {
		return ""
	}
	return fmt.Sprintf("rules hit %q, the model wants %q and maybe %q\n", got, want.Hits, want.MayHit)
}

// countsOf lists all counters that change: a packet comes in and has one outcome, everywhere that it enters.
func (p *player) countsOf(counts []oracle.Count) []pkttest.Count {
	p.counts = p.counts[:0]
	for _, c := range counts {
		reason, known := p.reasons[c.Reason]
		if !known {
			panic(fmt.Sprintf("the programs have no reason %s", c.Reason))
		}
		direction := dataplane.Out
		if c.Direction == oracle.In {
			direction = dataplane.In
		}
		for _, r := range [...]dataplane.Reason{dataplane.ReasonContinue, reason} {
			p.count(pkttest.Count{ENI: c.ENI, Direction: direction, Reason: r, Packets: uint64(c.Packets)})
		}
	}
	return p.counts
}

func (p *player) count(c pkttest.Count) {
	for i := range p.counts {
		if k := &p.counts[i]; k.ENI == c.ENI && k.Direction == c.Direction && k.Reason == c.Reason {
			k.Packets += c.Packets
			return
		}
	}
	p.counts = append(p.counts, c)
}

// sameCounts: the same ones in any order; both lists name each counter once.
func sameCounts(a, b []pkttest.Count) bool {
	for _, c := range a {
		if !slices.Contains(b, c) {
			return false
		}
	}
	return len(a) == len(b)
}

// compareUsage says how the numbers of flows of both sides differ.
func (p *player) compareUsage() string {
	var b strings.Builder
	for i := range p.state.ENIs {
		e := &p.state.ENIs[i]
		if want, got := p.model.Count(e.Name), p.q.Flows(e); want != got {
			fmt.Fprintf(&b, "%s has %d flows in the model, %d count in the programs\n", e.Name, want, got)
		}
	}
	return b.String()
}

// compareFlows says how the flows of both sides differ.
func (p *player) compareFlows() string {
	want, got := map[oracle.Flow]oracle.Flow{}, map[oracle.Flow]oracle.Flow{}
	for _, f := range p.model.Flows(p.now) {
		p.stages[stageOf(f)]++
		if f.State == oracle.Blocked {
			f.Evaluated = false
		}
		if !f.Evaluated { // which rule would let it pass is not defined
			f.Rule = ""
		}
		want[identity(f)] = f
	}
	var lines []string
	p.q.EachFlow(p.now, func(f *flowtable.Flow) {
		known, ok := p.flow(f)
		if !ok {
			return
		}
		if !want[identity(known)].Evaluated {
			known.Evaluated, known.Rule = false, ""
		}
		if other, twice := got[identity(known)]; twice {
			lines = append(lines, fmt.Sprintf("flow twice\n  %+v\n  %+v\n", known, other))
		}
		got[identity(known)] = known
	})
	if diff := p.compareUsage(); diff != "" {
		return diff
	}
	if maps.Equal(want, got) && len(lines) == 0 {
		return ""
	}
	for id, f := range want {
		if g, ok := got[id]; g != f {
			lines = append(lines, fmt.Sprintf("flow\n  model    %+v\n  programs %+v (%v)\n", f, g, ok))
		}
	}
	for id, f := range got {
		if _, ok := want[id]; !ok {
			lines = append(lines, fmt.Sprintf("flow\n  model    none\n  programs %+v\n", f))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// stage is how far a flow has come.
type stage struct {
	protocol          string
	state             oracle.State
	answered, refused bool
}

func stageOf(f oracle.Flow) stage {
	s := stage{protocol: "other", state: f.State}
	switch f.Protocol {
	case 6:
		s.protocol = "tcp"
	case 17:
		s.protocol = "udp"
	case 1, 58:
		s.protocol = "icmp"
	}
	s.answered = f.State == oracle.Opening && f.Answered
	s.refused = f.State == oracle.Closing && f.Refused
	return s
}

// identity is what makes a flow another one.
func identity(f oracle.Flow) oracle.Flow {
	return oracle.Flow{
		ENI: f.ENI, Transit: f.Transit, Protocol: f.Protocol, Local: f.Local, Remote: f.Remote, LocalPort: f.LocalPort,
		RemotePort: f.RemotePort, Request: f.Request, Asks: f.Asks, Internet: f.Internet,
	}
}

// flow translates an entry of the table; false: it belongs to nobody who is here now.
func (p *player) flow(f *flowtable.Flow) (oracle.Flow, bool) {
	i := slices.IndexFunc(p.state.ENIs, func(e compile.ENI) bool { return e.Index == f.ENI && e.Flows == f.Incarnation })
	if i < 0 {
		return oracle.Flow{}, false
	}
	e := &p.state.ENIs[i]
	const internet, transit = 1 << 3, 1 << 4
	out := oracle.Flow{
		ENI: e.Name, Transit: f.Class&transit != 0, Internet: f.Class&internet != 0, Local: f.Local, Remote: f.Remote,
		Opener: oracle.Out, Answered: f.Flags&0x40 != 0, Refused: f.Flags&0x80 != 0,
		FINOut: f.Flags&2 != 0, FINIn: f.Flags&4 != 0, NAT: f.NAT,
		State:      []oracle.State{"none", oracle.Opening, oracle.Established, oracle.Closing, oracle.Blocked}[f.State],
		PacketsOut: int(f.Packets[0]), PacketsIn: int(f.Packets[1]), BytesOut: int(f.Bytes[0]), BytesIn: int(f.Bytes[1]),
		Evaluated: f.Generation == e.Generation,
	}
	if f.Flags&1 != 0 {
		out.Opener = oracle.In
	}
	if out.State == oracle.Blocked {
		out.Reason = oracle.Reason(dataplane.Reason(f.Reason).String())
	}
	out.Rule = p.state.Names.Rules[f.Rule].Name
	switch f.Class & 3 {
	case 0:
		out.Protocol, out.LocalPort, out.RemotePort = 6, f.LocalPort, f.RemotePort
	case 1:
		out.Protocol, out.LocalPort, out.RemotePort = 17, f.LocalPort, f.RemotePort
	case 2:
		out.Protocol, out.LocalPort = 1, f.LocalPort
		if f.Local.Is6() {
			out.Protocol = 58
		}
		out.Request, out.Asks = uint8(f.RemotePort), f.RemotePort&0x100 != 0
	default:
		out.Protocol = uint8(f.LocalPort)
	}
	return out, true
}
