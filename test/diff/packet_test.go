// SPDX-License-Identifier: Apache-2.0

package diff

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/oracle"
)

// packets draws what comes in, from the objects in force and from what came out before.
type packets struct {
	gen
	objs   *api.Objects
	heard  []talk // packets that went through, and their answers, newest last
	uplink api.MAC
	later  []sending // the rest of what came in fragments
	inTurn bool      // XDP and TC see a packet in turn: none is for XDP alone

	local, remote       []*api.ENI // of objs, at the first host and at the others
	enis, eips, subnets []string   // names in objs, sorted
	internet            []netip.Addr
}

func newPackets(g gen, o *api.Objects, inTurn bool) *packets {
	p := &packets{gen: g, uplink: uplinkMAC, internet: slices.Concat(internet4, internet6), inTurn: inTurn}
	p.see(o)
	return p
}

// see: these are the objects in force.
func (g *packets) see(o *api.Objects) {
	g.objs, g.local, g.remote = o, nil, nil
	g.enis, g.eips, g.subnets = sortedKeys(o.ENIs), sortedKeys(o.EIPs), sortedKeys(o.Subnets)
	for _, name := range g.enis {
		switch e := o.ENIs[name]; {
		case e.Attachment == nil:
		case o.HostOf(e) == hosts[0]:
			g.local = append(g.local, e)
		default:
			g.remote = append(g.remote, e)
		}
	}
}

// sending is a frame that is still to come in.
type sending struct {
	from  oracle.Port
	frame []byte
}

// talk is a packet that got through: where it came in, what it was, where an answer would come in, and what the
// other side saw.
type talk struct {
	from oracle.Port
	sent []byte
	to   oracle.Port
	seen []byte
}

var be = binary.BigEndian

var routerMAC = api.MAC{2, 0, 0, 0, 0xaa, 0xfe}

// listen remembers a packet that went through.
func (g *packets) listen(from oracle.Port, sent []byte, out oracle.Outcome) {
	if out.Reason != oracle.Delivered {
		return
	}
	from.GSO = 0
	t := talk{from: from, sent: sent, seen: slices.Clone(out.Packet)}
	switch {
	case out.Tunnel != nil:
		t.to = oracle.Port{Kind: oracle.AtOverlay, Device: out.Device, VNI: out.Tunnel.VNI, Source: out.Tunnel.Remote, Marked: true}
		t.to.Public = api.MAC(out.Packet[:6]) == g.objs.Region.GatewayMAC // what goes to a gateway is answered from the internet
	case out.Neighbour:
		t.to = oracle.Port{Kind: g.uplinkKind(), Device: out.Device}
	default:
		t.to = oracle.Port{Kind: oracle.AtPort, Device: out.Device}
	}
	g.heard = append(g.heard, t)
	if len(g.heard) > 40 {
		g.heard = g.heard[20:]
	}
}

func (g *packets) uplinkKind() oracle.Kind {
	if g.inTurn {
		return oracle.AtUplink
	}
	return pick(g.gen, []oracle.Kind{oracle.AtUplink, oracle.AtUplinkXDP})
}

// next draws a packet.
func (g *packets) next() (oracle.Port, []byte) {
	if len(g.later) > 0 && !g.oneIn(4) {
		i := g.IntN(min(2, len(g.later)))
		s := g.later[i]
		g.later = slices.Delete(g.later, i, i+1)
		return s.from, s.frame
	}
	var from oracle.Port
	var frame []byte
	switch n := g.IntN(20); {
	case n < 7 && len(g.heard) > 0:
		from, frame = g.answer(g.recent())
	case n < 9 && len(g.heard) > 0:
		from, frame = g.again(g.recent())
	case n < 11 && len(g.heard) > 0:
		from, frame = g.forward(g.recent())
	case n < 14:
		from, frame = g.fromPort()
	case n < 17:
		from, frame = g.fromOverlay()
	default:
		from, frame = g.fromUplink()
	}
	if g.oneIn(12) && len(g.later) < 6 {
		frame = g.fragments(from, frame)
	}
	if g.oneIn(12) {
		frame = g.mutate(frame)
	}
	if from.Kind == oracle.AtOverlay && from.Marked && !g.inTurn && g.oneIn(2) {
		return g.overlaid(from, frame)
	}
	from.GSO = g.cut(from, frame)
	return from, frame
}

// overlaid is a packet at the uplink, in the outer headers that the VXLAN device would take off: nearly always so that XDP
// does it.
func (g *packets) overlaid(from oracle.Port, frame []byte) (oracle.Port, []byte) {
	f := wrap(from, frame)
	switch g.IntN(40) {
	case 0:
		f[15] |= byte(1 + g.IntN(3)) // ECN
	case 1:
		be.PutUint16(f[40:], 1)
	case 2:
		f = append(f, 0, 0) // a trailer
	case 3:
		be.PutUint16(f[38:], be.Uint16(f[38:])-1) // its length
	}
	return oracle.Port{Kind: oracle.AtUplinkXDP, Device: uplinkDevice}, f
}

// wrap puts outer headers around a frame, as a VTEP does.
func wrap(from oracle.Port, frame []byte) []byte {
	vxlan := []byte{8, 0, 0, 0, byte(from.VNI >> 16), byte(from.VNI >> 8), byte(from.VNI), 0}
	if from.Public {
		vxlan[0], vxlan[3] = 0x88, 1
	}
	udp := make([]byte, 8, 8+len(vxlan)+len(frame))
	be.PutUint16(udp, 40000)
	be.PutUint16(udp[2:], 4789)
	be.PutUint16(udp[4:], uint16(8+len(vxlan)+len(frame)))
	f := ipPacket(routerMAC, uplinkMAC, from.Source, vteps[0], 17, slices.Concat(udp, vxlan, frame))
	be.PutUint16(f[40:], 0) // no checksum, as VTEPs send
	return f
}

// cut makes a packet stand for several now and then: of the sizes around which something changes, or any.
func (g *packets) cut(from oracle.Port, f []byte) int {
	headers := cuttable(f)
	if headers == 0 || from.Kind == oracle.AtUplinkXDP || !g.oneIn(4) {
		return 0
	}
	payload := len(f) - headers
	size := pick(g.gen, []int{1, 2, 7, 100, 536, payload - 1, 1450 + 14 - headers, 1450 + 14 - headers, 1500 + 14 - headers}) + g.IntN(2)
	if size < 1 || size > payload {
		size = 1 + g.IntN(payload)
	}
	return size
}

// linear is how much of a large frame is in one piece of memory: all of its headers, as drivers promise for XDP.
// BPF_PROG_TEST_RUN makes no such skb.
func (g *packets) linear(from oracle.Port, f []byte) int {
	byXDP := from.Kind == oracle.AtUplinkXDP || g.inTurn && from.Kind != oracle.AtPort
	if len(f) <= leastLinear || !byXDP || g.oneIn(2) {
		return 0
	}
	return leastLinear + g.IntN(len(f)-leastLinear)
}

// leastLinear is longer than any headers that are read.
const leastLinear = 300

// cuttable gives the length of the headers of a TCP or UDP packet that a device could cut into several, or 0.
func cuttable(f []byte) int {
	l4, proto, v6 := layout(f)
	if l4+20 > len(f) || proto != 6 && proto != 17 {
		return 0
	}
	if v6 && (f[14]>>4 != 6 || int(be.Uint16(f[18:])) != len(f)-54) {
		return 0
	}
	if !v6 && (be.Uint16(f[12:]) != 0x0800 || f[14]>>4 != 4 || f[14]&15 < 5 || be.Uint16(f[20:])&0x3fff != 0 || int(be.Uint16(f[16:])) != len(f)-14) {
		return 0
	}
	headers := l4 + 8
	if proto == 6 {
		headers = l4 + max(20, int(f[l4+12]>>4)*4)
	}
	if headers >= len(f) {
		return 0
	}
	return headers
}

// forward is what an ENI through which packets are led makes of one: the same, a hop further.
func (g *packets) forward(t talk) (oracle.Port, []byte) {
	f := slices.Clone(t.seen)
	_, dst := addrsOf(f)
	if v6 := dst.Is6(); v6 {
		f[21]--
	} else {
		f[22]--
		fixHeader(f, 14+int(f[14]&15)*4)
	}
	switch e := g.eniAt(t.to.Device); {
	case t.to.Kind == oracle.AtPort && e != nil:
		copy(f, g.objs.Region.GatewayMAC[:])
		copy(f[6:], e.MAC[:])
	case t.to.Kind == oracle.AtOverlay:
		if len(g.local) == 0 {
			break
		}
		to := pick(g.gen, g.local)
		for _, e := range g.local {
			if slices.Contains(e.IPs, dst) && !g.oneIn(6) {
				to = e
			}
		}
		copy(f[6:], f[:6])
		copy(f, to.MAC[:])
		t.to.VNI = g.objs.VPCOf(to).VNI
	}
	return t.to, f
}

func (g *packets) recent() talk {
	n := len(g.heard)
	return g.heard[n-1-min(g.IntN(n), g.IntN(n))]
}

// answer is what the receiver of a packet would send back.
func (g *packets) answer(t talk) (oracle.Port, []byte) {
	f := slices.Clone(t.seen)
	if g.oneIn(12) {
		return t.to, g.icmpError(f)
	}
	swap(f, 0, 6, 6)
	if t.to.Kind == oracle.AtOverlay {
		// A host writes its ENI's MAC as source, whatever the sender saw.
	} else if t.to.Kind != oracle.AtPort {
		copy(f, g.uplink[:])
		copy(f[6:], routerMAC[:])
	} else if e := g.eniAt(t.to.Device); e != nil {
		copy(f[6:], e.MAC[:])
	}
	l4, proto, v6 := layout(f)
	if v6 {
		swap(f, 22, 38, 16)
	} else {
		swap(f, 26, 30, 4)
	}
	if l4+8 > len(f) {
		return t.to, f
	}
	switch proto {
	case 6:
		swap(f, l4, l4+2, 2)
		g.answerTCP(f[l4:])
		g.confirm(t, f[l4:])
	case 17:
		swap(f, l4, l4+2, 2)
	case 1, 58:
		f[l4] = answerType(f[l4], v6)
		g.recode(f[l4:])
	}
	if proto != 6 && g.oneIn(3) && len(g.later) < 6 {
		g.later = append(g.later, sending{t.from, t.sent})
	}
	fix(f)
	return t.to, f
}

// recode gives an ICMP query another code, now and then: the standards know none but 0, rules and guests do.
func (g *packets) recode(h []byte) {
	if g.oneIn(4) {
		h[1] = byte(g.IntN(3))
	}
}

func (g *packets) answerTCP(h []byte) {
	if len(h) < 20 {
		return
	}
	seq, acked := be.Uint32(h[4:]), be.Uint32(h[8:])
	if h[13]&0x10 == 0 {
		acked = pick(g.gen, sequences)
	}
	be.PutUint32(h[4:], acked+g.distance())
	be.PutUint32(h[8:], seq+1+g.distance())
	replies := []byte{0x10, 0x10, 0x18, 0x11, 0x14, 0x04}
	if h[13] == 2 {
		replies = []byte{0x12, 0x12, 0x12, 0x14, 0x10, 0x02}
	}
	h[13] = pick(g.gen, replies)
}

// confirm lets the third packet of a handshake come soon after the second one.
func (g *packets) confirm(t talk, second []byte) {
	f := slices.Clone(t.sent)
	l4, _, _ := layout(f)
	if len(second) < 20 || second[13] != 0x12 || g.oneIn(3) || len(g.later) > 6 || l4+20 > len(f) {
		return
	}
	be.PutUint32(f[l4+4:], be.Uint32(f[l4+4:])+1)
	be.PutUint32(f[l4+8:], be.Uint32(second[4:])+1)
	f[l4+13] = 0x10
	fix(f)
	g.later = append(g.later, sending{t.from, f})
}

// sequences are numbers with which connections begin.
var sequences = []uint32{0, 1, 0x00ffffff, 0x01000000, 0x7fffffff, 0x80000000, 0xff800000, 0xffffffff}

// distance of a TCP number from where it should be: mostly near, around 16 MiB, or far.
func (g *packets) distance() uint32 {
	switch g.IntN(12) {
	case 0:
		return pick(g.gen, []uint32{0x00ff0000, 0x01000000, 0x01010000, 0x01020000}) + uint32(g.IntN(3)) - 1
	case 1:
		return -pick(g.gen, []uint32{0x00ff0000, 0x01000000, 0x01010000, 0x01020000}) + uint32(g.IntN(3)) - 1
	case 2:
		return g.Uint32()
	}
	return uint32(g.IntN(3000))
}

func answerType(typ byte, v6 bool) byte {
	if v6 {
		return typ ^ 1 // 128 and 129
	}
	switch typ {
	case 8:
		return 0
	case 0:
		return 8
	}
	return typ + 1
}

// again is another packet of the same side.
func (g *packets) again(t talk) (oracle.Port, []byte) {
	f := slices.Clone(t.sent)
	l4, proto, _ := layout(f)
	if (proto == 1 || proto == 58) && l4+8 <= len(f) {
		g.recode(f[l4:])
	}
	if proto == 6 && l4+20 <= len(f) {
		f[l4+13] = pick(g.gen, []byte{0x10, 0x10, 0x18, 0x11, 0x04, 0x14, 0x02, 0x02, 0x12})
		be.PutUint32(f[l4+4:], be.Uint32(f[l4+4:])+g.distance())
		if g.oneIn(3) {
			be.PutUint32(f[l4+8:], be.Uint32(f[l4+8:])+g.distance())
		}
	}
	fix(f)
	return t.from, f
}

// icmpError is an error about a packet, sent back by its receiver or a router before it.
func (g *packets) icmpError(f []byte) []byte {
	l4, _, v6 := layout(f)
	if l4+8 > len(f) {
		return f
	}
	swap(f, 0, 6, 6)
	quote := f[14:min(len(f), l4+8+g.IntN(40))]
	src, dst := addrsOf(f)
	if g.oneIn(3) {
		dst = pick(g.gen, g.internet)
	}
	if dst.Is6() != v6 {
		return f
	}
	typ := pick(g.gen, []byte{3, 3, 11, 4, 5, 12})
	if v6 {
		typ = pick(g.gen, []byte{1, 2, 3, 4})
	}
	body := append([]byte{typ, byte(g.IntN(5)), 0, 0, 0, 0, 5, 0}, quote...)
	proto := byte(1)
	if v6 {
		proto = 58
	}
	return ipPacket(api.MAC(f[6:12]), api.MAC(f[0:6]), dst, src, proto, body)
}

// eniAt is the ENI at a device of the first host.
func (g *packets) eniAt(device string) *api.ENI {
	for _, e := range g.local {
		if e.Attachment.Device == device {
			return e
		}
	}
	return nil
}

// addr draws an address of a family that something may be at.
func (g *packets) addr(v6 bool) netip.Addr {
	for range 50 {
		var a netip.Addr
		switch g.IntN(12) {
		case 0, 1, 2, 3, 4, 5:
			a = pick(g.gen, g.objs.ENIs[pick(g.gen, g.enis)].IPs)
		case 6:
			s := g.objs.Subnets[pick(g.gen, g.subnets)]
			a = api.Gateway(pick(g.gen, s.CIDRs))
		case 7:
			a = pick(g.gen, strange)
		case 8, 9:
			a = pick(g.gen, g.internet)
		default:
			if len(g.eips) > 0 {
				a = g.objs.EIPs[pick(g.gen, g.eips)].Address
			}
		}
		if a.IsValid() && a.Is6() == v6 {
			return a
		}
	}
	if v6 {
		return internet6[0]
	}
	return internet4[0]
}

func (g *packets) fromPort() (oracle.Port, []byte) {
	from := oracle.Port{Kind: oracle.AtPort, Device: devicePort(g.IntN(ports))}
	if len(g.local) == 0 {
		return from, g.ip(api.MAC{2}, g.objs.Region.GatewayMAC, internet4[0], internet4[1])
	}
	e := pick(g.gen, g.local)
	if !g.oneIn(40) {
		from.Device = e.Attachment.Device
	}
	if g.oneIn(15) {
		return from, g.neighbour(e.MAC, e)
	}
	src := pick(g.gen, e.IPs)
	dst := g.addr(src.Is6())
	if g.oneIn(12) {
		src = g.addr(dst.Is6())
	}
	smac, dmac := e.MAC, g.objs.Region.GatewayMAC
	switch g.IntN(40) {
	case 0:
		smac[5]++
	case 1:
		dmac = api.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	}
	return from, g.ip(smac, dmac, src, dst)
}

func devicePort(i int) string { return "p" + string(rune('0'+i)) }

func (g *packets) fromOverlay() (oracle.Port, []byte) {
	from := oracle.Port{Kind: oracle.AtOverlay, Device: "eniplane0", Marked: !g.oneIn(50)}
	if len(g.local) == 0 || len(g.remote) == 0 {
		return from, g.ip(api.MAC{2}, api.MAC{2}, internet4[0], internet4[1])
	}
	if len(g.eips) > 0 && g.oneIn(4) {
		return g.public()
	}
	e, s := pick(g.gen, g.local), pick(g.gen, g.remote)
	for range 8 {
		if a, b := g.objs.VPCOf(s), g.objs.VPCOf(e); a == b || slices.Contains(peersOf[a.Name], b.Name) {
			break
		}
		s = pick(g.gen, g.remote)
	}
	from.VNI, from.Source = g.objs.VPCOf(e).VNI, g.objs.Hosts[g.objs.HostOf(s)].VTEP
	switch g.IntN(25) {
	case 0:
		from.VNI = 1001 + uint32(g.IntN(4))
	case 1:
		from.Source = pick(g.gen, vteps)
	}
	dst := pick(g.gen, e.IPs)
	src := pick(g.gen, s.IPs)
	for range 8 {
		if src.Is6() == dst.Is6() {
			break
		}
		src, dst = pick(g.gen, s.IPs), pick(g.gen, e.IPs)
	}
	if src.Is6() != dst.Is6() || g.oneIn(12) {
		src = g.addr(dst.Is6())
	}
	if g.oneIn(25) || !e.SourceDestCheck && g.oneIn(2) {
		dst = g.addr(src.Is6())
	}
	smac, dmac := s.MAC, e.MAC
	switch g.IntN(40) {
	case 0:
		smac[5]++
	case 1:
		dmac = s.MAC
	case 2:
		dmac[4]++
	}
	return from, g.ip(smac, dmac, src, dst)
}

func (g *packets) fromUplink() (oracle.Port, []byte) {
	from := oracle.Port{Kind: g.uplinkKind(), Device: "uplink0"}
	switch g.IntN(12) {
	case 0:
		return from, g.outer()
	case 1:
		return from, g.neighbour(routerMAC, nil)
	}
	var dst netip.Addr
	if len(g.eips) > 0 && !g.oneIn(12) {
		dst = g.objs.EIPs[pick(g.gen, g.eips)].Address
	} else {
		dst = g.addr(g.oneIn(2))
	}
	src := pick(g.gen, internet4)
	if dst.Is6() {
		src = pick(g.gen, internet6)
	}
	if g.oneIn(6) {
		src = g.addr(dst.Is6())
	}
	return from, g.ip(routerMAC, g.uplink, src, dst)
}

// public is what has to do with gateways: from one to an ENI here, or from an ENI of another host to this one.
func (g *packets) public() (oracle.Port, []byte) {
	from := oracle.Port{Kind: oracle.AtOverlay, Device: "eniplane0", Marked: true, Source: pick(g.gen, vteps[1:])}
	eip := g.objs.EIPs[pick(g.gen, g.eips)]
	e, private := g.objs.ENIs[eip.ENI], eip.PrivateIP
	if e == nil {
		e = pick(g.gen, g.local)
		private = pick(g.gen, e.IPs)
	}
	from.VNI = g.objs.VPCOf(e).VNI
	src, dst, smac, dmac := private, g.addr(private.Is6()), e.MAC, g.objs.Region.GatewayMAC
	if e.Attachment != nil {
		from.Source = g.objs.Hosts[g.objs.HostOf(e)].VTEP
	}
	if slices.Contains(g.local, e) {
		src, dst, smac, dmac = dst, src, dmac, smac
		from.Source, from.Public = pick(g.gen, vteps[1:]), true
	}
	switch g.IntN(30) {
	case 0:
		from.VNI = 1001 + uint32(g.IntN(4))
	case 1:
		from.Source = pick(g.gen, vteps)
	case 2:
		smac[5]++
	case 3:
		dmac[5]++
	case 4:
		src = g.addr(dst.Is6())
	case 5:
		dst = g.addr(src.Is6())
	case 6:
		from.Public = !from.Public
	}
	return from, g.ip(smac, dmac, src, dst)
}

// outer is VXLAN as another host sends it, or nearly.
func (g *packets) outer() []byte {
	inner := g.ip(api.MAC{2}, api.MAC{2}, g.addr(false), g.addr(false))
	vni := 1001 + uint32(g.IntN(4))
	vxlan := []byte{8, 0, 0, 0, byte(vni >> 16), byte(vni >> 8), byte(vni), 0}
	switch g.IntN(12) {
	case 0:
		vxlan[0] = byte(g.Uint32())
	case 1:
		vxlan[g.IntN(8)] ^= 1 << g.IntN(8)
	case 2:
		vxlan = vxlan[:g.IntN(8)]
		inner = nil
	case 3:
		vxlan[0], vxlan[3] = 0x88, 1
	case 4:
		copy(inner, g.objs.Region.GatewayMAC[:])
	case 5:
		vxlan[0], vxlan[3] = 0x88, 1
		copy(inner, g.objs.Region.GatewayMAC[:])
	}
	payload := append(vxlan, inner...)
	udp := make([]byte, 8, 8+len(payload))
	be.PutUint16(udp, 40000)
	be.PutUint16(udp[2:], 4789)
	if g.oneIn(8) {
		be.PutUint16(udp[2:], pick(g.gen, portNumbers))
	}
	be.PutUint16(udp[4:], uint16(8+len(payload)))
	dst := vteps[0]
	if g.oneIn(8) {
		dst = g.addr(false)
	}
	src := pick(g.gen, vteps)
	if g.oneIn(8) {
		src = g.addr(false)
	}
	f := ipPacket(routerMAC, g.uplink, src, dst, 17, append(udp, payload...))
	if g.oneIn(10) {
		be.PutUint16(f[20:], pick(g.gen, []uint16{0x2000, 1, 0x4000, 0x2001}))
	}
	return f
}

// delay draws what time passes before a packet: mostly none.
func (g gen) delay() time.Duration {
	switch g.IntN(60) {
	case 0:
		return 8 * time.Second
	case 1:
		return 35 * time.Second
	case 2:
		return time.Duration(g.IntN(300)) * time.Second
	case 3:
		if g.oneIn(4) {
			return time.Duration(g.IntN(8000)) * time.Second
		}
	}
	return 0
}

// ip is a packet of some protocol.
func (g *packets) ip(smac, dmac api.MAC, src, dst netip.Addr) []byte {
	if src.Is6() != dst.Is6() {
		dst = src
	}
	proto, body := g.transport(src, dst)
	f := ipPacket(smac, dmac, src, dst, proto, body)
	switch g.IntN(20) {
	case 0:
		f = g.withOptions(f)
	case 1:
		if src.Is4() {
			be.PutUint16(f[20:], pick(g.gen, []uint16{0x2000, 0x2001, 1, 0x4000, 0x8000, 100}))
		} else {
			f = extend(f, 44, []byte{0, 0, 0, pick(g.gen, []byte{0, 1, 8, 9}), 0, 0, 0, byte(g.IntN(4))})
		}
		fix(f)
	}
	return f
}

// fragments cuts a packet; the first fragment is sent now, the others soon. Some overlap, some come twice or are lost,
// and the ids are few.
func (g *packets) fragments(from oracle.Port, f []byte) []byte {
	l4, proto, v6 := layout(f)
	if l4+16 > len(f) || l4 < 34 {
		return f
	}
	id := byte(g.IntN(8))
	body, size := f[l4:], len(f)-l4
	cut := 8 * (1 + g.IntN((size-1)/8))
	if proto == 6 {
		cut = max(cut, min(24, (size-1)/8*8))
	}
	part := func(at, end int) []byte {
		end = min(end, size)
		where := uint16(at)
		if end < size {
			where |= 1
		}
		var out []byte
		if v6 {
			out = slices.Concat(f[:l4], []byte{proto, 0, byte(where >> 8), byte(where), 0, 0, 0, id}, body[at:end])
			out[20] = 44
			be.PutUint16(out[18:], uint16(len(out)-54))
		} else {
			out = slices.Concat(f[:l4], body[at:end])
			be.PutUint16(out[16:], uint16(len(out)-14))
			be.PutUint16(out[18:], uint16(id))
			be.PutUint16(out[20:], where&1<<13|uint16(at/8))
			fixHeader(out, l4)
		}
		return out
	}
	for at := cut; at < size; at += 8 * (1 + g.IntN(4)) {
		end := at + 8*(1+g.IntN(200))
		begin := at
		if g.oneIn(6) {
			begin = 8 * g.IntN(at/8+1)
		}
		if g.oneIn(10) {
			continue
		}
		g.later = append(g.later, sending{from, part(begin, max(end, begin+8))})
		if len(g.later) > 8 {
			break
		}
	}
	return part(0, cut)
}

// withOptions adds IPv4 options or IPv6 extension headers.
func (g *packets) withOptions(f []byte) []byte {
	if f[14]>>4 == 4 {
		n := 4 * (1 + g.IntN(10))
		f[14] = 0x40 | byte(5+n/4)
		f = slices.Insert(f, 34, g.options4(n)...)
		be.PutUint16(f[16:], uint16(len(f)-14))
	} else {
		for range 1 + g.IntN(7) {
			kind := pick(g.gen, []byte{60, 60, 60, 43, 0, 135, 51})
			n := 8 * (1 + g.IntN(3))
			head := make([]byte, n)
			head[1] = byte(n/8 - 1)
			if g.oneIn(10) {
				head[3] = 1
			}
			f = extend(f, kind, head)
		}
	}
	fix(f)
	return f
}

// options4 are n bytes of IPv4 options, good and bad.
func (g *packets) options4(n int) []byte {
	options := slices.Repeat([]byte{1}, n)
	for at := g.IntN(n); at < n; {
		options[at] = pick(g.gen, []byte{0, 1, 7, 68, 130, 131, 136, 137, 148, 255})
		if options[at] < 2 || at+1 == n {
			at++
			continue
		}
		size := 2 + g.IntN(8)
		if g.oneIn(6) {
			size = pick(g.gen, []int{0, 1, n - at, n - at + 1, 255})
		}
		options[at+1] = byte(size)
		at += max(size, 1)
	}
	return options
}

// extend puts an IPv6 extension header in front of what there is.
func extend(f []byte, kind byte, head []byte) []byte {
	head[0], f[20] = f[20], kind
	f = slices.Insert(f, 54, head...)
	be.PutUint16(f[18:], uint16(len(f)-54))
	return f
}

func (g *packets) transport(src, dst netip.Addr) (proto byte, body []byte) {
	payload := make([]byte, g.IntN(40))
	if g.oneIn(16) {
		payload = make([]byte, pick(g.gen, []int{1380, 1400, 1402, 1410, 1422, 1423, 1430, 1442, 1443, 1450, 1460, 1472, 1473, 1500, 2000, 3000, 3400}))
	}
	sport, dport := pick(g.gen, portNumbers), pick(g.gen, portNumbers)
	if g.oneIn(2) {
		sport = 40000
	}
	switch g.IntN(20) {
	case 0, 1, 2, 3, 4, 5, 6, 7:
		h := make([]byte, 20)
		be.PutUint16(h, sport)
		be.PutUint16(h[2:], dport)
		be.PutUint32(h[4:], pick(g.gen, sequences))
		h[12] = 5 << 4
		h[13] = 2
		if g.oneIn(6) {
			h[13] = pick(g.gen, []byte{0x10, 0x12, 0x11, 0x04, 0x14, 0x00, 0x01, 0x03, 0x06, 0xc2, 0x29, 0x3f})
		}
		if g.oneIn(10) {
			n := 4 * g.IntN(11)
			h[12] = byte(5+n/4) << 4
			h = append(h, slices.Repeat([]byte{1}, n)...)
		}
		return 6, append(h, payload...)
	case 8, 9, 10, 11, 12, 13:
		h := make([]byte, 8)
		if g.oneIn(20) {
			sport, dport = pick(g.gen, []uint16{67, 68, 546, 547}), pick(g.gen, []uint16{67, 68, 546, 547})
		}
		be.PutUint16(h, sport)
		be.PutUint16(h[2:], dport)
		be.PutUint16(h[4:], uint16(8+len(payload)))
		if g.oneIn(20) {
			h[6], h[7] = 1, 1 // fix() makes it none
		}
		return 17, append(h, payload...)
	case 14, 15, 16, 17:
		typ := pick(g.gen, []byte{8, 8, 8, 0, 13, 17, 9, 10, 30})
		proto = 1
		if src.Is6() {
			proto, typ = 58, pick(g.gen, []byte{128, 128, 128, 129, 139, 133, 134, 135, 136, 137, 143, 130, 200})
		}
		body = append([]byte{typ, 0, 0, 0, 0, byte(g.IntN(3)), 0, 1}, payload...)
		g.recode(body)
		return proto, body
	}
	return pick(g.gen, []byte{0, 2, 4, 41, 47, 50, 51, 59, 112, 132, 136, 255, 1, 58}), append(make([]byte, 8), payload...)
}

// neighbour is ARP or neighbour discovery, of an ENI or a neighbour of the uplink.
func (g *packets) neighbour(mac api.MAC, e *api.ENI) []byte {
	v6 := g.oneIn(2)
	target, sender := g.addr(v6), g.addr(v6)
	if e == nil && !g.oneIn(4) {
		if len(g.eips) > 0 {
			target = g.objs.EIPs[pick(g.gen, g.eips)].Address
			sender = netip.MustParseAddr("192.168.100.254")
			if v6 = target.Is6(); v6 {
				sender = netip.MustParseAddr("2001:db8:64::fe")
			}
		}
	}
	if e != nil {
		if !g.oneIn(6) {
			sender = pick(g.gen, e.IPs)
		}
		v6 = sender.Is6()
		target = g.addr(v6)
		if s := g.objs.Subnets[e.Subnet]; g.oneIn(3) {
			for _, cidr := range s.CIDRs {
				if cidr.Addr().Is6() == v6 {
					target = api.Gateway(cidr)
				}
			}
		}
	}
	if g.oneIn(12) {
		mac[5]++
	}
	if v6 {
		return g.nd(mac, sender, target)
	}
	return g.arp(mac, sender, target)
}

func (g *packets) arp(mac api.MAC, sender, target netip.Addr) []byte {
	switch g.IntN(12) {
	case 0:
		sender = netip.IPv4Unspecified()
	case 1:
		target = sender
	}
	s, t := sender.As4(), target.As4()
	f := slices.Concat([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac[:], []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, byte(1 + g.IntN(8)/7)},
		mac[:], s[:], make([]byte, 6), t[:], make([]byte, g.IntN(20)))
	if g.oneIn(10) {
		f[14+g.IntN(14)] ^= 1
	}
	return f
}

func (g *packets) nd(mac api.MAC, sender, target netip.Addr) []byte {
	switch g.IntN(12) {
	case 0:
		sender = netip.IPv6Unspecified()
	case 1, 2:
		sender = netip.MustParseAddr("fe80::10")
	case 3:
		target = netip.MustParseAddr("fe80::1")
	}
	typ := pick(g.gen, []byte{135, 135, 135, 136})
	t := target.As16()
	body := slices.Concat([]byte{typ, 0, 0, 0, 0, 0, 0, 0}, t[:])
	for range pick(g.gen, []int{0, 1, 1, 1, 2, 4, 5}) {
		kind := byte(1 + g.IntN(3))
		named := mac
		if g.oneIn(8) {
			named[5]++
		}
		body = slices.Concat(body, []byte{kind, 1}, named[:])
	}
	if g.oneIn(10) {
		body[g.IntN(len(body))] ^= 1
	}
	f := ipPacket(mac, api.MAC{0x33, 0x33, 0xff, t[13], t[14], t[15]}, sender, target, 58, body)
	if !g.oneIn(12) {
		f[21] = 255
	}
	return f
}

// mutate breaks a frame somewhere.
func (g *packets) mutate(f []byte) []byte {
	f = slices.Clone(f)
	switch g.IntN(6) {
	case 0:
		f = f[:max(16, g.IntN(len(f)))]
	case 1:
		f = append(f, make([]byte, 1+g.IntN(20))...)
	case 2, 3:
		f[g.IntN(min(len(f), 60))] ^= 1 << g.IntN(8)
	case 4:
		f[g.IntN(len(f))] = byte(g.Uint32())
	case 5:
		f[14+g.IntN(min(20, len(f)-14))] = pick(g.gen, []byte{0, 1, 4, 0x45, 0x46, 0x4f, 0x60, 0xff, 6, 17, 58})
		if len(f) > 60 {
			fix(f)
		}
	}
	return f
}

// layout says where the transport header of a frame is; 0 if it has none.
func layout(f []byte) (l4 int, proto byte, v6 bool) {
	if len(f) < 34 {
		return len(f), 0, false
	}
	if be.Uint16(f[12:]) == 0x86dd {
		if len(f) < 54 {
			return len(f), 0, true
		}
		return 54, f[20], true
	}
	return 14 + int(f[14]&15)*4, f[23], false
}

func addrsOf(f []byte) (src, dst netip.Addr) {
	if be.Uint16(f[12:]) == 0x86dd {
		return netip.AddrFrom16([16]byte(f[22:38])), netip.AddrFrom16([16]byte(f[38:54]))
	}
	return netip.AddrFrom4([4]byte(f[26:30])), netip.AddrFrom4([4]byte(f[30:34]))
}

func swap(f []byte, a, b, n int) {
	if b+n > len(f) {
		return
	}
	for i := range n {
		f[a+i], f[b+i] = f[b+i], f[a+i]
	}
}

// ipPacket builds a frame with good lengths and checksums.
func ipPacket(smac, dmac api.MAC, src, dst netip.Addr, proto byte, body []byte) []byte {
	f := slices.Concat(dmac[:], smac[:])
	if src.Is4() {
		s, d := src.As4(), dst.As4()
		f = append(f, 8, 0, 0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, proto, 0, 0)
		f = slices.Concat(f, s[:], d[:], body)
		be.PutUint16(f[16:], uint16(20+len(body)))
	} else {
		s, d := src.As16(), dst.As16()
		f = append(f, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, proto, 64)
		f = slices.Concat(f, s[:], d[:], body)
		be.PutUint16(f[18:], uint16(len(body)))
	}
	fix(f)
	return f
}

// fix computes the checksums of a frame, if its headers are where they usually are.
func fix(f []byte) {
	l4, proto, v6 := layout(f)
	if l4 > len(f) || len(f) < 34 {
		return
	}
	var sum uint32
	if v6 {
		sum = add(0, f[22:54])
	} else {
		fixHeader(f, l4)
		sum = add(0, f[26:34])
	}
	off := checksumOffset(proto)
	if off == 0 || l4+off+2 > len(f) {
		return
	}
	if proto == 1 {
		sum = 0
	} else {
		sum += uint32(proto) + uint32(len(f)-l4)
	}
	if proto == 17 && be.Uint16(f[l4+6:]) == 0x0101 {
		f[l4+6], f[l4+7] = 0, 0
		return
	}
	f[l4+off], f[l4+off+1] = 0, 0
	c := ^foldSum(add(sum, f[l4:]))
	if proto == 17 && c == 0 {
		c = 0xffff
	}
	be.PutUint16(f[l4+off:], c)
}

// checksumOffset is where a transport header has its checksum, 0 if it has none.
func checksumOffset(proto byte) int {
	switch proto {
	case 6:
		return 16
	case 17:
		return 6
	case 1, 58:
		return 2
	}
	return 0
}

// fixHeader computes the checksum of the IPv4 header.
func fixHeader(f []byte, l4 int) {
	f[24], f[25] = 0, 0
	be.PutUint16(f[24:], ^foldSum(add(0, f[14:l4])))
}

func add(sum uint32, b []byte) uint32 {
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(be.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	return sum
}

func foldSum(sum uint32) uint16 {
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}
