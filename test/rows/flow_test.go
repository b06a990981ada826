// SPDX-License-Identifier: Apache-2.0

package rows

import (
	"time"

	"github.com/eniplane/eniplane/pkg/dataplane"
	. "github.com/eniplane/eniplane/pkg/pkttest"
)

const (
	opening     = "opening"
	heard       = "opening, answered"
	turnedAway  = "closing, refused" // while it was half-open
	established = "established"
	closing     = "closing"
	blocked     = "blocked"
)

// sides is a connection as its two ENIs on one host see it.
func sides(opener, other party, state string) []Flow {
	return []Flow{
		{ENI: opener.name, State: state, Opener: dataplane.Out, Origin: "vpc"},
		{ENI: other.name, State: state, Opener: dataplane.In, Origin: "vpc"},
	}
}

// tells gives the step of a packet that passes and leaves these flows.
func tells(from, to party, p Packet, flows []Flow) Step {
	want := delivered(p, from, to)
	want.Flows = flows
	return send(from, p, want)
}

// handshake opens a connection to a database, whose answers nothing but the flow allows.
func handshake() []Step {
	return []Step{
		tells(web0, db0, sql(SYN), sides(web0, db0, opening)),
		tells(db0, web0, sqlBack(SYN|ACK), sides(web0, db0, heard)),
		tells(web0, db0, sql(ACK), sides(web0, db0, established)),
	}
}

func sql(flags uint8) Packet     { return frame(web0, db0).TCP(40000, 5432, flags) }
func sqlBack(flags uint8) Packet { return frame(db0, web0).TCP(5432, 40000, flags) }

// flowRows: connections and what is none.
func flowRows() []Row {
	const noFlow = dataplane.ReasonNoFlow
	question, answer := frame(db0, web0).UDP(40000, 53), frame(web0, db0).UDP(53, 40000)
	middle := func(name string, flags uint8) Row {
		want := dropped(web0, noFlow)
		want.NoFlow = true
		return row(name, web0.port(), sql(flags), want)
	}
	then := func(name string, before []Step, after ...Step) Row {
		return Row{Name: name, Steps: append(before, after...)}
	}
	late := func(s Step, after time.Duration) Step {
		s.Later = after
		return s
	}
	esp := frame(open1, open0).Carries(ESP).Payload(20)
	espBack := frame(open0, open1).Carries(ESP).Payload(20)
	rows := []Row{
		then("tcp", handshake(),
			tells(web0, db0, sql(PSH|ACK).Payload(100), sides(web0, db0, established)),
			tells(db0, web0, sqlBack(PSH|ACK).Payload(1000), sides(web0, db0, established))),
		then("tcp ends", handshake(),
			tells(web0, db0, sql(FIN|ACK), sides(web0, db0, established)),
			tells(db0, web0, sqlBack(FIN|ACK), sides(web0, db0, closing)),
			tells(web0, db0, sql(ACK), sides(web0, db0, closing))),
		then("tcp is reset", handshake(), tells(db0, web0, sqlBack(RST|ACK), sides(web0, db0, closing))),
		then("tcp is refused", handshake()[:1], tells(db0, web0, sqlBack(RST|ACK), sides(web0, db0, turnedAway))),
		then("a closed connection opens again", handshake(),
			send(db0, sqlBack(RST|ACK), delivered(sqlBack(RST|ACK), db0, web0)),
			tells(web0, db0, sql(SYN), sides(web0, db0, opening))),
		then("a closed connection is not reopened by the other side", handshake(),
			send(db0, sqlBack(RST|ACK), delivered(sqlBack(RST|ACK), db0, web0)),
			send(db0, sqlBack(SYN), dropped(db0, dataplane.ReasonSGDenied))),
		then("syn again", handshake()[:1], tells(web0, db0, sql(SYN), sides(web0, db0, opening))),
		then("a challenge establishes nothing", handshake()[:1],
			tells(db0, web0, sqlBack(ACK), sides(web0, db0, opening)),
			tells(web0, db0, sql(RST), sides(web0, db0, turnedAway)),
			tells(web0, db0, sql(SYN), sides(web0, db0, opening))),
		then("an answer that is no syn", handshake()[:1], send(db0, sqlBack(FIN|ACK), dropped(db0, noFlow))),
		then("another port is another flow", handshake(),
			send(db0, sqlBack(ACK).Ports(5432, 40001), dropped(db0, noFlow))),
		middle("ack without a flow", ACK),
		middle("data without a flow", PSH|ACK),
		middle("syn-ack without a flow", SYN|ACK),
		middle("fin without a flow", FIN|ACK),
		middle("rst without a flow", RST),
		middle("no flags without a flow", 0),
		middle("all flags but syn", FIN|RST|PSH|ACK|URG),

		{Name: "udp", Steps: []Step{
			tells(db0, web0, question, sides(db0, web0, opening)),
			tells(web0, db0, answer, sides(db0, web0, heard)),
			tells(web0, db0, answer, sides(db0, web0, heard)),
			tells(db0, web0, question, sides(db0, web0, established)),
			late(tells(web0, db0, answer, sides(db0, web0, established)), 170*time.Second),
		}},
		{Name: "udp, one answer is no stream", Steps: []Step{
			tells(db0, web0, question, sides(db0, web0, opening)),
			tells(web0, db0, answer, sides(db0, web0, heard)),
			late(send(web0, answer, refused(web0, db0, dataplane.ReasonSGDenied)), 31*time.Second),
		}},
		{Name: "udp, questions alone are no stream", Steps: []Step{
			tells(db0, web0, question, sides(db0, web0, opening)),
			tells(db0, web0, question, sides(db0, web0, opening)),
			late(send(web0, answer, refused(web0, db0, dataplane.ReasonSGDenied)), 31*time.Second),
		}},
		{Name: "an answer comes too late", Steps: []Step{
			tells(db0, web0, question, sides(db0, web0, opening)),
			late(send(web0, answer, refused(web0, db0, dataplane.ReasonSGDenied)), 31*time.Second),
		}},
		{Name: "udp is idle for too long", Steps: []Step{
			tells(db0, web0, question, sides(db0, web0, opening)),
			tells(web0, db0, answer, sides(db0, web0, heard)),
			tells(db0, web0, question, sides(db0, web0, established)),
			late(send(web0, answer, refused(web0, db0, dataplane.ReasonSGDenied)), 182*time.Second),
		}},
		then("tcp waits two hours", handshake(),
			late(tells(web0, db0, sql(ACK), sides(web0, db0, established)), 2*time.Hour)),
		then("tcp is idle for too long", handshake(), late(send(web0, sql(ACK), dropped(web0, noFlow)), 7442*time.Second)),
		then("a half-open connection ends", handshake()[:1],
			late(send(db0, sqlBack(SYN|ACK), dropped(db0, noFlow)), 31*time.Second)),
		then("a closed connection ends", handshake(),
			send(db0, sqlBack(RST|ACK), delivered(sqlBack(RST|ACK), db0, web0)),
			late(send(web0, sql(ACK), dropped(web0, noFlow)), 42*time.Second)),
		{Name: "other protocols", Steps: []Step{
			tells(open1, open0, esp, sides(open1, open0, opening)),
			tells(open0, open1, espBack, sides(open1, open0, heard)),
			tells(open0, open1, espBack, sides(open1, open0, heard)),
			tells(open1, open0, esp, sides(open1, open0, established)),
		}},
		{Name: "a denied packet makes no flow", Steps: []Step{
			send(mute0, frame(mute0, open0).UDP(1, 53),
				Want{Counts: []Count{out(mute0, dataplane.ReasonSGDenied)}, NoFlow: true}),
		}},
	}
	return append(rows, tableRows()...)
}

// tableRows: the flow table refuses.
func tableRows() []Row {
	full := row("the table takes nothing", open1.port(), syn(open1, open0), dropped(open1, dataplane.ReasonFlowFull))
	full.Steps[0].Poke = (*World).CloseFlowTables
	busy := row("all sets are locked", open1.port(), syn(open1, open0), dropped(open1, dataplane.ReasonFlowBusy))
	busy.Steps[0].Poke = (*World).LockFlowTables
	return []Row{full, busy}
}

// icmpRows: queries have flows, errors would have to belong to one.
func icmpRows() []Row {
	const noFlow = dataplane.ReasonNoFlow
	ping, pong := frame(open0, web0).Echo(7), frame(web0, open0).EchoReply(7)
	data := frame(web0, open0).UDP(40000, 53)
	stamp := frame(open1, open0).ICMP(13, 139, 0, [4]byte{0, 9, 0, 1})
	stampBack := frame(open0, open1).ICMP(14, 140, 0, [4]byte{0, 9, 0, 1})
	return []Row{
		{Name: "echo and reply", Steps: []Step{
			tells(open0, web0, ping, sides(open0, web0, opening)),
			tells(web0, open0, pong, sides(open0, web0, heard)),
			tells(open0, web0, ping, sides(open0, web0, established)),
		}},
		row("reply without a request", web0.port(), pong, dropped(web0, noFlow)),
		{Name: "reply with another identifier", Steps: []Step{
			send(open0, ping, delivered(ping, open0, web0)),
			send(web0, frame(web0, open0).EchoReply(8), dropped(web0, noFlow)),
		}},
		{Name: "reply of another type", Steps: []Step{
			send(open0, ping, delivered(ping, open0, web0)),
			send(web0, frame(web0, open0).ICMP(14, 140, 0, [4]byte{0, 7, 0, 1}), dropped(web0, noFlow)),
		}},
		{Name: "a reply from the side that asked", Steps: []Step{
			send(open0, ping, delivered(ping, open0, web0)),
			send(open0, frame(open0, web0).EchoReply(7), dropped(open0, noFlow)),
		}},
		{Name: "both sides ask with one identifier", Steps: []Step{
			send(open1, frame(open1, open0).Echo(7), delivered(frame(open1, open0).Echo(7), open1, open0)),
			send(open0, frame(open0, open1).Echo(7), delivered(frame(open0, open1).Echo(7), open0, open1)),
			send(open0, frame(open0, open1).EchoReply(7), delivered(frame(open0, open1).EchoReply(7), open0, open1)),
			send(open1, frame(open1, open0).EchoReply(7), delivered(frame(open1, open0).EchoReply(7), open1, open0)),
		}},
		{Name: "a request from the other side is not a reply", Steps: []Step{
			send(web0, frame(web0, db0).Echo(7), refused(web0, db0, dataplane.ReasonSGDenied)),
			send(db0, frame(db0, web0).Echo(7), dropped(db0, dataplane.ReasonSGDenied)),
		}},
		{Name: "the reply comes too late", Steps: []Step{
			send(open0, ping, delivered(ping, open0, web0)),
			{At: web0.port(), In: pong, Later: 31 * time.Second, Want: dropped(web0, noFlow)},
		}},
		{Name: "timestamp, node information", Steps: []Step{
			send(open1, stamp, delivered(stamp, open1, open0)),
			send(open0, stampBack, delivered(stampBack, open0, open1)),
		}},
		row("an error without a flow", open0.port(), frame(open0, web0).Unreachable(data),
			dropped(open0, dataplane.ReasonICMPUnrelated)),
	}
}
