// SPDX-License-Identifier: Apache-2.0

package rows

import (
	"github.com/eniplane/eniplane/pkg/dataplane"
	. "github.com/eniplane/eniplane/pkg/pkttest"
)

// uplinkRows: the uplink is the host's too. What is not ours passes untouched and uncounted; ARP and
// neighbour discovery for EIPs held here is answered.
func uplinkRows() []Row {
	router := IP("192.168.100.254", "2001:db8:64::fe")
	ask := func(target Addr) Packet { return WhoHas(routerMAC, router, target) }
	toHost := Eth(routerMAC, uplinkMAC).IP(router, hostAddress)
	answer := func(packet Packet) Want {
		return Want{Verdict: Redirect, Device: "uplink0", Packet: packet, Counts: []Count{onHost(dataplane.ReasonAnswered)}}
	}
	isAt := IsAt(uplinkMAC, web0.eip, routerMAC, router, FromRouter|Solicited|Override)
	fine := func(name string, p Packet) Row { return row(name, fromUplink, p, untouched()) }
	return []Row{
		fine("tcp to the host", toHost.TCP(1, 22, SYN)),
		fine("udp to the host", toHost.UDP(1, 53)),
		fine("ping to the host", toHost.Echo(1)),
		fine("a fragment to the host", toHost.Fragment(0, true).UDP(1, 53).Payload(8)),
		fine("a malformed packet to the host", toHost.TCP(1, 22, SYN).TCPWords(2)),
		xdpOnly(fine("half a header", toHost.TCP(1, 22, SYN).Cut(24))),
		xdpOnly(fine("half a header to an EIP", inward(client, web0).TCP(1, 22, SYN).Cut(30))),
		xdpOnly(fine("ethernet header only", toHost.TCP(1, 22, SYN).Cut(14))),
		fine("vlan", Eth(routerMAC, uplinkMAC).VLAN(0x8100, 9).IP(router, web0.eip).UDP(1, 53)),
		fine("an unknown ethertype", toHost.TCP(1, 22, SYN).EtherType(0x88cc)),
		fine("multicast", toHost.To(IP("224.0.0.1", "ff02::1")).UDP(1, 2).MACs(routerMAC, Broadcast)),
		fine("a private address of an ENI", toHost.To(web0.ip).TCP(1, 443, SYN)),
		fine("an EIP of another host", toHost.To(relay9.eip).TCP(1, 443, SYN)),
		fine("a reserved EIP", toHost.To(reserved).TCP(1, 443, SYN)),
		fine("from an EIP of this host to the host", toHost.From(web0.eip).TCP(1, 22, SYN)),

		row("who has an EIP", fromUplink, ask(web0.eip), answer(isAt)),
		row("who has an EIP, padded", fromUplink, ask(web0.eip).Only(V4).Pad(18), answer(isAt.Pad(18))),
		row("who has an EIP, unicast", fromUplink, ask(web0.eip).MACs(routerMAC, uplinkMAC), answer(isAt)),
		row("who has an EIP, to the EIP itself", fromUplink, ask(web0.eip).Only(V6).MACs(routerMAC, uplinkMAC).To(web0.eip),
			answer(isAt)),
		row("who has an EIP, from a link-local address", fromUplink, WhoHas(routerMAC, IP("fe80::fe"), web0.eip),
			answer(IsAt(uplinkMAC, web0.eip, routerMAC, IP("fe80::fe"), FromRouter|Solicited|Override))),
		row("who has an EIP, asked at an address that nobody has, of a gateway here", fromUplink,
			ask(web0.eip).Only(V6).MACs(routerMAC, uplinkMAC).To(gateFree), answer(isAt)),
		row("who has an EIP, asked at an EIP of other gateways", fromUplink,
			ask(web0.eip).Only(V6).MACs(routerMAC, uplinkMAC).To(away0.eip), answer(isAt)),
		fine("who has the host", ask(hostAddress)),
		fine("who has a reserved EIP", ask(reserved)),
		fine("who has another host's EIP", ask(relay9.eip)),
		fine("who has an EIP whose ENI is not ready", ask(late0.eip)),
		row("who has an EIP behind this gateway", fromUplink, ask(far9.eip),
			answer(IsAt(uplinkMAC, far9.eip, routerMAC, router, FromRouter|Solicited|Override))),
		row("who has an EIP at this gateway", fromUplink, ask(gate0.eip),
			answer(IsAt(uplinkMAC, gate0.eip, routerMAC, router, FromRouter|Solicited|Override))),
		fine("who has an EIP that other gateways take", ask(away0.eip)),
		fine("who has an EIP behind this gateway whose ENI is attached nowhere", ask(lost0.eip)),
		fine("who has a private address", ask(web0.ip)),
		fine("somebody takes an EIP", Announce(routerMAC, web0.eip)),
		fine("somebody probes for an EIP", Probe(routerMAC, web0.eip).Only(V6)),
		fine("an answer to the host", IsAt(routerMAC, router, uplinkMAC, hostAddress, Solicited)),
		fine("malformed arp", ask(web0.eip).Only(V4).Cut(30)),
	}
}

// xdpOnly is for frames that end within their IP header: the kernel makes no such skb for a test.
func xdpOnly(r Row) Row {
	r.Hooks = XDPOnly
	return r
}
