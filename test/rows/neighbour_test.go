// SPDX-License-Identifier: Apache-2.0

package rows

import (
	"github.com/eniplane/eniplane/pkg/dataplane"
	. "github.com/eniplane/eniplane/pkg/pkttest"
)

// neighbourRows: ARP and neighbour discovery are answered here or end here.
func neighbourRows() []Row {
	ask := func(target Addr) Packet { return WhoHas(web0.mac, web0.ip, target) }
	isAt := func(mac MAC, target Addr, flags uint8) Packet {
		return IsAt(mac, target, web0.mac, web0.ip, flags)
	}
	host, router := Solicited|Override, FromRouter|Solicited|Override
	arp := func(sender MAC, senderIP Addr) Packet {
		return Eth(web0.mac, Broadcast).ARP(ARPRequest, sender, senderIP, MAC{}, web1.ip)
	}
	unknown := func(name string, target Addr) Row {
		return row(name, web0.port(), ask(target), dropped(web0, dataplane.ReasonARPUnknown))
	}
	return []Row{
		row("who has a neighbour on this host", web0.port(), ask(web1.ip), answered(isAt(web1.mac, web1.ip, host), web0)),
		row("who has a neighbour on another host", web0.port(), ask(web9.ip), answered(isAt(web9.mac, web9.ip, host), web0)),
		row("who has the gateway", web0.port(), ask(gateway), answered(isAt(gatewayMAC, gateway, router), web0)),
		row("who has the gateway's link-local address", web0.port(), ask(linkGateway),
			answered(isAt(gatewayMAC, linkGateway, router), web0)),
		row("from the link-local address", web0.port(), WhoHas(web0.mac, linkLocal, web1.ip),
			answered(IsAt(web1.mac, web1.ip, web0.mac, linkLocal, host), web0)),
		row("unicast, as a reachability probe", web0.port(), ask(web1.ip).MACs(web0.mac, web1.mac),
			answered(isAt(web1.mac, web1.ip, host), web0)),
		row("padded", web0.port(), ask(web1.ip).Only(V4).Pad(18), answered(isAt(web1.mac, web1.ip, host).Pad(18), web0)),
		row("without an option", web0.port(), Solicit(web0.mac, web0.ip, web1.ip, MAC{}), answered(isAt(web1.mac, web1.ip, host), web0)),
		unknown("who has an address of nobody", nobody),
		unknown("who has one in another subnet", open0.ip),
		unknown("who has another subnet's gateway", dbGateway),
		unknown("who has an address of the internet", client),
		unknown("who has its own address elsewhere", IP("10.0.1.11", "fd00:1:0:1::11")),
		unknown("who has one that is attached nowhere", idle0.ip),
		unknown("who has another link-local address", IP("fe80::2")),
		row("the blue neighbour with red's address", blue1.port(), WhoHas(blue1.mac, blue1.ip, web1.ip),
			dropped(blue1, dataplane.ReasonARPUnknown)),
		row("its blue neighbour", blue1.port(), WhoHas(blue1.mac, blue1.ip, blue0.ip),
			answered(IsAt(blue0.mac, blue0.ip, blue1.mac, blue1.ip, host), blue1)),

		row("sender's MAC is another's", web0.port(), arp(web1.mac, web0.ip), dropped(web0, dataplane.ReasonSpoofedARP)),
		row("sender's IP is another's", web0.port(), WhoHas(web0.mac, db0.ip, gateway),
			dropped(web0, dataplane.ReasonSpoofedARP)),
		row("sender's IP is that of another ENI of its instance", web0.port(), WhoHas(web0.mac, web1.ip, gateway),
			dropped(web0, dataplane.ReasonWrongENI)),
		row("sender is the gateway", web0.port(), WhoHas(web0.mac, gateway, web1.ip),
			dropped(web0, dataplane.ReasonSpoofedARP)),
		row("sender's IP is its EIP", web0.port(), WhoHas(web0.mac, web0.eip, web1.ip),
			dropped(web0, dataplane.ReasonSpoofedARP)),
		row("sender's IP is allowed", extra0.port(), WhoHas(extra0.mac, IP("10.0.1.200", "fd00:1:0:1::200"), web1.ip),
			answered(IsAt(web1.mac, web1.ip, extra0.mac, IP("10.0.1.200", "fd00:1:0:1::200"), host), extra0)),
		row("frame's MAC is another's", web0.port(), ask(web1.ip).MACs(web1.mac, Broadcast),
			dropped(web0, dataplane.ReasonSpoofedMAC)),
		row("source option is another's", web0.port(), Solicit(web0.mac, web0.ip, web1.ip, web1.mac),
			dropped(web0, dataplane.ReasonSpoofedARP)),
		row("an answer for another's address", web0.port(), IsAt(web0.mac, db0.ip, web1.mac, web1.ip, host),
			dropped(web0, dataplane.ReasonSpoofedARP)),
		row("an advertisement for the gateway", web0.port(), IsAt(web0.mac, gateway, web1.mac, web1.ip, host),
			dropped(web0, dataplane.ReasonSpoofedARP)),
		row("target option is another's", web0.port(), Advertise(web0.mac, web0.ip, web1.mac),
			dropped(web0, dataplane.ReasonSpoofedARP)),

		row("announcement", web0.port(), Announce(web0.mac, web0.ip), dropped(web0, dataplane.ReasonConsumed)),
		row("announcement of another's address", web0.port(), Announce(web0.mac, db0.ip),
			dropped(web0, dataplane.ReasonSpoofedARP)),
		row("announcement of the address of another ENI of its instance", web0.port(), Announce(web0.mac, web1.ip),
			dropped(web0, dataplane.ReasonWrongENI)),
		row("probe", web0.port(), Probe(web0.mac, web0.ip), dropped(web0, dataplane.ReasonConsumed)),
		row("probe for another's address", web0.port(), Probe(web0.mac, web1.ip), dropped(web0, dataplane.ReasonConsumed)),
		row("answer to nobody's question", web0.port(), IsAt(web0.mac, web0.ip, web1.mac, web1.ip, host),
			dropped(web0, dataplane.ReasonConsumed)),
		row("rarp", web0.port(), RARP(web0.mac), dropped(web0, dataplane.ReasonConsumed)),

		row("arp of another hardware", web0.port(), ask(web1.ip).Only(V4).Poke(14, 0, 6),
			dropped(web0, dataplane.ReasonMalformed)),
		row("arp of another protocol", web0.port(), ask(web1.ip).Only(V4).Poke(16, 0x86, 0xdd),
			dropped(web0, dataplane.ReasonMalformed)),
		row("arp of an unknown operation", web0.port(), ask(web1.ip).Only(V4).Poke(20, 0, 9),
			dropped(web0, dataplane.ReasonMalformed)),
		row("truncated", web0.port(), Either(ask(web1.ip).Only(V4).Cut(40), ask(web1.ip).Only(V6).Cut(70)),
			dropped(web0, dataplane.ReasonMalformed)),
		row("hop limit below 255", web0.port(), ask(web1.ip).Only(V6).TTL(254), dropped(web0, dataplane.ReasonMalformed)),
		row("an option of length zero", web0.port(), ask(web1.ip).Only(V6).Poke(79, 0),
			dropped(web0, dataplane.ReasonMalformed)),
	}
}

// serviceRows: what only a network offers, and what ends at the port.
func serviceRows() []Row {
	return []Row{
		row("dhcp client", web0.port(), DHCPAsk(web0.mac, linkLocal), dropped(web0, dataplane.ReasonConsumed)),
		row("dhcp client renews", web0.port(), Either(frame(web0, web1).UDP(68, 67), frame(web0, web1).UDP(546, 547)),
			dropped(web0, dataplane.ReasonConsumed)),
		row("dhcp server", web0.port(), DHCPAnswer(web0.mac, web1.mac, web0.ip, web1.ip),
			dropped(web0, dataplane.ReasonGuestServer)),
		row("dhcp server to all", web0.port(), DHCPAnswer(web0.mac, Broadcast, web0.ip, IP("255.255.255.255", "ff02::1")),
			dropped(web0, dataplane.ReasonGuestServer)),
		row("router advertisement", web0.port(), RouterAdvertisement(web0.mac, linkLocal),
			dropped(web0, dataplane.ReasonGuestServer)),
		row("redirect", web0.port(), RedirectMessage(web0.mac, web1.mac, web0.ip, web1.ip, web0.ip),
			dropped(web0, dataplane.ReasonGuestServer)),
		row("router solicitation", web0.port(), RouterSolicitation(web0.mac, linkLocal),
			dropped(web0, dataplane.ReasonConsumed)),
		row("multicast listener report", web0.port(), ListenerReport(web0.mac, linkLocal),
			dropped(web0, dataplane.ReasonConsumed)),
		row("multicast", web0.port(), outward(web0, IP("224.0.0.251", "ff02::fb")).UDP(5353, 5353),
			dropped(web0, dataplane.ReasonMulticast)),
		row("multicast beyond the link", web0.port(), outward(web0, IP("239.1.2.3", "ff05::1:3")).UDP(1, 2),
			dropped(web0, dataplane.ReasonMulticast)),
		row("broadcast", web0.port(), Eth(web0.mac, Broadcast).IP(web0.ip, IP("255.255.255.255")).UDP(1, 2),
			dropped(web0, dataplane.ReasonMulticast)),
		row("the subnet's broadcast", web0.port(), Eth(web0.mac, Broadcast).IP(web0.ip, IP("10.0.1.255")).UDP(1, 2),
			dropped(web0, dataplane.ReasonMulticast)),
		row("link-local beyond discovery", web0.port(), Eth(web0.mac, web1.mac).IP(linkLocal, IP("fe80::20")).UDP(1, 2),
			dropped(web0, dataplane.ReasonAddress)),
	}
}
