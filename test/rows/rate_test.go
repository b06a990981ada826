// SPDX-License-Identifier: Apache-2.0

package rows

import (
	"time"

	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/dataplane"
	. "github.com/eniplane/eniplane/pkg/pkttest"
)

// paced limits what an ENI may have in a second; 0 = it does not.
func paced(p party, packets, flows int) func(*api.Objects) {
	return func(o *api.Objects) {
		o.ENIs[p.name].Limits.PacketsPerSecond, o.ENIs[p.name].Limits.NewFlowsPerSecond = packets, flows
	}
}

// owing gives a step before which the packets or new flows of an ENI have taken so much more than they may.
func owing(p party, debt time.Duration, s Step) Step {
	s.Poke = func(w *World) error { return w.Owe(p.name, debt) }
	return s
}

// cut gives a step whose packet stands for so many on the wire.
func segmented(s Step, size uint32, segments uint64) Step {
	s.GSO = size
	for i := range s.Want.Counts {
		s.Want.Counts[i].Packets = segments
	}
	return s
}

func later(s Step, d time.Duration) Step {
	s.Later = d
	return s
}

// packetRateRows: how many packets of an ENI pass in a second. All that it sends counts, and what it gets. A clock that
// runs by itself is in these rows: debts are of seconds, so that it does not matter.
func packetRateRows() []Row {
	const rate, debt = dataplane.ReasonPacketRate, 1000 * time.Second
	question := func(n uint16) Packet { return frame(open1, open0).UDP(41000+n, 53) }
	answer := func(n uint16) Packet { return frame(open0, open1).UDP(53, 41000+n) }
	pass := func(from, to party, p Packet) Step { return send(from, p, delivered(p, from, to)) }
	slow := func(p party, s Step) Step { return within(s, paced(p, 1, 0)) }
	big := frame(open1, open0).UDP(40000, 53).Payload(2400)
	local := segmented(pass(open1, open0, big), 61, 40)
	back := frame(open0, open1).UDP(53, 40000)
	denied := segmented(send(web0, frame(web0, db0).TCP(40001, 81, SYN).Payload(2400), refused(web0, db0, dataplane.ReasonSGDenied)), 60, 40)
	spoofed := segmented(send(open1, Eth(strangeMAC, gatewayMAC).IP(open1.ip, open0.ip).UDP(40000, 53).Payload(2400),
		dropped(open1, dataplane.ReasonSpoofedMAC)), 61, 40)
	stops := send(open1, question(1), dropped(open1, rate))
	arp := row("", open1.port(), Eth(open1.mac, Broadcast).ARP(ARPRequest, open1.mac, open1.ip, MAC{}, gateway), dropped(open1, rate)).Steps[0]
	fromNet := inward(client, web0).TCP(40000, 443, SYN)
	far := inner(open9, open0).UDP(40000, 53)
	return []Row{
		{Name: "nothing owed", Steps: []Step{slow(open1, pass(open1, open0, question(1)))}},
		{Name: "the sender's", Steps: []Step{slow(open1, owing(open1, debt, stops))}},
		{Name: "the receiver's", Steps: []Step{slow(open0, owing(open0, debt, send(open1, question(1), refused(open1, open0, rate))))}},
		{Name: "no limit, no debt", Steps: []Step{owing(open1, debt, pass(open1, open0, question(1)))}},
		{Name: "another's", Steps: []Step{slow(open1, owing(open1, debt, pass(open0, web0, frame(open0, web0).Echo(1))))}},
		{Name: "what is owed is paid in time", Steps: []Step{
			slow(open1, owing(open1, debt, stops)), later(stops, debt/2), later(pass(open1, open0, question(1)), debt),
		}},
		{Name: "gso counts by segments", Steps: []Step{
			slow(open1, local), stops, later(stops, 30*time.Second), later(pass(open1, open0, question(1)), 11*time.Second),
		}},
		{Name: "gso to the receiver counts by segments", Steps: []Step{
			slow(open0, local), send(open0, back, dropped(open0, rate)), later(pass(open0, open1, back), 41*time.Second),
		}},
		{Name: "gso at a higher rate", Steps: []Step{
			within(local, paced(open1, 4, 0)), later(stops, 8*time.Second), later(pass(open1, open0, question(1)), 2*time.Second),
		}},
		{Name: "gso that is too much", Steps: []Step{slow(open1, owing(open1, debt, segmented(send(open1, big, dropped(open1, rate)), 61, 40)))}},
		{Name: "what comes counts against what goes", Steps: []Step{
			slow(open1, segmented(pass(open0, open1, frame(open0, open1).UDP(40000, 53).Payload(2400)), 61, 40)), stops,
		}},
		{Name: "what the sender may not send counts", Steps: []Step{slow(open1, spoofed), stops}},
		{Name: "what the receiver does not get counts not", Steps: []Step{slow(db0, denied), pass(web0, db0, sql(SYN))}},
		{Name: "an established flow too", Steps: append(handshake(),
			slow(web0, owing(web0, debt, send(web0, sql(PSH|ACK), dropped(web0, rate)))), send(db0, sqlBack(ACK), refused(db0, web0, rate)))},
		{Name: "arp too", Steps: []Step{slow(open1, owing(open1, debt, arp))}},
		{Name: "from the internet", Steps: []Step{
			slow(web0, owing(web0, debt, Step{At: fromUplink, In: fromNet, Want: Want{Counts: []Count{in(web0, rate)}}})),
		}},
		{Name: "from another host", Steps: []Step{
			slow(open0, owing(open0, debt, decapsulated(far, red, hostB, Want{Counts: []Count{in(open0, rate)}}))),
		}},
		{Name: "another rate forgives a debt and fills nothing", Steps: []Step{
			slow(open1, owing(open1, debt, stops)), within(stops, paced(open1, 2, 0)),
			later(pass(open1, open0, question(1)), 2*time.Second),
		}},
		{Name: "another revision forgives nothing", Steps: []Step{
			slow(open1, owing(open1, debt, stops)), later(within(stops, paced(open1, 1, 7)), debt/2),
		}},
		{Name: "no limit any more", Steps: []Step{slow(open1, owing(open1, debt, stops)), within(pass(open1, open0, question(1)), restored)}},
		{Name: "another eni owes nothing", Steps: []Step{
			slow(open1, owing(open1, debt, stops)),
			within(pass(open1, open0, question(1)), func(o *api.Objects) {
				paced(open1, 1, 0)(o)
				o.ENIs[open1.name].UID = "another"
			}),
		}},
		{Name: "answers are not its packets", Steps: []Step{
			slow(open1, pass(open1, open0, question(1))), later(pass(open0, open1, answer(1)), 3*time.Second),
		}},
	}
}

// flowRateRows: how many flows an ENI opens, or has opened to it, in a second.
func flowRateRows() []Row {
	const rate, debt = dataplane.ReasonFlowRate, 1000 * time.Second
	pass := func(from, to party, p Packet) Step { return send(from, p, delivered(p, from, to)) }
	slow := func(p party, s Step) Step { return within(s, paced(p, 0, 1)) }
	out := func(n int, flags uint8) Packet { return dial(open1, open0, n, flags) }
	answer := func(n int, flags uint8) Packet { return back(open0, open1, n, flags) }
	stops := send(open1, out(9, SYN), dropped(open1, rate))
	owed := func(p party, s Step) Step { return slow(p, owing(p, debt, s)) }
	then := func(name string, steps ...Step) Row {
		return Row{Name: name, Steps: append(dialled(open1, open0, 1), steps...)}
	}
	denied := frame(web0, db0).TCP(40001, 81, SYN)
	flood := slow(db0, send(web0, denied, refused(web0, db0, dataplane.ReasonSGDenied)))
	burst := slow(open1, stops)
	for n := range 60 {
		flood.Ahead = append(flood.Ahead, denied)
		burst.Ahead = append(burst.Ahead, out(10+n, SYN))
	}
	inbound := inward(client, web0).TCP(40000, 443, SYN)
	far := inner(open9, open0).TCP(40000, 443, SYN)
	return []Row{
		{Name: "nothing owed", Steps: []Step{slow(open1, pass(open1, open0, out(1, SYN)))}},
		{Name: "the sender's", Steps: []Step{owed(open1, stops)}},
		{Name: "the receiver's", Steps: []Step{owed(open0, send(open1, out(9, SYN), refused(open1, open0, rate)))}},
		{Name: "as many as there are", Steps: []Step{burst}},
		{Name: "no limit, no debt", Steps: []Step{owing(open1, debt, pass(open1, open0, out(1, SYN)))}},
		{Name: "what is owed is paid in time", Steps: []Step{owed(open1, stops), later(stops, debt/2), later(pass(open1, open0, out(9, SYN)), debt)}},
		then("an established flow goes on", owed(open1, pass(open1, open0, out(1, PSH|ACK))), pass(open0, open1, answer(1, ACK))),
		then("an established flow goes on at the receiver", owed(open0, pass(open1, open0, out(1, PSH|ACK))), pass(open0, open1, answer(1, ACK))),
		then("a flow that is judged again is not new", owed(open1, pass(open1, open0, out(1, ACK))),
			within(pass(open1, open0, out(1, PSH|ACK)), func(o *api.Objects) {
				paced(open1, 0, 1)(o)
				o.ENIs[open1.name].SourceDestCheck = false
			})),
		then("a connection opened again is new", pass(open0, open1, answer(1, RST|ACK)), owed(open1, send(open1, out(1, SYN), dropped(open1, rate)))),
		{Name: "a half-open flow's packet is none more", Steps: []Step{
			pass(open1, open0, out(1, SYN)), owed(open1, pass(open1, open0, out(1, SYN))), pass(open0, open1, answer(1, SYN|ACK)),
		}},
		{Name: "udp", Steps: []Step{owed(open1, send(open1, frame(open1, open0).UDP(41000, 53), dropped(open1, rate)))}},
		{Name: "icmp", Steps: []Step{owed(open1, send(open1, frame(open1, open0).Echo(3), dropped(open1, rate)))}},
		{Name: "what is denied costs nothing", Steps: []Step{flood, pass(web0, db0, sql(SYN))}},
		{Name: "what is denied is denied first", Steps: []Step{owed(db0, send(web0, denied, refused(web0, db0, dataplane.ReasonSGDenied)))}},
		{Name: "asked before the quota", Steps: append(dialled(open1, open0, 1), within(owing(open1, debt, stops), func(o *api.Objects) {
			paced(open1, 0, 1)(o)
			limited(open1, 1)(o)
		}))},
		{Name: "both limits", Steps: []Step{within(burst, paced(open1, 1000000, 1))}},
		{Name: "from the internet", Steps: []Step{
			owed(web0, Step{At: fromUplink, In: inbound, Want: Want{Counts: []Count{in(web0, rate)}}}),
		}},
		{Name: "from another host", Steps: []Step{owed(open0, decapsulated(far, red, hostB, Want{Counts: []Count{in(open0, rate)}}))}},
		{Name: "another rate forgives a debt and fills nothing", Steps: []Step{
			owed(open1, stops), within(stops, paced(open1, 0, 2)), later(pass(open1, open0, out(9, SYN)), 2*time.Second),
		}},
		{Name: "no limit any more", Steps: []Step{owed(open1, stops), within(pass(open1, open0, out(9, SYN)), restored)}},
	}
}
