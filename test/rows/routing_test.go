// SPDX-License-Identifier: Apache-2.0

package rows

import (
	"net/netip"

	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/dataplane"
	. "github.com/eniplane/eniplane/pkg/pkttest"
)

// passed is a packet as the ENI emits it that forwards it.
func passed(by, from, to party) Packet { return Eth(by.mac, gatewayMAC).IP(from.ip, to.ip).TTL(63) }

// led is a packet between two ENIs as it travels to a third one on another host, or from there.
func led(p Packet, from, to party) Packet { return p.MACs(from.mac, to.mac) }

// middleboxRows: through an ENI that forwards, on this host or another, between subnets and to the internet.
func middleboxRows() []Row {
	tcp := func(p Packet) Packet { return p.TCP(40000, 443, SYN) }
	reply := func(p Packet) Packet { return p.TCP(443, 40000, SYN|ACK) }
	open := func(from, to party) Step {
		return send(from, tcp(frame(from, to)), delivered(tcp(frame(from, to)), from, fw0))
	}
	forward := tcp(passed(fw0, app0, data0))
	away := tcp(outward(app0, client))
	there := open(app0, data0)
	onwards := send(fw0, forward, delivered(forward, fw0, data0))
	back := reply(frame(data0, app0))
	home := reply(passed(fw0, data0, app0))
	exceeded := func(about Packet) Packet {
		return Eth(fw0.mac, gatewayMAC).IP(fw0.ip, app0.ip).ICMP(11, 3, 0, [4]byte{}).Quote(about, -1)
	}
	udp := func(p Packet) Packet { return p.UDP(40000, 33434).Payload(20) }
	asked, probe := udp(frame(app0, data0)), udp(passed(fw0, app0, data0))
	unreachable, carried := frame(data0, app0).Unreachable(probe), passed(fw0, data0, app0).Unreachable(probe)
	fromB := tcp(led(frame(app9, data0), app9, fw0))
	fromFW9 := tcp(led(frame(app9, data0), fw9, data0))
	rows := []Row{
		{Name: "to another subnet and back", Steps: []Step{
			there, onwards,
			send(data0, back, delivered(back, data0, fw0)),
			send(fw0, home, delivered(home, fw0, app0)),
			send(app0, frame(app0, data0).TCP(40000, 443, ACK).Payload(9), delivered(frame(app0, data0).TCP(40000, 443, ACK).Payload(9), app0, fw0)),
		}},
		{Name: "to another host", Steps: []Step{
			open(app0, data9),
			send(fw0, tcp(passed(fw0, app0, data9)), tunnelled(tcp(passed(fw0, app0, data9)), fw0, data9)),
			decapsulated(reply(led(frame(data9, app0), data9, fw0)), red, hostB, received(reply(led(frame(data9, app0), data9, fw0)), data9, fw0)),
			send(fw0, reply(passed(fw0, data9, app0)), delivered(reply(passed(fw0, data9, app0)), fw0, app0)),
		}},
		{Name: "from another host", Steps: []Step{
			decapsulated(fromB, red, hostB, received(fromB, app9, fw0)),
			send(fw0, tcp(passed(fw0, app9, data0)), delivered(tcp(passed(fw0, app9, data0)), fw0, data0)),
		}},
		{Name: "through an ENI of another host, by a prefix list", Steps: []Step{
			send(app0, tcp(outward(app0, labs)), tunnelled(tcp(outward(app0, labs)), app0, fw9)),
			decapsulated(reply(Eth(fw9.mac, app0.mac).IP(labs, app0.ip)), red, hostB,
				received(reply(Eth(fw9.mac, app0.mac).IP(labs, app0.ip)), fw9, app0)),
		}},
		{Name: "what another host's ENI forwards", Steps: []Step{
			decapsulated(fromFW9, red, hostB, received(fromFW9, fw9, data0)),
			send(data0, reply(frame(data0, app9)), refused(data0, fw0, dataplane.ReasonNoFlow)), // the answers go by the routes
		}},
		{Name: "to the internet and back, translated by the ENI", Steps: []Step{
			send(app0, away, delivered(away, app0, fw0)),
			send(fw0, tcp(outward(fw0, client)), translated(tcp(outward(fw0, client)), fw0)),
			{At: fromUplink, In: reply(inward(client, fw0)), Want: admitted(reply(inward(client, fw0)), fw0)},
			send(fw0, reply(Eth(fw0.mac, gatewayMAC).IP(client, app0.ip)), delivered(reply(Eth(fw0.mac, gatewayMAC).IP(client, app0.ip)), fw0, app0)),
		}},
		row("to the internet with another's address", fw0.port(), tcp(outward(fw0, client)).From(app0.ip), dropped(fw0, dataplane.ReasonNoEIP)),
		row("to a subnet without a route of its own it goes directly", app0.port(), tcp(frame(app0, open0)), delivered(tcp(frame(app0, open0)), app0, open0)),
		row("inside a subnet nothing is led", data0.port(), tcp(outward(data0, data9.ip)), tunnelled(tcp(outward(data0, data9.ip)), data0, data9)),
		row("an address that nobody has is led, too", app0.port(), tcp(outward(app0, IP("10.0.4.77", "fd00:1:0:4::77"))),
			delivered(tcp(outward(app0, IP("10.0.4.77", "fd00:1:0:4::77"))), app0, fw0)),
		row("a gateway is not", app0.port(), tcp(outward(app0, IP("10.0.4.1", "fd00:1:0:4::1"))), dropped(app0, dataplane.ReasonToGateway)),
		{Name: "time exceeded, by the ENI", Steps: []Step{
			send(app0, asked, delivered(asked, app0, fw0)),
			send(fw0, exceeded(asked), delivered(exceeded(asked), fw0, app0)),
		}},
		{Name: "an error through the ENI", Steps: []Step{
			send(app0, asked, delivered(asked, app0, fw0)),
			send(fw0, probe, delivered(probe, fw0, data0)),
			send(data0, unreachable, delivered(unreachable, data0, fw0)),
			send(fw0, carried, delivered(carried, fw0, app0)),
		}},
		row("an error about nothing", fw0.port(), exceeded(asked), dropped(fw0, dataplane.ReasonICMPUnrelated)),
		row("mid-stream at the ENI", app0.port(), frame(app0, data0).TCP(40000, 443, ACK), dropped(app0, dataplane.ReasonNoFlow)),
		{Name: "mid-stream from another host at the ENI", Steps: []Step{
			decapsulated(led(frame(app9, data0), app9, fw0).TCP(40000, 443, ACK), red, hostB, Want{Counts: []Count{in(fw0, dataplane.ReasonNoFlow)}}),
		}},
		{Name: "an answer that it has not seen", Steps: []Step{
			decapsulated(reply(led(frame(data9, app0), data9, fw0)), red, hostB, Want{Counts: []Count{in(fw0, dataplane.ReasonNoFlow)}}),
		}},
	}
	return append(rows, middleboxChangeRows(there, onwards)...)
}

// middleboxChangeRows: what changes while packets are led through an ENI.
func middleboxChangeRows(there, onwards Step) []Row {
	change := func(s Step, f func(*api.Objects)) Step {
		s.Revise = f
		return s
	}
	again := func(reason dataplane.Reason) Step {
		p := frame(app0, data0).TCP(40000, 443, SYN)
		return send(app0, p, refused(app0, fw0, reason))
	}
	direct := frame(app0, data0).TCP(40000, 443, SYN)
	more := frame(app0, data0).TCP(40000, 443, SYN)
	address := func(o *api.Objects) {
		o.ENIs["fw-0"].IPs = append(o.ENIs["fw-0"].IPs, netip.MustParseAddr("10.0.5.11"), netip.MustParseAddr("fd00:1:0:5::11"))
	}
	relayed := frame(relay0, open1).From(client).TCP(40000, 443, SYN)
	answer := outward(open1, client).TCP(443, 40000, SYN|ACK)
	relayAddress := func(o *api.Objects) {
		o.ENIs["relay-0"].IPs = append(o.ENIs["relay-0"].IPs, netip.MustParseAddr("10.0.1.41"), netip.MustParseAddr("fd00:1:0:1::41"))
	}
	noRoutes := func(o *api.Objects) { o.RouteTables["red-app"].Routes = nil }
	loop := row("the ENI is its own next hop", fw0.port(), outward(fw0, client).TCP(1, 443, SYN), dropped(fw0, dataplane.ReasonRouteLoop))
	loop.Steps[0].Revise = func(o *api.Objects) {
		for i := range o.RouteTables["red-fw"].Routes {
			o.RouteTables["red-fw"].Routes[i].Target = api.Target{Kind: api.TargetENI, Name: "fw-0"}
		}
	}
	return []Row{
		loop,
		{Name: "its groups judge what it forwards", Steps: []Step{
			change(again(dataplane.ReasonSGDenied), func(o *api.Objects) { o.ENIs["fw-0"].SecurityGroups = []string{"db"} }),
		}},
		{Name: "its groups judge live flows anew", Steps: []Step{
			there, onwards,
			change(again(dataplane.ReasonSGDenied), func(o *api.Objects) { o.ENIs["fw-0"].SecurityGroups = []string{"db"} }),
		}},
		{Name: "it gets another address", Steps: []Step{
			there, onwards,
			change(send(app0, more, delivered(more, app0, fw0)), address),
		}},
		{Name: "an ENI that answers are sent back to gets another address", Steps: []Step{
			send(relay0, relayed, delivered(relayed, relay0, open1)),
			change(send(open1, answer, delivered(answer, open1, relay0)), relayAddress),
		}},
		{Name: "an ENI that answers are sent back to is another one now", Steps: []Step{
			send(relay0, relayed, delivered(relayed, relay0, open1)),
			change(send(open1, answer, dropped(open1, dataplane.ReasonNoNexthop)), func(o *api.Objects) { o.ENIs["relay-0"].UID = "another" }),
		}},
		{Name: "it moves to another host", Steps: []Step{
			there,
			change(send(app0, more, tunnelled(more, app0, fw0.on(hostB))), func(o *api.Objects) {
				o.ENIs["fw-0"].Attachment = &api.Attachment{Instance: "red-b", Index: 6, Device: "eni-fw-0", Epoch: 1}
			}),
		}},
		{Name: "it is attached nowhere", Steps: []Step{
			there,
			change(send(app0, more, dropped(app0, dataplane.ReasonNoNexthop)), func(o *api.Objects) { o.ENIs["fw-0"].Attachment = nil }),
		}},
		{Name: "it forwards no more", Steps: []Step{
			there,
			change(again(dataplane.ReasonNoTransit), func(o *api.Objects) { o.ENIs["fw-0"].SourceDestCheck = true }),
		}},
		{Name: "the route is gone", Steps: []Step{
			there,
			change(send(app0, direct, delivered(direct, app0, data0)), noRoutes),
		}},
	}
}

// peerRows: between two VPCs that have routes to each other.
func peerRows() []Row {
	tcp := func(p Packet) Packet { return p.TCP(40000, 443, SYN) }
	reply := func(p Packet) Packet { return p.TCP(443, 40000, SYN|ACK) }
	const notPeered = dataplane.ReasonNotPeered
	fromLime := func(to party) Packet { return tcp(inner(lime9, to)) }
	limeEIP := inward(lime9.ip, web0).TCP(1, 443, SYN)
	one := func(name string, s Step) Row { return Row{Name: name, Steps: []Step{s}} }
	foreign := Eth(fw0.mac, gatewayMAC).IP(client, lime0.ip).TCP(1, 443, SYN)
	return []Row{
		{Name: "on one host and back", Steps: []Step{
			send(app0, tcp(frame(app0, lime0)), delivered(tcp(frame(app0, lime0)), app0, lime0)),
			send(lime0, reply(frame(lime0, app0)), delivered(reply(frame(lime0, app0)), lime0, app0)),
		}},
		{Name: "to another host and back", Steps: []Step{
			send(app0, tcp(frame(app0, lime9)), tunnelled(tcp(frame(app0, lime9)), app0, lime9)),
			decapsulated(reply(inner(lime9, app0)), red, hostB, received(reply(inner(lime9, app0)), lime9, app0)),
		}},
		{Name: "from another host and back", Steps: []Step{
			decapsulated(fromLime(app0), red, hostB, received(fromLime(app0), lime9, app0)),
			send(app0, reply(frame(app0, lime9)), tunnelled(reply(frame(app0, lime9)), app0, lime9)),
		}},
		{Name: "an error from a peer", Steps: []Step{
			send(app0, frame(app0, lime0).UDP(1, 2).Payload(9), delivered(frame(app0, lime0).UDP(1, 2).Payload(9), app0, lime0)),
			send(lime0, frame(lime0, app0).Unreachable(frame(app0, lime0).UDP(1, 2).Payload(9)),
				delivered(frame(lime0, app0).Unreachable(frame(app0, lime0).UDP(1, 2).Payload(9)), lime0, app0)),
		}},
		row("a route on one side only", app0.port(), tcp(outward(app0, green8.ip)), dropped(app0, notPeered)),
		row("the receiver's subnet has no route back", app0.port(), tcp(frame(app0, lime1)), refused(app0, lime1, notPeered)),
		row("the sender's subnet has none: a peer is not on the internet", web0.port(), tcp(outward(web0, lime0.ip)), dropped(web0, notPeered)),
		row("the sender's subnet has no route at all", lime1.port(), tcp(outward(lime1, app0.ip)), dropped(lime1, dataplane.ReasonNoRoute)),
		row("a part of the peer that is not routed", lime0.port(), tcp(outward(lime0, web0.ip)), dropped(lime0, dataplane.ReasonNoRoute)),
		one("from another host, no route back", decapsulated(fromLime(data0), red, hostB, Want{Counts: []Count{in(data0, notPeered)}})),
		one("from another host, another's address", decapsulated(fromLime(app0).From(lime0.ip), red, hostB, Want{Counts: []Count{in(app0, dataplane.ReasonVXLANSender)}})),
		one("from another host, the receiver's network", decapsulated(fromLime(app0).From(web9.ip), red, hostB, Want{Counts: []Count{in(app0, dataplane.ReasonVXLANSender)}})),
		{Name: "from another host, one peer's router with the address of another peer", Steps: []Step{{
			At: fromOverlay, In: tcp(Eth(greenMAC, app0.mac).IP(lime0.ip, app0.ip)), Mark: vxlanMark, Tunnel: &Tunnel{VNI: red, Remote: hostC},
			Revise: func(o *api.Objects) {
				to := api.Target{Kind: api.TargetVPC, Name: "red"}
				o.RouteTables["green"] = &api.RouteTable{Metadata: api.Metadata{Name: "green"}, VPC: "green", Routes: []api.Route{
					{Destination: netip.MustParsePrefix("10.0.3.0/24"), Target: to}, {Destination: netip.MustParsePrefix("fd00:1:0:3::/64"), Target: to},
				}}
				o.Subnets["green-all"].RouteTable, o.ENIs["green-8"].SourceDestCheck = "green", false
			},
			Want: Want{Counts: []Count{in(app0, notPeered)}},
		}}},
		one("a peer's MAC is no receiver", decapsulated(tcp(inner(web9, lime0)), red, hostB, Want{Counts: []Count{onHost(dataplane.ReasonVXLANNoENI)}})),
		row("the peer's gateway", app0.port(), tcp(outward(app0, IP("10.4.1.1", "fd00:4:0:1::1"))), dropped(app0, dataplane.ReasonToGateway)),
		row("nobody in the peer", app0.port(), tcp(outward(app0, IP("10.4.1.77", "fd00:4:0:1::77"))), dropped(app0, dataplane.ReasonNoEndpoint)),
		row("forwarded from an ENI of the VPC", fw0.port(), tcp(passed(fw0, app0, lime0)), delivered(tcp(passed(fw0, app0, lime0)), fw0, lime0)),
		row("forwarded from elsewhere", fw0.port(), foreign, dropped(fw0, notPeered)),
		row("forwarded from an address that nobody has", fw0.port(), tcp(passed(fw0, app0, lime0)).From(IP("10.0.3.77", "fd00:1:0:3::77")),
			refused(fw0, lime0, notPeered)),
		row("no way to the internet", lime0.port(), tcp(outward(lime0, client)), dropped(lime0, dataplane.ReasonNoRoute)),
		row("a peer's address from the internet", fromUplink, limeEIP, Want{Counts: []Count{in(web0, dataplane.ReasonEIPSource)}}),
		{Name: "the other side takes its route away", Steps: []Step{
			send(app0, tcp(frame(app0, lime0)), delivered(tcp(frame(app0, lime0)), app0, lime0)),
			{At: lime0.port(), In: reply(frame(lime0, app0)), Revise: func(o *api.Objects) { o.RouteTables["red-app"].Routes = nil; o.RouteTables["red-fw"].Routes = nil },
				Want: dropped(lime0, notPeered)},
		}},
	}
}

// policyRouteRows: an ENI's own routes, ahead of its subnet's.
func policyRouteRows() []Row {
	const blackhole = dataplane.ReasonBlackhole
	tcp := func(p Packet) Packet { return p.TCP(40000, 443, SYN) }
	fromSecond := tcp(outward(multi0, client)).From(second)
	mail := outward(multi0, client).TCP(40000, 25, SYN)
	lookup := outward(multi0, office).UDP(40000, 53)
	both := tcp(frame(multi0, db0)).From(second)
	inwards := func(port uint16, to Addr) Packet { return Eth(routerMAC, uplinkMAC).IP(client, to).TCP(port, 443, SYN) }
	return []Row{
		row("by source", multi0.port(), fromSecond, delivered(fromSecond, multi0, relay0)),
		row("another source goes as the subnet", multi0.port(), tcp(outward(multi0, client)), translated(tcp(outward(multi0, client)), multi0)),
		row("by port", multi0.port(), mail, dropped(multi0, blackhole)),
		row("by port, the lower priority counts", multi0.port(), mail.From(second), delivered(mail.From(second), multi0, relay0)),
		row("by prefix list and protocol", multi0.port(), lookup, tunnelled(lookup, multi0, relay9)),
		row("by prefix list, another protocol", multi0.port(), tcp(outward(multi0, office)), translated(tcp(outward(multi0, office)), multi0)),
		row("local routes come first", multi0.port(), both, refused(multi0, db0, dataplane.ReasonSGDenied)),
		row("in by the way of the answers", fromUplink, inwards(40000, multi0.eip), admitted(inwards(40000, multi0.eip), multi0)),
		row("in, but the answers would go another way", fromUplink, inwards(40000, IP("203.0.113.71", "2001:db8:e::71")),
			Want{Counts: []Count{in(multi0, dataplane.ReasonEIPSource)}}),
		row("in, but the answers to that port would go nowhere", fromUplink, inwards(25, multi0.eip),
			Want{Counts: []Count{in(multi0, dataplane.ReasonEIPSource)}}),
		{Name: "a policy route comes while a connection lives", Steps: []Step{
			send(multi0, tcp(outward(multi0, client)), translated(tcp(outward(multi0, client)), multi0)),
			{At: multi0.port(), In: outward(multi0, client).TCP(40000, 443, SYN), Revise: func(o *api.Objects) { o.ENIs["multi-0"].PolicyRoutes[0].From = nil },
				Want: dropped(multi0, dataplane.ReasonNoRoute)},
		}},
		{Name: "all policy routes go", Steps: []Step{
			{At: multi0.port(), In: mail, Revise: func(o *api.Objects) { o.ENIs["multi-0"].PolicyRoutes = nil }, Want: translated(mail, multi0)},
		}},
	}
}
