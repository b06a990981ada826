// SPDX-License-Identifier: Apache-2.0

package rows

import (
	"net/netip"
	"time"

	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/dataplane"
	. "github.com/eniplane/eniplane/pkg/pkttest"
)

// after brings a revision into force before the step.
func after(change func(*api.Objects), s Step) Step {
	s.Revise = change
	return s
}

func restored(*api.Objects) {}

// revisionRows: what a new revision does to live flows.
func revisionRows() []Row {
	const sgDenied = dataplane.ReasonSGDenied
	then := func(name string, steps ...Step) Row { return Row{Name: name, Steps: append(handshake(), steps...)} }
	noRule := func(o *api.Objects) { o.SecurityGroups["db"].Ingress = nil }
	noMember := func(o *api.Objects) { o.ENIs["web-0"].SecurityGroups = []string{"open"} }
	otherRule := func(o *api.Objects) { o.SecurityGroups["silent"].Ingress = o.SecurityGroups["open"].Ingress }
	reborn := func(name string) func(*api.Objects) {
		return func(o *api.Objects) { o.ENIs[name].Attachment.Epoch = 2 }
	}
	data, back := sql(PSH|ACK).Payload(9), sqlBack(PSH|ACK).Payload(9)
	passes := func(state string) Step { return tells(web0, db0, data, sides(web0, db0, state)) }
	stopped := refused(web0, db0, sgDenied)
	stopped.Flows = []Flow{{ENI: db0.name, State: blocked, Opener: dataplane.In, Origin: "vpc"}}
	rows := []Row{
		then("another rule changes nothing", after(otherRule, passes(established)), tells(db0, web0, back, nil)),
		then("no rule any more", after(noRule, send(web0, data, stopped))),
		then("no rule any more, seen by an answer", after(noRule, send(db0, back, dropped(db0, sgDenied)))),
		then("no rule any more, in both directions", after(noRule, send(web0, data, stopped)),
			send(db0, back, dropped(db0, sgDenied))),
		then("no member any more", after(noMember, send(web0, data, refused(web0, db0, sgDenied)))),
		then("blocked and revived", after(noRule, send(web0, data, stopped)),
			after(restored, passes(established)), tells(db0, web0, back, sides(web0, db0, established))),
		then("revived by an answer", after(noRule, send(web0, data, stopped)),
			after(restored, tells(db0, web0, back, sides(web0, db0, established)))),
		then("blocked for too long to be revived", after(noRule, send(web0, data, stopped)),
			after(restored, Step{
				At: web0.port(), In: data, Later: 45 * time.Second,
				Want: refused(web0, db0, dataplane.ReasonNoFlow),
			})),
		then("the sender's rules change too", after(func(o *api.Objects) { o.SecurityGroups["web"].Egress = nil },
			send(web0, data, dropped(web0, sgDenied)))),
		then("a new attachment of the sender", after(reborn("web-0"), send(web0, data, dropped(web0, dataplane.ReasonNoFlow)))),
		then("a new attachment of the receiver", after(reborn("db-0"),
			send(web0, data, refused(web0, db0, dataplane.ReasonNoFlow)))),
		then("a new attachment does not answer", after(reborn("db-0"), send(db0, back, dropped(db0, dataplane.ReasonNoFlow)))),
		then("the receiver has left the host", after(func(o *api.Objects) { o.ENIs["db-0"].Attachment.Instance = "red-b" },
			send(web0, data, tunnelled(data, web0, db0.on(hostB))))),
		then("the receiver is attached nowhere", after(func(o *api.Objects) { o.ENIs["db-0"].Attachment = nil },
			send(web0, data, dropped(web0, dataplane.ReasonNoNexthop)))),
		then("the receiver has another address", after(func(o *api.Objects) {
			o.ENIs["db-0"].IPs = []netip.Addr{netip.MustParseAddr("10.0.2.11"), netip.MustParseAddr("fd00:1:0:2::11")}
		}, send(web0, data, dropped(web0, dataplane.ReasonNoEndpoint)))),
		then("the peer was gone and is back", after(func(o *api.Objects) { delete(o.ENIs, "db-0") },
			send(web0, data, dropped(web0, dataplane.ReasonNoEndpoint))),
			after(restored, send(web0, sql(SYN), delivered(sql(SYN), web0, db0)))),
		then("the address is another ENI's now", after(func(o *api.Objects) {
			o.ENIs["open-0"].IPs, o.ENIs["db-0"].IPs = o.ENIs["db-0"].IPs, o.ENIs["open-0"].IPs
			o.EIPs["open-0"].PrivateIP = o.ENIs["open-0"].IPs[0]
			o.EIPs["open-0-v6"].PrivateIP = o.ENIs["open-0"].IPs[1]
		}, send(web0, data, refused(web0, open0, dataplane.ReasonNoFlow)))),
	}
	return append(append(rows, borderRows()...), movedRows()...)
}

// movedRows: an EIP that leads elsewhere. With the next packet its old flows are over, and nothing of them reaches who
// has it now.
func movedRows() []Row {
	ask, more := outward(web0, client).TCP(40000, 443, SYN), outward(web0, client).TCP(40000, 443, ACK)
	answer := inward(client, web0).TCP(443, 40000, SYN|ACK)
	fresh := inward(client, web0).TCP(50000, 443, SYN)
	move := func(eni string, v4, v6 netip.Addr, also ...func(*api.Objects)) func(*api.Objects) {
		return func(o *api.Objects) {
			for name, private := range map[string]netip.Addr{"web-0": v4, "web-0-v6": v6} {
				o.EIPs[name].ENI, o.EIPs[name].PrivateIP = eni, private
			}
			for _, change := range also {
				change(o)
			}
		}
	}
	to := func(p party, also ...func(*api.Objects)) func(*api.Objects) {
		return move(p.name, p.ip.V4, p.ip.V6, also...)
	}
	blueRoutes := func(o *api.Objects) {
		o.RouteTables["blue"] = &api.RouteTable{Metadata: api.Metadata{Name: "blue", UID: "blue"}, VPC: "blue"}
		for _, cidr := range []string{"0.0.0.0/0", "::/0"} {
			o.RouteTables["blue"].Routes = append(o.RouteTables["blue"].Routes, api.Route{
				Destination: netip.MustParsePrefix(cidr), Target: api.Target{Kind: api.TargetInternet},
			})
		}
		o.Subnets["blue-all"].RouteTable = "blue"
	}
	begin := func(then ...Step) []Step {
		return append([]Step{
			send(web0, ask, translated(ask, web0)), {At: fromUplink, In: answer, Want: admitted(answer, web0)},
		}, then...)
	}
	reaches := func(p party) Want {
		return Want{
			Verdict: Redirect, Device: p.device(), Packet: fresh.To(p.ip).MACs(gatewayMAC, p.mac),
			Counts: []Count{in(p, dataplane.ReasonDelivered)},
		}
	}
	stray := func(p party) Step {
		return Step{At: fromUplink, In: answer, Want: Want{Counts: []Count{in(p, dataplane.ReasonNoFlow)}}}
	}
	nothing := send(web0, more, dropped(web0, dataplane.ReasonNoEIP))
	second := web0
	second.ip = IP("10.0.1.11", "fd00:1:0:1::11")
	return []Row{
		{Name: "the EIP is a neighbour's: the old flow is over", Steps: begin(after(to(open1), stray(open1)), nothing)},
		{Name: "the EIP is a neighbour's: a new flow is the neighbour's", Steps: begin(
			after(to(open1), Step{At: fromUplink, In: fresh, Want: reaches(open1)}), nothing)},
		{Name: "the EIP is another tenant's: the old flow is over", Steps: begin(
			after(to(blue0, blueRoutes), stray(blue0)), nothing)},
		{Name: "the EIP is another tenant's: a new flow is the tenant's", Steps: begin(
			after(to(blue0, blueRoutes), Step{At: fromUplink, In: fresh, Want: reaches(blue0)}), nothing)},
		{Name: "the EIP is another tenant's, who has no way to the internet", Steps: begin(
			after(to(blue0), Step{At: fromUplink, In: fresh, Want: Want{Counts: []Count{in(blue0, dataplane.ReasonEIPSource)}}}),
			nothing)},
		{Name: "the EIP is of another address of the ENI: the old flow is over", Steps: begin(
			after(to(second), stray(second)), nothing)},
		{Name: "the EIP is of another address of the ENI: a new flow is that address's", Steps: begin(
			after(to(second), Step{At: fromUplink, In: fresh, Want: reaches(second)}), nothing)},
		{Name: "the EIP is another host's: the old flow is over", Steps: begin(
			after(to(web9), Step{At: fromUplink, In: answer, Want: untouched()}), nothing)},
		{Name: "the EIP comes back: the old flow goes on", Steps: begin(
			after(to(open1), stray(open1)), nothing,
			after(restored, Step{At: fromUplink, In: answer, Want: admitted(answer, web0)}))},
	}
}

// borderRows: revisions of what is not a security group.
func borderRows() []Row {
	request := frame(open0, web0).TCP(40000, 443, SYN)
	reply := frame(web0, open0).TCP(443, 40000, SYN|ACK)
	toNet := outward(web0, client).TCP(40000, 443, SYN)
	more := outward(web0, client).TCP(40000, 443, ACK)
	fromNet := inward(client, web0).TCP(443, 40000, SYN|ACK)
	deny := func(entries []api.NACLEntry, port uint16) []api.NACLEntry {
		var first []api.NACLEntry
		for i, cidr := range []string{"0.0.0.0/0", "::/0"} {
			first = append(first, api.NACLEntry{
				Number: 1 + i, Protocol: api.Protocol{Number: api.ProtoTCP},
				Ports: []api.PortRange{{From: port, To: port}}, CIDR: netip.MustParsePrefix(cidr),
			})
		}
		return append(first, entries...)
	}
	unbind := func(o *api.Objects) {
		delete(o.EIPs, "web-0")
		delete(o.EIPs, "web-0-v6")
	}
	blackholed := func(o *api.Objects) {
		t := o.RouteTables["red-public"]
		for _, cidr := range []string{"198.51.100.0/24", "2001:db8:c::/48"} {
			t.Routes = append(t.Routes, api.Route{
				Destination: netip.MustParsePrefix(cidr), Target: api.Target{Kind: api.TargetBlackhole},
			})
		}
	}
	infra := func(o *api.Objects) {
		o.Region.InfraCIDRs = append(o.Region.InfraCIDRs, netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8:c::/48"))
	}
	return []Row{
		{Name: "the client becomes infrastructure", Steps: []Step{
			send(web0, toNet, translated(toNet, web0)),
			after(infra, send(web0, more, dropped(web0, dataplane.ReasonInfra))),
			after(restored, send(web0, more, translated(more, web0))),
		}},
		{Name: "a network ACL denies the request", Steps: []Step{
			send(open0, request, delivered(request, open0, web0)),
			after(func(o *api.Objects) { o.NetworkACLs["red-web"].Ingress = deny(o.NetworkACLs["red-web"].Ingress, 443) },
				send(open0, request, refused(open0, web0, dataplane.ReasonNACLDenied))),
		}},
		{Name: "a network ACL denies the reply", Steps: []Step{
			send(open0, request, delivered(request, open0, web0)),
			after(func(o *api.Objects) { o.NetworkACLs["red-web"].Egress = deny(o.NetworkACLs["red-web"].Egress, 40000) },
				send(web0, reply, dropped(web0, dataplane.ReasonNACLDenied))),
			after(restored, send(web0, reply, delivered(reply, web0, open0))),
		}},
		{Name: "the EIP is unbound: nothing goes out", Steps: []Step{
			send(web0, toNet, translated(toNet, web0)),
			after(unbind, send(web0, more, dropped(web0, dataplane.ReasonNoEIP))),
		}},
		{Name: "the EIP is unbound: nothing comes in", Steps: []Step{
			send(web0, toNet, translated(toNet, web0)),
			after(unbind, Step{At: fromUplink, In: fromNet, Want: untouched()}),
		}},
		{Name: "the EIP is another one", Steps: []Step{
			send(web0, toNet, translated(toNet, web0)),
			after(func(o *api.Objects) {
				o.EIPs["web-0"].Address = netip.MustParseAddr("203.0.113.11")
				o.EIPs["web-0-v6"].Address = netip.MustParseAddr("2001:db8:e::11")
			}, Step{At: fromUplink, In: fromNet, Want: untouched()}),
		}},
		{Name: "the route is a blackhole", Steps: []Step{
			send(web0, toNet, translated(toNet, web0)),
			after(blackholed, send(web0, more, dropped(web0, dataplane.ReasonBlackhole))),
		}},
		{Name: "the route is a blackhole: nothing comes in", Steps: []Step{
			send(web0, toNet, translated(toNet, web0)),
			after(blackholed, Step{
				At: fromUplink, In: fromNet, Want: Want{Counts: []Count{in(web0, dataplane.ReasonBlackhole)}}, TCDrops: true,
			}),
		}},
	}
}
