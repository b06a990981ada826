// SPDX-License-Identifier: Apache-2.0

package rows

import (
	"github.com/eniplane/eniplane/pkg/dataplane"
	. "github.com/eniplane/eniplane/pkg/pkttest"
)

// routeRows: where a packet may not go.
func routeRows() []Row {
	drop := func(name string, from party, to Addr, r dataplane.Reason) Row {
		return row(name, from.port(), outward(from, to).TCP(40000, 443, SYN), dropped(from, r))
	}
	cut := row("the next hop has gone meanwhile", open0.port(), syn(open0, web0), dropped(open0, dataplane.ReasonNoNexthop))
	cut.Steps[0].Poke = func(w *World) error { return w.CutNextHop(web0.ip.V4, red) }
	return []Row{
		drop("blackhole", web0, blackhole, dataplane.ReasonBlackhole),
		drop("no route", open0, client, dataplane.ReasonNoRoute),
		drop("no route in a VPC without tables", blue1, client, dataplane.ReasonNoRoute),
		drop("infrastructure", web0, infra, dataplane.ReasonInfra),
		drop("a VTEP", web0, vtepB, dataplane.ReasonInfra),
		drop("the own host's VTEP", web0, vtepA, dataplane.ReasonInfra),
		drop("a reserved EIP goes the way of the internet, without an own EIP nowhere", open1, reserved, dataplane.ReasonNoEIP),
		row("vxlan to a VTEP", web0.port(), outward(web0, vtepB).UDP(1, VXLANPort), dropped(web0, dataplane.ReasonInfra)),
		row("vxlan to a neighbour is udp like other", open1.port(), frame(open1, open0).UDP(1, VXLANPort),
			delivered(frame(open1, open0).UDP(1, VXLANPort), open1, open0)),
		cut,
		row("red's address is not blue's", blue1.port(), outward(blue1, web1.ip).TCP(1, 443, SYN),
			dropped(blue1, dataplane.ReasonNoEndpoint)),
		row("the same address in both VPCs is blue's for blue", blue1.port(), syn(blue1, blue0),
			delivered(syn(blue1, blue0), blue1, blue0)),
		row("the same address in both VPCs is red's for red", open1.port(), syn(open1, web0),
			delivered(syn(open1, web0), open1, web0)),
		row("blue across hosts, where red has the same address", blue1.port(), syn(blue1, blue9),
			tunnelled(syn(blue1, blue9), blue1, blue9)),
		{Name: "flows of two VPCs with the same addresses are two", Steps: []Step{
			send(blue0, syn(blue0, blue9), tunnelled(syn(blue0, blue9), blue0, blue9)),
			send(web0, frame(web0, web9).TCP(40000, 443, ACK), dropped(web0, dataplane.ReasonNoFlow)),
		}},
	}
}
