// SPDX-License-Identifier: Apache-2.0

package rows

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/dataplane"
	. "github.com/eniplane/eniplane/pkg/pkttest"
)

// icmpError is a kind of ICMP error: one type per family.
type icmpError struct {
	name         string
	type4, type6 uint8
	code         uint8
	rest         [4]byte
}

func (e icmpError) in(ip Packet) Packet { return ip.ICMP(e.type4, e.type6, e.code, e.rest) }

// icmpErrors are those that pass with a flow.
func icmpErrors() []icmpError {
	return []icmpError{
		{name: "unreachable network", type4: 3, type6: 1},
		{name: "prohibited", type4: 3, type6: 1, code: 1},
		{name: "fragmentation needed, unreachable port", type4: 3, type6: 1, code: 4, rest: [4]byte{2: 5, 3: 20}},
		{name: "too big", type4: 3, type6: 2, code: 0, rest: [4]byte{2: 5, 3: 20}},
		{name: "hop limit", type4: 11, type6: 3},
		{name: "reassembly time", type4: 11, type6: 3, code: 1},
		{name: "parameter problem", type4: 12, type6: 4, rest: [4]byte{20}},
		{name: "parameter problem with a code", type4: 12, type6: 4, code: 1},
	}
}

// quoted is a packet that errors are about.
type quoted struct {
	name string
	of   func(ip Packet) Packet
}

// quotable are packets of every kind, made of an IP header.
func quotable() []quoted {
	return []quoted{
		{"udp", func(ip Packet) Packet { return ip.UDP(40000, 53).Payload(40) }},
		{"udp, odd", func(ip Packet) Packet { return ip.UDP(40000, 53).Payload(41) }},
		{"udp without a checksum", func(ip Packet) Packet { return ip.UDP(40000, 53).Payload(40).NoChecksum().Only(V4) }},
		{"tcp", func(ip Packet) Packet { return ip.TCP(40000, 443, SYN).Payload(40) }},
		{"echo", func(ip Packet) Packet { return ip.Echo(7).Payload(40) }},
		{"udp behind options", func(ip Packet) Packet { return ip.Options4(7, 7, 4, 0, 0, 0, 0).UDP(40000, 53).Payload(40) }},
		{"udp behind a header", func(ip Packet) Packet { return ip.Extension(DestOptions).UDP(40000, 53).Payload(40) }},
		{"an atomic fragment", func(ip Packet) Packet { return ip.Fragment(0, false).UDP(40000, 53).Payload(40).Only(V6) }},
		{"a first fragment", func(ip Packet) Packet { return firstOf(ip) }},
	}
}

// road is a way on which a packet q travels and an error about it comes back.
type road struct {
	name string
	ip   Packet              // of q, as its sender or the internet writes it
	go1  func(q Packet) Step // q passes
	step func(q Packet, make func(ip, quoted Packet) Packet) Step
}

// roads lists all ways. What the error quotes is what its sender has seen; what its receiver gets
// quotes what that has sent.
func roads() []road {
	toNet, fromNet, hairpin := outward(web0, client), inward(client, web0), outward(web1, web0.eip)
	return []road{
		{
			name: "same host", ip: frame(open1, open0),
			go1: func(q Packet) Step { return send(open1, q, delivered(q, open1, open0)) },
			step: func(q Packet, make func(ip, quoted Packet) Packet) Step {
				e := make(frame(open0, open1), q)
				return send(open0, e, delivered(e, open0, open1))
			},
		},
		{
			name: "out over the overlay", ip: inner(open9, open1),
			go1: func(q Packet) Step { return decapsulated(q, red, hostB, received(q, open9, open1)) },
			step: func(q Packet, make func(ip, quoted Packet) Packet) Step {
				e := make(frame(open1, open9), q)
				return send(open1, e, tunnelled(e, open1, open9))
			},
		},
		{
			name: "in from the overlay", ip: frame(open1, open9),
			go1: func(q Packet) Step { return send(open1, q, tunnelled(q, open1, open9)) },
			step: func(q Packet, make func(ip, quoted Packet) Packet) Step {
				e := make(inner(open9, open1), q)
				return decapsulated(e, red, hostB, received(e, open9, open1))
			},
		},
		{
			name: "in from the overlay, by a third party", ip: frame(open1, open9),
			go1: func(q Packet) Step { return send(open1, q, tunnelled(q, open1, open9)) },
			step: func(q Packet, make func(ip, quoted Packet) Packet) Step {
				e := make(inner(relay9, open1), q)
				return decapsulated(e, red, hostB, received(e, relay9, open1))
			},
		},
		{
			name: "out through an EIP", ip: fromNet,
			go1: func(q Packet) Step { return Step{At: fromUplink, In: q, Want: admitted(q, web0)} },
			step: func(q Packet, make func(ip, quoted Packet) Packet) Step {
				want := translated(make(toNet, q), web0)
				return send(web0, make(toNet, q.To(web0.ip)), want)
			},
		},
		{
			name: "in through an EIP", ip: toNet,
			go1: func(q Packet) Step { return send(web0, q, translated(q, web0)) },
			step: func(q Packet, make func(ip, quoted Packet) Packet) Step {
				want := admitted(make(fromNet, q), web0)
				return Step{At: fromUplink, In: make(fromNet, q.From(web0.eip)), Want: want}
			},
		},
		{
			name: "in through an EIP, by a router", ip: toNet,
			go1: func(q Packet) Step { return send(web0, q, translated(q, web0)) },
			step: func(q Packet, make func(ip, quoted Packet) Packet) Step {
				router := inward(office, web0)
				want := admitted(make(router, q), web0)
				return Step{At: fromUplink, In: make(router, q.From(web0.eip)), Want: want}
			},
		},
		{
			name: "to a neighbour's EIP", ip: hairpin,
			go1: func(q Packet) Step { return send(web1, q, turned(q, web1, web0)) },
			step: func(q Packet, make func(ip, quoted Packet) Packet) Step {
				back := outward(web0, web1.eip)
				want := turned(make(back, q), web0, web1)
				return send(web0, make(back, q.From(web1.eip).To(web0.ip)), want)
			},
		},
	}
}

// errorRows: errors that pass: every way with every kind of packet quoted, whole and as little as is
// allowed; and every kind of error on the ways that change it most.
func errorRows() []Row {
	var rows []Row
	unreachable := icmpErrors()[0]
	for _, r := range roads() {
		for _, k := range quotable() {
			q := k.of(r.ip)
			whole := func(ip, quoted Packet) Packet { return unreachable.in(ip).Quote(quoted, -1) }
			rows = append(rows, Row{
				Name:  fmt.Sprintf("%s, about %s", r.name, k.name),
				Steps: []Step{r.go1(q), r.step(q, whole)},
			})
			if k.name == "udp behind a header" || k.name == "an atomic fragment" || k.name == "a first fragment" {
				continue // IPv6 has more in front of the 8 bytes
			}
			least := func(ip, quoted Packet) Packet { return unreachable.in(ip).QuoteLeast(quoted) }
			rows = append(rows, Row{
				Name:  fmt.Sprintf("%s, about %s, 8 bytes", r.name, k.name),
				Steps: []Step{r.go1(q), r.step(q, least)},
			})
		}
		for _, e := range icmpErrors()[1:] {
			q := r.ip.TCP(40000, 443, SYN)
			whole := func(ip, quoted Packet) Packet { return e.in(ip).Quote(quoted, -1) }
			rows = append(rows, Row{Name: r.name + ", " + e.name, Steps: []Step{r.go1(q), r.step(q, whole)}})
		}
	}
	return append(rows, errorFormRows()...)
}

// errorFormRows: errors in odd forms that pass.
func errorFormRows() []Row {
	q := frame(open1, open0).UDP(40000, 53).Payload(40)
	gre := frame(open1, open0).Carries(GRE).Payload(40)
	toNet := outward(web0, client).UDP(40000, 53).Payload(40)
	passes := func(name string, q, e Packet) Row {
		return Row{Name: name, Steps: []Step{
			send(open1, q, delivered(q, open1, open0)), send(open0, e, delivered(e, open0, open1)),
		}}
	}
	back := frame(open0, open1)
	zero := zeroSum(outward(web0, client).UDP(40000, 53), web0.ip)
	admits := func(name string, in, want Packet) Row {
		return Row{Name: name, Steps: []Step{
			send(web0, toNet, translated(toNet, web0)), {At: fromUplink, In: in, Want: admitted(want, web0)},
		}}
	}
	err := func(ip, q Packet) Packet { return ip.ICMP(3, 1, 0, [4]byte{}).Quote(q, -1) }
	ins, seen := inward(client, web0), toNet.From(web0.eip)
	return []Row{
		passes("about a protocol without ports", gre, err(back, gre)),
		passes("the quote has another ttl", q, err(back, q.TTL(1))),
		passes("the quote is followed by an extension (RFC 4884)", q, err(back, q).Payload(12)),
		passes("the error has options", q, err(back.Options4(7, 7, 4, 0, 0, 0, 0), q)),
		passes("the error is behind other headers", q, err(back.Extension(HopByHop), q)),
		passes("ethernet padding", q, err(back, q).Pad(9)),
		admits("through an EIP, the error has options", err(ins.Options4(1, 1, 1, 1), seen), err(ins.Options4(1, 1, 1, 1), toNet)),
		admits("through an EIP, the error is behind other headers",
			err(ins.Extension(DestOptions), seen), err(ins.Extension(DestOptions), toNet)),
		admits("through an EIP, a quoted udp checksum becomes zero", err(ins, zero.From(web0.eip)), err(ins, zero)),
		admits("through an EIP, the quote has another ttl", err(ins, seen.TTL(3)), err(ins, toNet.TTL(3))),
		admits("through an EIP, an extension follows the quote", err(ins, seen).Payload(13), err(ins, toNet).Payload(13)),
		admits("through an EIP, a quote that is as wrong as before", err(ins, seen.BadChecksum()), err(ins, toNet.BadChecksum())),
	}
}

// unrelatedRows: errors that belong to nothing.
func unrelatedRows() []Row {
	const unrelated = dataplane.ReasonICMPUnrelated
	q := frame(open1, open0).UDP(40000, 53).Payload(40)
	back := frame(open0, open1)
	err := func(ip, q Packet) Packet { return ip.ICMP(3, 1, 0, [4]byte{}).Quote(q, -1) }
	drops := func(name string, e Packet, r dataplane.Reason) Row {
		return Row{Name: name, Steps: []Step{send(open1, q, delivered(q, open1, open0)), send(open0, e, dropped(open0, r))}}
	}
	stray := func(name string, e Packet) Row { return drops(name, e, unrelated) }
	typed := func(name string, type4, type6 uint8) Row {
		return stray(name, back.ICMP(type4, type6, 0, [4]byte{}).Quote(q, -1))
	}
	cut := func(n4, n6 int) Packet {
		e := back.ICMP(3, 1, 0, [4]byte{})
		return Either(e.Quote(q, n4), e.Quote(q, n6))
	}
	rows := []Row{
		row("no flow", open0.port(), err(back, q), dropped(open0, unrelated)),
		stray("another source port", err(back, q.Ports(40001, 53))),
		stray("another destination port", err(back, q.Ports(40000, 54))),
		stray("another protocol", err(back, frame(open1, open0).TCP(40000, 53, SYN))),
		stray("another destination inside", err(back, q.To(db0.ip))),
		stray("another source inside", err(back, q.From(web0.ip))),
		stray("addressed to somebody else", err(frame(open0, web0), q)),
		stray("the quote is turned round", err(back, frame(open0, open1).UDP(53, 40000))),
		stray("the quote is what the ENI would send itself", err(back, frame(open0, open1).UDP(40000, 53))),
		stray("about an error", err(back, err(frame(open1, open0), frame(open0, open1).UDP(53, 40000)))),
		stray("about a later fragment", err(back, laterOf(frame(open1, open0), firstLen, true))),
		stray("about a reply that nobody sent", err(back, frame(open1, open0).EchoReply(7))),
		stray("quoted in the other version", err(back, q.Poke(14, 0x25))),
		stray("quoted with a header of 16 bytes", err(back, q.Only(V4).Poke(14, 0x44))),
		stray("quoted with a header beyond the error", back.ICMP(3, 1, 0, [4]byte{}).Quote(q.Only(V4).Poke(14, 0x4f), 28)),
		stray("quoted with seven headers", err(back, manyHeaders(frame(open1, open0)).UDP(40000, 53))),
		drops("no quote", cut(0, 0), dataplane.ReasonMalformed),
		drops("a quote that ends within its header", cut(19, 39), dataplane.ReasonMalformed),
		stray("a quote of the header only", cut(20, 40)),
		stray("a quote that ends within the 8 bytes", cut(27, 47)),
		stray("a quote that goes on in the padding", Either(
			cut(20, 40).Only(V4).Edit(func(b []byte) []byte { return append(b, q.Bytes(V4)[34:]...) }),
			cut(20, 40).Only(V6).Edit(func(b []byte) []byte { return append(b, q.Bytes(V6)[54:]...) }))),
		stray("the error is a fragment", Either(err(back.Fragment(0, true), q).Payload(4), err(back.Fragment(0, true), q))),
		typed("source quench, type 0 of IPv6", 4, 0),
		typed("source quench, type 5 of IPv6", 4, 5),
		typed("source quench, type 100 of IPv6", 4, 100),
		typed("source quench, type 127 of IPv6", 4, 127),
		drops("from a source that is not the ENI's", err(back, q).From(web0.ip), dataplane.ReasonSpoofedIP),
		drops("from the address of another ENI of its instance", err(back, q).From(db0.ip), dataplane.ReasonWrongENI),
		{Name: "about another ENI's flow", Steps: []Step{
			send(open1, q, delivered(q, open1, open0)),
			send(web1, err(frame(web1, open1), q), dropped(web1, unrelated)),
		}},
		{Name: "about the flow of a former attachment", Steps: []Step{
			send(open1, q, delivered(q, open1, open0)),
			after(func(o *api.Objects) { o.ENIs["open-0"].Attachment.Epoch = 2 }, send(open0, err(back, q), dropped(open0, unrelated))),
		}},
		{Name: "to a former attachment", Steps: []Step{
			send(open1, q, delivered(q, open1, open0)),
			after(func(o *api.Objects) { o.ENIs["open-1"].Attachment.Epoch = 2 },
				send(open0, err(back, q), refused(open0, open1, unrelated))),
		}},
		{Name: "a flow that has ended", Steps: []Step{
			send(open1, q, delivered(q, open1, open0)),
			{At: open0.port(), In: err(back, q), Later: 31 * time.Second, Want: dropped(open0, unrelated)},
		}},
	}
	return append(rows, unrelatedWayRows()...)
}

func manyHeaders(p Packet) Packet {
	for range 7 {
		p = p.Extension(DestOptions)
	}
	return p
}

// unrelatedWayRows: from other hosts and the internet.
func unrelatedWayRows() []Row {
	const unrelated = dataplane.ReasonICMPUnrelated
	err := func(ip, q Packet) Packet { return ip.ICMP(3, 1, 0, [4]byte{}).Quote(q, -1) }
	over := frame(open1, open9).UDP(40000, 53).Payload(40)
	out := outward(web0, client).UDP(40000, 53).Payload(40)
	inn := inward(client, web0).UDP(40000, 53).Payload(40)
	local := frame(web0, db0).TCP(40000, 5432, SYN)
	denies := func(to party, r dataplane.Reason) Want { return Want{Counts: []Count{in(to, r)}} }
	overlay := func(name string, e Packet, from string, r dataplane.Reason) Row {
		return Row{Name: name, Steps: []Step{
			send(open1, over, tunnelled(over, open1, open9)), decapsulated(e, red, from, denies(open1, r)),
		}}
	}
	internet := func(name string, e Packet, r dataplane.Reason) Row {
		return Row{Name: name, Steps: []Step{
			send(web0, out, translated(out, web0)), {At: fromUplink, In: e, Want: denies(web0, r), TCDrops: true},
		}}
	}
	seen, ins := out.From(web0.eip), inward(client, web0)
	fragment := ins.Fragment(0, true).ICMP(3, 1, 0, [4]byte{}).Quote(seen, -1)
	return []Row{
		overlay("from the overlay, other ports", err(inner(open9, open1), over.Ports(1, 2)), hostB, unrelated),
		overlay("from the overlay, another source inside", err(inner(open9, open1), over.From(web0.ip)), hostB, unrelated),
		overlay("from the overlay, by a host that does not have the sender", err(inner(open9, open1), over), hostC,
			dataplane.ReasonVXLANSender),
		overlay("from the overlay, in another's name", err(inner(open9, open1), over).From(web9.ip), hostB, dataplane.ReasonVXLANSender),
		overlay("from the overlay, redirect", inner(open9, open1).ICMP(5, 100, 1, [4]byte{10, 0, 1, 9}).Quote(over, -1), hostB, unrelated),
		internet("from the internet, other ports", err(ins, seen.Ports(1, 2)), unrelated),
		internet("from the internet, another peer inside", err(ins, seen.To(office)), unrelated),
		internet("from the internet, another source inside", err(ins, seen.From(web1.eip)), unrelated),
		internet("from the internet, the private address inside", err(ins, out), unrelated),
		internet("from the internet, source quench", ins.ICMP(4, 0, 0, [4]byte{}).Quote(seen, -1), unrelated),
		internet("from the internet, redirect", ins.ICMP(5, 5, 1, [4]byte{10, 0, 1, 9}).Quote(seen, -1), unrelated),
		internet("from the internet, a fragment", Either(fragment.Payload(4), fragment), unrelated),
		internet("from the internet, no quote", ins.ICMP(3, 1, 0, [4]byte{}), dataplane.ReasonMalformed),
		internet("from the internet, a quote of the header only", Either(
			ins.ICMP(3, 1, 0, [4]byte{}).Quote(seen, 20), ins.ICMP(3, 1, 0, [4]byte{}).Quote(seen, 40)), unrelated),
		internet("from the internet, about an error", err(ins, err(outward(web0, client).From(web0.eip), inn)), unrelated),
		internet("from the internet, in the name of the VPC", err(ins, seen).From(open1.ip), dataplane.ReasonEIPSource),
		internet("from the internet, in the name of the infrastructure", err(ins, seen).From(infra), dataplane.ReasonEIPSource),
		{Name: "from the internet about a flow of the VPC", Steps: []Step{
			send(web0, local, delivered(local, web0, db0)),
			{At: fromUplink, In: err(ins, local.From(web0.eip)), Want: denies(web0, unrelated)},
		}},
		{Name: "from the VPC about a flow of the internet", Steps: []Step{
			send(web0, out, translated(out, web0)),
			send(open1, err(frame(open1, web0), out), dropped(open1, unrelated)),
		}},
		{Name: "from another host about a flow of the internet", Steps: []Step{
			send(web0, out, translated(out, web0)),
			decapsulated(err(inner(web9, web0), out), red, hostB, denies(web0, unrelated)),
		}},
		{Name: "to the internet from another address than the flow's", Steps: []Step{
			{At: fromUplink, In: inn, Want: admitted(inn, web0)},
			send(web0, err(outward(web0, client).From(IP("10.0.1.11", "fd00:1:0:1::11")), inn.To(web0.ip)), dropped(web0, unrelated)),
		}},
		{Name: "to somebody else on the internet", Steps: []Step{
			{At: fromUplink, In: inn, Want: admitted(inn, web0)},
			send(web0, err(outward(web0, office), inn.To(web0.ip)), dropped(web0, unrelated)),
		}},
	}
}

// errorStateRows: an error needs a flow that passes, changes nothing of it, and is judged by the
// network ACL.
func errorStateRows() []Row {
	const denied, sgDenied = dataplane.ReasonNACLDenied, dataplane.ReasonSGDenied
	err := func(ip, q Packet) Packet { return ip.ICMP(3, 1, 0, [4]byte{}).Quote(q, -1) }
	noRule := func(o *api.Objects) { o.SecurityGroups["db"].Ingress = nil }
	then := func(name string, steps ...Step) Row { return Row{Name: name, Steps: append(handshake(), steps...)} }
	late := func(s Step, d time.Duration) Step { s.Later = d; return s }
	data := sql(PSH | ACK).Payload(9)
	toDB, toWeb := err(frame(web0, db0), sqlBack(ACK)), err(frame(db0, web0), sql(ACK))
	at := func(p party, state string) []Flow {
		return []Flow{{ENI: p.name, State: state, Opener: dataplane.In, Origin: "vpc"}}
	}
	with := func(w Want, flows []Flow) Want { w.Flows = flows; return w }
	reset := send(db0, sqlBack(RST|ACK), delivered(sqlBack(RST|ACK), db0, web0))
	half := tells(db0, web0, toWeb, sides(web0, db0, opening))
	rows := []Row{
		then("no rule for the error is needed", tells(db0, web0, toWeb, sides(web0, db0, established))),
		then("the flow goes on", tells(db0, web0, toWeb, sides(web0, db0, established)),
			tells(web0, db0, data, sides(web0, db0, established))),
		then("a blocked flow", after(noRule, send(web0, data, refused(web0, db0, sgDenied))),
			send(web0, toDB, refused(web0, db0, sgDenied))),
		then("a blocked flow, to the peer", after(noRule, send(web0, data, refused(web0, db0, sgDenied))),
			send(db0, toWeb, dropped(db0, sgDenied))),
		then("a flow that is to be blocked", after(noRule, send(web0, toDB, with(refused(web0, db0, sgDenied), at(db0, established))))),
		then("a blocked flow that may be revived is not by an error",
			after(noRule, send(web0, data, refused(web0, db0, sgDenied))),
			after(restored, send(web0, toDB, with(delivered(toDB, web0, db0), at(db0, blocked)))),
			tells(web0, db0, data, sides(web0, db0, established))),
		then("a closing flow stays closing", reset, tells(web0, db0, toDB, sides(web0, db0, closing))),
		then("a closing flow does not live longer", reset, late(send(web0, toDB, delivered(toDB, web0, db0)), 35*time.Second),
			late(send(web0, toDB, dropped(web0, dataplane.ReasonICMPUnrelated)), 7*time.Second)),
		{Name: "a half-open flow stays half-open", Steps: []Step{handshake()[0], half}},
		{Name: "a half-open flow does not live longer", Steps: []Step{
			handshake()[0], late(half, 25*time.Second),
			late(send(db0, toWeb, dropped(db0, dataplane.ReasonICMPUnrelated)), 6*time.Second),
		}},
	}
	return append(rows, errorACLRows(denied)...)
}

// noErrors makes a network ACL deny ICMP, but not echo.
func noErrors(entries []api.NACLEntry) []api.NACLEntry {
	first := []api.NACLEntry{
		{Number: 1, Protocol: api.Protocol{Number: 1}, ICMP: &api.ICMP{Type: 3}, CIDR: netip.MustParsePrefix("0.0.0.0/0")},
		{Number: 2, Protocol: api.Protocol{Number: 58}, ICMP: &api.ICMP{Type: 1}, CIDR: netip.MustParsePrefix("::/0")},
	}
	return append(first, entries...)
}

// errorACLRows: the network ACL judges errors like any packet.
func errorACLRows(denied dataplane.Reason) []Row {
	err := func(ip, q Packet) Packet { return ip.ICMP(3, 1, 0, [4]byte{}).Quote(q, -1) }
	inAway := func(o *api.Objects) { o.NetworkACLs["red-web"].Ingress = noErrors(o.NetworkACLs["red-web"].Ingress) }
	outAway := func(o *api.Objects) { o.NetworkACLs["red-web"].Egress = noErrors(o.NetworkACLs["red-web"].Egress) }
	toDB := frame(web0, open0).UDP(40000, 53)
	inside := frame(web0, open1).UDP(40000, 53)
	fromDB := frame(open0, web0).UDP(40000, 53)
	toNet, fromNet := outward(web0, client).UDP(40000, 53), inward(client, web0).UDP(40000, 53)
	expired := frame(open0, web0).ICMP(11, 3, 0, [4]byte{}).Quote(toDB, -1)
	huge := frame(open1, open9).ICMP(3, 1, 0, [4]byte{}).Quote(inner(open9, open1).UDP(40000, 53).Payload(1400), -1)
	reason := func(r dataplane.Reason) Want { return Want{Counts: []Count{in(web0, r)}} }
	return []Row{
		{Name: "denied at the border of the subnet, in", Steps: []Step{
			after(inAway, send(web0, toDB, delivered(toDB, web0, open0))),
			send(open0, err(frame(open0, web0), toDB), refused(open0, web0, denied)),
		}},
		{Name: "denied at the border of the subnet, out", Steps: []Step{
			after(outAway, send(open0, fromDB, delivered(fromDB, open0, web0))),
			send(web0, err(frame(web0, open0), fromDB), dropped(web0, denied)),
		}},
		{Name: "another error is not denied", Steps: []Step{
			after(inAway, send(web0, toDB, delivered(toDB, web0, open0))),
			send(open0, expired, delivered(expired, open0, web0)),
		}},
		{Name: "inside the subnet no network ACL counts", Steps: []Step{
			after(inAway, send(web0, inside, delivered(inside, web0, open1))),
			send(open1, err(frame(open1, web0), inside), delivered(err(frame(open1, web0), inside), open1, web0)),
		}},
		{Name: "denied from the internet", Steps: []Step{
			after(inAway, send(web0, toNet, translated(toNet, web0))),
			{At: fromUplink, In: err(inward(client, web0), toNet.From(web0.eip)), Want: reason(denied), TCDrops: true},
		}},
		{Name: "denied to the internet", Steps: []Step{
			after(outAway, Step{At: fromUplink, In: fromNet, Want: admitted(fromNet, web0)}),
			send(web0, err(outward(web0, client), fromNet.To(web0.ip)), dropped(web0, denied)),
		}},
		{Name: "an error that is too big is not answered", Steps: []Step{
			decapsulated(inner(open9, open1).UDP(40000, 53).Payload(1400), red, hostB,
				received(inner(open9, open1).UDP(40000, 53).Payload(1400), open9, open1)),
			send(open1, huge, dropped(open1, dataplane.ReasonTooBig)),
		}},
	}
}

// strayRows: neighbour discovery comes from the link only, never from other hosts or the internet.
func strayRows() []Row {
	var rows []Row
	body := append(web9.ip.V6.AsSlice(), 2, 1, 2, 0, 0, 0, 0x99, 0x99)
	for _, m := range []struct {
		name string
		typ  uint8
	}{
		{"listener query", 130}, {"listener report", 131}, {"listener done", 132}, {"router solicitation", 133},
		{"router advertisement", 134}, {"neighbour solicitation", 135}, {"neighbour advertisement", 136}, {"redirect", 137},
		{"second listener report", 143},
	} {
		over := inner(web9, web0).TTL(255).ICMP(0, m.typ, 0, [4]byte{}).Raw(body...).Only(V6)
		net := inward(client, web0).TTL(254).ICMP(0, m.typ, 0, [4]byte{}).Raw(body...).Only(V6)
		stray := Want{Counts: []Count{in(web0, dataplane.ReasonStrayNd)}}
		rows = append(rows,
			Row{Name: "from the overlay, " + m.name, Steps: []Step{decapsulated(over, red, hostB, stray)}},
			row("from the internet, "+m.name, fromUplink, net, stray))
	}
	hidden := inward(client, web0).Fragment(0, false).ICMP(0, 136, 0, [4]byte{}).Raw(body...).Only(V6)
	headers := inner(web9, web0).Extension(DestOptions).ICMP(0, 136, 0, [4]byte{}).Raw(body...).Only(V6)
	stray := Want{Counts: []Count{in(web0, dataplane.ReasonStrayNd)}}
	return append(rows,
		row("from the internet, in an atomic fragment", fromUplink, hidden, stray),
		Row{Name: "from the overlay, behind other headers", Steps: []Step{decapsulated(headers, red, hostB, stray)}})
}
