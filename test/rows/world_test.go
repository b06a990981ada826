// SPDX-License-Identifier: Apache-2.0

package rows

import (
	_ "embed"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/dataplane"
	. "github.com/eniplane/eniplane/pkg/pkttest"
)

// party is somebody of testdata/world.yaml, or out on the internet.
type party struct {
	name   string
	subnet string
	mac    MAC
	ip     Addr
	eip    Addr
	host   string // VTEP of another host
	vni    uint32
}

const (
	red   = 1001
	blue  = 1002
	green = 1003
	lime  = 1004
)

// The VTEPs.
const (
	hostA = "192.168.100.1"
	hostB = "192.168.100.2"
	hostC = "192.168.100.3"
)

func eni(name, subnet, mac, v4, v6 string) party {
	p := party{name: name, subnet: subnet, mac: ParseMAC(mac), ip: IP(v4, v6), vni: red}
	switch {
	case strings.HasPrefix(name, "blue"):
		p.vni = blue
	case strings.HasPrefix(name, "lime"):
		p.vni = lime
	case strings.HasPrefix(name, "green"):
		p.vni = green
	}
	return p
}

func (p party) on(host string) party {
	p.host = host
	return p
}

func (p party) with(eips ...string) party {
	p.eip = IP(eips...)
	return p
}

// port is where the party's packets come in.
func (p party) port() Hook { return Hook{Program: PortProgram, Device: p.device()} }

func (p party) device() string { return "eni-" + p.name }

// ENIs of host-a, then those of other hosts.
var (
	web0 = eni("web-0", "red-web", "02:00:00:00:01:10", "10.0.1.10", "fd00:1:0:1::10").
		with("203.0.113.10", "2001:db8:e::10")
	web1 = eni("web-1", "red-web", "02:00:00:00:01:20", "10.0.1.20", "fd00:1:0:1::20").
		with("203.0.113.20", "2001:db8:e::20")
	open1  = eni("open-1", "red-web", "02:00:00:00:01:30", "10.0.1.30", "fd00:1:0:1::30")
	relay0 = eni("relay-0", "red-web", "02:00:00:00:01:40", "10.0.1.40", "fd00:1:0:1::40")
	extra0 = eni("extra-0", "red-web", "02:00:00:00:01:50", "10.0.1.50", "fd00:1:0:1::50")
	late0  = eni("late-0", "red-web", "02:00:00:00:01:60", "10.0.1.60", "fd00:1:0:1::60").
		with("203.0.113.60", "2001:db8:e::60")
	idle0 = eni("idle-0", "red-web", "02:00:00:00:01:99", "10.0.1.99", "fd00:1:0:1::99")
	db0   = eni("db-0", "red-db", "02:00:00:00:02:10", "10.0.2.10", "fd00:1:0:2::10")
	open0 = eni("open-0", "red-db", "02:00:00:00:02:30", "10.0.2.30", "fd00:1:0:2::30").
		with("203.0.113.30", "2001:db8:e::30")
	mute0 = eni("mute-0", "red-db", "02:00:00:00:02:40", "10.0.2.40", "fd00:1:0:2::40")
	blue0 = eni("blue-0", "blue-all", "02:00:00:00:01:10", "10.0.1.10", "fd00:1:0:1::10")
	blue1 = eni("blue-1", "blue-all", "02:00:00:00:03:31", "10.0.1.31", "fd00:1:0:1::31")

	app0   = eni("app-0", "red-app", "02:00:00:00:03:10", "10.0.3.10", "fd00:1:0:3::10")
	data0  = eni("data-0", "red-data", "02:00:00:00:04:10", "10.0.4.10", "fd00:1:0:4::10")
	fw0    = eni("fw-0", "red-fw", "02:00:00:00:05:10", "10.0.5.10", "fd00:1:0:5::10").with("203.0.113.40", "2001:db8:e::40")
	multi0 = eni("multi-0", "red-web", "02:00:00:00:01:70", "10.0.1.70", "fd00:1:0:1::70").with("203.0.113.70", "2001:db8:e::70")
	lime0  = eni("lime-0", "lime-all", "02:00:00:00:11:10", "10.4.1.10", "fd00:4:0:1::10")
	lime1  = eni("lime-1", "lime-shut", "02:00:00:00:12:20", "10.4.2.20", "fd00:4:0:2::20")

	app9   = eni("app-9", "red-app", "02:00:00:00:03:90", "10.0.3.90", "fd00:1:0:3::90").on(hostB)
	data9  = eni("data-9", "red-data", "02:00:00:00:04:90", "10.0.4.90", "fd00:1:0:4::90").on(hostB)
	fw9    = eni("fw-9", "red-fw", "02:00:00:00:05:90", "10.0.5.90", "fd00:1:0:5::90").on(hostB)
	lime9  = eni("lime-9", "lime-all", "02:00:00:00:11:90", "10.4.1.90", "fd00:4:0:1::90").on(hostB)
	web9   = eni("web-9", "red-web", "02:00:00:00:01:90", "10.0.1.90", "fd00:1:0:1::90").on(hostB)
	relay9 = eni("relay-9", "red-web", "02:00:00:00:01:92", "10.0.1.92", "fd00:1:0:1::92").on(hostB).
		with("203.0.113.92", "2001:db8:e::92")
	open9 = eni("open-9", "red-db", "02:00:00:00:02:91", "10.0.2.91", "fd00:1:0:2::91").on(hostB)
	blue9 = eni("blue-9", "blue-all", "02:00:00:00:03:90", "10.0.1.90", "fd00:1:0:1::90").on(hostB)
	blue8 = eni("blue-8", "blue-all", "02:00:00:00:03:80", "10.0.1.80", "fd00:1:0:1::80").on(hostC)
)

// ENIs of both kinds with EIPs of ranges that have gateways: host-a and host-c, or host-b.
var (
	gate0  = eni("gate-0", "red-web", "02:00:00:00:01:14", "10.0.1.14", "fd00:1:0:1::14").with("203.0.114.10", "2001:db8:f::10")
	away0  = eni("away-0", "red-web", "02:00:00:00:01:15", "10.0.1.15", "fd00:1:0:1::15").with("203.0.115.10", "2001:db8:a::10")
	away1  = eni("away-1", "red-web", "02:00:00:00:01:18", "10.0.1.18", "fd00:1:0:1::18").with("203.0.115.11", "2001:db8:a::11")
	lost0  = eni("lost-0", "red-web", "02:00:00:00:01:17", "10.0.1.17", "fd00:1:0:1::17").with("203.0.114.99", "2001:db8:f::99")
	far9   = eni("far-9", "red-web", "02:00:00:00:01:16", "10.0.1.16", "fd00:1:0:1::16").on(hostB).with("203.0.114.90", "2001:db8:f::90")
	green8 = eni("green-8", "green-all", "02:00:00:00:04:80", "10.3.1.80", "fd00:3:0:1::80").on(hostC).with("203.0.114.80", "2001:db8:f::80")
)

// Others.
var (
	gatewayMAC = ParseMAC("02:00:5e:00:00:01")
	uplinkMAC  = ParseMAC("02:00:00:00:aa:01")
	routerMAC  = ParseMAC("02:00:00:00:aa:fe")
	strangeMAC = ParseMAC("02:00:00:00:99:99")
	greenMAC   = ParseMAC("02:00:00:00:04:80") // of green-8

	client       = IP("198.51.100.7", "2001:db8:c::7")
	besideClient = IP("198.51.100.8", "2001:db8:c::8")
	besideUs     = IP("192.168.100.77", "2001:db8:64::77") // in the uplink's subnet, where nobody is
	office       = IP("192.0.2.70", "2001:db8:ff1::7")
	unroutable   = IP("198.51.100.200", "2001:db8:c:bad::7") // the host's own routes refuse it
	blackhole    = IP("198.18.0.7", "2001:db8:dead::7")
	infra        = IP("100.64.0.7", "fd00:ffff::7")
	labs         = IP("198.51.100.130", "2001:db8:c:1::7") // of prefix list lab
	second       = IP("10.0.1.71", "fd00:1:0:1::71")       // of multi-0
	nobody       = IP("10.0.1.77", "fd00:1:0:1::77")       // in subnet red-web
	noSubnet     = IP("10.0.7.7", "fd00:1:0:7::7")         // in the VPC
	gateway      = IP("10.0.1.1", "fd00:1:0:1::1")         // of red-web
	dbGateway    = IP("10.0.2.1", "fd00:1:0:2::1")
	linkLocal    = IP("fe80::10")
	linkGateway  = IP("fe80::1")
	reserved     = IP("203.0.113.99")
	gateFree     = IP("203.0.114.77", "2001:db8:f::77") // in a range for which host-a is a gateway
	gateKept     = IP("203.0.114.98", "2001:db8:f::98") // the same, reserved
	vtepA        = IP(hostA)
	vtepB        = IP(hostB)
	vtepC        = IP(hostC)
	hostAddress  = IP("192.168.100.1", "2001:db8:64::1") // of the uplink
)

var (
	fromUplink  = Hook{Program: UplinkProgram, Device: "uplink0"}
	fromOverlay = Hook{Program: VXLANProgram, Device: VXLANDevice}
)

// vxlanMark vouches for a packet that passed the uplink's check; the others say that it comes from a gateway, or is to
// leave through this one.
const (
	vxlanMark       = 0xe41b0d01
	fromGatewayMark = vxlanMark + 1
	toGatewayMark   = vxlanMark + 2
)

//go:embed testdata/world.yaml
var world []byte

// objects decodes the world; every call makes new ones, which a row may change.
func objects() (*api.Objects, error) {
	o, problems := api.Decode([]api.File{{Name: "world.yaml", Data: world}})
	var errs []error
	for _, p := range problems {
		errs = append(errs, p)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("decode the world of the rows: %w", err)
	}
	return o, nil
}

func setup(knobs map[string]any) Setup {
	return Setup{
		Objects: objects,
		Host:    "host-a",
		Absent:  []string{late0.device()},
		Knobs:   knobs,
		Uplink:  uplinkMAC,
		// The way to hostC is the kernel's to find; that to another VTEP is in the same bucket.
		Ways: map[string]MAC{hostB: routerMAC, "10.0.5.206": strangeMAC, "10.0.5.207": strangeMAC},
		Underlay: Underlay{
			Addresses: []netip.Prefix{netip.MustParsePrefix("192.168.100.1/24"), netip.MustParsePrefix("2001:db8:64::1/64")},
			Gateways:  []netip.Addr{netip.MustParseAddr("192.168.100.254"), netip.MustParseAddr("2001:db8:64::fe")},
			Neighbour: routerMAC,
			Refused:   []netip.Prefix{netip.MustParsePrefix("198.51.100.192/26"), netip.MustParsePrefix("2001:db8:c:bad::/64")},
		},
	}
}

// frame is a packet as a guest sends it: to its neighbour, or to the gateway.
func frame(from, to party) Packet {
	if from.subnet == to.subnet {
		return Eth(from.mac, to.mac).IP(from.ip, to.ip)
	}
	return Eth(from.mac, gatewayMAC).IP(from.ip, to.ip)
}

// outward is a packet of an ENI to an address that is no ENI's.
func outward(from party, to Addr) Packet { return Eth(from.mac, gatewayMAC).IP(from.ip, to) }

// inward is a packet from the internet to an EIP.
func inward(from Addr, to party) Packet { return Eth(routerMAC, uplinkMAC).IP(from, to.eip) }

// arrived is the packet as its receiver gets it.
func arrived(in Packet, from, to party) Packet {
	if from.subnet == to.subnet {
		return in.MACs(from.mac, to.mac)
	}
	return in.MACs(gatewayMAC, to.mac)
}

func out(p party, r dataplane.Reason) Count {
	return Count{ENI: p.name, Direction: dataplane.Out, Reason: r}
}

func in(p party, r dataplane.Reason) Count {
	return Count{ENI: p.name, Direction: dataplane.In, Reason: r}
}

func onHost(r dataplane.Reason) Count { return Count{Direction: dataplane.In, Reason: r} }

// dropped: at the sender's port.
func dropped(from party, r dataplane.Reason) Want { return Want{Counts: []Count{out(from, r)}} }

// refused: the sender may, the receiver on the same host may not.
func refused(from, to party, r dataplane.Reason) Want {
	return Want{Counts: []Count{out(from, dataplane.ReasonDelivered), in(to, r)}}
}

// delivered: from one ENI to another on the same host.
func delivered(packet Packet, from, to party) Want {
	return Want{
		Verdict: Redirect,
		Device:  to.device(),
		Packet:  arrived(packet, from, to),
		Counts:  []Count{out(from, dataplane.ReasonDelivered), in(to, dataplane.ReasonDelivered)},
	}
}

// tunnelled: to an ENI on another host; the MACs are those of both ENIs.
func tunnelled(packet Packet, from, to party) Want {
	return Want{
		Verdict: Redirect,
		Device:  VXLANDevice,
		Tunnel:  &Tunnel{VNI: to.vni, Remote: to.host},
		Packet:  packet.MACs(from.mac, to.mac),
		Counts:  []Count{out(from, dataplane.ReasonDelivered)},
	}
}

// answered: out by the port it came in.
func answered(packet Packet, to party) Want {
	return Want{
		Verdict: Redirect, Device: to.device(), Packet: packet,
		Counts: []Count{out(to, dataplane.ReasonAnswered)},
	}
}

// untouched: the host's own packet, or another one that is not ours.
func untouched() Want { return Want{Verdict: Pass} }

// row is the common case of one packet.
func row(name string, at Hook, packet Packet, want Want) Row {
	return Row{Name: name, Steps: []Step{{At: at, In: packet, Want: want}}}
}

// send is the common case of a step: an ENI sends.
func send(from party, packet Packet, want Want) Step {
	return Step{At: from.port(), In: packet, Want: want}
}
