// SPDX-License-Identifier: Apache-2.0

package rows

import (
	"github.com/eniplane/eniplane/pkg/dataplane"
	. "github.com/eniplane/eniplane/pkg/pkttest"
)

// syn opens a connection that every row's groups allow.
func syn(from, to party) Packet { return frame(from, to).TCP(40000, 443, SYN) }

// stubRows: an empty slot of the arrays closes ports and overlay and leaves the uplink to the host; a
// filled one runs.
func stubRows() []Row {
	stub := func(program, device string) Hook { return Hook{Program: program, Device: device} }
	eip := inward(client, web0).TCP(40000, 443, SYN)
	empty := func(name string, at Hook, p Packet, want Want) Row {
		r := row(name, at, p, want)
		r.Steps[0].Poke = (*World).EmptySlots
		return r
	}
	filled := func(name string, at Hook, p Packet, want Want) Row {
		r := row(name, at, p, want)
		r.Steps[0].Poke = (*World).FillSlots
		return r
	}
	port, overlay := stub("stub_port", web0.device()), stub("stub_vxlan", VXLANDevice)
	uplink, uplinkXDP := stub("stub_uplink", "uplink0"), stub("stub_uplink_xdp", "uplink0")
	return []Row{
		empty("an empty slot drops at ports", port, syn(web0, open0), Want{}),
		empty("an empty slot drops at the overlay", overlay, syn(web9, web0), Want{}),
		empty("an empty slot passes at the uplink", uplink, eip, untouched()),
		empty("an empty slot passes at the uplink, XDP", uplinkXDP, eip, untouched()),
		filled("a slot in force at ports", port, syn(web0, open0), delivered(syn(web0, open0), web0, open0)),
		filled("a slot in force at the overlay", overlay, syn(web9, web0),
			Want{Counts: []Count{onHost(dataplane.ReasonVXLANUnmarked)}}),
		filled("a slot in force at the uplink", uplink, eip, admitted(eip, web0)),
	}
}

// portRows: whose port is it, is it ready, and what frames may come in there at all.
func portRows() []Row {
	ok := syn(open1, web0)
	unready := row("a port that is not ready", open1.port(), ok, dropped(open1, dataplane.ReasonNotReady))
	unready.Steps[0].Poke = func(w *World) error { return w.Unready(open1.name) }
	poked := func(name string, want Want, poke func(*World) error) Row {
		return Row{Name: name, Steps: []Step{{At: open1.port(), In: ok, Poke: poke, Want: want}}}
	}
	return []Row{
		poked("a port of another attachment", dropped(open1, dataplane.ReasonNotReady),
			func(w *World) error { return w.ReadyAs(open1.name, true) }),
		poked("a port that is ready for another attachment", dropped(open1, dataplane.ReasonNotReady),
			func(w *World) error { return w.ReadyAs(open1.name, false) }),
		poked("to an ENI that is ready for another attachment", refused(open1, web0, dataplane.ReasonNotReady),
			func(w *World) error { return w.ReadyAs(web0.name, false) }),
		poked("a port that was guessed to be another's", delivered(ok, open1, web0),
			func(w *World) error { return w.Mislead(open1.name, web0.name) }),
		row("a device that is no port", Hook{Program: PortProgram, Device: "uplink0"}, ok,
			Want{Counts: []Count{{Direction: dataplane.Out, Reason: dataplane.ReasonUnknownPort}}}),
		unready,
		row("to an ENI that is not ready", open1.port(), syn(open1, late0),
			refused(open1, late0, dataplane.ReasonNotReady)),
		row("vlan tag", web0.port(), Eth(web0.mac, web1.mac).VLAN(0x8100, 7).IP(web0.ip, web1.ip).UDP(1, 53),
			dropped(web0, dataplane.ReasonEthertype)),
		row("priority tag", web0.port(), Eth(web0.mac, web1.mac).VLAN(0x8100, 0).IP(web0.ip, web1.ip).UDP(1, 53),
			dropped(web0, dataplane.ReasonEthertype)),
		row("two tags", web0.port(),
			Eth(web0.mac, web1.mac).VLAN(0x88a8, 7).VLAN(0x8100, 8).IP(web0.ip, web1.ip).UDP(1, 53),
			dropped(web0, dataplane.ReasonEthertype)),
		row("802.3 length and LLC", web0.port(), Eth(web0.mac, web1.mac).Raw(0xaa, 0xaa, 3, 0, 0, 0, 8, 0).EtherType(8),
			dropped(web0, dataplane.ReasonEthertype)),
		row("mpls", web0.port(), ok.MACs(web0.mac, web1.mac).EtherType(0x8847), dropped(web0, dataplane.ReasonEthertype)),
		row("pppoe", web0.port(), ok.MACs(web0.mac, web1.mac).EtherType(0x8864), dropped(web0, dataplane.ReasonEthertype)),
		row("spanning tree's ethertype", web0.port(), ok.MACs(web0.mac, web1.mac).EtherType(0x88cc),
			dropped(web0, dataplane.ReasonEthertype)),
		row("ethernet header only", web0.port(), syn(web0, web1).EtherType(0x0806).Cut(14),
			dropped(web0, dataplane.ReasonMalformed)),
		row("ethernet padding is no part of the packet", open1.port(), frame(open1, web0).UDP(40000, 53).Pad(18),
			delivered(frame(open1, web0).UDP(40000, 53).Pad(18), open1, web0)),
		row("any unicast MAC is delivered by IP", open1.port(), syn(open1, web0).MACs(open1.mac, strangeMAC),
			delivered(syn(open1, web0), open1, web0)),
		row("a unicast packet in a broadcast frame", open1.port(), syn(open1, web0).MACs(open1.mac, Broadcast),
			dropped(open1, dataplane.ReasonMulticast)),
	}
}

// spoofRows: an ENI may be itself only.
func spoofRows() []Row {
	second := IP("10.0.1.11", "fd00:1:0:1::11")
	allowed := IP("10.0.1.200", "fd00:1:0:1::200")
	allowedNet := IP("172.16.9.5", "fd00:99::5")
	udp := func(from party, source Addr) Packet { return frame(from, open0).From(source).UDP(40000, 53) }
	return []Row{
		row("own second address", web0.port(), udp(web0, second), delivered(udp(web0, second), web0, open0)),
		row("foreign MAC", web0.port(), syn(web0, web1).MACs(strangeMAC, web1.mac),
			dropped(web0, dataplane.ReasonSpoofedMAC)),
		row("a neighbour's MAC", web0.port(), syn(web0, web1).MACs(web1.mac, web1.mac),
			dropped(web0, dataplane.ReasonSpoofedMAC)),
		row("the gateway's MAC", web0.port(), syn(web0, web1).MACs(gatewayMAC, web1.mac),
			dropped(web0, dataplane.ReasonSpoofedMAC)),
		row("a neighbour's address", web0.port(), udp(web0, db0.ip), dropped(web0, dataplane.ReasonSpoofedIP)),
		row("a neighbour's address on another host", web0.port(), udp(web0, web9.ip), dropped(web0, dataplane.ReasonSpoofedIP)),
		row("the address of an ENI that is attached nowhere", web0.port(), udp(web0, idle0.ip), dropped(web0, dataplane.ReasonSpoofedIP)),
		row("the address of another ENI of its instance", web0.port(), udp(web0, web1.ip), dropped(web0, dataplane.ReasonWrongENI)),
		row("the second address of another ENI of its instance", web1.port(), udp(web1, second), dropped(web1, dataplane.ReasonWrongENI)),
		row("the address of another ENI of its instance, which is not ready", web0.port(), udp(web0, late0.ip),
			dropped(web0, dataplane.ReasonWrongENI)),
		row("the address of another ENI of its instance, in transit", extra0.port(), udp(extra0, web1.ip),
			dropped(extra0, dataplane.ReasonWrongENI)),
		row("an address of nobody", web0.port(), udp(web0, nobody), dropped(web0, dataplane.ReasonSpoofedIP)),
		row("the gateway's address", web0.port(), udp(web0, gateway), dropped(web0, dataplane.ReasonSpoofedIP)),
		row("an address of the internet", web0.port(), udp(web0, client), dropped(web0, dataplane.ReasonSpoofedIP)),
		row("its own EIP", web0.port(), udp(web0, web0.eip), dropped(web0, dataplane.ReasonSpoofedIP)),
		row("an infrastructure address", web0.port(), udp(web0, infra), dropped(web0, dataplane.ReasonSpoofedIP)),
		row("a blue neighbour's address", blue1.port(), frame(blue1, blue0).From(web1.ip).UDP(1, 53),
			dropped(blue1, dataplane.ReasonSpoofedIP)),
		row("an allowed address", extra0.port(), udp(extra0, allowed), delivered(udp(extra0, allowed), extra0, open0)),
		row("an allowed network", extra0.port(), udp(extra0, allowedNet),
			delivered(udp(extra0, allowedNet), extra0, open0)),
		row("beside the allowed network", extra0.port(), udp(extra0, IP("172.16.10.5", "fd00:99:0:1::5")),
			dropped(extra0, dataplane.ReasonSpoofedIP)),
		row("any address without the check", relay0.port(), udp(relay0, client), delivered(udp(relay0, client), relay0, open0)),
		row("any address without the check, but no other MAC", relay0.port(),
			udp(relay0, client).MACs(strangeMAC, gatewayMAC), dropped(relay0, dataplane.ReasonSpoofedMAC)),
		row("loopback, also without the check", relay0.port(), udp(relay0, IP("127.0.0.1", "::1")),
			dropped(relay0, dataplane.ReasonAddress)),
		row("this network", relay0.port(), udp(relay0, IP("0.0.0.0", "::")), dropped(relay0, dataplane.ReasonAddress)),
		row("0/8", relay0.port(), udp(relay0, IP("0.1.2.3")), dropped(relay0, dataplane.ReasonAddress)),
		row("a multicast source", relay0.port(), udp(relay0, IP("224.0.0.5", "ff02::5")),
			dropped(relay0, dataplane.ReasonAddress)),
		row("a broadcast source", relay0.port(), udp(relay0, IP("255.255.255.255")),
			dropped(relay0, dataplane.ReasonAddress)),
		row("a mapped IPv4 source", relay0.port(), udp(relay0, IP("::ffff:10.0.1.10")), dropped(relay0, dataplane.ReasonAddress)),
		row("link-local, which only discovery uses", web0.port(), udp(web0, IP("169.254.1.1", "fe80::10")),
			dropped(web0, dataplane.ReasonAddress)),
	}
}
