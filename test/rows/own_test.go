// SPDX-License-Identifier: Apache-2.0

package rows

import (
	"encoding/binary"
	"testing"

	"github.com/eniplane/eniplane/pkg/dataplane"
	. "github.com/eniplane/eniplane/pkg/pkttest"
)

// ownRows: what XDP on the uplink finishes, as it is shipped, and what it leaves to TC as it came.
func ownRows() []Row {
	dns := func(payload int) Packet { return inward(client, web0).UDP(40000, 53).Payload(payload) }
	left := func(name string, p Packet) Row { return row(name, fromUplink, p, untouched()) }
	taken := func(name string, p Packet, to party) Row {
		return row(name, fromUplink, p, Want{
			Verdict: Redirect, Device: to.device(), Packet: p.To(to.ip).MACs(gatewayMAC, to.mac),
			Counts: []Count{in(to, dataplane.ReasonDelivered)},
		})
	}
	overlay := func(p Packet) Packet {
		return Eth(routerMAC, uplinkMAC).Underlay(vtepB, vtepA).VXLAN(red).Inside(p)
	}
	waits := left("udp to an EIP whose ENI has a cap", dns(11))
	waits.Steps[0].Revise = capped(web0, 0, 5)
	ended := left("udp to an EIP, the agent does not listen any more", dns(11))
	ended.Steps[0].Poke = func(w *World) error { return w.LeaseXDP(1) }
	query := inner(open9, web0).UDP(40000, 53).Payload(3)
	decap := func(name string, p, inside Packet) Row {
		return row(name, fromUplink, p, received(inside, open9, web0))
	}
	return []Row{
		taken("udp to an EIP", dns(11), web0),
		taken("udp to an EIP, no payload", dns(0), web0),
		taken("udp to an EIP without checksum", dns(3).NoChecksum().Only(V4), web0),
		taken("udp to an EIP, all that the port carries", dns(1500-48), web0),
		row("udp to an EIP that nobody allows", fromUplink, inward(client, web0).UDP(1, 25),
			Want{Counts: []Count{in(web0, dataplane.ReasonSGDenied)}}),
		left("udp to an EIP, more than the port carries", dns(1500-27)),
		left("udp to an EIP, a device was to complete the checksum", dns(8).Edit(partial(14))),
		left("udp to an EIP with options", dns(8).Options4(1, 1, 1, 0)),
		left("udp to an EIP behind an extension header", inward(client, web0).Only(V6).Extension(60, make([]byte, 6)...).UDP(1, 53)),
		left("udp to an EIP, a first fragment", inward(client, web0).Fragment(0, true).UDP(1, 53).Payload(8)),
		left("udp to an EIP, a later fragment", inward(client, web0).Fragment(64, false).UDP(1, 53).Payload(8)),
		left("udp to an EIP whose ENI is not ready", inward(client, late0).UDP(1, 53)),
		ended, waits,
		left("tcp to an EIP", inward(client, web0).TCP(1, 443, SYN)),
		left("ping to an EIP", inward(client, web0).Echo(1)),
		left("who has an EIP", WhoHas(routerMAC, IP("192.168.100.254", "2001:db8:64::fe"), web0.eip)),

		decap("udp from the overlay", overlay(query), query),
		left("tcp from the overlay", overlay(inner(web9, web0).TCP(1, 443, SYN))),
		left("udp from the overlay, a device was to complete the checksum", overlay(query.Edit(partial(14)))),
		left("udp from the overlay, more than the port carries", overlay(inner(open9, web0).UDP(1, 53).Payload(1500-27))),
		left("udp from the overlay, a fragment", overlay(inner(open9, web0).Fragment(0, true).UDP(1, 53).Payload(8))),
		left("udp from the overlay, congestion experienced", congested(overlay(query))),
		left("udp from the overlay with an outer checksum", overlay(query).Poke(40, 1, 2)),
		left("udp from the overlay with a trailer", overlay(query).Pad(4)),
		left("udp from the overlay with outer options", Eth(routerMAC, uplinkMAC).Underlay(vtepB, vtepA).Options4(1, 1, 1, 0).
			VXLAN(red).Inside(query)),
		left("udp from the internet, by a gateway", Eth(routerMAC, uplinkMAC).Underlay(vtepB, vtepA).VXLAN(red).
			VXLANFlags(0x88, 1, 0, 0).Inside(fromNetTo(client, away0).UDP(40000, 53))),
		left("udp to the internet, to this gateway", Eth(routerMAC, uplinkMAC).Underlay(vtepB, vtepA).VXLAN(red).
			Inside(toGateway(far9, client).UDP(40000, 53))),
		left("udp to an EIP behind this gateway", inward(client, far9).UDP(40000, 53)),
		row("udp to an EIP that nobody has, at a gateway", fromUplink, Eth(routerMAC, uplinkMAC).IP(client, gateFree).UDP(40000, 53),
			Want{Counts: []Count{onHost(dataplane.ReasonEIPUnknown)}}),
		left("less than a frame from the overlay", overlay(query).Cut(14+20+8+8+13)),
		row("from the overlay to a MAC that nobody has", fromUplink, overlay(query.MACs(open9.mac, ParseMAC("02:00:00:00:0f:ff"))),
			Want{Counts: []Count{onHost(dataplane.ReasonVXLANNoENI)}}),
	}
}

// partial gives a UDP packet behind `at` bytes the checksum that a device was to complete: the sum of the pseudo header.
func partial(at int) func([]byte) []byte {
	return func(frame []byte) []byte {
		b := append([]byte(nil), frame...)
		ip := b[at:]
		addrs, l4 := ip[12:20], ip[20:]
		if ip[0]>>4 == 6 {
			addrs, l4 = ip[8:40], ip[40:]
		}
		sum := uint32(17) + uint32(binary.BigEndian.Uint16(l4[4:]))
		for i := 0; i < len(addrs); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(addrs[i:]))
		}
		for sum>>16 != 0 {
			sum = sum&0xffff + sum>>16
		}
		binary.BigEndian.PutUint16(l4[6:], uint16(sum))
		return b
	}
}

// congested sets both ECN bits of the outer header.
func congested(p Packet) Packet { return p.Poke(15, 3) }

// XDP as shipped takes some packets, and on a host whose ports take none from it the same packets are left to TC.
func TestOwnRows(t *testing.T) {
	shipped := NewWorld(t, setup(asksNone))
	bare := setup(asksNone)
	bare.NoXDP = true
	none := NewWorld(t, bare)
	for _, r := range ownRows() {
		for _, f := range r.Families() {
			name := variant{row: r, family: f, by: ByXDP}.name()
			t.Run(name, func(t *testing.T) { shipped.Run(t, &r, f, ByXDP) })
			if w := r.Steps[0].Want; w.Verdict == Pass || len(w.Counts) == 1 && w.Counts[0].ENI == "" {
				continue
			}
			same := row(r.Name, fromUplink, r.Steps[0].In, untouched())
			t.Run(name+"/no_port", func(t *testing.T) { none.Run(t, &same, f, ByXDP) })
		}
	}
}
