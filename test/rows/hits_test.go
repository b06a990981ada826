// SPDX-License-Identifier: Apache-2.0

package rows

import (
	"net/netip"

	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/dataplane"
	. "github.com/eniplane/eniplane/pkg/pkttest"
)

// hitRows: which rules decide, each counted once for each connection that is judged, whatever becomes of it.
func hitRows() []Row {
	const aclOut, aclIn = "egress red-web/100|egress red-web/110", "ingress red-web/100|ingress red-web/110"
	const sgDenied, naclDenied = dataplane.ReasonSGDenied, dataplane.ReasonNACLDenied
	hits := func(s Step, rules ...string) Step {
		s.Want.Hits = append([]string{}, rules...)
		return s
	}
	then := func(name string, steps ...Step) Row { return Row{Name: name, Steps: append(handshake(), steps...)} }
	one := func(name string, s Step, rules ...string) Row {
		return Row{Name: name, Steps: []Step{hits(s, rules...)}}
	}
	tcp := func(from, to party, port uint16) Packet { return frame(from, to).TCP(40000, port, SYN) }
	passes := func(from, to party, p Packet) Step { return send(from, p, delivered(p, from, to)) }
	data, back := sql(PSH|ACK).Payload(9), sqlBack(PSH|ACK).Payload(9)
	toNet := outward(web0, client).TCP(40000, 443, SYN)
	fromNet := inward(client, web0).TCP(40000, 443, SYN)
	far := inner(open9, web0).TCP(40000, 443, SYN)
	noRule := func(o *api.Objects) { o.SecurityGroups["db"].Ingress = nil }
	more := func(o *api.Objects) {
		db := o.SecurityGroups["db"]
		db.Ingress = append(db.Ingress, o.SecurityGroups["open"].Ingress...)
	}
	byAddress := func(first bool) func(*api.Objects) {
		return func(o *api.Objects) {
			r := api.Rule{Protocol: api.Protocol{Number: api.ProtoTCP}, Peers: []api.Peer{
				{Prefix: netip.MustParsePrefix("10.0.1.0/24")}, {Prefix: netip.MustParsePrefix("fd00:1:0:1::/64")},
			}}
			db := o.SecurityGroups["db"]
			if first {
				db.Ingress = append([]api.Rule{r}, db.Ingress...)
			} else {
				db.Ingress = append(db.Ingress, r)
			}
		}
	}
	opened := []string{"egress web/any", aclOut, "ingress db/sql-from-web"}
	errorOf := frame(db0, web0).ICMP(3, 1, 0, [4]byte{}).Quote(sql(ACK), -1)
	return []Row{
		one("both ends of a connection", passes(open0, web0, tcp(open0, web0, 443)), "egress open/any", aclIn, "ingress web/https"),
		one("no network ACL inside the subnet", passes(web1, web0, tcp(web1, web0, 9000)), "egress web/any", "ingress web/members"),
		one("the group's rule decides", passes(web0, db0, sql(SYN)), opened...),
		one("by address and by group, the address first",
			after(byAddress(true), passes(web0, db0, sql(SYN))), "egress web/any", aclOut, "ingress db/ingress[0]"),
		one("by address and by group, the group first",
			after(byAddress(false), passes(web0, db0, sql(SYN))), opened...),
		one("no rule matches", send(open1, tcp(open1, db0, 5432), refused(open1, db0, sgDenied)), "egress open/any", aclOut),
		one("no egress rule matches", send(mute0, tcp(mute0, open0, 443), dropped(mute0, sgDenied))),
		one("an entry denies", send(open0, tcp(open0, web0, 8025), refused(open0, web0, naclDenied)),
			"egress open/any", "ingress red-web/50|ingress red-web/51"),
		one("a lower number allows", passes(open0, web0, tcp(open0, web0, 8023)),
			"egress open/any", "ingress red-web/40|ingress red-web/41", "ingress web/https"),
		one("an entry denies what the group allows", send(web0, tcp(web0, open0, 2525), dropped(web0, naclDenied)),
			"egress web/any", "egress red-web/40|egress red-web/41"),
		one("no entry matches", after(func(o *api.Objects) { o.NetworkACLs["red-web"].Egress = nil },
			send(web0, sql(SYN), dropped(web0, naclDenied))), "egress web/any"),
		one("to the internet", send(web0, toNet, translated(toNet, web0)), "egress web/any", aclOut),
		one("from the internet", Step{At: fromUplink, In: fromNet, Want: admitted(fromNet, web0)}, aclIn, "ingress web/https"),
		one("from another host", decapsulated(far, red, hostB, received(far, open9, web0)), aclIn, "ingress web/https"),
		one("a denied one counts each time", Step{
			At: mute0.port(), Ahead: []Packet{tcp(mute0, open0, 443)}, In: tcp(mute0, open0, 443), Want: dropped(mute0, sgDenied),
		}),
		then("packets of a flow count nothing", hits(passes(web0, db0, data)), hits(passes(db0, web0, back))),
		then("a flow that is judged again", after(more, hits(passes(web0, db0, data), "ingress db/sql-from-web")),
			hits(passes(db0, web0, back))),
		then("judged again because of an answer", after(more, hits(passes(db0, web0, back), "ingress db/sql-from-web")),
			hits(passes(web0, db0, data))),
		then("blocked", after(noRule, hits(send(web0, data, refused(web0, db0, sgDenied)))),
			hits(send(web0, data, refused(web0, db0, sgDenied)))),
		then("revived", after(noRule, send(web0, data, refused(web0, db0, sgDenied))),
			after(restored, hits(passes(web0, db0, data), "ingress db/sql-from-web"))),
		then("an ICMP error counts nothing", hits(passes(db0, web0, errorOf))),
		then("an ICMP error that asks for the verdict counts nothing", after(more, hits(passes(db0, web0, errorOf)))),
		{Name: "kept flows ask no group", Steps: append(begun(api.Keep),
			after(under(api.Keep, func(o *api.Objects) {
				noRule(o)
				o.NetworkACLs["red-web"].Egress = o.NetworkACLs["red-web"].Egress[2:]
			}), hits(passes(web0, db0, data), aclOut)))},
		{Name: "the counters go with the rule", Steps: []Step{
			hits(passes(web0, db0, sql(SYN)), opened...),
			after(byAddress(false), hits(passes(web1, db0, frame(web1, db0).TCP(1, 5432, SYN)), opened...)),
		}},
	}
}
