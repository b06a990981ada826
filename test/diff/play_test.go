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
	Worlds []*api.Objects // the first one is in force at the beginning
	Steps  []Step
}

// Step is one packet, and what happens before it.
type Step struct {
	After    time.Duration // that passes first
	Revision int           // index in Worlds that comes into force; 0 = none
	Toggle   string        // ENI that loses or gets its READY mark
	From     oracle.Port
	Frame    []byte
}

var uplinkMAC = api.MAC{2, 0, 0, 0, 0xaa, 1}

const uplinkDevice = "uplink0"

// refused is what the host itself has no route to, own what it is.
var (
	refused = []netip.Prefix{netip.MustParsePrefix("198.51.100.192/26"), netip.MustParsePrefix("2001:db8:c:bad::/64")}
	own     = []netip.Prefix{netip.MustParsePrefix("192.168.100.1/24"), netip.MustParsePrefix("2001:db8:64::1/64")}
)

// newHost makes the host on which the programs run.
func newHost(t testing.TB) *pkttest.Quick {
	t.Helper()
	setup := pkttest.QuickSetup{
		Uplinks: []string{uplinkDevice}, Uplink: pkttest.MAC(uplinkMAC), Sets: 256,
		Knobs: map[string]any{"xdp_owns": uint32(7)},
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
func model() oracle.Host {
	return oracle.Host{
		Name: hosts[0], VXLAN: pkttest.VXLANDevice, OverlayMTU: 1450, PortMTU: 1500,
		Uplinks: map[string]api.MAC{uplinkDevice: uplinkMAC},
		Route: func(dst netip.Addr) string {
			for _, p := range refused {
				if p.Contains(dst) {
					return ""
				}
			}
			for _, p := range own {
				// Its own addresses, and the ones that mean the link or the router of its subnet.
				if p.Addr() == dst || p.Masked().Addr() == dst || p.Contains(dst) && dst.Is4() && dst == api.LastAddr(p.Masked()) {
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
	q     *pkttest.Quick
	model *oracle.Model
	now   time.Duration
	state *compile.State
	ids   *compile.IDs
	shut  map[string]bool
	sent  int
	seen  map[string]int // what became of the packets
}

func newPlayer(q *pkttest.Quick) *player {
	return &player{q: q, now: 1000 * time.Second, seen: map[string]int{}}
}

// start brings the first revision into force, on an empty host.
func (p *player) start(o *api.Objects) error {
	p.q.Reset()
	p.now += time.Minute // the fragments of another case are forgotten
	p.state, p.ids, p.shut = nil, nil, map[string]bool{}
	p.model = oracle.New(o, model())
	return p.apply(o)
}

func (p *player) apply(o *api.Objects) error {
	in := compile.Input{Objects: o, Host: hosts[0], Revision: 1, Previous: p.state, IDs: p.ids}
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
	p.now += s.After
	for p.model.Unsure(p.now) {
		p.now += 2 * time.Second
	}
	if s.Revision > 0 {
		if err := p.revise(c.Worlds[s.Revision]); err != nil {
			return "", out, err
		}
		for p.model.Unsure(p.now) {
			p.now += 2 * time.Second
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
	got, ok, err := p.q.Send(quickPacket(s, p.now))
	if err != nil || !ok {
		return "", out, err
	}
	p.sent++
	out = p.model.Packet(s.From, s.Frame, p.now)
	p.seen[strings.TrimSpace(string(out.Reason)+" "+out.Follows)]++
	return compareOutcome(s, out, got), out, nil
}

const vxlanMark = 0xe41b0d01

func quickPacket(s *Step, now time.Duration) pkttest.QuickPacket {
	programs := map[oracle.Kind]string{
		oracle.AtPort: pkttest.PortProgram, oracle.AtOverlay: pkttest.VXLANProgram,
		oracle.AtUplink: pkttest.UplinkProgram, oracle.AtUplinkXDP: pkttest.UplinkXDPProgram,
	}
	p := pkttest.QuickPacket{At: pkttest.Hook{Program: programs[s.From.Kind], Device: s.From.Device}, Frame: s.Frame, Now: now}
	if s.From.Marked {
		p.Mark = vxlanMark
	}
	if s.From.VNI != 0 {
		p.Tunnel = &pkttest.Tunnel{VNI: s.From.VNI, Remote: s.From.Source.String()}
	}
	return p
}

// outcome is what both sides say, in the same words.
type outcome struct {
	Verdict, Device, Tunnel string
	Neighbour, Marked       bool
	Counts                  string
}

func compareOutcome(s *Step, want oracle.Outcome, got pkttest.QuickResult) string {
	w := outcome{Verdict: string(want.Verdict), Counts: countsOf(want.Counts)}
	g := outcome{Verdict: got.Verdict.String(), Counts: countsGot(got.Counts)}
	if want.Verdict == oracle.Redirect {
		w.Device, w.Neighbour = want.Device, want.Neighbour
		if want.Tunnel != nil {
			w.Tunnel = fmt.Sprintf("%d>%v", want.Tunnel.VNI, want.Tunnel.Remote)
		}
	}
	if got.Verdict == pkttest.Redirect {
		g.Device, g.Neighbour = got.Device, got.Neighbour
		if got.Tunnel != nil {
			g.Tunnel = fmt.Sprintf("%d>%s", got.Tunnel.VNI, got.Tunnel.Remote)
			if got.Tunnel.Policy != 0 {
				g.Tunnel += fmt.Sprintf(" policy %#x", got.Tunnel.Policy)
			}
		}
	}
	if s.From.Kind == oracle.AtUplink {
		w.Marked, g.Marked = want.Marked, got.Mark == vxlanMark
	}
	var b strings.Builder
	if w != g {
		fmt.Fprintf(&b, "model    %+v (%s)\nprograms %+v\n", w, want.Reason, g)
	}
	if want.Verdict != oracle.Drop && got.Verdict != pkttest.Drop && !bytes.Equal(want.Packet, got.Frame) {
		b.WriteString("the packet leaves (want = model):\n" + pkttest.Diff(want.Packet, got.Frame))
	}
	return b.String()
}

// countsOf writes all counters that change: a packet comes in and has one outcome, everywhere that it enters.
func countsOf(counts []oracle.Count) string {
	n := map[string]int{}
	for _, c := range counts {
		n[fmt.Sprintf("%s/%s/CONTINUE", c.ENI, c.Direction)]++
		n[fmt.Sprintf("%s/%s/%s", c.ENI, c.Direction, c.Reason)]++
	}
	return join(n)
}

func countsGot(counts []pkttest.Count) string {
	n := map[string]int{}
	for _, c := range counts {
		n[fmt.Sprintf("%s/%s/%s", c.ENI, c.Direction, c.Reason)] += int(c.Packets)
	}
	return join(n)
}

func join(n map[string]int) string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(n)) {
		list = append(list, fmt.Sprintf("%s×%d", name, n[name]))
	}
	return strings.Join(list, " ")
}

// compareFlows says how the flows of both sides differ.
func (p *player) compareFlows() string {
	want, got := map[string]string{}, map[string]string{}
	rules := map[string]string{}
	for _, f := range p.model.Flows(p.now) {
		want[flowName(f)] = flowState(f)
		p.seen[stage(f)]++
		if f.Evaluated && f.State != oracle.Blocked {
			rules[flowName(f)] = f.Rule
		}
	}
	var b strings.Builder
	p.q.EachFlow(p.now, func(f *flowtable.Flow) {
		known, ok := p.flow(f)
		if !ok {
			return
		}
		name := flowName(known)
		got[name] = flowState(known)
		if rule, ok := rules[name]; ok && (!known.Evaluated || known.Rule != rule) {
			fmt.Fprintf(&b, "flow %s:\n  model    rule %s\n  programs rule %s, of this generation: %v\n", name, rule, known.Rule, known.Evaluated)
		}
	})
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if want[name] != got[name] {
			fmt.Fprintf(&b, "flow %s:\n  model    %s\n  programs %s\n", name, want[name], got[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(got)) {
		if want[name] == "" {
			fmt.Fprintf(&b, "flow %s:\n  model    none\n  programs %s\n", name, got[name])
		}
	}
	return b.String()
}

// stage is how far a flow has come.
func stage(f oracle.Flow) string {
	protocol := map[uint8]string{1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6"}[f.Protocol]
	if protocol == "" {
		protocol = "other"
	}
	text := protocol + " " + string(f.State)
	switch {
	case f.State == oracle.Opening && f.Answered:
		text += " answered"
	case f.State == oracle.Closing && f.Refused:
		text += " refused"
	}
	return text
}

func flowName(f oracle.Flow) string {
	return fmt.Sprintf("%s proto %d %v:%d %v:%d request %d asks %v internet %v transit %v",
		f.ENI, f.Protocol, f.Local, f.LocalPort, f.Remote, f.RemotePort, f.Request, f.Asks, f.Internet, f.Transit)
}

func flowState(f oracle.Flow) string {
	return fmt.Sprintf("%s opened %s answered %v refused %v fin %v %v reason %q nat %v packets %d %d bytes %d %d",
		f.State, f.Opener, f.Answered, f.Refused, f.FINOut, f.FINIn, f.Reason, f.NAT, f.PacketsOut, f.PacketsIn, f.BytesOut, f.BytesIn)
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
	set := e.SGOut
	if f.Flags&1 != 0 {
		out.Opener, set = oracle.In, e.SGIn
	}
	if out.State == oracle.Blocked {
		out.Reason = oracle.Reason(dataplane.Reason(f.Reason).String())
	}
	if rules := p.state.Names.Rules[set]; f.Rule > 0 && int(f.Rule) <= len(rules) {
		out.Rule = rules[f.Rule-1]
	}
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
