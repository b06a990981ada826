// SPDX-License-Identifier: Apache-2.0

package rows

import (
	"fmt"
	"slices"
	"testing"

	"github.com/eniplane/eniplane/pkg/dataplane"
	. "github.com/eniplane/eniplane/pkg/pkttest"
)

// decapsulated is what the VXLAN device hands over of a packet that the uplink has vouched for.
func decapsulated(packet Packet, vni uint32, from string, want Want) Step {
	return Step{At: fromOverlay, In: packet, Mark: vxlanMark, Tunnel: &Tunnel{VNI: vni, Remote: from}, Want: want}
}

// inner is a packet between ENIs of two hosts as it travels: the MACs are theirs.
func inner(from, to party) Packet { return Eth(from.mac, to.mac).IP(from.ip, to.ip) }

// received: from another host to an ENI here.
func received(packet Packet, from, to party) Want {
	return Want{
		Verdict: Redirect, Device: to.device(), Packet: arrived(packet, from, to),
		Counts: []Count{in(to, dataplane.ReasonDelivered)},
	}
}

// overlayRows: out to ENIs of other hosts, and in from there.
func overlayRows() []Row {
	sent := func(name string, from, to party, p Packet) Row {
		return row(name, from.port(), p, tunnelled(p, from, to))
	}
	one := func(name string, s Step) Row { return Row{Name: name, Steps: []Step{s}} }
	got := func(name string, from, to party, p Packet) Row {
		return one(name, decapsulated(p, to.vni, from.host, received(p, from, to)))
	}
	at := func(name string, p Packet, vni uint32, from string, to party, r dataplane.Reason) Row {
		return one(name, decapsulated(p, vni, from, Want{Counts: []Count{in(to, r)}}))
	}
	host := func(name string, p Packet, vni uint32, from string, r dataplane.Reason) Row {
		return one(name, decapsulated(p, vni, from, Want{Counts: []Count{onHost(r)}}))
	}
	tcp := func(from, to party) Packet { return inner(from, to).TCP(40000, 443, SYN) }
	const sender = dataplane.ReasonVXLANSender
	big := frame(open1, open9).UDP(40000, 53).Payload(1450)
	unmarked := one("without the uplink's mark", decapsulated(tcp(web9, web0), red, hostB,
		Want{Counts: []Count{onHost(dataplane.ReasonVXLANUnmarked)}}))
	unmarked.Steps[0].Mark = 0
	other := unmarked
	other.Name, other.Steps = "with another mark", slices.Clone(unmarked.Steps)
	other.Steps[0].Mark = 1
	plain := one("without a tunnel", Step{At: fromOverlay, In: tcp(web9, web0), Mark: vxlanMark,
		Want: Want{Counts: []Count{onHost(dataplane.ReasonVXLANUnmarked)}}})
	foreign := tcp(relay9, open1).From(client)
	return []Row{
		sent("out inside a subnet", open1, web9, frame(open1, web9).TCP(40000, 443, SYN)),
		sent("out across subnets", open1, open9, frame(open1, open9).TCP(40000, 443, SYN)),
		sent("out with a group", web1, web9, frame(web1, web9).TCP(40000, 9000, SYN)),
		sent("out udp", open1, web9, frame(open1, web9).UDP(1, 53).Payload(11)),
		sent("out echo", open1, web9, frame(open1, web9).Echo(3)),
		sent("out blue", blue1, blue9, frame(blue1, blue9).TCP(40000, 443, SYN)),
		sent("out to a third host", blue1, blue8, frame(blue1, blue8).TCP(40000, 443, SYN)),
		row("out, not allowed", db0.port(), frame(db0, open9).TCP(1, 443, SYN), dropped(db0, dataplane.ReasonSGDenied)),
		row("out, more than the overlay carries", open1.port(), big,
			tooBig(big, open1, 1450, out(open1, dataplane.ReasonTooBig))),

		got("in inside a subnet", web9, web0, tcp(web9, web0)),
		got("in across subnets", open9, web0, tcp(open9, web0)),
		got("in from a member of a group", web9, db0, inner(web9, db0).TCP(40000, 5432, SYN)),
		got("in udp", open9, web0, inner(open9, web0).UDP(1, 53).Payload(3)),
		got("in blue, where red has the same addresses", blue9, blue0, tcp(blue9, blue0)),
		got("in from an ENI that may send foreign addresses", relay9, open1, foreign),
		at("in, no rule", inner(web9, web0).TCP(1, 25, SYN), red, hostB, web0, dataplane.ReasonSGDenied),
		at("in, no member", inner(open9, db0).TCP(1, 5432, SYN), red, hostB, db0, dataplane.ReasonSGDenied),
		at("in, denied at the border of the subnet", inner(open9, web0).TCP(1, 8025, SYN), red, hostB, web0,
			dataplane.ReasonNACLDenied),
		at("in, mid-stream", inner(web9, web0).TCP(1, 443, ACK), red, hostB, web0, dataplane.ReasonNoFlow),
		at("in, to an ENI that is not ready", tcp(web9, late0), red, hostB, late0, dataplane.ReasonNotReady),
		at("in, another address than the ENI's", tcp(web9, web0).To(web1.ip), red, hostB, web0, dataplane.ReasonNoTransit),
		at("in, multicast", inner(web9, web0).To(IP("224.0.0.9", "ff02::9")).UDP(1, 53), red, hostB, web0,
			dataplane.ReasonMulticast),
		at("in, arp", WhoHas(web9.mac, web9.ip, web0.ip).Only(V4).MACs(web9.mac, web0.mac), red, hostB, web0,
			dataplane.ReasonEthertype),
		at("in, vlan", Eth(web9.mac, web0.mac).VLAN(0x8100, 3).IP(web9.ip, web0.ip).UDP(1, 53), red, hostB, web0,
			dataplane.ReasonEthertype),
		at("in, malformed", inner(web9, web0).TCP(1, 443, SYN).TCPWords(2), red, hostB, web0, dataplane.ReasonMalformed),
		at("in, from loopback", tcp(relay9, web0).From(IP("127.0.0.1", "::1")), red, hostB, web0, dataplane.ReasonAddress),
		at("in, from the gateway's address", tcp(web9, web0).From(gateway), red, hostB, web0, sender),
		at("in, sender is of another host", tcp(web9, web0), red, hostC, web0, sender),
		at("in, sender is an ENI of this host", tcp(web1, web0), red, hostB, web0, sender),
		at("in, sender is unknown", tcp(web9, web0).MACs(strangeMAC, web0.mac), red, hostB, web0, sender),
		at("in, sender is the gateway", tcp(web9, web0).MACs(gatewayMAC, web0.mac), red, hostB, web0, sender),
		at("in, source is not the sender's", tcp(web9, web0).From(open9.ip), red, hostB, web0, sender),
		at("in, source is nobody's", tcp(web9, web0).From(client), red, hostB, web0, sender),
		at("in, icmp error without a flow", inner(web9, web0).Unreachable(inner(web0, web9).UDP(1, 2)), red, hostB, web0,
			dataplane.ReasonICMPUnrelated),
		host("in, ENI unknown", tcp(web9, web0).MACs(web9.mac, strangeMAC), red, hostB, dataplane.ReasonVXLANNoENI),
		host("in, ENI of another host", tcp(web9, open9), red, hostB, dataplane.ReasonVXLANNoENI),
		host("in, broadcast", tcp(web9, web0).MACs(web9.mac, Broadcast), red, hostB, dataplane.ReasonVXLANNoENI),
		host("in, the MAC of another VPC's ENI", inner(blue9, blue1).TCP(1, 443, SYN), red, hostB, dataplane.ReasonVXLANNoENI),
		host("in, a VNI that is not here", tcp(web9, web0), 9999, hostB, dataplane.ReasonVXLANNoENI),
		unmarked, other, plain,
		{Name: "a connection across hosts", Steps: []Step{
			decapsulated(inner(web9, db0).TCP(40000, 5432, SYN), red, hostB,
				received(inner(web9, db0).TCP(40000, 5432, SYN), web9, db0)),
			send(db0, frame(db0, web9).TCP(5432, 40000, SYN|ACK),
				tunnelled(frame(db0, web9).TCP(5432, 40000, SYN|ACK), db0, web9)),
			decapsulated(inner(web9, db0).TCP(40000, 5432, ACK).Payload(50), red, hostB,
				received(inner(web9, db0).TCP(40000, 5432, ACK).Payload(50), web9, db0)),
		}},
	}
}

// wayRows: outer headers by our own text, and when the kernel writes them.
func wayRows() []Row {
	tcp := frame(open1, web9).TCP(40000, 443, SYN)
	sent := func(name string, p Packet) Row { return row(name, open1.port(), p, tunnelled(p, open1, web9)) }
	byKernel := func(name string, poke func(*World) error) Row {
		return Row{Name: name, Steps: []Step{{
			At: open1.port(), In: tcp, Poke: poke, ByKernel: true, Want: tunnelled(tcp, open1, web9),
		}}}
	}
	segments := frame(open1, web9).UDP(1, 53).Payload(3000)
	three := tunnelled(segments, open1, web9)
	three.Counts[0].Packets = 3
	ip := frame(open1, web9)
	first, later := ip.Fragment(0, true).UDP(40000, 53).UDPLength(72).Payload(24), ip.Fragment(32, false).Payload(16).Carries(17)
	return []Row{
		// The class is 0x2e in each; it stays inside.
		sent("not capable of ECN", tcp.Class(0xb8)), sent("ECT(1)", tcp.Class(0xb9)),
		sent("ECT(0)", tcp.Class(0xba)), sent("congestion", tcp.Class(0xbb)),
		byKernel("the lease is over", func(w *World) error { return w.LeaseWays(1) }),
		byKernel("there never was one", func(w *World) error { return w.LeaseWays(0) }),
		{Name: "segments of an unknown kind", Steps: []Step{{At: open1.port(), In: segments, GSO: 1000, Want: three}}},
		sent("the largest", Either(ip.UDP(1, 53).Payload(1422), ip.UDP(1, 53).Payload(1402))),
		sent("the smallest", ip.UDP(1, 53)),
		{Name: "fragments have one source port", Steps: []Step{
			send(open1, first, tunnelled(first, open1, web9)), send(open1, later, tunnelled(later, open1, web9)),
		}},
	}
}

// Flows are spread over the paths of the underlay.
func TestSourcePortsSpread(t *testing.T) {
	w := NewWorld(t, setup(nil))
	many := Row{Name: "many flows"}
	for i := range uint16(64) {
		p := frame(open1, web9).UDP(1000+i, 53)
		many.Steps = append(many.Steps, send(open1, p, tunnelled(p, open1, web9)))
	}
	for _, f := range Families() {
		w.Run(t, &many, f, ByTC)
	}
	if n := w.SourcePorts(); n < 100 {
		t.Errorf("128 flows have %d different outer source ports, want most of them different", n)
	}
}

// outerRows: what the uplink's program makes of VXLAN.
func outerRows() []Row {
	around := func(from, to Addr, vni uint32, inside Packet) Packet {
		return Eth(routerMAC, uplinkMAC).Underlay(from, to).VXLAN(vni).Inside(inside)
	}
	outer := func(from, to Addr, vni uint32) Packet {
		return around(from, to, vni, inner(web9, web0).TCP(1, 443, SYN))
	}
	good := outer(vtepB, vtepA, red)
	vouched := untouched()
	vouched.Mark = vxlanMark
	pass := func(name string, p Packet) Row {
		good := row(name, fromUplink, p, vouched)
		good.Hooks = TCOnly // XDP takes it in at once: ownRows, and overlayRows by XDP
		return good
	}
	drop := func(name string, p Packet, r dataplane.Reason) Row {
		bad := row(name, fromUplink, p, Want{Counts: []Count{onHost(r)}})
		bad.Hooks = TCOnly
		return bad
	}
	header := func(name string, flags uint8, policy uint16, reserved1, reserved2 uint8) Row {
		return drop(name, good.VXLANFlags(flags, policy, reserved1, reserved2), dataplane.ReasonVXLANHeader)
	}
	const source = dataplane.ReasonVXLANSource
	public := func(from Addr, vni uint32, p Packet) Packet {
		return Eth(routerMAC, uplinkMAC).Underlay(from, vtepA).VXLAN(vni).VXLANFlags(0x88, 1, 0, 0).Inside(p.TCP(1, 443, SYN))
	}
	leaving := func(from Addr, vni uint32, p Packet) Packet {
		return Eth(routerMAC, uplinkMAC).Underlay(from, vtepA).VXLAN(vni).Inside(p.TCP(1, 443, SYN))
	}
	role := func(name string, p Packet, mark uint32) Row {
		r := pass(name, p)
		r.Steps[0].Want.Mark = mark
		return r
	}
	toLeave := inner(far9, web0).MACs(far9.mac, gatewayMAC)
	rows := []Row{
		pass("from a host that has the VPC", good),
		pass("blue from a third host", around(vtepC, vtepA, blue, inner(blue8, blue0).TCP(1, 443, SYN))),
		pass("any source port", good.Ports(1, VXLANPort)),
		drop("from a host that does not have the VPC", outer(vtepC, vtepA, red), source),
		drop("a VPC that is not here", outer(vtepC, vtepA, 1003), source),
		drop("a VNI that nobody has", outer(vtepB, vtepA, 9999), source),
		drop("VNI 0", outer(vtepB, vtepA, 0), source),
		drop("from an unknown host", outer(IP("192.168.100.77"), vtepA, red), source),
		drop("from ourselves", outer(vtepA, vtepA, red), source),
		header("no VNI", 0x00, 0, 0, 0),
		header("another flag", 0x18, 0, 0, 0),
		header("OAM flag", 0x09, 0, 0, 0),
		header("a policy id and a flag beside it", 0xc8, 1, 0, 0),
		header("a policy id, policy applied", 0x88, 0x0801, 0, 0),
		header("a policy id and a reserved byte", 0x88, 1, 0, 1),
		role("from a gateway", public(vtepB, red, inner(web9, web0).MACs(gatewayMAC, away0.mac)), fromGatewayMark),
		role("from another gateway", public(vtepC, red, inner(web9, web0).MACs(gatewayMAC, gate0.mac)), fromGatewayMark),
		role("to leave here", leaving(vtepB, red, toLeave), toGatewayMark),
		role("to leave here, of a VPC that is not here", leaving(vtepC, green, inner(far9, web0).MACs(green8.mac, gatewayMAC)), toGatewayMark),
		drop("to leave here, from a host that has no such EIP", leaving(vtepC, red, toLeave), source),
		drop("from a gateway, to leave here", public(vtepB, red, toLeave), source),
		drop("from a gateway, to a VPC whose EIPs have none", public(vtepB, blue, inner(blue9, blue1)), source),
		drop("from a gateway, of a VPC that is not here", public(vtepC, green, inner(blue9, blue1)), source),
		drop("from a gateway that does not exist", public(IP("192.168.100.77"), red, inner(web9, away0)), source),
		drop("from a gateway, less than a frame", public(vtepB, red, inner(web9, away0)).Cut(14+20+8+8+5), dataplane.ReasonVXLANHeader),
		header("policy id 0", 0x88, 0, 0, 0),
		header("policy id 4", 0x88, 4, 0, 0),
		header("policy applied", 0x88, 0x0800, 0, 0),
		header("policy bytes without the flag", 0x08, 1, 0, 0),
		header("first reserved byte", 0x08, 0, 1, 0),
		header("last reserved byte", 0x08, 0, 0, 1),
		drop("truncated", good.Cut(14+20+8+7), dataplane.ReasonVXLANHeader),
		drop("first fragment", good.Only(V4).Poke(20, 0x20, 0), dataplane.ReasonVXLANHeader),
		row("to another port", fromUplink, good.Ports(49152, 4790), untouched()),
		row("to another address", fromUplink, outer(vtepB, IP("192.168.100.9"), red), untouched()),
		row("tcp to the port", fromUplink,
			Eth(routerMAC, uplinkMAC).Underlay(vtepB, vtepA).TCP(1, VXLANPort, SYN).Only(V4), untouched()),
	}
	for policy, mark := range map[uint16]uint32{2: movedMark, 3: internetMark} {
		want := untouched()
		want.Mark = mark
		sent := row(fmt.Sprintf("sent on, policy id %d", policy), fromUplink, good.VXLANFlags(0x88, policy, 0, 0), want)
		sent.Hooks = TCOnly
		rows = append(rows, sent)
	}
	marked := row("a mark that came along vouches for nothing", fromUplink, outer(vtepC, vtepA, red),
		Want{Counts: []Count{onHost(source)}})
	marked.Hooks, marked.Steps[0].Mark = TCOnly, vxlanMark
	return append(rows, marked)
}
