// SPDX-License-Identifier: Apache-2.0

package rows

import (
	"github.com/eniplane/eniplane/pkg/dataplane"
	. "github.com/eniplane/eniplane/pkg/pkttest"
)

const (
	mtu        = 1500
	overlayMTU = mtu - 50
)

// localRows: from one ENI to another on the same host.
func localRows() []Row {
	fine := func(name string, from, to party, p Packet) Row {
		return row(name, from.port(), p, delivered(p, from, to))
	}
	tcp := func(from, to party) Packet { return frame(from, to).TCP(40000, 443, SYN) }
	big := frame(open1, open0).UDP(40000, 53).Payload(mtu)
	foreign := tcp(relay0, open1).From(client)
	rows := []Row{
		fine("inside a subnet the sender's MAC stays", open1, web1, tcp(open1, web1)),
		fine("across subnets the gateway's MAC is written", open1, open0, tcp(open1, open0)),
		fine("ttl stays", open1, open0, tcp(open1, open0).TTL(7)),
		fine("to a second address", open0, web0, tcp(open0, web0).To(IP("10.0.1.11", "fd00:1:0:1::11"))),
		fine("payload stays", open0, web0, tcp(open0, web0).Payload(999)),
		fine("udp", open0, web0, frame(open0, web0).UDP(40000, 53).Payload(5)),
		fine("echo", open0, web0, frame(open0, web0).Echo(7).Payload(56)),
		fine("sctp", open1, open0, frame(open1, open0).Carries(SCTP).Payload(20)),
		fine("protocol 0, which IPv6 does not have", open1, open0, frame(open1, open0).Carries(0).Payload(20).Only(V4)),
		fine("esp", open1, open0, frame(open1, open0).Carries(ESP).Payload(20)),
		fine("inside a subnet with a foreign address", relay0, open1, foreign),
		fine("1500 bytes", open1, open0, frame(open1, open0).UDP(1, 53).Payload(mtu-48).Only(V6)),
		fine("blue to blue", blue1, blue0, tcp(blue1, blue0)),
		row("more than the receiver's device carries", open1.port(), big, tooBig(big, open1, mtu,
			out(open1, dataplane.ReasonDelivered), in(open0, dataplane.ReasonTooBig))),
		row("to itself", web0.port(), tcp(web0, web0), dropped(web0, dataplane.ReasonRouteLoop)),
		row("to its own second address", web0.port(), tcp(web0, web0).To(IP("10.0.1.11", "fd00:1:0:1::11")),
			dropped(web0, dataplane.ReasonRouteLoop)),
		row("nobody in the subnet", web0.port(), outward(web0, nobody).TCP(1, 443, SYN),
			dropped(web0, dataplane.ReasonNoEndpoint)),
		row("nobody in the VPC", web0.port(), outward(web0, noSubnet).TCP(1, 443, SYN),
			dropped(web0, dataplane.ReasonNoEndpoint)),
		row("an allowed address is not reached", open0.port(), outward(open0, IP("10.0.1.200", "fd00:1:0:1::200")).TCP(1, 443, SYN),
			dropped(open0, dataplane.ReasonNoEndpoint)),
		row("an ENI that is attached nowhere", web0.port(), tcp(web0, idle0), dropped(web0, dataplane.ReasonNoNexthop)),
		row("the gateway", web0.port(), outward(web0, gateway).TCP(1, 443, SYN), dropped(web0, dataplane.ReasonToGateway)),
		row("ping to the gateway", web0.port(), outward(web0, gateway).Echo(1), dropped(web0, dataplane.ReasonToGateway)),
		row("another subnet's gateway", web0.port(), outward(web0, dbGateway).Echo(1),
			dropped(web0, dataplane.ReasonToGateway)),
	}
	return append(rows, segmentRows()...)
}

// segmentRows: a GSO packet is judged by the size of its segments and counted as so many.
func segmentRows() []Row {
	gso := func(name string, from party, p Packet, size uint32, segments uint64, want Want) Row {
		for i := range want.Counts {
			if want.Counts[i].ENI != "" {
				want.Counts[i].Packets = segments
			}
		}
		return Row{Name: name, Steps: []Step{{At: from.port(), In: p, GSO: size, Want: want}}}
	}
	local := frame(open1, open0).TCP(40000, 443, SYN).Payload(2400)
	remote := frame(open1, open9).TCP(40000, 443, SYN).Payload(2400)
	internet := outward(web0, client).TCP(40000, 443, SYN).Payload(2400)
	udp := frame(open1, open9).UDP(40000, 53).Payload(2400)
	return []Row{
		gso("gso whose segments just fit the overlay", open1, remote.Only(V4), 1410, 2, tunnelled(remote.Only(V4), open1, open9)),
		gso("gso whose segments just fit the overlay, IPv6", open1, remote.Only(V6), 1390, 2, tunnelled(remote.Only(V6), open1, open9)),
		gso("gso of udp whose segments just fit the overlay", open1, udp.Only(V4), 1422, 2, tunnelled(udp.Only(V4), open1, open9)),
		gso("gso whose segments the overlay does not carry", open1, remote, 1411, 2,
			tooBig(remote, open1, overlayMTU, out(open1, dataplane.ReasonTooBig))),
		gso("gso of udp whose segments the overlay does not carry", open1, udp, 1423, 2,
			tooBig(udp, open1, overlayMTU, out(open1, dataplane.ReasonTooBig))),
		gso("gso whose segments the receiver's device does not carry", open1, local, 1461, 2,
			tooBig(local, open1, mtu, out(open1, dataplane.ReasonDelivered), in(open0, dataplane.ReasonTooBig))),
		gso("gso to a neighbour", open1, local, 1000, 3, delivered(local, open1, open0)),
		gso("gso whose last segment is full", open1, local, 1200, 2, delivered(local, open1, open0)),
		gso("gso in more segments than any path needs", open1, local, 1, 2400, dropped(open1, dataplane.ReasonMalformed)),
		gso("gso over the overlay", open1, remote, 1000, 3, tunnelled(remote, open1, open9)),
		gso("gso to the internet", web0, internet, 1000, 3, translated(internet, web0)),
	}
}

// tooBig: the packet is dropped and counted where it did not fit; its sender is told by the gateway of its subnet, and
// the answer is counted at the host.
func tooBig(packet Packet, from party, limit uint16, counts ...Count) Want {
	return Want{
		Verdict: Redirect,
		Device:  from.device(),
		Packet:  Eth(gatewayMAC, from.mac).IP(gatewayOf[from.subnet], from.ip).Plain().TooBig(packet, quotedBytes, limit),
		Counts:  append(counts, Count{Direction: dataplane.Out, Reason: dataplane.ReasonAnswered}),
	}
}

// quotedBytes come back of a packet that was too big.
const quotedBytes = 96

// gatewayOf are the gateways of subnets.
var gatewayOf = map[string]Addr{
	"red-web": gateway, "red-db": dbGateway, "red-app": IP("10.0.3.1", "fd00:1:0:3::1"), "lime-all": IP("10.4.1.1", "fd00:4:0:1::1"),
}

// tooBigRows: who is told that a packet is too big, by whom and how often. What fits goes on.
func tooBigRows() []Row {
	big := inner(open9, open0).UDP(40000, 53).Payload(mtu)
	gso := inner(open9, open0).TCP(40000, 443, SYN).Payload(2400)
	told := func(p Packet, from, to party, segments uint64) Want {
		return Want{
			Verdict: Redirect, Device: VXLANDevice, Tunnel: &Tunnel{VNI: from.vni, Remote: from.host},
			Packet: Eth(to.mac, from.mac).IP(gatewayOf[to.subnet], from.ip).Plain().TooBig(p, quotedBytes, mtu),
			Counts: []Count{
				{ENI: to.name, Direction: dataplane.In, Reason: dataplane.ReasonTooBig, Packets: segments},
				{Direction: dataplane.Out, Reason: dataplane.ReasonAnswered},
			},
		}
	}
	peers, toPeer := inner(lime9, app0).TCP(40000, 443, SYN).Payload(mtu), frame(app0, lime9).UDP(40000, 53).Payload(200)
	peerSays := inner(lime9, app0).From(gatewayOf["lime-all"]).TooBig(toPeer, quotedBytes, 1400)
	here := frame(open1, open9).UDP(40000, 53).Payload(mtu)
	small := frame(open1, open9).UDP(40000, 53).Payload(40)
	answer := tooBig(here, open1, overlayMTU, out(open1, dataplane.ReasonTooBig))
	const turns = 256
	used := func(eni party, dir dataplane.Direction, n uint32, over bool, s Step) Step {
		s.Poke = UseAnswers(eni.name, dir, n, over)
		return s
	}
	segmented := decapsulated(gso, red, hostB, told(gso, open9, open0, 2))
	segmented.GSO = 1461
	// What the other side says, whose gateway speaks.
	says := func(p Packet, from Addr) Packet { return inner(open9, open1).From(from).TooBig(p, quotedBytes, 1400) }
	quoted := small.Payload(200)
	passes := func(p Packet) Step { return decapsulated(p, red, hostB, received(p, open9, open1)) }
	refuses := func(p Packet, r dataplane.Reason) Step {
		return decapsulated(p, red, hostB, Want{Counts: []Count{in(open1, r)}})
	}
	answered := func(s Step) Step { // what we say ourselves is rare enough for the kernel's way
		s.ByKernel = true
		return s
	}
	rows := []Row{
		{Name: "from another host, more than the port carries", Steps: []Step{
			answered(decapsulated(big, red, hostB, told(big, open9, open0, 1))),
		}},
		{Name: "from a peer on another host, more than the port carries", Steps: []Step{
			answered(decapsulated(peers, red, hostB, told(peers, lime9, app0, 1))),
		}},
		{Name: "from another host, gso whose segments the port does not carry", Steps: []Step{segmented}},
		{Name: "from another host, and nothing left", Steps: []Step{
			used(open0, dataplane.In, turns, false, decapsulated(big, red, hostB, Want{Counts: []Count{in(open0, dataplane.ReasonTooBig)}})),
		}},
		{Name: "nothing left", Steps: []Step{used(open1, dataplane.Out, turns, false, send(open1, here, dropped(open1, dataplane.ReasonTooBig)))}},
		{Name: "one left is one", Steps: []Step{
			used(open1, dataplane.Out, turns-1, false, send(open1, here, answer)), send(open1, here, dropped(open1, dataplane.ReasonTooBig)),
		}},
		{Name: "nothing left, and what fits goes on", Steps: []Step{
			used(open1, dataplane.Out, turns, false, send(open1, small, tunnelled(small, open1, open9))),
		}},
		{Name: "the next moment has its own", Steps: []Step{used(open1, dataplane.Out, turns, true, send(open1, here, answer))}},
		{Name: "what others send to it takes nothing from it", Steps: []Step{used(open1, dataplane.In, turns, false, send(open1, here, answer))}},
		{Name: "the neighbour has its own", Steps: []Step{used(web0, dataplane.Out, turns, false, send(open1, here, answer))}},
		{Name: "the receiver's gateway says so", Steps: []Step{
			send(open1, quoted, tunnelled(quoted, open1, open9)), passes(says(quoted, dbGateway)),
		}},
		{Name: "any gateway says so", Steps: []Step{
			send(open1, quoted, tunnelled(quoted, open1, open9)), passes(says(quoted, gateway)),
		}},
		{Name: "a peer's gateway says so", Steps: []Step{
			send(app0, toPeer, tunnelled(toPeer, app0, lime9)), decapsulated(peerSays, red, hostB, received(peerSays, lime9, app0)),
		}},
		{Name: "a gateway says so of nobody's packet", Steps: []Step{refuses(says(quoted, dbGateway), dataplane.ReasonICMPUnrelated)}},
		{Name: "a gateway says nothing else", Steps: []Step{
			refuses(inner(open9, open1).From(dbGateway).UDP(53, 40000), dataplane.ReasonVXLANSender),
		}},
		{Name: "nobody says so in a stranger's name", Steps: []Step{
			send(open1, quoted, tunnelled(quoted, open1, open9)), refuses(says(quoted, client), dataplane.ReasonVXLANSender),
		}},
	}
	for i := range rows[:4] {
		rows[i].Hooks = TCOnly // XDP leaves it to TC, and finds all of it too big if it may not
	}
	return rows
}
