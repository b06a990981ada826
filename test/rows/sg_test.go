// SPDX-License-Identifier: Apache-2.0

package rows

import (
	"github.com/eniplane/eniplane/pkg/dataplane"
	. "github.com/eniplane/eniplane/pkg/pkttest"
)

// sgRows: every kind of security group rule, allowed and denied, in both directions.
func sgRows() []Row {
	const denied = dataplane.ReasonSGDenied
	allow := func(name string, from, to party, p Packet) Row {
		return row(name, from.port(), p, delivered(p, from, to))
	}
	denyIn := func(name string, from, to party, p Packet) Row {
		return row(name, from.port(), p, refused(from, to, denied))
	}
	denyOut := func(name string, from party, p Packet) Row {
		return row(name, from.port(), p, dropped(from, denied))
	}
	tcp := func(from, to party, port uint16) Packet { return frame(from, to).TCP(40000, port, SYN) }
	udp := func(from, to party, port uint16) Packet { return frame(from, to).UDP(40000, port) }
	icmp := func(type4, type6, code uint8) Packet {
		return frame(open0, web0).ICMP(type4, type6, code, [4]byte{0, 7, 0, 1})
	}
	return []Row{
		allow("a port", open0, web0, tcp(open0, web0, 80)),
		allow("another port of the list", open0, web0, tcp(open0, web0, 443)),
		allow("first port of a range", open0, web0, tcp(open0, web0, 8000)),
		allow("inside a range", open0, web0, tcp(open0, web0, 8444)),
		allow("last port of a range", open0, web0, tcp(open0, web0, 8999)),
		denyIn("below a range", open0, web0, tcp(open0, web0, 7999)),
		denyIn("above a range, where a rule names only a group", open0, web0, tcp(open0, web0, 9000)),
		denyIn("a port that no rule names", open0, web0, tcp(open0, web0, 25)),
		denyIn("port 0", open0, web0, tcp(open0, web0, 0)),
		denyIn("port 65535", open0, web0, tcp(open0, web0, 65535)),
		denyIn("udp to a tcp port", open0, web0, udp(open0, web0, 443)),
		denyIn("tcp to a udp port", open0, web0, tcp(open0, web0, 53)),
		denyIn("the source port does not count", open0, web0, frame(open0, web0).TCP(443, 25, SYN)),
		allow("udp", open0, web0, udp(open0, web0, 53)),

		allow("one host by its CIDR", open0, web0, tcp(open0, web0, 7000)),
		denyIn("not another host", open1, web0, tcp(open1, web0, 7000)),
		denyIn("a prefix list does not match the VPC", open0, web0, tcp(open0, web0, 22)),

		allow("a member of a named group", web1, web0, tcp(web1, web0, 9000)),
		allow("a member on the other side of a subnet", web0, db0, tcp(web0, db0, 5432)),
		denyIn("not a member", open1, db0, tcp(open1, db0, 5432)),
		denyIn("a member to another port", web0, db0, tcp(web0, db0, 5433)),
		denyIn("a member by its allowed address is none", extra0, db0,
			tcp(extra0, db0, 5432).From(IP("10.0.1.200", "fd00:1:0:1::200"))),

		allow("echo request", open0, web0, icmp(8, 128, 0)),
		denyIn("echo request with another code", open0, web0, icmp(8, 128, 1)),
		denyIn("another icmp type", open0, web0, icmp(13, 139, 0)),
		allow("a protocol by number", open0, web0, frame(open0, web0).Carries(GRE).Payload(12)),
		denyIn("another protocol", open0, web0, frame(open0, web0).Carries(ESP).Payload(12)),
		denyIn("ip in ip is a protocol like others", open0, web0, frame(open0, web0).Carries(IPinIP).Payload(40)),

		allow("egress to a group", db0, web0, tcp(db0, web0, 443)),
		allow("egress to a CIDR", db0, web0, udp(db0, web0, 53)),
		denyOut("egress to no member", db0, tcp(db0, open0, 443)),
		denyOut("egress to another port", db0, tcp(db0, web0, 80)),
		denyOut("egress beside the CIDR", db0, udp(db0, web1, 53)),
		denyOut("egress of a group without rules", mute0, tcp(mute0, open0, 443)),
		denyOut("egress to the internet without a rule", db0, outward(db0, client).TCP(1, 443, SYN)),
		denyIn("ingress of a group without rules", open0, mute0, tcp(open0, mute0, 443)),
	}
}

// naclRows: stateless, at the border of the subnet, first match wins.
func naclRows() []Row {
	const denied = dataplane.ReasonNACLDenied
	tcp := func(from, to party, sport, dport uint16) Packet { return frame(from, to).TCP(sport, dport, SYN) }
	reply := func(sport, dport uint16) Packet { return frame(web0, open0).TCP(sport, dport, SYN|ACK) }
	fine := func(name string, from, to party, p Packet) Row {
		return row(name, from.port(), p, delivered(p, from, to))
	}
	request := tcp(open0, web0, 44444, 443)
	question, answer := frame(web0, open0).UDP(45500, 53), frame(open0, web0).UDP(53, 45500)
	return []Row{
		row("ingress inside the subnet is no matter of the ACL", open1.port(), frame(open1, web0).TCP(1, 8025, SYN),
			delivered(frame(open1, web0).TCP(1, 8025, SYN), open1, web0)),
		row("the sender's groups come first", mute0.port(), tcp(mute0, web0, 1, 8025),
			dropped(mute0, dataplane.ReasonSGDenied)),
		row("ingress denied at the border", open0.port(), tcp(open0, web0, 1, 8025), refused(open0, web0, denied)),
		fine("ingress allowed by a lower number", open0, web0, tcp(open0, web0, 1, 8023)),
		row("the lower number is for one host", open0.port(), tcp(open0, web0, 1, 8024), refused(open0, web0, denied)),
		fine("first port above the range", open0, web0, tcp(open0, web0, 1, 8030)),
		fine("last port below the range", open0, web0, tcp(open0, web0, 1, 8019)),
		fine("not inside the subnet", open1, web0, tcp(open1, web0, 1, 8020)),
		row("egress denied", web0.port(), tcp(web0, open0, 1, 2525), dropped(web0, denied)),
		fine("egress not inside the subnet", web0, open1, tcp(web0, open1, 1, 2525)),
		row("egress to the internet denied", web0.port(), outward(web0, client).TCP(1, 2525, SYN), dropped(web0, denied)),
		{Name: "a reply of an allowed flow is denied: no state", Steps: []Step{
			send(open0, request, delivered(request, open0, web0)),
			send(web0, reply(443, 44444), dropped(web0, denied)),
		}},
		{Name: "a reply into the subnet is denied: no state", Steps: []Step{
			send(web0, question, delivered(question, web0, open0)),
			send(open0, answer, refused(open0, web0, denied)),
		}},
		{Name: "a denied reply does not end the flow", Steps: []Step{
			send(open0, request, delivered(request, open0, web0)),
			send(web0, reply(443, 44444), dropped(web0, denied)),
			send(open0, request, delivered(request, open0, web0)),
		}},
		row("from the internet denied", fromUplink, inward(client, web0).TCP(1, 8025, SYN),
			Want{Counts: []Count{in(web0, denied)}}),
	}
}
