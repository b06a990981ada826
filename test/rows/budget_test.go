// SPDX-License-Identifier: Apache-2.0

package rows

import (
	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/dataplane"
	. "github.com/eniplane/eniplane/pkg/pkttest"
)

// budgetRows: how many flows of an ENI are judged again in a moment, and who need not wait for that.
func budgetRows() []Row {
	const limit, sgDenied = dataplane.ReasonFlowJudgeLimit, dataplane.ReasonSGDenied
	const budget = 2 * 65536 // twice the flows that an ENI may have
	used := func(n uint32, s Step) Step {
		s.Poke = UseTurns(db0.name, n, false)
		return s
	}
	left := func(n uint32, s Step) Step { return used(budget-n, s) }
	few := func(flows int) func(*api.Objects) {
		return func(o *api.Objects) {
			o.ENIs["db-0"].SourceDestCheck = false
			o.ENIs["db-0"].Limits.Flows = flows
		}
	}
	noRule := func(o *api.Objects) { o.SecurityGroups["db"].Ingress = nil }
	stale := func(o *api.Objects) { o.ENIs["db-0"].SourceDestCheck = false } // judged again, with the same answer
	kept := under(api.Keep, noRule)
	data, back := sql(PSH|ACK).Payload(9), sqlBack(PSH|ACK).Payload(9)
	passes := tells(web0, db0, data, sides(web0, db0, established))
	answers := tells(db0, web0, back, sides(web0, db0, established))
	waits := send(web0, data, refused(web0, db0, limit))
	waits.Want.Flows = sides(web0, db0, established)
	denied := send(web0, data, refused(web0, db0, sgDenied))
	other := sql(SYN).Ports(40001, 5432)
	wrong := frame(web0, db0).Unreachable(back) // an error about what db0 sent
	then := func(name string, steps ...Step) Row { return Row{Name: name, Steps: append(handshake(), steps...)} }
	ping := func(code uint8) Packet { return frame(open0, web0).ICMP(8, 128, code, [4]byte{0, 7, 0, 1}) }
	anyCode := func(o *api.Objects) {
		o.SecurityGroups["web"].Ingress = append(o.SecurityGroups["web"].Ingress, o.SecurityGroups["open"].Ingress...)
	}
	spent := after(restored, send(open0, ping(1), refused(open0, web0, limit)))
	spent.Poke = UseTurns(web0.name, budget, false)
	return []Row{
		then("nothing left, and the flow stays as it is", left(0, after(stale, waits)), waits, left(1, passes), answers),
		then("nothing left, seen by an answer", left(0, after(stale, send(db0, back, dropped(db0, limit)))), left(1, answers)),
		then("one left is one", left(1, after(noRule, denied)), denied),
		then("nothing left is no verdict", left(0, after(noRule, waits)), left(1, denied)),
		then("what is judged needs nothing", left(0, passes), answers),
		then("the next moment has its own", func() Step {
			s := after(stale, passes)
			s.Poke = UseTurns(db0.name, budget, true)
			return s
		}()),
		then("a new connection needs nothing", left(0, after(stale, waits)), send(web0, other, delivered(other, web0, db0)), waits),
		then("a connection that opens again needs nothing", tells(db0, web0, sqlBack(RST|ACK), sides(web0, db0, closing)),
			left(0, after(stale, tells(web0, db0, sql(SYN), sides(web0, db0, opening))))),
		then("an error that asks for the verdict", left(1, after(stale, send(web0, wrong, delivered(wrong, web0, db0)))), waits),
		then("an error, and nothing left", left(0, after(stale, send(web0, wrong, refused(web0, db0, limit)))), left(1, passes)),
		then("what a keeping ENI denies is asked for with each packet", after(noRule, denied),
			left(2, after(kept, denied)), denied, send(web0, data, refused(web0, db0, limit))),
		then("twice the flows that it may have", used(1999, after(few(1000), passes))),
		then("twice the flows that it may have, and no more", used(2000, after(few(1000), waits))),
		then("1024 at least", used(1023, after(few(1), passes))),
		then("1024 at least, and no more", used(1024, after(few(1), waits))),
		then("the neighbour has its own", left(0, after(func(o *api.Objects) { o.ENIs["web-0"].SourceDestCheck = false }, passes))),
		{Name: "another code of a request needs nothing", Steps: []Step{
			after(anyCode, tells(open0, web0, ping(1), sides(open0, web0, opening))), spent,
			tells(open0, web0, ping(0), sides(open0, web0, opening)),
		}},
	}
}
