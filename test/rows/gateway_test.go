// SPDX-License-Identifier: Apache-2.0

package rows

import (
	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/dataplane"
	. "github.com/eniplane/eniplane/pkg/pkttest"
)

// byGateway is what the VXLAN device hands over of a packet that a gateway has sent to an ENI here.
func byGateway(packet Packet, from string, want Want) Step {
	return Step{At: fromOverlay, In: packet, Mark: fromGatewayMark, Tunnel: &Tunnel{VNI: red, Remote: from, Policy: 1}, Want: want}
}

// leaving is the same of a packet that an ENI of another host has sent to this gateway.
func leaving(from party, packet Packet, want Want) Step {
	return Step{At: fromOverlay, In: packet, Mark: toGatewayMark, Tunnel: &Tunnel{VNI: from.vni, Remote: from.host}, Want: want}
}

// fromNetTo is a packet of the internet on its way from a gateway to an ENI.
func fromNetTo(from Addr, to party) Packet { return Eth(gatewayMAC, to.mac).IP(from, to.ip) }

// toGateway is a packet of an ENI as it reaches the gateway of its EIP.
func toGateway(from party, to Addr) Packet { return Eth(from.mac, gatewayMAC).IP(from.ip, to) }

// carried: to the host of an ENI, with the private IP as destination.
func carried(packet Packet, to party, counts ...Count) Want {
	return Want{
		Verdict: Redirect, Device: VXLANDevice, Tunnel: &Tunnel{VNI: to.vni, Remote: to.host, Policy: 1},
		Packet: packet.To(to.ip).MACs(gatewayMAC, to.mac), Counts: counts,
	}
}

// handed: as it is to the gateway of the sender's EIP.
func handed(packet Packet, from party) Want {
	return Want{
		Verdict: Redirect, Device: VXLANDevice, Tunnel: &Tunnel{VNI: from.vni, Remote: hostB},
		Packet: packet.MACs(from.mac, gatewayMAC), Counts: []Count{out(from, dataplane.ReasonDelivered)},
	}
}

// entered: from a gateway to an ENI here.
func entered(packet Packet, to party) Want {
	return Want{
		Verdict: Redirect, Device: to.device(), Packet: packet.MACs(gatewayMAC, to.mac),
		Counts: []Count{in(to, dataplane.ReasonDelivered)},
	}
}

func atHost(d dataplane.Direction, r dataplane.Reason) Count { return Count{Direction: d, Reason: r} }

// carryRows: what comes from the underlay to a gateway.
func carryRows() []Row {
	fine := func(name string, p Packet, to party) Row {
		r := row(name, fromUplink, p, carried(p, to, onHost(dataplane.ReasonDelivered)))
		r.Hooks = TCOnly
		return r
	}
	drop := func(name string, p Packet, reason dataplane.Reason) Row {
		r := row(name, fromUplink, p, Want{Counts: []Count{onHost(reason)}})
		r.Hooks, r.Steps[0].TCDrops = TCOnly, true
		return r
	}
	unknown := func(name string, to Addr) Row {
		return row(name, fromUplink, Eth(routerMAC, uplinkMAC).IP(client, to).TCP(40000, 443, SYN),
			Want{Counts: []Count{onHost(dataplane.ReasonEIPUnknown)}})
	}
	left := func(name string, p Packet) Row {
		r := row(name, fromUplink, p, untouched())
		r.Hooks = XDPOnly
		return r
	}
	const related = dataplane.ReasonICMPUnrelated
	ins, outs := inward(client, far9), toGateway(far9, client)
	quoted := outs.TCP(40000, 443, ACK)
	err := func(q Packet) Packet { return ins.Unreachable(q) }
	translates := func(name string, seen, had Packet) Row {
		r := row(name, fromUplink, err(seen), carried(err(had), far9, onHost(dataplane.ReasonDelivered)))
		r.Hooks = TCOnly
		return r
	}
	big := ins.UDP(40000, 53).Payload(1450 - 27)
	told := drop("more than the overlay carries", big, 0)
	told.Steps[0].Want = Want{
		Verdict: Redirect, Device: "uplink0", Packet: Eth(uplinkMAC, routerMAC).IP(far9.eip, client).Plain().TooBig(big, 96, 1450),
		Counts: []Count{onHost(dataplane.ReasonTooBig), atHost(dataplane.Out, dataplane.ReasonAnswered)},
	}
	bigError := ins.Unreachable(quoted.From(far9.eip)).Payload(1400)
	gso := fine("gso", ins.TCP(40000, 443, ACK).Payload(3000), far9)
	gso.Steps[0].GSO, gso.Steps[0].Want.Counts[0].Packets = 1000, 3
	return []Row{
		fine("tcp", ins.TCP(40000, 443, SYN), far9),
		fine("mid-stream: the gateway keeps no flows", ins.TCP(40000, 443, ACK).Payload(33), far9),
		fine("a port that nobody allows: the host of the ENI asks", ins.TCP(40000, 25, SYN), far9),
		fine("tcp with a wrong checksum, which stays as wrong", ins.TCP(40000, 443, SYN).BadChecksum(), far9),
		fine("udp", ins.UDP(40000, 53).Payload(21), far9),
		fine("udp without a checksum", ins.UDP(40000, 53).Payload(9).NoChecksum().Only(V4), far9),
		fine("udp whose checksum becomes zero", zeroSumTo(ins.UDP(40000, 53), far9.ip), far9),
		fine("echo", ins.Echo(9).Payload(56), far9),
		fine("gre", ins.Carries(GRE).Payload(40), far9),
		fine("options", ins.UDP(1, 53).Options4(0x94, 4, 0, 0), far9),
		fine("extension header", ins.Extension(HopByHop).UDP(1, 53), far9),
		fine("ttl stays", ins.UDP(1, 53).TTL(3), far9),
		fine("a first fragment", ins.Fragment(0, true).UDP(40000, 53).Payload(24), far9),
		fine("a later fragment without a first", laterOf(ins, 32, false), far9),
		fine("an ENI of a VPC that is not here", inward(client, green8).TCP(40000, 443, SYN), green8),
		fine("all that the overlay carries", ins.UDP(40000, 53).Payload(1450-48), far9),
		gso, told,
		drop("an error that is more than the overlay carries", bigError, dataplane.ReasonTooBig),
		translates("an error about tcp", quoted.From(far9.eip), quoted),
		translates("an error about udp", outs.UDP(40000, 53).From(far9.eip), outs.UDP(40000, 53)),
		translates("an error about echo", outs.Echo(7).From(far9.eip), outs.Echo(7)),
		drop("an error about somebody else's packet", err(quoted.From(web0.eip)), related),
		drop("an error about the private address", err(quoted), related),
		drop("an error in pieces", ins.Fragment(0, true).Unreachable(quoted.From(far9.eip)).Only(V4), related),
		drop("an ENI that is attached nowhere", inward(client, lost0).TCP(40000, 443, SYN), dataplane.ReasonNoNexthop),
		drop("malformed", ins.TCP(40000, 443, SYN).TCPWords(3), dataplane.ReasonMalformed),
		drop("from loopback", ins.From(IP("127.0.0.1", "::1")).UDP(1, 53), dataplane.ReasonAddress),
		unknown("an address that is no EIP", gateFree),
		unknown("an address that is reserved", gateKept),
		left("udp, by XDP", ins.UDP(40000, 53)),
		left("tcp, by XDP", ins.TCP(40000, 443, SYN)),
		row("an EIP of an ENI here", fromUplink, inward(client, gate0).TCP(40000, 443, SYN),
			admitted(inward(client, gate0).TCP(40000, 443, SYN), gate0)),
		row("an EIP of an ENI here, of a range of other gateways", fromUplink, inward(client, away0).TCP(40000, 443, SYN),
			Want{Counts: []Count{onHost(dataplane.ReasonEIPUnknown)}}),
		{Name: "an EIP is bound", Steps: []Step{
			{At: fromUplink, In: ins.To(gateKept).UDP(1, 53), Want: Want{Counts: []Count{onHost(dataplane.ReasonEIPUnknown)}}},
			after(bindReserved, Step{At: fromUplink, In: ins.To(gateKept).UDP(1, 53),
				Want: carried(ins.To(gateKept).UDP(1, 53), open9, onHost(dataplane.ReasonDelivered))}),
		}, Hooks: TCOnly},
		{Name: "the ENI moves", Steps: []Step{
			{At: fromUplink, In: ins.UDP(1, 53), Want: carried(ins.UDP(1, 53), far9, onHost(dataplane.ReasonDelivered))},
			after(func(o *api.Objects) { o.ENIs["far-9"].Attachment.Instance = "green-c" },
				Step{At: fromUplink, In: ins.UDP(1, 53), Want: carried(ins.UDP(1, 53), far9.on(hostC), onHost(dataplane.ReasonDelivered))}),
		}, Hooks: TCOnly},
		{Name: "the host is a gateway no more", Steps: []Step{
			after(func(o *api.Objects) {
				for i := range o.Region.EIPRanges {
					o.Region.EIPRanges[i].Gateways = []string{"host-b"}
				}
			}, Step{At: fromUplink, In: ins.UDP(1, 53), Want: untouched()}),
			{At: fromUplink, In: ins.To(gateFree).UDP(1, 53), Want: untouched()},
		}},
	}
}

// bindReserved gives the reserved EIPs to an ENI of another host.
func bindReserved(o *api.Objects) {
	for name, private := range map[string]int{"reserved-gate": 0, "reserved-gate-v6": 1} {
		o.EIPs[name].ENI, o.EIPs[name].PrivateIP = "open-9", o.ENIs["open-9"].IPs[private]
	}
}

// zeroSumTo is zeroSum for a packet whose destination is translated.
func zeroSumTo(p Packet, to Addr) Packet {
	find := func(f Family) Packet {
		offset := map[Family]int{V4: 14 + 20 + 6, V6: 14 + 40 + 6}[f]
		for i := range 1 << 16 {
			q := p.Raw(byte(i>>8), byte(i))
			if b := q.To(to).Bytes(f); b[offset] == 0xff && b[offset+1] == 0xff {
				return q
			}
		}
		panic("no payload makes the checksum zero")
	}
	return Either(find(V4), find(V6))
}

// gatewayRows: what leaves through a gateway, for ENIs of other hosts.
func gatewayRows() []Row {
	host := func(d dataplane.Direction, r dataplane.Reason) Want { return Want{Counts: []Count{atHost(d, r)}} }
	one := func(name string, s Step) Row { return Row{Name: name, Steps: []Step{s}, Hooks: TCOnly} }
	outs := toGateway(far9, client)
	left := func(p Packet, from party) Want {
		return Want{
			Verdict: Redirect, Device: "uplink0", Packet: p.From(from.eip), Counts: []Count{atHost(dataplane.Out, dataplane.ReasonDelivered)},
		}
	}
	fine := func(name string, p Packet) Row { return one(name, leaving(far9, p, left(p, far9))) }
	drop := func(name string, from party, p Packet, r dataplane.Reason) Row {
		return one(name, leaving(from, p, host(dataplane.Out, r)))
	}
	outside := func(r Row) Row {
		r.Hooks = DeviceOnly
		return r
	}
	const sender, noEIP = dataplane.ReasonVXLANSender, dataplane.ReasonNoEIP
	ins := inward(client, far9)
	err := func(q Packet) Packet { return outs.Unreachable(q) }
	translates := func(name string, had, seen Packet) Row {
		return one(name, leaving(far9, err(had), left(err(seen), far9)))
	}
	turns := func(name string, to party) Row {
		p := toGateway(far9, to.eip).TCP(40000, 443, SYN)
		want := Want{
			Verdict: Redirect, Device: to.device(), Packet: p.From(far9.eip).To(to.ip).MACs(gatewayMAC, to.mac),
			Counts: []Count{atHost(dataplane.Out, dataplane.ReasonDelivered), in(to, dataplane.ReasonDelivered)},
			Flows:  fromNet(to, opening, dataplane.In),
		}
		return one(name, leaving(far9, p, want))
	}
	over := toGateway(far9, green8.eip).TCP(40000, 443, SYN)
	shut, seen := toGateway(far9, web0.eip).TCP(40000, 25, SYN), toGateway(far9, green8.eip)
	soon := toGateway(far9, gateKept).UDP(40000, 53)
	big := outs.UDP(40000, 53).Payload(mtu)
	told := leaving(far9, big, Want{
		Verdict: Redirect, Device: VXLANDevice, Tunnel: &Tunnel{VNI: red, Remote: hostB, Policy: 1},
		Packet: Eth(gatewayMAC, far9.mac).IP(client, far9.ip).Plain().TooBig(big, 96, mtu),
		Counts: []Count{atHost(dataplane.Out, dataplane.ReasonTooBig), atHost(dataplane.Out, dataplane.ReasonAnswered)},
	})
	known := leaving(far9, outs.UDP(40000, 53), left(outs.UDP(40000, 53), far9))
	return []Row{
		fine("tcp", outs.TCP(40000, 443, SYN)),
		fine("mid-stream: the gateway keeps no flows", outs.TCP(40000, 443, ACK).Payload(33)),
		fine("tcp with a wrong checksum, which stays as wrong", outs.TCP(40000, 443, SYN).BadChecksum()),
		fine("udp", outs.UDP(40000, 53).Payload(21)),
		fine("udp without a checksum", outs.UDP(40000, 53).NoChecksum().Only(V4)),
		fine("udp whose checksum becomes zero", zeroSum(outs.UDP(40000, 53), far9.eip)),
		fine("echo", outs.Echo(9).Payload(56)),
		fine("gre", outs.Carries(GRE).Payload(40)),
		fine("extension header", outs.Extension(HopByHop).UDP(1, 53)),
		fine("a first fragment", outs.Fragment(0, true).UDP(40000, 53).Payload(24)),
		fine("a later fragment without a first", laterOf(outs, 32, false)),
		translates("an error about tcp", ins.To(far9.ip).TCP(443, 40000, ACK), ins.TCP(443, 40000, ACK)),
		translates("an error about udp", ins.To(far9.ip).UDP(53, 40000), ins.UDP(53, 40000)),
		drop("an error about somebody else's packet", far9, err(ins.To(web9.ip).UDP(53, 40000)), dataplane.ReasonICMPUnrelated),
		one("of a VPC that is not here", leaving(green8, toGateway(green8, client).UDP(1, 53), left(toGateway(green8, client).UDP(1, 53), green8))),
		outside(drop("from another host than the ENI's", far9.on(hostC), outs.UDP(1, 53), sender)),
		drop("from another MAC than the ENI's", far9, outs.UDP(1, 53).MACs(web9.mac, gatewayMAC), sender),
		drop("from the address of another ENI", far9, outs.From(green8.ip).UDP(1, 53), noEIP),
		drop("from an address without an EIP", web9, toGateway(web9, client).UDP(1, 53), noEIP),
		drop("from an address whose EIP is its host's", relay9, toGateway(relay9, client).UDP(1, 53), noEIP),
		drop("from an address of an ENI here", far9, outs.From(web0.ip).UDP(1, 53), noEIP),
		outside(drop("under another VPC's VNI", blue9.with(), Eth(far9.mac, gatewayMAC).IP(far9.ip, client).UDP(1, 53), noEIP)),
		drop("multicast", far9, outs.To(IP("224.0.0.9", "ff02::9")).UDP(1, 53), dataplane.ReasonMulticast),
		drop("malformed", far9, outs.TCP(40000, 443, SYN).TCPWords(3), dataplane.ReasonMalformed),
		one("more than the uplink carries", told),
		{Name: "by a way that is remembered", Steps: []Step{known, known}, Hooks: TCOnly},
		{Name: "more than the uplink carries, by a way that is remembered", Steps: []Step{known, told}, Hooks: TCOnly},
		{Name: "by a way that is remembered, to what is an EIP by now", Steps: []Step{
			leaving(far9, soon, left(soon, far9)),
			after(bindReserved, leaving(far9, soon, carried(soon.From(far9.eip), open9, atHost(dataplane.Out, dataplane.ReasonDelivered)))),
		}, Hooks: TCOnly},
		drop("the host has no route", far9, toGateway(far9, unroutable).UDP(1, 53), dataplane.ReasonNoFIB),
		turns("to the EIP of an ENI here", web0),
		turns("to the EIP of an ENI here, of its own range", gate0),
		turns("to the EIP of an ENI here, of a range of other gateways", away0),
		one("to the EIP of an ENI here, which its groups do not let in", leaving(far9, shut,
			Want{Counts: []Count{atHost(dataplane.Out, dataplane.ReasonDelivered), in(web0, dataplane.ReasonSGDenied)}})),
		one("to an EIP of another host behind it", leaving(far9, over,
			carried(over.From(far9.eip), green8, atHost(dataplane.Out, dataplane.ReasonDelivered)))),
		one("an error to an EIP behind it", leaving(far9, seen.Unreachable(outs.From(green8.eip).To(far9.ip).UDP(53, 40000)),
			carried(seen.From(far9.eip).Unreachable(outs.From(green8.ip).To(far9.eip).UDP(53, 40000)), green8, atHost(dataplane.Out, dataplane.ReasonDelivered)))),
		drop("an error to an EIP behind it, about somebody else's packet", far9,
			seen.Unreachable(outs.From(web9.ip).To(far9.ip).UDP(53, 40000)), dataplane.ReasonICMPUnrelated),
		one("to an EIP of the ENI itself", leaving(far9, toGateway(far9, far9.eip).UDP(1, 53),
			carried(toGateway(far9, far9.eip).UDP(1, 53).From(far9.eip), far9, atHost(dataplane.Out, dataplane.ReasonDelivered)))),
		{Name: "the EIP is unbound", Steps: []Step{after(func(o *api.Objects) {
			delete(o.EIPs, "far-9")
			delete(o.EIPs, "far-9-v6")
		}, leaving(far9, outs.UDP(1, 53), host(dataplane.Out, noEIP)))}, Hooks: DeviceOnly},
		{Name: "the ENI has moved", Steps: []Step{after(func(o *api.Objects) { o.ENIs["far-9"].Attachment.Instance = "green-c" },
			leaving(far9, outs.UDP(1, 53), host(dataplane.Out, sender))),
			leaving(far9.on(hostC), outs.UDP(1, 53), left(outs.UDP(1, 53), far9))}, Hooks: DeviceOnly},
		{Name: "an ENI here answers the EIP behind", Steps: []Step{
			leaving(far9, toGateway(far9, web0.eip).TCP(40000, 443, SYN), turns("", web0).Steps[0].Want),
			send(web0, outward(web0, far9.eip).TCP(443, 40000, SYN|ACK), carried(outward(web0, far9.eip).TCP(443, 40000, SYN|ACK).From(web0.eip), far9, out(web0, dataplane.ReasonDelivered))),
		}, Hooks: TCOnly},
	}
}

// behindRows: ENIs here whose EIPs have gateways.
func behindRows() []Row {
	outs, ins := outward(away0, client), fromNetTo(client, away0)
	opened := handed(outs.TCP(40000, 443, SYN), away0)
	opened.Flows = fromNet(away0, opening, dataplane.Out)
	fine := func(name string, p Packet) Row { return row(name, away0.port(), p, handed(p, away0)) }
	gets := func(p Packet) Step { return byGateway(p, hostB, entered(p, away0)) }
	got := func(name string, p Packet) Row { return Row{Name: name, Steps: []Step{gets(p)}} }
	drop := func(name string, p Packet, from string, to party, r dataplane.Reason) Row {
		return Row{Name: name, Steps: []Step{byGateway(p, from, Want{Counts: []Count{in(to, r)}})}}
	}
	first := entered(ins.TCP(40000, 443, SYN), away0)
	first.Flows = fromNet(away0, opening, dataplane.In)
	big := outs.UDP(40000, 53).Payload(1450 - 27)
	direct := inward(client, away0).To(away0.ip)
	answer := outs.TCP(443, 40000, SYN|ACK)
	local := outward(gate0, client).TCP(40000, 443, SYN)
	behind := outward(web0, far9.eip).UDP(40000, 53)
	bigBehind := behind.Payload(1450 - 27)
	other := func(o *api.Objects) {
		for i := range o.Region.EIPRanges {
			if r := &o.Region.EIPRanges[i]; len(r.Gateways) == 1 {
				r.Gateways = []string{"host-c"}
			}
		}
	}
	keeps := func(o *api.Objects) { o.ENIs["away-0"].OnPolicyChange = api.Keep }
	gone := outward(away0, web0.eip).UDP(53, 40000)
	moved := handed(outs.TCP(40000, 443, ACK), away0)
	moved.Tunnel = &Tunnel{VNI: red, Remote: hostC}
	rows := []Row{
		row("out", away0.port(), outs.TCP(40000, 443, SYN), opened),
		fine("out, udp", outs.UDP(40000, 53).Payload(21)),
		fine("out, echo", outs.Echo(3)),
		fine("out, gre", outs.Carries(GRE).Payload(8)),
		row("out, more than the overlay carries", away0.port(), big, tooBig(big, away0, 1450, out(away0, dataplane.ReasonTooBig))),
		row("out to the infrastructure", away0.port(), outward(away0, infra).UDP(1, 53), dropped(away0, dataplane.ReasonInfra)),
		row("out to a blackhole", away0.port(), outward(away0, blackhole).UDP(1, 53), dropped(away0, dataplane.ReasonBlackhole)),
		{Name: "in", Steps: []Step{byGateway(ins.TCP(40000, 443, SYN), hostB, first)}},
		got("in, udp", ins.UDP(40000, 53).Payload(9)),
		got("in, echo", ins.Echo(3)),
		got("in, options", ins.UDP(40000, 53).Options4(0x94, 4, 0, 0)),
		drop("in, no rule", ins.TCP(40000, 25, SYN), hostB, away0, dataplane.ReasonSGDenied),
		drop("in, a rule that names a group", ins.TCP(40000, 9000, SYN), hostB, away0, dataplane.ReasonSGDenied),
		drop("in, denied by the network ACL", ins.TCP(40000, 8025, SYN), hostB, away0, dataplane.ReasonNACLDenied),
		drop("in, mid-stream", ins.TCP(40000, 443, ACK), hostB, away0, dataplane.ReasonNoFlow),
		drop("in, from the VPC", fromNetTo(open1.ip, away0).TCP(40000, 443, SYN), hostB, away0, dataplane.ReasonEIPSource),
		drop("in, from the infrastructure", fromNetTo(infra, away0).TCP(40000, 443, SYN), hostB, away0, dataplane.ReasonEIPSource),
		drop("in, from a destination that is not routed to the internet", fromNetTo(blackhole, away0).TCP(40000, 443, SYN), hostB, away0, dataplane.ReasonEIPSource),
		drop("in, from loopback", fromNetTo(IP("127.0.0.1", "::1"), away0).UDP(1, 53), hostB, away0, dataplane.ReasonAddress),
		drop("in, another address than the ENI's", ins.To(web1.ip).UDP(40000, 53), hostB, away0, dataplane.ReasonVXLANSender),
		drop("in, the address of another ENI with such an EIP", ins.To(away1.ip).UDP(40000, 53), hostB, away0, dataplane.ReasonVXLANSender),
		drop("in, the address of an ENI of another host, behind this gateway", ins.To(far9.ip).UDP(40000, 53), hostB, away0, dataplane.ReasonVXLANSender),
		drop("in, to an ENI whose EIP has no gateways", fromNetTo(client, web0).UDP(40000, 53), hostB, web0, dataplane.ReasonVXLANSender),
		drop("in, to an ENI without an EIP", fromNetTo(client, open1).UDP(40000, 53), hostB, open1, dataplane.ReasonVXLANSender),
		drop("in, an error about nothing", ins.Unreachable(outs.UDP(1, 2)), hostB, away0, dataplane.ReasonICMPUnrelated),
		drop("in, a later fragment without a first", laterOf(ins, 32, false), hostB, away0, dataplane.ReasonFragment),
		{Name: "in, fragments", Steps: []Step{gets(ins.Fragment(0, true).UDP(40000, 53).Payload(24)), gets(laterOf(ins, 32, false))}},
		{Name: "in, to an address of no ENI", Steps: []Step{byGateway(ins.UDP(1, 53).MACs(gatewayMAC, strangeMAC), hostB,
			Want{Counts: []Count{onHost(dataplane.ReasonVXLANNoENI)}})}},
		row("in, not by a gateway", fromUplink, direct.UDP(40000, 53), untouched()),
		{Name: "in, as from an ENI", Steps: []Step{decapsulated(ins.UDP(40000, 53), red, hostB,
			Want{Counts: []Count{in(away0, dataplane.ReasonVXLANSender)}})}},
		{Name: "a connection from the internet", Steps: []Step{
			byGateway(ins.TCP(40000, 443, SYN), hostB, first), send(away0, answer, handed(answer, away0)), gets(ins.TCP(40000, 443, ACK).Payload(5)),
		}},
		{Name: "a connection to the internet", Steps: []Step{
			send(away0, outs.TCP(40000, 443, SYN), opened), gets(ins.TCP(443, 40000, SYN|ACK)),
			send(away0, outs.TCP(40000, 443, ACK), handed(outs.TCP(40000, 443, ACK), away0)),
		}},
		{Name: "an error from the internet", Steps: []Step{
			send(away0, outs.UDP(40000, 53), handed(outs.UDP(40000, 53), away0)), gets(ins.Unreachable(outs.UDP(40000, 53))),
		}},
		{Name: "an error from a router of the internet", Steps: []Step{
			send(away0, outs.UDP(40000, 53), handed(outs.UDP(40000, 53), away0)),
			gets(fromNetTo(office, away0).Unreachable(outs.UDP(40000, 53))),
		}},
		{Name: "an error to the internet", Steps: []Step{
			gets(ins.UDP(40000, 53)), send(away0, outs.Unreachable(ins.UDP(40000, 53)), handed(outs.Unreachable(ins.UDP(40000, 53)), away0)),
		}},
		{Name: "fragments to the internet", Steps: []Step{
			send(away0, outs.Fragment(0, true).UDP(40000, 53).Payload(24), handed(outs.Fragment(0, true).UDP(40000, 53).Payload(24), away0)),
			send(away0, laterOf(outs, 32, false), handed(laterOf(outs, 32, false), away0)),
		}},
		{Name: "another gateway: the flow goes on", Steps: []Step{
			send(away0, outs.TCP(40000, 443, SYN), opened), gets(ins.TCP(443, 40000, SYN|ACK)),
			after(other, send(away0, outs.TCP(40000, 443, ACK), moved)),
			byGateway(ins.TCP(443, 40000, ACK).Payload(9), hostC, entered(ins.TCP(443, 40000, ACK).Payload(9), away0)),
		}},
		{Name: "another gateway, of an ENI that keeps, without rules", Steps: []Step{
			after(keeps, send(away0, outs.TCP(40000, 443, SYN), opened)),
			gets(ins.TCP(443, 40000, SYN|ACK)),
			after(func(o *api.Objects) {
				keeps(o)
				other(o)
				o.SecurityGroups["web"].Egress = nil
			}, send(away0, outs.TCP(40000, 443, ACK), moved)),
		}},
		{Name: "the EIP is unbound: nothing goes out or comes in", Steps: []Step{
			send(away0, outs.TCP(40000, 443, SYN), opened),
			after(func(o *api.Objects) {
				delete(o.EIPs, "away-0")
				delete(o.EIPs, "away-0-v6")
			}, send(away0, outs.TCP(40000, 443, ACK), dropped(away0, dataplane.ReasonNoEIP))),
			byGateway(ins.TCP(443, 40000, SYN|ACK), hostB, Want{Counts: []Count{in(away0, dataplane.ReasonNoEIP)}}),
		}},
		row("to a neighbour's EIP", away0.port(), outward(away0, web0.eip).TCP(40000, 443, SYN),
			turned(outward(away0, web0.eip).TCP(40000, 443, SYN), away0, web0)),
		row("from a neighbour to its EIP", web0.port(), outward(web0, away0.eip).TCP(40000, 443, SYN),
			turned(outward(web0, away0.eip).TCP(40000, 443, SYN), web0, away0)),
		{Name: "to a neighbour whose EIP goes: its own answers take the gateway", Steps: []Step{
			send(web0, outward(web0, away0.eip).UDP(40000, 53), turned(outward(web0, away0.eip).UDP(40000, 53), web0, away0)),
			after(func(o *api.Objects) {
				delete(o.EIPs, "web-0")
				delete(o.EIPs, "web-0-v6")
			}, send(away0, gone, handed(gone, away0))),
		}},
		row("to its own EIP", away0.port(), outward(away0, away0.eip).TCP(40000, 443, SYN),
			turned(outward(away0, away0.eip).TCP(40000, 443, SYN), away0, away0)),
		row("no EIP, no EIP of a gateway", open1.port(), outward(open1, far9.eip).UDP(1, 53), dropped(open1, dataplane.ReasonNoEIP)),
		row("to an EIP behind this gateway", web0.port(), behind, carried(behind.From(web0.eip), far9, out(web0, dataplane.ReasonDelivered))),
		row("to an EIP behind this gateway, more than the overlay carries", web0.port(), bigBehind,
			tooBig(bigBehind, web0, 1450, out(web0, dataplane.ReasonTooBig))),
		row("out, here at the gateway itself", gate0.port(), local, translated(local, gate0)),
		{Name: "in by another gateway to an ENI of this one", Steps: []Step{
			byGateway(fromNetTo(client, gate0).UDP(40000, 53), hostC, entered(fromNetTo(client, gate0).UDP(40000, 53), gate0)),
		}},
		toldByGateway(),
	}
	for i := range rows {
		rows[i].Hooks = TCOnly // XDP leaves what comes by a gateway to TC: ownRows
	}
	return rows
}

// toldByGateway: what is too big for the ENI's device is answered the way it came.
func toldByGateway() Row {
	packet := fromNetTo(client, away0).UDP(40000, 53).Payload(mtu)
	told := byGateway(packet, hostB, Want{
		Verdict: Redirect, Device: VXLANDevice, Tunnel: &Tunnel{VNI: red, Remote: hostB},
		Packet: Eth(away0.mac, gatewayMAC).IP(away0.ip, client).Plain().TooBig(packet, 96, mtu),
		Counts: []Count{in(away0, dataplane.ReasonTooBig), atHost(dataplane.Out, dataplane.ReasonAnswered)},
	})
	told.ByKernel = true
	return Row{Name: "in, more than the port carries", Steps: []Step{told}}
}
