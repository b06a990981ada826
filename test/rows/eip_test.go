// SPDX-License-Identifier: Apache-2.0

package rows

import (
	"net/netip"
	"time"

	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/dataplane"
	. "github.com/eniplane/eniplane/pkg/pkttest"
)

// translated: out to the internet with the EIP as source. MACs are left to the kernel's neighbours, or are what it would
// write.
func translated(packet Packet, from party) Want {
	return Want{
		Verdict: Redirect, Device: "uplink0", Packet: packet.From(from.eip),
		Counts: []Count{out(from, dataplane.ReasonDelivered)},
	}
}

// admitted: in from the internet with the private IP as destination.
func admitted(packet Packet, to party) Want {
	return Want{
		Verdict: Redirect, Device: to.device(), Packet: packet.To(to.ip).MACs(gatewayMAC, to.mac),
		Counts: []Count{in(to, dataplane.ReasonDelivered)},
	}
}

// turned: from one ENI to the EIP of another on the same host.
func turned(packet Packet, from, to party) Want {
	return Want{
		Verdict: Redirect, Device: to.device(), Packet: packet.From(from.eip).To(to.ip).MACs(gatewayMAC, to.mac),
		Counts: []Count{out(from, dataplane.ReasonDelivered), in(to, dataplane.ReasonDelivered)},
	}
}

// fromNet is the flow of an ENI with the internet.
func fromNet(p party, state string, opener dataplane.Direction) []Flow {
	return []Flow{{ENI: p.name, State: state, Opener: opener, Origin: "internet"}}
}

// eipRows: out through an EIP.
func eipRows() []Row {
	to := func(a Addr) Packet { return outward(web0, a) }
	fine := func(name string, p Packet) Row { return row(name, web0.port(), p, translated(p, web0)) }
	hairpin := outward(web1, web0.eip).TCP(40000, 443, SYN)
	self := to(web0.eip).TCP(40000, 443, SYN)
	taken := outward(web1, IP("203.0.113.77", "2001:db8:e::77")).TCP(40000, 443, SYN)
	big := to(client).UDP(40000, 53).Payload(mtu)
	ask, answer := to(client).TCP(40000, 443, SYN), inward(client, web0).TCP(443, 40000, SYN|ACK)
	opened := translated(ask, web0)
	opened.Flows = fromNet(web0, opening, dataplane.Out)
	known := opened
	known.Packet = opened.Packet.MACs(uplinkMAC, routerMAC)
	another := translated(to(besideClient).UDP(40000, 53), web0)
	probing := another
	probing.ByNeighbour = true
	another.Packet = another.Packet.MACs(uplinkMAC, routerMAC)
	return []Row{
		row("tcp", web0.port(), ask, opened),
		fine("tcp with an odd payload", to(client).TCP(40000, 443, SYN).Payload(7)),
		fine("tcp with a wrong checksum, which stays as wrong", to(client).TCP(40000, 443, SYN).BadChecksum()),
		fine("udp", to(client).UDP(40000, 53).Payload(20)),
		fine("udp with an odd payload", to(client).UDP(40000, 53).Payload(21)),
		fine("udp without a checksum", to(client).UDP(40000, 53).Payload(9).NoChecksum().Only(V4)),
		fine("udp whose checksum becomes zero", zeroSum(to(client).UDP(40000, 53), web0.eip)),
		fine("echo", to(client).Echo(9).Payload(56)),
		fine("gre", to(client).Carries(GRE).Payload(40)),
		fine("options", to(client).UDP(1, 53).Options4(0x94, 4, 0, 0)),
		fine("extension header", to(client).Extension(HopByHop).UDP(1, 53)),
		fine("ttl stays", to(client).UDP(1, 53).TTL(3)),
		row("no EIP", open1.port(), outward(open1, client).TCP(1, 443, SYN), dropped(open1, dataplane.ReasonNoEIP)),
		row("no EIP for a second address", web0.port(),
			to(client).TCP(1, 443, SYN).From(IP("10.0.1.11", "fd00:1:0:1::11")), dropped(web0, dataplane.ReasonNoEIP)),
		row("no EIP for an address that is not the ENI's own", relay0.port(),
			outward(relay0, client).From(web0.ip).UDP(1, 53), dropped(relay0, dataplane.ReasonNoEIP)),
		row("no EIP, no neighbour's EIP", open1.port(), outward(open1, web0.eip).TCP(1, 443, SYN),
			dropped(open1, dataplane.ReasonNoEIP)),
		row("an EIP, but no route to the internet", open0.port(), outward(open0, client).TCP(1, 443, SYN),
			dropped(open0, dataplane.ReasonNoRoute)),
		row("the host has no route", web0.port(), to(unroutable).UDP(1, 53), dropped(web0, dataplane.ReasonNoFIB)),
		row("a neighbour's EIP", web1.port(), hairpin, turned(hairpin, web1, web0)),
		row("its own EIP", web0.port(), self, turned(self, web0, web0)),
		row("its own EIP, the same port", web0.port(), to(web0.eip).TCP(443, 443, SYN),
			turned(to(web0.eip).TCP(443, 443, SYN), web0, web0)),
		row("its own EIP, the same port, which its groups do not let in", web0.port(), to(web0.eip).TCP(7000, 7000, SYN),
			dropped(web0, dataplane.ReasonSGDenied)),
		row("its own EIP, the same port, which its network ACL does not let in", web0.port(),
			to(web0.eip).TCP(8025, 8025, SYN), dropped(web0, dataplane.ReasonNACLDenied)),
		row("its own EIP, udp, the same port, which its groups do not let in", web0.port(), to(web0.eip).UDP(500, 500),
			dropped(web0, dataplane.ReasonSGDenied)),
		row("its own EIP, no ports, which its groups do not let in", web0.port(), to(web0.eip).Carries(GRE).Payload(8),
			dropped(web0, dataplane.ReasonSGDenied)),
		row("its own EIP, echo", web0.port(), to(web0.eip).Echo(5), turned(to(web0.eip).Echo(5), web0, web0)),
		{Name: "its own EIP, the same port, denied later", Steps: []Step{
			send(web0, to(web0.eip).UDP(53, 53), turned(to(web0.eip).UDP(53, 53), web0, web0)),
			after(func(o *api.Objects) { o.SecurityGroups["web"].Ingress = nil },
				send(web0, to(web0.eip).UDP(53, 53), dropped(web0, dataplane.ReasonSGDenied))),
		}},
		row("a neighbour's EIP, which its groups do not allow", web1.port(), outward(web1, web0.eip).TCP(1, 25, SYN),
			refused(web1, web0, dataplane.ReasonSGDenied)),
		row("through an EIP nobody is a member of a group", web1.port(), outward(web1, web0.eip).TCP(1, 9000, SYN),
			refused(web1, web0, dataplane.ReasonSGDenied)),
		row("a neighbour's EIP, not ready", web1.port(), outward(web1, late0.eip).TCP(1, 443, SYN),
			refused(web1, late0, dataplane.ReasonNotReady)),
		row("an EIP on another host", web1.port(), outward(web1, relay9.eip).TCP(1, 443, SYN),
			translated(outward(web1, relay9.eip).TCP(1, 443, SYN), web1)),
		row("more than the uplink carries", web0.port(), big, tooBig(big, web0, mtu, out(web0, dataplane.ReasonTooBig))),
		{Name: "more than the uplink carries, on a way that is known", Steps: []Step{
			send(web0, to(client).UDP(40000, 53), translated(to(client).UDP(40000, 53), web0)),
			send(web0, big, tooBig(big, web0, mtu, out(web0, dataplane.ReasonTooBig))),
		}},
		{Name: "a neighbour on the underlay whose MAC nobody knows", Steps: []Step{
			send(web0, to(besideUs).UDP(40000, 53), translated(to(besideUs).UDP(40000, 53), web0)),
			send(web0, to(besideUs).UDP(40000, 53), translated(to(besideUs).UDP(40000, 53), web0)),
		}},
		{Name: "a way that is known, with the neighbour's MAC", Steps: []Step{
			send(web0, ask, opened),
			send(web0, ask, known),
		}},
		{Name: "another way by a next hop that is known, with its MAC", Steps: []Step{
			send(web0, ask, opened),
			send(web0, to(besideClient).UDP(40000, 53), another),
			later(send(web0, to(besideClient).UDP(40000, 53), probing), time.Second),
		}},
		{Name: "an address on the internet becomes a neighbour's EIP", Steps: []Step{
			send(web1, taken, translated(taken, web1)),
			after(func(o *api.Objects) {
				o.EIPs["web-0"].Address = netip.MustParseAddr("203.0.113.77")
				o.EIPs["web-0-v6"].Address = netip.MustParseAddr("2001:db8:e::77")
			}, send(web1, taken, turned(taken, web1, web0))),
		}},
		{Name: "an answer from the internet", Steps: []Step{
			send(web0, ask, opened),
			{At: fromUplink, In: answer, Want: admitted(answer, web0)},
		}},
		{Name: "a neighbour's EIP answers", Steps: []Step{
			send(web1, hairpin, turned(hairpin, web1, web0)),
			send(web0, outward(web0, web1.eip).TCP(443, 40000, SYN|ACK),
				turned(outward(web0, web1.eip).TCP(443, 40000, SYN|ACK), web0, web1)),
		}},
	}
}

// zeroSum adds the two bytes of payload with which the checksum, once the packet comes from source,
// is the zero that must be written as ffff.
func zeroSum(p Packet, source Addr) Packet {
	find := func(f Family) Packet {
		offset := map[Family]int{V4: 14 + 20 + 6, V6: 14 + 40 + 6}[f]
		for i := range 1 << 16 {
			q := p.Raw(byte(i>>8), byte(i))
			if b := q.From(source).Bytes(f); b[offset] == 0xff && b[offset+1] == 0xff {
				return q
			}
		}
		panic("no payload makes the checksum zero")
	}
	return Either(find(V4), find(V6))
}

// internetRows: in to an EIP. They run under TC and, owned by it, under XDP.
func internetRows() []Row {
	fine := func(name string, p Packet, to party) Row { return row(name, fromUplink, p, admitted(p, to)) }
	deny := func(name string, p Packet, r dataplane.Reason) Row {
		return row(name, fromUplink, p, Want{Counts: []Count{in(web0, r)}})
	}
	tcp := func(from Addr, port uint16) Packet { return inward(from, web0).TCP(40000, port, SYN) }
	forged := func(name string, from Addr) Row { return deny(name, tcp(from, 443), dataplane.ReasonEIPSource) }
	opened := admitted(tcp(client, 443), web0)
	opened.Flows = fromNet(web0, opening, dataplane.In)
	answer := outward(web0, client).TCP(443, 40000, SYN|ACK)
	tells := inward(client, web0).TCP(40000, 443, ACK)
	reset := inward(client, web0).TCP(40000, 443, RST)
	ends := admitted(reset, web0)
	ends.Flows = fromNet(web0, closing, dataplane.In)
	big := inward(client, web0).UDP(40000, 53).Payload(mtu)
	return []Row{
		toldTooBig(big),
		row("tcp", fromUplink, tcp(client, 443), opened),
		fine("tcp with payload", tcp(client, 443).Payload(33), web0),
		fine("tcp with a wrong checksum, which stays as wrong", tcp(client, 443).BadChecksum(), web0),
		fine("udp", inward(client, web0).UDP(1, 53).Payload(9), web0),
		fine("udp without a checksum", inward(client, web0).UDP(1, 53).NoChecksum().Only(V4), web0),
		fine("echo", inward(client, web0).Echo(4).Payload(56), web0),
		fine("options", tcp(client, 443).Options4(7, 7, 4, 0, 0, 0, 0), web0),
		fine("extension header", inward(client, web0).Extension(HopByHop).UDP(1, 53), web0),
		fine("a prefix list", tcp(office, 22), web0),
		fine("another tenant's EIP as source", tcp(reserved, 443), web0),
		fine("ethernet padding", inward(client, web0).UDP(1, 53).Pad(18), web0),
		deny("not in the prefix list", tcp(client, 22), dataplane.ReasonSGDenied),
		deny("beside the prefix list", tcp(IP("192.0.2.16", "2001:db8:ff2::7"), 22), dataplane.ReasonSGDenied),
		deny("a rule that names a group", tcp(client, 9000), dataplane.ReasonSGDenied),
		deny("no rule", tcp(client, 25), dataplane.ReasonSGDenied),
		deny("mid-stream", inward(client, web0).TCP(1, 443, ACK), dataplane.ReasonNoFlow),
		deny("syn-ack to nobody's syn", inward(client, web0).TCP(443, 1, SYN|ACK), dataplane.ReasonNoFlow),
		deny("echo reply to nobody's request", inward(client, web0).EchoReply(3), dataplane.ReasonNoFlow),
		forged("from the VPC", open1.ip),
		forged("from the VPC's other subnet", open0.ip),
		forged("from an address of nobody in the VPC", noSubnet),
		forged("from the ENI itself", web0.ip),
		forged("from the infrastructure", infra),
		forged("from a VTEP", vtepB),
		forged("from the gateway", gateway),
		forged("from a destination that is not routed to the internet", blackhole),
		deny("from loopback", tcp(IP("127.0.0.1", "::1"), 443), dataplane.ReasonAddress),
		deny("from multicast", tcp(IP("224.0.0.1", "ff02::1"), 443), dataplane.ReasonAddress),
		deny("malformed", tcp(client, 443).TCPWords(3), dataplane.ReasonMalformed),
		deny("an error without a flow", inward(client, web0).Unreachable(outward(web0, client).From(web0.eip).UDP(1, 2)),
			dataplane.ReasonICMPUnrelated),
		row("an EIP in a subnet without a route to the internet", fromUplink, inward(client, open0).TCP(1, 443, SYN),
			Want{Counts: []Count{in(open0, dataplane.ReasonEIPSource)}}),
		row("an EIP whose ENI is not ready", fromUplink, inward(client, late0).TCP(1, 443, SYN),
			Want{Counts: []Count{in(late0, dataplane.ReasonNotReady)}}),
		{Name: "an answer to the internet", Steps: []Step{
			{At: fromUplink, In: tcp(client, 443), Want: opened},
			send(web0, answer, translated(answer, web0)),
			{At: fromUplink, In: inward(client, web0).TCP(40000, 443, ACK),
				Want: admitted(inward(client, web0).TCP(40000, 443, ACK), web0)},
		}},
		{Name: "a connection from the internet is reset", Steps: []Step{
			{At: fromUplink, In: tcp(client, 443), Want: opened},
			send(web0, answer, translated(answer, web0)),
			{At: fromUplink, In: tells, Want: admitted(tells, web0)},
			{At: fromUplink, In: reset, Want: ends},
			{At: fromUplink, In: tells, Want: admitted(tells, web0), Later: 30 * time.Second},
			{At: fromUplink, In: tells, Want: Want{Counts: []Count{in(web0, dataplane.ReasonNoFlow)}}, Later: 42 * time.Second},
		}},
		{Name: "in the name of a group's member", Steps: []Step{
			{At: fromUplink, In: tcp(client, 9000), Want: Want{Counts: []Count{in(web0, dataplane.ReasonSGDenied)}},
				Poke: func(w *World) error { return w.Endow(client, web1.ip, red) }},
		}},
		{Name: "a connection of the VPC is not the internet's", Steps: []Step{
			send(web0, sql(SYN), delivered(sql(SYN), web0, db0)),
			{At: fromUplink, In: inward(db0.ip, web0).TCP(5432, 40000, SYN|ACK),
				Want: Want{Counts: []Count{in(web0, dataplane.ReasonEIPSource)}}},
		}},
	}
}

// toldTooBig: the sender on the internet is told in the name of the EIP. XDP drops in silence.
func toldTooBig(packet Packet) Row {
	const quoted = 96
	return Row{Name: "more than the port carries", Hooks: TCOnly, Steps: []Step{{At: fromUplink, In: packet, Want: Want{
		Verdict: Redirect, Device: "uplink0",
		Packet: Eth(uplinkMAC, routerMAC).IP(web0.eip, client).Plain().TooBig(packet, quoted, mtu),
		Counts: []Count{in(web0, dataplane.ReasonTooBig), {Direction: dataplane.Out, Reason: dataplane.ReasonAnswered}},
	}}}}
}
