// SPDX-License-Identifier: Apache-2.0

package rows

import (
	"time"

	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/dataplane"
	. "github.com/eniplane/eniplane/pkg/pkttest"
)

// The fragments of one datagram of 72 bytes: the first has 32 of them.
const (
	firstLen = 32
	protoUDP = 17
	protoTCP = 6
)

func firstOf(ip Packet) Packet {
	return ip.Fragment(0, true).UDP(40000, 53).UDPLength(72).Payload(firstLen - 8)
}

// laterOf goes on at an offset; more: and is not the last.
func laterOf(ip Packet, offset int, more bool) Packet {
	return ip.Fragment(offset, more).Payload(16).Carries(protoUDP)
}

// vouched is the row of a later fragment behind a first one on the same host.
func vouched(name string, first, later Packet, want Want) Row {
	return Row{Name: name, Steps: []Step{
		send(open1, first, delivered(first, open1, open0)),
		send(open1, later, want),
	}}
}

// fragmentRows: the first fragment decides, the others follow it.
func fragmentRows() []Row {
	const unvouched, malformed = dataplane.ReasonFragment, dataplane.ReasonMalformed
	ip := frame(open1, open0)
	first, later, last := firstOf(ip), laterOf(ip, firstLen, true), laterOf(ip, 48, false)
	passes := func(name string, first, later Packet) Row {
		return vouched(name, first, later, delivered(later, open1, open0))
	}
	drops := func(name string, later Packet, r dataplane.Reason) Row {
		return vouched(name, first, later, dropped(open1, r))
	}
	alone := func(name string, p Packet, r dataplane.Reason) Row {
		return row(name, open1.port(), p, dropped(open1, r))
	}
	syn := ip.Fragment(0, true).TCP(40000, 443, SYN).Payload(4)
	echo := ip.Fragment(0, true).Echo(7).Payload(24)
	esp := ip.Fragment(0, true).Carries(ESP).Payload(32)
	rows := []Row{
		{Name: "first, middle, last", Steps: []Step{
			send(open1, first, delivered(first, open1, open0)),
			send(open1, later, delivered(later, open1, open0)),
			send(open1, last, delivered(last, open1, open0)),
		}},
		passes("the last before the middle", first, last),
		{Name: "a fragment comes twice", Steps: []Step{
			send(open1, first, delivered(first, open1, open0)),
			send(open1, first, delivered(first, open1, open0)),
			send(open1, later, delivered(later, open1, open0)),
			send(open1, later, delivered(later, open1, open0)),
		}},
		passes("tcp", syn, laterOf(ip, 24, false).Carries(protoTCP)),
		passes("icmp", echo, ip.Fragment(firstLen, false).Payload(9).Carries(1).Only(V4)),
		passes("icmp6", echo, ip.Fragment(firstLen, false).Payload(9).Carries(ICMPv6).Only(V6)),
		passes("esp", esp, laterOf(ip, 32, false).Carries(ESP)),
		passes("the last may have any length", first, ip.Fragment(firstLen, false).Payload(13).Carries(protoUDP)),
		passes("a gap is the receiver's business", first, laterOf(ip, 4096, false)),
		passes("a first fragment of nothing but the udp header", ip.Fragment(0, true).UDP(40000, 53).UDPLength(24),
			laterOf(ip, 8, false)),
		alone("middle without the first", later, unvouched),
		alone("last without the first", last, unvouched),
		{Name: "the middle before the first", Steps: []Step{
			send(open1, later, dropped(open1, unvouched)),
			send(open1, first, delivered(first, open1, open0)),
			send(open1, later, delivered(later, open1, open0)),
		}},
		alone("a first fragment without a whole udp header",
			ip.Fragment(0, true).Raw(0x9c, 0x40, 0, 53).Carries(protoUDP), malformed),
		alone("a first fragment without a whole tcp header",
			ip.Fragment(0, true).Raw(0x9c, 0x40, 1, 0xbb, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0).Carries(protoTCP), malformed),
		alone("a first fragment without all tcp options", ip.Fragment(0, true).TCP(40000, 443, SYN).TCPWords(10).Payload(4), malformed),
		alone("a first fragment without a whole icmp header",
			Either(ip.Fragment(0, true).Raw(8, 0, 0, 0).Carries(1), ip.Fragment(0, true).Raw(128, 0, 0, 0).Carries(ICMPv6)), malformed),
		alone("an empty first fragment", ip.Fragment(0, true).Carries(ESP), malformed),
		alone("the first is no multiple of 8", ip.Fragment(0, true).UDP(40000, 53).UDPLength(72).Payload(9), malformed),
		drops("the middle is no multiple of 8", ip.Fragment(firstLen, true).Payload(12).Carries(protoUDP), malformed),
		drops("an empty later fragment", ip.Fragment(firstLen, false).Carries(protoUDP), malformed),
		drops("one that overlaps the first", laterOf(ip, 24, true), unvouched),
		drops("one that overlaps the ports", laterOf(ip, 8, true), unvouched),
		vouched("one that overlaps the tcp flags", syn, laterOf(ip, 8, false).Carries(protoTCP), dropped(open1, unvouched)),
		vouched("one that overlaps a longer first one that came twice", first, laterOf(ip, 24, false), dropped(open1, unvouched)),
		passes("up to the largest packet", first, Either(ip.Fragment(65504, false).Payload(11).Carries(protoUDP),
			ip.Fragment(65528, false).Payload(7).Carries(protoUDP))),
		drops("beyond the largest packet", Either(ip.Fragment(65504, false).Payload(12).Carries(protoUDP),
			ip.Fragment(65528, false).Payload(8).Carries(protoUDP)), malformed),
		drops("beyond the largest packet by its options", ip.Options4(1, 1, 1, 1).Fragment(65504, false).Payload(8).Carries(protoUDP),
			malformed),
		drops("beyond the largest packet by its headers",
			ip.Extension(DestOptions).Fragment(65520, false).Payload(15).Carries(protoUDP), malformed),
		drops("ping of death", ip.Fragment(65528, false).Payload(1400).Carries(protoUDP), malformed),
		drops("another identification", later.FragmentID(0x1235), unvouched),
		vouched("another protocol, in IPv4", first, later.Carries(protoTCP).Only(V4), dropped(open1, unvouched)),
		passes("another protocol means nothing in IPv6", first, later.Carries(protoTCP).Only(V6)),
		vouched("to another ENI", first, laterOf(frame(open1, web0), firstLen, true), dropped(open1, unvouched)),
		drops("from a source that is not the ENI's", later.From(db0.ip), dataplane.ReasonSpoofedIP),
		drops("from the address of another ENI of its instance", later.From(web0.ip), dataplane.ReasonWrongENI),
	}
	rows = append(rows, headerRows()...)
	rows = append(rows, fragmentTableRows()...)
	return append(rows, fragmentVerdictRows()...)
}

// headerRows: the IPv6 fragment header among others.
func headerRows() []Row {
	ip := frame(open1, open0)
	fine := func(name string, p Packet) Row { return row(name, open1.port(), p, delivered(p, open1, open0)) }
	drop := func(name string, p Packet, r dataplane.Reason) Row {
		return row(name, open1.port(), p, dropped(open1, r))
	}
	behind := ip.Extension(HopByHop, 1, 4, 0, 0, 0, 0).Extension(DestOptions)
	chained := ip.Fragment(0, true).Extension(DestOptions, make([]byte, 38)...).TCP(40000, 443, SYN).Payload(4)
	solicit := ip.Fragment(0, true).ICMP(0, 135, 0, [4]byte{}).Payload(24).Only(V6)
	return []Row{
		fine("an atomic fragment", ip.Fragment(0, false).UDP(1, 53).Payload(5).Only(V6)),
		fine("an atomic fragment opens a connection", ip.Fragment(0, false).TCP(1, 443, SYN).Only(V6)),
		vouched("an atomic fragment is no first one", ip.Fragment(0, false).UDP(40000, 53).Payload(24).Only(V6),
			laterOf(ip, 32, false), dropped(open1, dataplane.ReasonFragment)),
		drop("an atomic fragment is judged", ip.Fragment(0, false).TCP(1, 443, ACK).Only(V6), dataplane.ReasonNoFlow),
		vouched("behind other headers", firstOf(behind), laterOf(behind, firstLen, true),
			delivered(laterOf(behind, firstLen, true), open1, open0)),
		vouched("in front of other headers", chained, ip.Fragment(64, false).Payload(16).Carries(DestOptions).Only(V6),
			delivered(ip.Fragment(64, false).Payload(16).Carries(DestOptions), open1, open0)),
		vouched("one that overlaps the transport header behind other headers", chained,
			ip.Fragment(56, false).Payload(16).Carries(DestOptions).Only(V6), dropped(open1, dataplane.ReasonFragment)),
		vouched("one that overlaps the other headers", chained,
			ip.Fragment(24, false).Payload(16).Carries(DestOptions).Only(V6), dropped(open1, dataplane.ReasonFragment)),
		drop("a first fragment that ends within its headers",
			ip.Fragment(0, true).Extension(DestOptions, make([]byte, 6)...).Carries(protoUDP).Only(V6), dataplane.ReasonMalformed),
		drop("a fragment of a fragment", ip.Fragment(0, true).Fragment(0, true).UDP(1, 53).Payload(8).Only(V6),
			dataplane.ReasonExtension),
		drop("half a fragment header", ip.Protocol(44).Raw(17, 0, 0, 1).Only(V6), dataplane.ReasonMalformed),
		drop("a fragmented question for a neighbour", solicit, dataplane.ReasonFragment),
		drop("a fragmented router advertisement", ip.Fragment(0, true).ICMP(0, 134, 0, [4]byte{}).Payload(8).Only(V6),
			dataplane.ReasonFragment),
	}
}

// fragmentTableRows: what is remembered of first fragments, for how long, and of whom.
func fragmentTableRows() []Row {
	const unvouched = dataplane.ReasonFragment
	ip := frame(open1, open0)
	first, later := firstOf(ip), laterOf(ip, firstLen, true)
	passes := send(open1, later, delivered(later, open1, open0))
	late := func(s Step, d time.Duration) Step { s.Later = d; return s }
	opens := send(open1, first, delivered(first, open1, open0))
	ends := send(open1, later, dropped(open1, unvouched))
	web := frame(web0, open0)
	twin := frame(blue0, blue1)
	red := firstOf(Eth(web0.mac, gatewayMAC).IP(web0.ip, open1.ip))
	quiet := frame(web1, web0)
	var flood []Packet
	for id := range uint32(1000) {
		flood = append(flood, first.FragmentID(0x4000+id*13))
	}
	newest := send(open1, later.FragmentID(0x4000+999*13), delivered(later.FragmentID(0x4000+999*13), open1, open0))
	newest.Ahead = flood
	oldest := send(open1, later.FragmentID(0x4000), dropped(open1, unvouched))
	survivor := laterOf(quiet, firstLen, false)
	return []Row{
		{Name: "a second passes", Steps: []Step{opens, late(passes, time.Second)}},
		{Name: "the rest comes too late", Steps: []Step{opens, late(ends, 3*time.Second)}},
		{Name: "the identification is used again", Steps: []Step{
			opens, passes, late(ends, 3*time.Second), opens, passes,
		}},
		{Name: "another ENI's first fragment vouches for nothing", Steps: []Step{
			opens, send(web0, laterOf(web, firstLen, true), dropped(web0, unvouched)),
		}},
		{Name: "another VPC's ENI with the same addresses", Steps: []Step{
			send(web0, red, delivered(red, web0, open1)),
			send(blue0, laterOf(twin.To(open1.ip), firstLen, true), dropped(blue0, unvouched)),
		}},
		{Name: "a first fragment received is none sent", Steps: []Step{
			opens, send(open0, laterOf(frame(open0, open1), firstLen, true), dropped(open0, unvouched)),
		}},
		{Name: "a flood of first fragments pushes out nobody else's", Steps: []Step{
			send(web1, firstOf(quiet), delivered(firstOf(quiet), web1, web0)), newest, oldest,
			send(web1, survivor, delivered(survivor, web1, web0)),
		}},
	}
}

// fragmentVerdictRows: later fragments are judged as the first one was, and no longer than that verdict holds.
func fragmentVerdictRows() []Row {
	const unvouched = dataplane.ReasonFragment
	ip := frame(open1, open0)
	first, later := firstOf(ip), laterOf(ip, firstLen, true)
	opens := send(open1, first, delivered(first, open1, open0))
	toWeb := frame(open1, web0)
	refusedFirst := toWeb.Fragment(0, true).UDP(40000, 54).UDPLength(72).Payload(24)
	mute := frame(mute0, open0)
	border := frame(open0, web0)
	reborn := func(name string) func(*api.Objects) {
		return func(o *api.Objects) { o.ENIs[name].Attachment.Epoch = 2 }
	}
	closed := func(group string) func(*api.Objects) {
		return func(o *api.Objects) { o.SecurityGroups[group].Egress, o.SecurityGroups[group].Ingress = nil, nil }
	}
	small := ip.Fragment(0, true).UDP(40000, 53).UDPLength(2000).Payload(8)
	huge := ip.Fragment(16, false).Payload(mtu).Carries(protoUDP)
	return []Row{
		{Name: "the receiver denies the first", Steps: []Step{
			send(open1, refusedFirst, refused(open1, web0, dataplane.ReasonSGDenied)),
			send(open1, laterOf(toWeb, firstLen, true), refused(open1, web0, unvouched)),
		}},
		{Name: "the sender's groups deny the first", Steps: []Step{
			send(mute0, firstOf(mute), dropped(mute0, dataplane.ReasonSGDenied)),
			send(mute0, laterOf(mute, firstLen, true), dropped(mute0, unvouched)),
		}},
		{Name: "the network ACL denies the first", Steps: []Step{
			send(open0, border.Fragment(0, true).TCP(1, 8025, SYN).Payload(4), refused(open0, web0, dataplane.ReasonNACLDenied)),
			send(open0, laterOf(border, 24, false).Carries(protoTCP), refused(open0, web0, unvouched)),
		}},
		{Name: "the first belongs to no flow", Steps: []Step{
			send(open1, ip.Fragment(0, true).TCP(1, 443, ACK).Payload(4), dropped(open1, dataplane.ReasonNoFlow)),
			send(open1, laterOf(ip, 24, false).Carries(protoTCP), dropped(open1, unvouched)),
		}},
		{Name: "a denied first one does not take the place of an allowed one", Steps: []Step{
			opens,
			send(open1, ip.Fragment(0, true).TCP(1, 443, ACK).Payload(4), dropped(open1, dataplane.ReasonNoFlow)),
			send(open1, later, delivered(later, open1, open0)),
		}},
		{Name: "the sender's rules change in between", Steps: []Step{
			opens, after(closed("open"), send(open1, later, dropped(open1, unvouched))),
		}},
		{Name: "the receiver's rules change in between", Steps: []Step{
			send(open1, firstOf(toWeb), delivered(firstOf(toWeb), open1, web0)),
			after(closed("web"), send(open1, laterOf(toWeb, firstLen, true), refused(open1, web0, unvouched))),
		}},
		{Name: "a new attachment of the sender", Steps: []Step{
			opens, after(reborn("open-1"), send(open1, later, dropped(open1, unvouched))),
		}},
		{Name: "a new attachment of the receiver", Steps: []Step{
			opens, after(reborn("open-0"), send(open1, later, refused(open1, open0, unvouched))),
		}},
		{Name: "the receiver has left the host", Steps: []Step{
			opens, after(func(o *api.Objects) { o.ENIs["open-0"].Attachment.Instance = "red-b" },
				send(open1, later, tunnelled(later, open1, open0.on(hostB)))),
		}},
		{Name: "the receiver is attached nowhere", Steps: []Step{
			opens, after(func(o *api.Objects) { o.ENIs["open-0"].Attachment = nil }, send(open1, later, dropped(open1, dataplane.ReasonNoNexthop))),
		}},
		{Name: "the address is another ENI's now", Steps: []Step{
			opens, after(func(o *api.Objects) {
				o.ENIs["open-0"].IPs, o.ENIs["db-0"].IPs = o.ENIs["db-0"].IPs, o.ENIs["open-0"].IPs
				o.EIPs["open-0"].PrivateIP = o.ENIs["open-0"].IPs[0]
				o.EIPs["open-0-v6"].PrivateIP = o.ENIs["open-0"].IPs[1]
			}, send(open1, later, dropped(open1, unvouched))),
		}},
		{Name: "nobody is told of a later fragment that is too big", Steps: []Step{
			send(open1, small, delivered(small, open1, open0)),
			send(open1, huge, refused(open1, open0, dataplane.ReasonTooBig)),
		}},
	}
}

// fragmentWayRows: across hosts, and through EIPs, where only a first fragment has a checksum.
func fragmentWayRows() []Row {
	const unvouched = dataplane.ReasonFragment
	leaves, arrives := frame(open1, open9), inner(open9, web0)
	from := func(source string, p Packet, want Want) Step { return decapsulated(p, red, source, want) }
	gets := func(p Packet) Step { return from(hostB, p, received(p, open9, web0)) }
	denies := func(p Packet, r dataplane.Reason) Want { return Want{Counts: []Count{in(web0, r)}} }
	outs, ins := outward(web0, client), inward(client, web0)
	sends := func(p Packet) Step { return send(web0, p, translated(p, web0)) }
	admits := func(p Packet) Step { return Step{At: fromUplink, In: p, Want: admitted(p, web0)} }
	refuses := func(p Packet, r dataplane.Reason) Step { return Step{At: fromUplink, In: p, Want: denies(p, r)} }
	both := func(name string, pass func(Packet) Step, first, later Packet) Row {
		return Row{Name: name, Steps: []Step{pass(first), pass(later)}}
	}
	hairpin := outward(web1, web0.eip)
	turns := func(p Packet) Step { return send(web1, p, turned(p, web1, web0)) }
	foreign := inner(relay9, web0).From(client)
	plain := func(ip Packet) Packet { return firstOf(ip).NoChecksum().Only(V4) }
	syn := func(ip Packet) Packet { return ip.Fragment(0, true).TCP(40000, 443, SYN).Payload(4) }
	echo := func(ip Packet) Packet { return ip.Fragment(0, true).Echo(5).Payload(24) }
	ping := func(ip Packet) Packet {
		later := ip.Fragment(32, false).Payload(7)
		return Either(later.Carries(1), later.Carries(ICMPv6))
	}
	tcp := func(ip Packet) Packet { return laterOf(ip, 24, false).Carries(protoTCP) }
	rest := func(ip Packet) Packet { return laterOf(ip, firstLen, false) }
	big := leaves.Fragment(firstLen, false).Payload(1440).Carries(protoUDP)
	return []Row{
		both("out over the overlay", func(p Packet) Step { return send(open1, p, tunnelled(p, open1, open9)) }, firstOf(leaves), rest(leaves)),
		row("out over the overlay without a first", open1.port(), rest(leaves), dropped(open1, unvouched)),
		{Name: "out over the overlay, too big", Steps: []Step{
			send(open1, firstOf(leaves), tunnelled(firstOf(leaves), open1, open9)),
			send(open1, big, dropped(open1, dataplane.ReasonTooBig)),
		}},
		both("in from the overlay", gets, firstOf(arrives), rest(arrives)),
		{Name: "in from the overlay without a first", Steps: []Step{from(hostB, rest(arrives), denies(rest(arrives), unvouched))}},
		{Name: "in from the overlay, the rest by another host", Steps: []Step{
			gets(firstOf(arrives)), from(hostC, rest(arrives), denies(rest(arrives), dataplane.ReasonVXLANSender)),
		}},
		{Name: "in from the overlay, the rest by another ENI", Steps: []Step{
			gets(firstOf(arrives)),
			from(hostB, rest(arrives).MACs(web9.mac, web0.mac), denies(rest(arrives), dataplane.ReasonVXLANSender)),
		}},
		both("out through an EIP", sends, firstOf(outs), rest(outs)),
		both("out through an EIP, tcp", sends, syn(outs), tcp(outs)),
		both("out through an EIP, echo", sends, echo(outs), ping(outs)),
		both("out through an EIP, no udp checksum", sends, plain(outs), rest(outs)),
		both("out through an EIP, options", sends, firstOf(outs.Options4(1, 1, 1, 1)), rest(outs)),
		both("out through an EIP, behind other headers", sends, firstOf(outs.Extension(DestOptions)), rest(outs.Extension(DestOptions))),
		row("out through an EIP without a first", web0.port(), rest(outs), dropped(web0, unvouched)),
		both("in through an EIP", admits, firstOf(ins), rest(ins)),
		both("in through an EIP, tcp", admits, syn(ins), tcp(ins)),
		both("in through an EIP, echo", admits, echo(ins), ping(ins)),
		both("in through an EIP, no udp checksum", admits, plain(ins), rest(ins)),
		both("in through an EIP, options", admits, firstOf(ins.Options4(1, 1, 1, 1)), rest(ins)),
		both("in through an EIP, behind other headers", admits, firstOf(ins.Extension(DestOptions)), rest(ins.Extension(DestOptions))),
		both("in through an EIP, ethernet padding", admits, firstOf(ins), ins.Fragment(firstLen, false).Payload(1).Carries(protoUDP).Pad(20)),
		row("in through an EIP without a first", fromUplink, rest(ins), denies(rest(ins), unvouched)),
		{Name: "in through an EIP, overlapping", Steps: []Step{
			admits(firstOf(ins)), refuses(laterOf(ins, 16, false), unvouched),
		}},
		{Name: "in through an EIP, the first is denied", Steps: []Step{
			refuses(ins.Fragment(0, true).UDP(1, 54).UDPLength(72).Payload(24), dataplane.ReasonSGDenied),
			refuses(rest(ins), unvouched),
		}},
		{Name: "in through an EIP, too late", Steps: []Step{
			admits(firstOf(ins)), {At: fromUplink, In: rest(ins), Later: 3 * time.Second, Want: denies(rest(ins), unvouched)},
		}},
		{Name: "in through an EIP, the rest in the name of the VPC", Steps: []Step{
			admits(firstOf(ins)), refuses(rest(ins).From(open1.ip), dataplane.ReasonEIPSource),
		}},
		{Name: "the internet's first fragment vouches for nothing of the VPC", Steps: []Step{
			admits(firstOf(ins)), from(hostB, rest(foreign), denies(rest(foreign), unvouched)),
		}},
		both("to a neighbour's EIP", turns, firstOf(hairpin), rest(hairpin)),
		{Name: "to a neighbour's EIP, the first is denied", Steps: []Step{
			send(web1, hairpin.Fragment(0, true).TCP(1, 25, SYN).Payload(4), refused(web1, web0, dataplane.ReasonSGDenied)),
			send(web1, tcp(hairpin), refused(web1, web0, unvouched)),
		}},
	}
}
