// SPDX-License-Identifier: Apache-2.0

package rows

import (
	"time"

	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/dataplane"
	. "github.com/eniplane/eniplane/pkg/pkttest"
)

// halfOpenRows: who was heard, and when that makes a connection established.
func halfOpenRows() []Row {
	const noFlow = dataplane.ReasonNoFlow
	step := func(from, to party, p Packet, state string) Step { return tells(from, to, p, sides(web0, db0, state)) }
	asks := func(p Packet, state string) Step { return step(web0, db0, p, state) }
	answers := func(p Packet, state string) Step { return step(db0, web0, p, state) }
	row := func(name string, steps ...Step) Row {
		return Row{Name: name, Steps: append([]Step{asks(sql(SYN), opening)}, steps...)}
	}
	synAck := answers(sqlBack(SYN|ACK), heard)
	late := func(after time.Duration, s Step) Step {
		s.Later = after
		return s
	}
	data, back := sql(PSH|ACK).Payload(9), sqlBack(PSH|ACK).Payload(9)
	const old, far = 0x70000000, 0x50000000
	noRule := func(o *api.Objects) { o.SecurityGroups["db"].Ingress = nil }
	blocks := after(noRule, send(web0, data, refused(web0, db0, dataplane.ReasonSGDenied)))
	return []Row{
		row("a syn flood against an open port that answers", synAck, synAck, asks(sql(SYN), heard), synAck,
			late(31*time.Second, send(db0, sqlBack(SYN|ACK), dropped(db0, noFlow)))),
		row("a syn again after the answer", synAck, asks(sql(SYN), heard), asks(sql(ACK), established)),
		row("a syn-ack again", synAck, synAck, asks(sql(ACK), established), answers(sqlBack(SYN|ACK), established)),
		row("data before the opener's ack", synAck, answers(back, heard), answers(sqlBack(ACK), heard), asks(sql(ACK), established)),
		row("fin before the opener's ack", synAck, answers(sqlBack(FIN|ACK), heard), asks(sql(ACK), established),
			asks(sql(FIN|ACK), closing)),
		row("data with the opener's ack", synAck, asks(data, established)),
		row("fin with the opener's ack", synAck, asks(sql(FIN|ACK), established)),
		row("both sides open", answers(sqlBack(SYN), heard), asks(sql(SYN|ACK), established), answers(sqlBack(SYN|ACK), established)),
		row("both sides open, and the opener's ack is lost", answers(sqlBack(SYN), heard), answers(sqlBack(SYN|ACK), heard),
			asks(sql(ACK), established)),
		row("data without an ack", synAck, asks(sql(PSH), heard)),
		row("reset by the opener", synAck, asks(sql(RST), turnedAway)),
		row("reset by the other side", synAck, answers(sqlBack(RST), turnedAway)),
		row("reset by the other side, far from where it is", synAck,
			send(db0, sqlBack(RST|ACK).Numbers(old, 1001), dropped(db0, dataplane.ReasonTCPWindow))),
		row("a refused connection opens again", answers(sqlBack(RST|ACK), turnedAway), asks(sql(SYN), opening), synAck,
			asks(sql(ACK), established)),
		row("begun again with other numbers", synAck, asks(sql(SYN).Numbers(old, 0), heard),
			answers(sqlBack(SYN|ACK).Numbers(far, old+1), heard), asks(sql(ACK).Numbers(old+1, far+1), established)),
		row("a challenge after the answer", synAck, answers(sqlBack(ACK).Numbers(1000, old), heard),
			asks(sql(RST).Numbers(old, 0), turnedAway)),
		row("blocked, and begun again by a syn", synAck, asks(sql(FIN|ACK), established), answers(sqlBack(FIN|ACK), closing),
			blocks, after(restored, asks(sql(SYN), opening)), synAck, asks(sql(ACK), established)),
		row("blocked while half-open, and revived by data", synAck, blocks, after(restored, asks(data, established))),
	}
}

// endRows: how connections end, and begin again.
func endRows() []Row {
	const noFlow, sgDenied = dataplane.ReasonNoFlow, dataplane.ReasonSGDenied
	row := func(name string, steps ...Step) Row { return Row{Name: name, Steps: append(handshake(), steps...)} }
	asks := func(p Packet, state string) Step { return tells(web0, db0, p, sides(web0, db0, state)) }
	answers := func(p Packet, state string) Step { return tells(db0, web0, p, sides(web0, db0, state)) }
	late := func(after time.Duration, s Step) Step {
		s.Later = after
		return s
	}
	noRule := func(o *api.Objects) { o.SecurityGroups["db"].Ingress = nil }
	fin, finBack, back := asks(sql(FIN|ACK), established), answers(sqlBack(FIN|ACK), closing), sqlBack(PSH|ACK).Payload(9)
	open := func(from, to party, flags uint8, state string) Step {
		p := frame(from, to).TCP(40000, 443, flags)
		if from.name == open0.name {
			p = frame(from, to).TCP(443, 40000, flags)
		}
		return tells(from, to, p, sides(open1, open0, state))
	}
	again := frame(open0, open1).TCP(443, 40000, SYN)
	return []Row{
		row("half-closed, and the other side goes on", fin, late(time.Hour, answers(back, established)),
			asks(sql(ACK), established), finBack),
		row("half-closed for too long", fin, late(7442*time.Second, send(db0, back, dropped(db0, noFlow)))),
		row("half-closed by the other side", answers(sqlBack(FIN|ACK), established), asks(sql(PSH|ACK).Payload(9), established),
			asks(sql(FIN|ACK), closing)),
		row("fin twice is one side", fin, fin, answers(back, established)),
		row("the last ack", fin, finBack, asks(sql(ACK), closing), late(39*time.Second, asks(sql(ACK), closing)),
			late(41*time.Second, send(web0, sql(ACK), dropped(web0, noFlow)))),
		row("reset while half-closed", fin, answers(sqlBack(RST|ACK), closing)),
		row("reset after both fins", fin, finBack, asks(sql(RST), closing),
			send(web0, sql(RST).Numbers(0x70000000, 0), dropped(web0, dataplane.ReasonTCPWindow))),
		row("opened again after both fins", fin, finBack, asks(sql(SYN).Numbers(0x70000000, 0), opening),
			answers(sqlBack(SYN|ACK).Numbers(5, 0x70000001), heard), asks(sql(ACK).Numbers(0x70000001, 6), established)),
		row("only a syn opens again", fin, finBack, asks(sql(SYN|ACK), closing), asks(sql(PSH|ACK), closing)),
		row("opened again, but denied by now: the old one stays", fin, finBack,
			after(noRule, send(web0, sql(SYN), refused(web0, db0, sgDenied))),
			after(restored, tells(db0, web0, sqlBack(ACK), []Flow{
				{ENI: web0.name, State: opening, Opener: dataplane.Out, Origin: "vpc"},
				{ENI: db0.name, State: closing, Opener: dataplane.In, Origin: "vpc"},
			}))),
		{Name: "opened again by the other side, which may", Steps: []Step{
			open(open1, open0, SYN, opening), open(open0, open1, SYN|ACK, heard), open(open1, open0, ACK, established),
			open(open0, open1, RST|ACK, closing), tells(open0, open1, again, sides(open0, open1, opening)),
		}},
		row("a syn in the middle changes nothing", asks(sql(SYN).Numbers(0x70000000, 0), established), answers(back, established)),
	}
}

// blindRows: who cannot hear the answer establishes nothing.
func blindRows() []Row {
	const window = dataplane.ReasonTCPWindow
	const near, far = 256 << 16, 258 << 16
	const cookie = 0x70000000
	begin := func() []Step {
		return []Step{
			tells(web0, db0, sql(SYN), sides(web0, db0, opening)),
			tells(db0, web0, sqlBack(SYN|ACK).Numbers(cookie, 1001), sides(web0, db0, heard)),
		}
	}
	drop := func(name string, p Packet) Row {
		return Row{Name: name, Steps: append(begin(), send(web0, p, dropped(web0, window)),
			tells(web0, db0, sql(ACK).Numbers(1001, cookie+1), sides(web0, db0, established)))}
	}
	pass := func(name string, p Packet) Row {
		return Row{Name: name, Steps: append(begin(), tells(web0, db0, p, sides(web0, db0, established)))}
	}
	forged := sql(ACK).Numbers(1001, 7)
	opened := admitted(inward(client, web0).TCP(40000, 443, SYN), web0)
	opened.Flows = fromNet(web0, opening, dataplane.In)
	answer := outward(web0, client).TCP(443, 40000, SYN|ACK).Numbers(cookie, 1001)
	told := translated(answer, web0)
	told.Flows = fromNet(web0, heard, dataplane.In)
	true1 := inward(client, web0).TCP(40000, 443, ACK).Numbers(1001, cookie+1)
	last := admitted(true1, web0)
	last.Flows = fromNet(web0, established, dataplane.In)
	return []Row{
		drop("a blind ack", forged),
		drop("a blind ack with data", sql(PSH|ACK).Numbers(1001, 7).Payload(9)),
		drop("a blind fin", sql(FIN|ACK).Numbers(1001, 7)),
		drop("a blind syn-ack", sql(SYN|ACK).Numbers(1000, 7)),
		drop("beyond what was sent", sql(ACK).Numbers(1001, cookie+far)),
		drop("before what was sent", sql(ACK).Numbers(1001, cookie-far)),
		pass("near what was sent", sql(ACK).Numbers(1001, cookie+near)),
		pass("near what was sent, before", sql(ACK).Numbers(1001, cookie-near)),
		{Name: "an ack before the answer proves nothing", Steps: []Step{
			tells(web0, db0, sql(SYN), sides(web0, db0, opening)),
			tells(web0, db0, forged, sides(web0, db0, opening)),
			tells(db0, web0, sqlBack(SYN|ACK).Numbers(cookie, 1001), sides(web0, db0, heard)),
			send(web0, forged, dropped(web0, window)),
		}},
		{Name: "a blind ack from the internet", Steps: []Step{
			{At: fromUplink, In: inward(client, web0).TCP(40000, 443, SYN), Want: opened},
			send(web0, answer, told),
			{At: fromUplink, In: inward(client, web0).TCP(40000, 443, ACK).Numbers(1001, 7), Want: Want{Counts: []Count{in(web0, window)}}},
			{At: fromUplink, In: true1, Want: last},
		}},
		{Name: "a blind ack is forgotten with its flow", Steps: append(begin(),
			send(web0, forged, dropped(web0, window)),
			Step{At: web0.port(), In: forged, Later: 31 * time.Second, Want: dropped(web0, dataplane.ReasonNoFlow)})},
	}
}

// codeRows: the code of an ICMP request is part of what was judged; that of an answer is the network ACL's business.
func codeRows() []Row {
	const sgDenied, naclDenied = dataplane.ReasonSGDenied, dataplane.ReasonNACLDenied
	ask := func(code uint8) Packet { return frame(open0, web0).ICMP(8, 128, code, [4]byte{0, 7, 0, 1}) }
	tell := func(code uint8) Packet { return frame(web0, open0).ICMP(0, 129, code, [4]byte{0, 7, 0, 1}) }
	asks := func(code uint8, state string) Step { return tells(open0, web0, ask(code), sides(open0, web0, state)) }
	answers := func(code uint8, state string) Step { return tells(web0, open0, tell(code), sides(open0, web0, state)) }
	anyCode := func(o *api.Objects) {
		o.SecurityGroups["web"].Ingress = append(o.SecurityGroups["web"].Ingress, o.SecurityGroups["open"].Ingress...)
	}
	// The network ACL of web0's subnet denies answers of one code.
	denies := func(code uint8) func(*api.Objects) {
		return func(o *api.Objects) {
			acl := o.NetworkACLs["red-web"]
			for i := range 2 {
				e := acl.Egress[len(acl.Egress)-2+i] // all of a family
				e.Number, e.Allow, e.Protocol, e.ICMP = 10+i, false, api.Protocol{Number: api.ProtoICMP}, &api.ICMP{Type: 0, Code: &code}
				if e.CIDR.Addr().Is6() {
					e.Protocol, e.ICMP = api.Protocol{Number: api.ProtoICMPv6}, &api.ICMP{Type: 129, Code: &code}
				}
				acl.Egress = append([]api.NACLEntry{e}, acl.Egress...)
			}
		}
	}
	other := refused(open0, web0, sgDenied)
	return []Row{
		{Name: "another code is not what was judged", Steps: []Step{
			asks(0, opening), send(open0, ask(1), other), answers(0, heard),
			tells(open0, web0, ask(0), []Flow{ // to its own side the last request was another one
				{ENI: open0.name, State: opening, Opener: dataplane.Out, Origin: "vpc"},
				{ENI: web0.name, State: established, Opener: dataplane.In, Origin: "vpc"},
			}),
		}},
		{Name: "another code that is allowed begins anew", Steps: []Step{
			after(anyCode, asks(0, opening)), answers(0, heard), asks(0, established), asks(1, opening), answers(1, heard),
			asks(1, established),
		}},
		{Name: "another code that is allowed takes the place of a blocked flow", Steps: []Step{
			after(anyCode, asks(1, opening)), after(restored, send(open0, ask(1), other)), asks(0, opening), answers(0, heard),
		}},
		{Name: "an answer asks for the request's verdict", Steps: []Step{
			after(anyCode, asks(1, opening)), after(restored, send(web0, tell(1), dropped(web0, sgDenied))),
		}},
		{Name: "an answer asks for the request's verdict, allowed", Steps: []Step{
			after(anyCode, asks(0, opening)), after(restored, answers(0, heard)), answers(5, heard), asks(0, established),
		}},
		{Name: "the network ACL denies answers with a code", Steps: []Step{
			after(denies(1), asks(0, opening)), send(web0, tell(1), dropped(web0, naclDenied)), answers(0, heard),
			send(web0, tell(1), dropped(web0, naclDenied)), answers(2, heard),
		}},
		{Name: "the network ACL denies answers without a code", Steps: []Step{
			after(denies(0), asks(0, opening)), send(web0, tell(0), dropped(web0, naclDenied)), answers(1, heard),
		}},
		{Name: "an answer with a code, after a revision", Steps: []Step{
			asks(0, opening), after(denies(1), send(web0, tell(1), dropped(web0, naclDenied))), answers(2, heard),
		}},
		row("an answer with a code to nobody's request", web0.port(), tell(1), dropped(web0, dataplane.ReasonNoFlow)),
	}
}
