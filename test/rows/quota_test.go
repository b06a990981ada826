// SPDX-License-Identifier: Apache-2.0

package rows

import (
	"time"

	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/dataplane"
	. "github.com/eniplane/eniplane/pkg/pkttest"
)

// limited makes a revision in which an ENI may have so many flows; half of them may be half-open, per direction.
func limited(p party, flows int) func(*api.Objects) {
	return func(o *api.Objects) { o.ENIs[p.name].Limits.Flows = flows }
}

// within gives a step that brings a revision into force.
func within(s Step, revise func(*api.Objects)) Step {
	s.Revise = revise
	return s
}

// swept gives a step before which so much time passes, and the sweep comes by.
func swept(s Step, since, later time.Duration) Step {
	s.Later = later
	s.Poke = func(w *World) error { return w.Sweep(since+later, false) }
	return s
}

// dial is a packet of a connection from one ENI to another by the number of its port, back one of the other way.
func dial(from, to party, number int, flags uint8) Packet {
	return frame(from, to).TCP(40000+uint16(number), 80, flags)
}

func back(from, to party, number int, flags uint8) Packet {
	return frame(from, to).TCP(80, 40000+uint16(number), flags)
}

// dialled opens a connection up to its establishment.
func dialled(from, to party, number int) []Step {
	return []Step{
		send(from, dial(from, to, number, SYN), delivered(dial(from, to, number, SYN), from, to)),
		send(to, back(to, from, number, SYN|ACK), delivered(back(to, from, number, SYN|ACK), to, from)),
		send(from, dial(from, to, number, ACK), delivered(dial(from, to, number, ACK), from, to)),
	}
}

func steps(parts ...[]Step) []Step {
	var all []Step
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// quotaRows: an ENI has no more flows than it may have, and loses none that it has.
func quotaRows() []Row {
	const quota = dataplane.ReasonFlowQuota
	at := func(p party, flows int, before []Step) []Step {
		before[0].Revise = limited(p, flows)
		return before
	}
	pass := func(from, to party, p Packet) Step { return send(from, p, delivered(p, from, to)) }
	out := func(n int, flags uint8) Packet { return dial(open1, open0, n, flags) }
	question := func(n uint16) Packet { return frame(open1, open0).UDP(41000+n, 53) }
	return []Row{
		{Name: "the sender has what it may have", Steps: append(at(open1, 2, steps(dialled(open1, open0, 1), dialled(open1, open0, 2))),
			send(open1, out(3, SYN), dropped(open1, quota)))},
		{Name: "the receiver has what it may have", Steps: append(at(open0, 2, steps(dialled(open1, open0, 1), dialled(open1, open0, 2))),
			send(open1, out(3, SYN), refused(open1, open0, quota)))},
		{Name: "flows of both directions count", Steps: append(at(open0, 2, steps(dialled(open1, open0, 1), dialled(open0, open1, 2))),
			send(open1, out(3, SYN), refused(open1, open0, quota)))},
		{Name: "udp counts", Steps: append(at(open1, 2, steps(dialled(open1, open0, 1), dialled(open1, open0, 2))),
			send(open1, question(1), dropped(open1, quota)))},
		{Name: "an established flow goes on at the limit", Steps: append(at(open1, 2, steps(dialled(open1, open0, 1), dialled(open1, open0, 2))),
			send(open1, out(3, SYN), dropped(open1, quota)),
			pass(open1, open0, out(1, PSH|ACK)), pass(open0, open1, back(open0, open1, 1, PSH|ACK)))},
		{Name: "a connection opened again is none more", Steps: append(at(open1, 1, dialled(open1, open0, 1)),
			pass(open0, open1, back(open0, open1, 1, RST|ACK)), pass(open1, open0, out(1, SYN)))},
		{Name: "a lower limit ends nothing", Steps: append(steps(dialled(open1, open0, 1), dialled(open1, open0, 2)),
			within(pass(open1, open0, out(1, PSH|ACK)), limited(open1, 1)),
			pass(open1, open0, out(2, PSH|ACK)),
			send(open1, out(3, SYN), dropped(open1, quota)))},
		{Name: "a higher limit is room at once", Steps: append(at(open1, 1, dialled(open1, open0, 1)),
			send(open1, out(2, SYN), dropped(open1, quota)),
			within(pass(open1, open0, out(2, SYN)), limited(open1, 2)))},
		{Name: "what is denied does not count", Steps: []Step{
			within(send(web0, frame(web0, db0).TCP(40001, 81, SYN), refused(web0, db0, dataplane.ReasonSGDenied)), limited(db0, 1)),
			pass(web0, db0, sql(SYN)),
		}},
		{Name: "what has expired counts no more", Steps: append(at(open1, 1, dialled(open1, open0, 1)),
			pass(open0, open1, back(open0, open1, 1, RST|ACK)),
			swept(send(open1, out(2, SYN), dropped(open1, quota)), 0, 39*time.Second),
			swept(pass(open1, open0, out(2, SYN)), 39*time.Second, 2*time.Second))},
		{Name: "a cut begins a new count", Steps: append(at(open1, 1, dialled(open1, open0, 1)),
			within(pass(open1, open0, out(2, SYN)), func(o *api.Objects) {
				limited(open1, 1)(o)
				o.ENIs[open1.name].OnPolicyChange = api.Cut
				sg := o.SecurityGroups[o.ENIs[open1.name].SecurityGroups[0]]
				sg.Ingress = append(sg.Ingress[:len(sg.Ingress):len(sg.Ingress)], api.Rule{
					Name: "more", Protocol: api.Protocol{Number: 99}, Peers: sg.Ingress[0].Peers,
				})
			}))},
	}
}

// ringRows: half-open flows displace each other, the oldest first, and nothing else.
func ringRows() []Row {
	pass := func(from, to party, p Packet) Step { return send(from, p, delivered(p, from, to)) }
	out := func(n int, flags uint8) Packet { return dial(open1, open0, n, flags) }
	answer := func(n int, flags uint8) Packet { return back(open0, open1, n, flags) }
	const noFlow = dataplane.ReasonNoFlow
	// flood opens so many connections of which nobody hears again, before the step.
	flood := func(s Step, numbers ...int) Step {
		for _, n := range numbers {
			s.Ahead = append(s.Ahead, out(n, SYN))
		}
		return s
	}
	narrow := limited(open0, 4) // two places per direction
	return []Row{
		{Name: "the oldest makes way", Steps: []Step{
			within(pass(open1, open0, out(1, SYN)), narrow),
			pass(open1, open0, out(2, SYN)), pass(open1, open0, out(3, SYN)),
			pass(open0, open1, answer(3, SYN|ACK)), pass(open0, open1, answer(2, SYN|ACK)),
			send(open0, answer(1, SYN|ACK), dropped(open0, noFlow)),
		}},
		{Name: "the flood takes no more than its places", Steps: []Step{
			flood(within(pass(open1, open0, out(20, SYN)), narrow), 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13),
			pass(open1, open0, out(21, SYN)),
		}},
		{Name: "an established flow stays", Steps: append(
			func() []Step { s := dialled(open1, open0, 1); s[0].Revise = narrow; return s }(),
			flood(pass(open1, open0, out(1, PSH|ACK)), 2, 3, 4, 5, 6, 7, 8, 9),
			pass(open0, open1, answer(1, PSH|ACK)))},
		{Name: "an answered one is still half-open", Steps: []Step{
			within(pass(open1, open0, out(1, SYN)), narrow),
			pass(open0, open1, answer(1, SYN|ACK)),
			flood(pass(open1, open0, out(4, SYN)), 2, 3),
			send(open0, answer(1, SYN|ACK), dropped(open0, noFlow)),
		}},
		{Name: "a refused one is no better", Steps: []Step{
			within(pass(open1, open0, out(1, SYN)), narrow), pass(open0, open1, answer(1, RST|ACK)),
			pass(open1, open0, out(2, SYN)), pass(open0, open1, answer(2, RST|ACK)),
			pass(open1, open0, out(3, SYN)), pass(open0, open1, answer(3, RST|ACK)),
			pass(open1, open0, out(4, SYN)), pass(open0, open1, answer(4, RST|ACK)),
			pass(open1, open0, out(5, SYN)), pass(open0, open1, answer(5, SYN|ACK)),
		}},
		{Name: "the other direction has places of its own", Steps: []Step{
			within(pass(open0, open1, dial(open0, open1, 1, SYN)), limited(open0, 6)),
			flood(pass(open1, open0, out(9, SYN)), 2, 3, 4, 5, 6, 7, 8),
			pass(open1, open0, back(open1, open0, 1, SYN|ACK)),
			pass(open0, open1, dial(open0, open1, 1, ACK)),
		}},
		{Name: "another eni has places of its own", Steps: []Step{
			within(pass(open1, relay0, dial(open1, relay0, 1, SYN)), narrow),
			flood(pass(open1, open0, out(9, SYN)), 2, 3, 4, 5, 6, 7, 8),
			pass(relay0, open1, back(relay0, open1, 1, SYN|ACK)),
		}},
		{Name: "udp makes way like tcp", Steps: []Step{
			within(pass(open1, open0, frame(open1, open0).UDP(41001, 53)), narrow),
			flood(pass(open1, open0, out(4, SYN)), 2, 3),
			tells(open0, open1, frame(open0, open1).UDP(53, 41001), []Flow{ // its own question now
				{ENI: open0.name, State: opening, Opener: dataplane.Out, Origin: "vpc"},
				{ENI: open1.name, State: heard, Opener: dataplane.Out, Origin: "vpc"},
			}),
		}},
		{Name: "a connection opened again has a place again", Steps: []Step{
			within(pass(open1, open0, out(1, SYN)), narrow), pass(open0, open1, answer(1, RST|ACK)),
			pass(open1, open0, out(2, SYN)),
			pass(open1, open0, out(1, SYN)),
			pass(open1, open0, out(3, SYN)),
			pass(open0, open1, answer(1, SYN|ACK)),
			send(open0, answer(2, SYN|ACK), dropped(open0, noFlow)),
		}},
	}
}
