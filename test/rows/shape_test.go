// SPDX-License-Identifier: Apache-2.0

package rows

import (
	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/dataplane"
	. "github.com/eniplane/eniplane/pkg/pkttest"
)

// capped gives an ENI caps in Mbit/s, out and in; 0 = none.
func capped(p party, out, in int) func(*api.Objects) {
	return func(o *api.Objects) { o.ENIs[p.name].Limits.EgressMbps, o.ENIs[p.name].Limits.IngressMbps = out, in }
}

// cappedEIPs caps what leaves by the EIPs of an ENI.
func cappedEIPs(p party) func(*api.Objects) {
	return func(o *api.Objects) {
		for _, eip := range o.EIPs {
			if eip.ENI == p.name {
				eip.EgressMbps = 7
			}
		}
	}
}

// shaped: what would go to a device goes to the shaper, to wait in a class.
func shaped(w Want, class uint32, bound string) Want {
	w.Device, w.Tunnel, w.Class, w.Bound = ShaperDevice, nil, class, bound
	return w
}

// classed: the packet waits at the receiver's own device.
func classed(w Want) Want {
	w.Class = 1
	return w
}

// shapeRows: packets of ENIs with caps go to where they wait, judged, counted and rewritten like all others; those of
// other ENIs do not.
func shapeRows() []Row {
	one := func(name string, revise func(*api.Objects), at Hook, p Packet, want Want) Row {
		return Row{Name: name, Steps: []Step{{At: at, In: p, Revise: revise, Want: want}}}
	}
	cap := func(p party) func(*api.Objects) { return capped(p, 5, 0) }
	local, remote := frame(open1, open0).UDP(40000, 53), frame(open1, open9).UDP(40000, 53)
	internet, hairpin := outward(web0, client).TCP(40000, 443, SYN), outward(web1, web0.eip).TCP(40000, 443, SYN)
	neighbour := frame(web0, web1).TCP(40000, 443, SYN)
	far, fromNet := inner(open9, open0).UDP(40000, 53), inward(client, web0).TCP(40000, 443, SYN)
	big := frame(open1, open9).UDP(40000, 53).Payload(1500)
	byGateway, behind := outward(away0, client).UDP(40000, 53).Only(V4), outward(web0, far9.eip).UDP(40000, 53).Only(V4)
	host := Solicited | Override
	in := capped(open0, 0, 5)
	way := shaped(translated(internet.Only(V4), web0), 2, "uplink uplink0")
	return []Row{
		{Name: "out, internet, by a way that is remembered", Steps: []Step{
			{At: web0.port(), In: internet.Only(V4), Revise: cap(web0), Want: way}, {At: web0.port(), In: internet.Only(V4), Want: way},
		}},
		one("out, same host", cap(open1), open1.port(), local, shaped(delivered(local, open1, open0), 1, "eni open-0")),
		one("out, another host", cap(open1), open1.port(), remote, shaped(tunnelled(remote, open1, open9), 1, "overlay open-9")),
		one("out, internet", cap(web0), web0.port(), internet.Only(V4), shaped(translated(internet.Only(V4), web0), 2, "uplink uplink0")),
		one("out, internet, by the other EIP", cap(web0), web0.port(), internet.Only(V6), shaped(translated(internet.Only(V6), web0), 3, "uplink uplink0")),
		one("out, internet, cap of the EIP", cappedEIPs(web0), web0.port(), internet.Only(V4), shaped(translated(internet.Only(V4), web0), 2, "uplink uplink0")),
		one("out, to a neighbour's EIP", cap(web1), web1.port(), hairpin.Only(V4), shaped(turned(hairpin.Only(V4), web1, web0), 2, "eni web-0")),
		one("out, to a neighbour's EIP, cap of the EIP", cappedEIPs(web1), web1.port(), hairpin.Only(V4), shaped(turned(hairpin.Only(V4), web1, web0), 2, "eni web-0")),
		one("out, the VPC, cap of the EIP", cappedEIPs(web0), web0.port(), neighbour, delivered(neighbour, web0, web1)),
		one("out, the neighbour's EIP has a cap", cappedEIPs(web0), web1.port(), hairpin, turned(hairpin, web1, web0)),
		one("out, the receiver's cap out", cap(open0), open1.port(), local, delivered(local, open1, open0)),
		one("out, internet, by a gateway", cap(away0), away0.port(), byGateway, shaped(handed(byGateway, away0), 2, "overlay gateway/host-b/red")),
		one("out, internet, by a gateway, cap of the EIP", cappedEIPs(away0), away0.port(), byGateway,
			shaped(handed(byGateway, away0), 2, "overlay gateway/host-b/red")),
		one("out, to an EIP behind this gateway", cap(web0), web0.port(), behind,
			shaped(carried(behind.From(web0.eip), far9, out(web0, dataplane.ReasonDelivered)), 2, "overlay far-9")),
		one("out, to an EIP behind this gateway, cap of the EIP", cappedEIPs(web0), web0.port(), behind,
			shaped(carried(behind.From(web0.eip), far9, out(web0, dataplane.ReasonDelivered)), 2, "overlay far-9")),
		one("in, same host", in, open1.port(), local, classed(delivered(local, open1, open0))),
		one("in, the sender's cap in", capped(open1, 0, 5), open1.port(), local, delivered(local, open1, open0)),
		{Name: "in, from another host", Steps: []Step{within(decapsulated(far, red, hostB, classed(received(far, open9, open0))), in)}},
		one("in, from the internet", capped(web0, 0, 5), fromUplink, fromNet, classed(admitted(fromNet, web0))),
		one("out and in", func(o *api.Objects) { cap(open1)(o); in(o) }, open1.port(), local, shaped(delivered(local, open1, open0), 1, "eni open-0")),
		one("denied", cap(web0), web0.port(), frame(web0, db0).TCP(1, 81, SYN), refused(web0, db0, dataplane.ReasonSGDenied)),
		one("too big for the overlay", cap(open1), open1.port(), big,
			tooBig(big, open1, overlayMTU, Count{ENI: open1.name, Direction: dataplane.Out, Reason: dataplane.ReasonTooBig})),
		one("answers do not wait", capped(web0, 5, 5), web0.port(), WhoHas(web0.mac, web0.ip, web1.ip),
			answered(IsAt(web1.mac, web1.ip, web0.mac, web0.ip, host), web0)),
	}
}

// farRows: what has waited goes where it was bound for, if whoever that was is still there.
func farRows() []Row {
	at := Hook{Program: ShaperProgram, Device: ShaperDevice}
	far := func(name, bound string, p Packet, want Want) Row {
		return Row{Name: name, Steps: []Step{{At: at, In: p, Bound: bound, ByKernel: true, Want: want}}}
	}
	lost := func(r dataplane.Reason) Want { return Want{Counts: []Count{{Direction: dataplane.Out, Reason: r}}} }
	p := arrived(frame(open1, open0).UDP(40000, 53), open1, open0)
	remote := frame(open1, open9).UDP(40000, 53).MACs(open1.mac, open9.mac)
	internet := outward(web0, client).UDP(40000, 53).From(web0.eip)
	leaves, carries := toGateway(away0, client).UDP(40000, 53), Eth(gatewayMAC, far9.mac).IP(web0.eip, far9.ip).UDP(40000, 53)
	open := Want{Verdict: Redirect, Device: open0.device()}
	wait := far("to an eni that has a cap", "eni open-0", p, classed(open))
	wait.Steps[0].Revise = capped(open0, 0, 5)
	shut := far("to an eni that is closed by now", "eni open-0", p, lost(dataplane.ReasonNotReady))
	shut.Steps[0].Poke = func(w *World) error { return w.Unready(open0.name) }
	gone := far("to an eni that is nowhere by now", "overlay open-9", remote, lost(dataplane.ReasonNoNexthop))
	gone.Steps[0].Poke = func(w *World) error { return w.CutNextHop(open9.ip.In(V4), red) }
	return []Row{
		far("to an eni", "eni open-0", p, open),
		far("to who has the eni's number now", "eni open-0?", p, lost(dataplane.ReasonNotReady)),
		far("to another host", "overlay open-9", remote, Want{Verdict: Redirect, Device: VXLANDevice, Tunnel: &Tunnel{VNI: red, Remote: hostB}}),
		far("to a gateway", "overlay gateway/host-b/red", leaves, Want{Verdict: Redirect, Device: VXLANDevice, Tunnel: &Tunnel{VNI: red, Remote: hostB}}),
		far("to another host, as its gateway", "overlay far-9", carries,
			Want{Verdict: Redirect, Device: VXLANDevice, Tunnel: &Tunnel{VNI: red, Remote: hostB, Policy: 1}}),
		far("to who has the next hop now", "overlay open-9?", remote, lost(dataplane.ReasonNoNexthop)),
		far("to an eni that is here by now", "overlay open-0", p, lost(dataplane.ReasonNoNexthop)),
		far("to the internet", "uplink uplink0", internet, Want{Verdict: Redirect, Device: "uplink0"}),
		far("to a device that is no uplink", "uplink eni-open-1", internet, lost(dataplane.ReasonNoFIB)),
		far("to nowhere", "", p, lost(dataplane.ReasonUnknownPort)),
		wait, shut, gone,
	}
}
