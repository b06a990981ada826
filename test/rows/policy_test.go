// SPDX-License-Identifier: Apache-2.0

package rows

import (
	"time"

	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/dataplane"
	. "github.com/eniplane/eniplane/pkg/pkttest"
)

// under gives ENIs another onPolicyChange before a change.
func under(mode api.PolicyChange, change func(*api.Objects)) func(*api.Objects) {
	return func(o *api.Objects) {
		for _, name := range []string{"web-0", "db-0"} {
			o.ENIs[name].OnPolicyChange = mode
		}
		change(o)
	}
}

// begun opens a connection under a mode.
func begun(mode api.PolicyChange) []Step {
	steps := handshake()
	steps[0].Revise = under(mode, restored)
	return steps
}

// modeRows: what the modes do with live flows, seen by packets of both directions.
func modeRows() []Row {
	const sgDenied, noFlow, naclDenied = dataplane.ReasonSGDenied, dataplane.ReasonNoFlow, dataplane.ReasonNACLDenied
	noRule := func(o *api.Objects) { o.SecurityGroups["db"].Ingress = nil }
	noMember := func(o *api.Objects) { o.ENIs["web-0"].SecurityGroups = []string{"open"} }
	noEgress := func(o *api.Objects) { o.SecurityGroups["web"].Egress = nil }
	otherSet := func(o *api.Objects) { o.ENIs["web-1"].SecurityGroups = []string{"web", "silent"} }
	deny := func(o *api.Objects) {
		o.NetworkACLs["red-web"].Egress = nil
		noRule(o)
	}
	otherPeer := func(o *api.Objects) {
		noRule(o)
		o.ENIs["web-0"].IPs, o.ENIs["open-1"].IPs = o.ENIs["open-1"].IPs, o.ENIs["web-0"].IPs
		for _, name := range []string{"web-0", "web-0-v6"} {
			delete(o.EIPs, name)
		}
	}
	data, back := sql(PSH|ACK).Payload(9), sqlBack(PSH|ACK).Payload(9)
	passes := tells(web0, db0, data, sides(web0, db0, established))
	answers := tells(db0, web0, back, sides(web0, db0, established))
	keep := func(name string, steps ...Step) Row {
		return Row{Name: "keep: " + name, Steps: append(begun(api.Keep), steps...)}
	}
	cut := func(name string, steps ...Step) Row {
		return Row{Name: "cut: " + name, Steps: append(begun(api.Cut), steps...)}
	}
	gone := func(change func(*api.Objects)) Step {
		return after(under(api.Cut, change), send(db0, back, dropped(db0, noFlow)))
	}
	refusedSyn := refused(web0, db0, sgDenied)
	return []Row{
		keep("no rule any more", after(under(api.Keep, noRule), passes), answers),
		keep("no rule any more, an answer first", after(under(api.Keep, noRule), answers), passes),
		keep("no egress rule any more", after(under(api.Keep, noEgress), passes), answers),
		keep("no member any more", after(under(api.Keep, noMember), passes), answers),
		keep("a new connection is judged", after(under(api.Keep, noRule),
			send(web0, sql(SYN).Ports(40001, 5432), refusedSyn))),
		keep("judged again for another cause", after(under(api.Keep, func(o *api.Objects) {
			noRule(o)
			o.ENIs["db-0"].SourceDestCheck = false
		}), passes), answers),
		keep("a network ACL still applies", after(under(api.Keep, deny), send(web0, data, dropped(web0, naclDenied))),
			after(under(api.Keep, noRule), passes)),
		keep("another ENI has the peer's address", after(under(api.Keep, otherPeer),
			send(db0, back, dropped(db0, sgDenied)))),
		keep("another mode judges", after(under(api.Reevaluate, noRule), send(web0, data, refusedSyn))),
		{Name: "keep: begins with a judgement", Steps: append(handshake(),
			after(under(api.Keep, noRule), send(web0, data, refusedSyn)), send(db0, back, dropped(db0, sgDenied)))},
		{Name: "keep: an allow revives what was blocked", Steps: append(handshake(),
			after(under(api.Keep, noRule), send(web0, data, refusedSyn)), after(under(api.Keep, restored), passes), answers)},
		keep("until it is idle", after(under(api.Keep, noRule), Step{
			At: web0.port(), In: data, Later: 7442 * time.Second, Want: dropped(web0, noFlow),
		})),

		cut("no rule any more", gone(noRule)),
		cut("no rule any more, seen by the opener", after(under(api.Cut, noRule), send(web0, data, refused(web0, db0, noFlow)))),
		cut("the rule comes back", gone(noRule), after(under(api.Cut, restored), send(db0, back, dropped(db0, noFlow))),
			send(web0, sql(SYN), delivered(sql(SYN), web0, db0))),
		cut("a rule more", gone(func(o *api.Objects) {
			o.SecurityGroups["db"].Ingress = append(o.SecurityGroups["db"].Ingress, o.SecurityGroups["open"].Ingress...)
		})),
		cut("another member", gone(func(o *api.Objects) { o.ENIs["open-1"].SecurityGroups = []string{"open", "web"} })),
		cut("a member less", gone(noMember)),
		cut("the same members with another group", after(under(api.Cut, otherSet), passes), answers),
		cut("a group that no rule names", after(under(api.Cut, func(o *api.Objects) {
			o.SecurityGroups["silent"].Ingress = o.SecurityGroups["open"].Ingress
		}), passes), answers),
		cut("a network ACL judges and ends nothing", after(under(api.Cut, func(o *api.Objects) {
			o.NetworkACLs["red-web"].Egress = nil
		}), send(web0, data, dropped(web0, naclDenied))), after(under(api.Cut, restored), passes)),
		cut("another mode after a cut", gone(noRule), after(restored, send(db0, back, dropped(db0, noFlow)))),
	}
}

// timeoutRows: an ENI's own timeouts, on insert and on touch.
func timeoutRows() []Row {
	own := func(o *api.Objects) {
		for _, name := range []string{"web-0", "db-0"} {
			o.ENIs[name].Timeouts = api.Timeouts{TCPEstablished: 60, UDP: 60, UDPStream: 61}
		}
	}
	question, answer := frame(db0, web0).UDP(40000, 53), frame(web0, db0).UDP(53, 40000)
	begin := func() []Step {
		steps := handshake()
		steps[0].Revise = own
		return steps
	}
	late := func(after time.Duration, s Step) Step {
		s.Later = after
		return s
	}
	tooLate := refused(web0, db0, dataplane.ReasonSGDenied)
	return []Row{
		{Name: "tcp, just in time", Steps: append(begin(), late(59*time.Second, tells(web0, db0, sql(ACK), sides(web0, db0, established))))},
		{Name: "tcp, too late", Steps: append(begin(), late(62*time.Second, send(web0, sql(ACK), dropped(web0, dataplane.ReasonNoFlow))))},
		{Name: "udp, just in time", Steps: []Step{
			after(own, tells(db0, web0, question, sides(db0, web0, opening))),
			late(59*time.Second, tells(web0, db0, answer, sides(db0, web0, heard))),
		}},
		{Name: "udp, too late", Steps: []Step{
			after(own, tells(db0, web0, question, sides(db0, web0, opening))),
			late(62*time.Second, send(web0, answer, tooLate)),
		}},
		{Name: "udp stream, too late", Steps: []Step{
			after(own, tells(db0, web0, question, sides(db0, web0, opening))),
			tells(web0, db0, answer, sides(db0, web0, heard)),
			tells(db0, web0, question, sides(db0, web0, established)),
			late(63*time.Second, send(web0, answer, tooLate)),
		}},
		{Name: "shorter for a live flow", Steps: append(handshake(), after(own, send(web0, sql(ACK), delivered(sql(ACK), web0, db0))),
			late(62*time.Second, send(web0, sql(ACK), dropped(web0, dataplane.ReasonNoFlow))))},
	}
}

// resetRows: RST counts only near what its sender sent (calico#9605).
func resetRows() []Row {
	const window = dataplane.ReasonTCPWindow
	const near, far = 256 << 16, 258 << 16
	rst := func(seq uint32) Packet { return sql(RST).Numbers(seq, 0) }
	rstBack := func(seq, ack uint32) Packet { return sqlBack(RST|ACK).Numbers(seq, ack) }
	held := tells(web0, db0, sql(PSH|ACK).Payload(9), sides(web0, db0, established))
	then := func(name string, before []Step, steps ...Step) Row {
		return Row{Name: name, Steps: append(before, steps...)}
	}
	ends := func(p Packet) Step { return tells(web0, db0, p, sides(web0, db0, closing)) }
	outside := send(web0, rst(far), dropped(web0, window))
	outsideBack := send(db0, rstBack(far, 1001), dropped(db0, window))
	syn := sql(SYN)
	challenge := func(ack uint32) Packet { return sqlBack(ACK).Numbers(7, ack) }
	const old = 0x70000000
	return []Row{
		then("reset outside the window", handshake(), outside, held),
		then("reset outside the window, from the other side", handshake(), outsideBack, held),
		then("reset before the window", handshake(), send(web0, rst(1<<32-far), dropped(web0, window)), held),
		then("reset inside the window", handshake(), ends(rst(near))),
		then("reset inside the window, before", handshake(), ends(rst(1<<32-near))),
		then("reset inside the window, from the other side", handshake(),
			tells(db0, web0, rstBack(near, 1001), sides(web0, db0, closing))),
		then("a number far away moves no window", handshake(),
			send(web0, sql(ACK).Numbers(old, 2000), delivered(sql(ACK).Numbers(old, 2000), web0, db0)),
			send(web0, rst(old), dropped(web0, window)), held),
		then("the other side says how far it is", handshake(),
			send(db0, challenge(old), delivered(challenge(old), db0, web0)), ends(rst(old))),
		then("the window moves with the data", handshake(),
			send(web0, sql(ACK).Numbers(near, 2000), delivered(sql(ACK).Numbers(near, 2000), web0, db0)),
			send(web0, sql(ACK).Numbers(2*near, 2000), delivered(sql(ACK).Numbers(2*near, 2000), web0, db0)),
			ends(rst(3*near))),
		then("a host that is back resets what was", handshake(),
			send(web0, syn.Numbers(old, 0), delivered(syn.Numbers(old, 0), web0, db0)),
			tells(db0, web0, challenge(1000), sides(web0, db0, established)), ends(rst(1000)),
			tells(web0, db0, syn.Numbers(old, 0), sides(web0, db0, opening))),
		then("a challenge to a new connection", handshake()[:1],
			send(db0, challenge(old), delivered(challenge(old), db0, web0)), tells(web0, db0, rst(old), sides(web0, db0, turnedAway))),
		then("refused with number 0", handshake()[:1], tells(db0, web0, rstBack(0, 1001), sides(web0, db0, turnedAway))),
		then("refused without a SYN's number", handshake()[:1], send(db0, rstBack(0, old), dropped(db0, window)),
			tells(db0, web0, sqlBack(SYN|ACK), sides(web0, db0, heard))),
		then("refused without an acknowledgement", handshake()[:1], send(db0, sqlBack(RST), dropped(db0, window))),
		then("wrapped around", []Step{
			send(web0, sql(SYN).Numbers(1<<32-1, 0), delivered(sql(SYN).Numbers(1<<32-1, 0), web0, db0)),
			send(db0, sqlBack(SYN|ACK).Numbers(5, 0), delivered(sqlBack(SYN|ACK).Numbers(5, 0), db0, web0)),
			send(web0, sql(ACK).Numbers(0, 6), delivered(sql(ACK).Numbers(0, 6), web0, db0)),
		}, ends(rst(3))),
	}
}
