// SPDX-License-Identifier: Apache-2.0

package rows

import (
	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/dataplane"
	. "github.com/eniplane/eniplane/pkg/pkttest"
)

// The marks of a packet that another host has sent on.
const (
	movedMark    = vxlanMark | 2<<4
	internetMark = vxlanMark | 3<<4
)

// moves is the revision in which the instance of an ENI is on a host and moves to another one.
func moves(p party, at, to string) func(*api.Objects) {
	return func(o *api.Objects) {
		i := o.Instances[o.ENIs[p.name].Attachment.Instance]
		i.Host, i.Migration = at, &api.Migration{To: to}
	}
}

// arrives is the revision that says that it is there.
func arrives(p party, at string) func(*api.Objects) {
	return func(o *api.Objects) {
		instance := o.ENIs[p.name].Attachment.Instance
		o.Instances[instance].Host = at
		for _, e := range o.ENIs {
			if e.Attachment != nil && e.Attachment.Instance == instance {
				e.Attachment.Epoch++
			}
		}
	}
}

// sentOn: to the host where the ENI is, as it came.
func sentOn(packet Packet, to party, host string, policy uint32) Want {
	return Want{
		Verdict: Redirect, Device: VXLANDevice, Tunnel: &Tunnel{VNI: to.vni, Remote: host, Policy: policy},
		Packet: packet, Counts: []Count{in(to, dataplane.ReasonRedirected)},
	}
}

// leftRows: web-0 moves from here to host-c.
func leftRows() []Row {
	const source, target = "host-a", "host-c"
	row := func(name string, first, last Step) Row {
		first.Revise, last.Revise = moves(web0, source, target), arrives(web0, target)
		return Row{Name: name, Hooks: TCOnly, Steps: []Step{first, last}}
	}
	syn, ack := inner(web9, web0).TCP(40000, 443, SYN), inner(web9, web0).TCP(40000, 443, ACK).Payload(9)
	open := decapsulated(syn, red, hostB, received(syn, web9, web0))
	ask := inward(client, web0).TCP(40000, 443, SYN)
	public := Step{At: fromUplink, In: ask, Want: admitted(ask, web0)}
	more := inward(client, web0).TCP(40000, 443, ACK).Payload(9)
	local := frame(web1, web0).TCP(40000, 443, SYN)
	away := web0.on(hostC)
	stranger, denied := inner(web9, web0).TCP(1, 443, ACK), inner(web9, web0).TCP(1, 25, SYN)
	closed := inner(open9, web0).TCP(1, 8025, SYN)
	looped := decapsulated(ack, red, hostB, dropped(web0, dataplane.ReasonStaleEpoch))
	looped.Mark, looped.Want = movedMark, Want{Counts: []Count{onHost(dataplane.ReasonStaleEpoch)}}
	refused := decapsulated(closed, red, hostB, Want{Counts: []Count{in(web0, dataplane.ReasonNACLDenied)}})
	refused.TCDrops = true
	reply := frame(web0, web9).TCP(443, 40000, SYN|ACK)
	return []Row{
		row("what a flow here knows is sent on with a mark", open, decapsulated(ack, red, hostB, sentOn(ack, web0, hostC, 2))),
		row("what the rules let open too", open, decapsulated(syn.Ports(40001, 443), red, hostB, sentOn(syn.Ports(40001, 443), web0, hostC, 2))),
		row("the middle of what was opened there, without", open, decapsulated(stranger, red, hostB, sentOn(stranger, web0, hostC, 0))),
		row("an answer to what was opened there, without", open, decapsulated(denied, red, hostB, sentOn(denied, web0, hostC, 0))),
		row("what the network ACL denies is not", open, refused),
		row("it is not sent on twice", open, looped),
		row("from the internet, with its EIP", public, Step{
			At: fromUplink, In: more, Want: sentOn(more.MACs(gatewayMAC, web0.mac), web0, hostC, 3),
		}),
		row("its EIP is not answered", public, Step{At: fromUplink, In: WhoHas(routerMAC, client, web0.eip).Only(V4), Want: untouched()}),
		row("who is here knows where it is", open, Step{At: web1.port(), In: local, Want: tunnelled(local, web1, away)}),
		row("it is heard here still", open, Step{At: web0.port(), In: reply, Want: tunnelled(reply, web0, web9)}),
	}
}

// preparedRows: web-0 moves from host-c to here.
func preparedRows() []Row {
	const source, target = "host-c", "host-a"
	syn := inner(web9, web0).TCP(40000, 443, SYN)
	marked := func(p Packet, mark uint32, from string, want Want) Step {
		s := decapsulated(p, red, from, want)
		s.Mark = mark
		return s
	}
	early := func(name string, s Step) Row {
		s.Revise = moves(web0, source, target)
		return Row{Name: name, Hooks: TCOnly, Steps: []Step{s}}
	}
	later := func(name string, s Step) Row {
		r := early(name, Step{At: web0.port(), In: frame(web0, web9).TCP(1, 443, SYN), Want: dropped(web0, dataplane.ReasonNotReady)})
		s.Revise = arrives(web0, target)
		r.Steps = append(r.Steps, s)
		return r
	}
	ask := inner(web9, web0).To(web0.eip).From(client).TCP(40000, 443, SYN).MACs(gatewayMAC, web0.mac)
	other := inner(web9, web0).To(web1.eip).From(client).TCP(40000, 443, SYN).MACs(gatewayMAC, web0.mac)
	host := Want{Counts: []Count{onHost(dataplane.ReasonStaleEpoch)}}
	denied := inner(web9, web0).TCP(1, 25, SYN)
	out := frame(web0, web9).TCP(40000, 443, SYN)
	at := func(r dataplane.Reason) Want { return Want{Counts: []Count{in(web0, r)}} }
	public := func(port uint16) Step {
		return Step{At: fromUplink, In: inward(client, web0).TCP(1, port, SYN), Want: at(dataplane.ReasonNotReady), TCDrops: true}
	}
	neighbour := outward(web1, web0.eip).TCP(40000, 443, SYN)
	return []Row{
		early("the guest is not heard", Step{At: web0.port(), In: out, Want: dropped(web0, dataplane.ReasonNotReady)}),
		early("its EIP is not answered", Step{At: fromUplink, In: WhoHas(routerMAC, client, web0.eip).Only(V4), Want: untouched()}),
		early("from the internet", public(443)),
		early("from the internet what no rule allows", public(25)),
		{Name: "a neighbour reaches its EIP where it is", Hooks: TCOnly, Steps: []Step{{
			At: web1.port(), In: neighbour, Want: translated(neighbour, web1), Revise: func(o *api.Objects) {
				o.Instances["stays"] = &api.Instance{Host: target}
				o.ENIs[web1.name].Attachment.Instance = "stays"
				moves(web0, source, target)(o)
			},
		}}},
		early("from who knows of the move", decapsulated(syn, red, hostB, received(syn, web9, web0))),
		early("what was sent on", marked(syn, movedMark, hostC, received(syn, web9, web0))),
		early("what was sent on from the internet", marked(ask, internetMark, hostC, admitted(ask, web0))),
		early("sent on to another's EIP", marked(other, internetMark, hostC, at(dataplane.ReasonNoEndpoint))),
		early("sent on by another host", marked(syn, movedMark, hostB, host)),
		{Name: "sent on to who does not move and is known", Hooks: TCOnly, Steps: []Step{
			decapsulated(syn, red, hostB, received(syn, web9, web0)), marked(syn.Ports(40001, 443), movedMark, hostB, host),
		}},
		early("sent on, no rule", marked(denied, movedMark, hostC, at(dataplane.ReasonSGDenied))),
		early("the sender is not there, and no mark", decapsulated(syn, red, hostC, at(dataplane.ReasonVXLANSender))),
		later("then the guest is heard", Step{At: web0.port(), In: out, Want: tunnelled(out, web0, web9)}),
		later("what is sent on later", marked(syn, movedMark, hostC, received(syn, web9, web0))),
		{Name: "who moves sends from both", Hooks: TCOnly, Steps: []Step{{
			At: fromOverlay, In: syn, Mark: vxlanMark, Tunnel: &Tunnel{VNI: red, Remote: hostC}, Want: received(syn, web9, web0),
			Revise: moves(web9, "host-b", "host-c"),
		}}},
	}
}

// gatewayMoveRows: moves of ENIs whose EIPs have gateways, here and elsewhere.
func gatewayMoveRows() []Row {
	outs, ins := toGateway(far9, client).UDP(40000, 53), fromNetTo(client, away0)
	left := Want{
		Verdict: Redirect, Device: "uplink0", Packet: outs.From(far9.eip), Counts: []Count{atHost(dataplane.Out, dataplane.ReasonDelivered)},
	}
	carriedOn := sentOn(ins.TCP(40000, 443, ACK).MACs(gatewayMAC, away0.mac), away0, hostC, 3)
	early := decapsulated(ins.TCP(40000, 443, SYN), red, hostC, entered(ins.TCP(40000, 443, SYN), away0))
	early.Mark = internetMark
	return []Row{
		{Name: "who moves leaves by its gateway from both hosts", Steps: []Step{
			after(moves(far9, "host-b", "host-c"), leaving(far9.on(hostC), outs, left)), leaving(far9, outs, left),
			after(arrives(far9, "host-c"), leaving(far9, outs, left)),
		}, Hooks: TCOnly},
		{Name: "by a gateway to who has left", Steps: []Step{
			after(moves(away0, "host-a", "host-c"), byGateway(ins.TCP(40000, 443, SYN), hostB, entered(ins.TCP(40000, 443, SYN), away0))),
			after(arrives(away0, "host-c"), byGateway(ins.TCP(40000, 443, ACK), hostB, carriedOn)),
		}, Hooks: TCOnly},
		{Name: "sent on after a gateway has translated it", Steps: []Step{after(moves(away0, "host-c", "host-a"), early)}, Hooks: TCOnly},
	}
}
