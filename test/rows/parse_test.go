// SPDX-License-Identifier: Apache-2.0

package rows

import (
	"slices"

	"github.com/eniplane/eniplane/pkg/dataplane"
	. "github.com/eniplane/eniplane/pkg/pkttest"
)

// parseRows: headers that lie, in IPv4 or in both families.
func parseRows() []Row {
	from, to := open1, open0
	tcp := frame(from, to).TCP(40000, 443, SYN).Payload(8)
	udp := frame(from, to).UDP(40000, 53).Payload(8)
	echo := frame(from, to).Echo(7)
	bad := func(name string, p Packet) Row {
		return row(name, from.port(), p, dropped(from, dataplane.ReasonMalformed))
	}
	fine := func(name string, p Packet) Row { return row(name, from.port(), p, delivered(p, from, to)) }
	long := slices.Repeat([]byte{1}, 40)
	return []Row{
		bad("version of the other family", Either(tcp.Poke(14, 0x65), tcp.Poke(14, 0x40))),
		bad("version 0", tcp.Poke(14, 0x05)),
		bad("header of 16 bytes", tcp.Only(V4).Poke(14, 0x44)),
		bad("header of 0 bytes", tcp.Only(V4).Poke(14, 0x40)),
		bad("header longer than the packet says", tcp.Only(V4).Poke(14, 0x4f)),
		bad("total length below the header", tcp.Only(V4).Poke(16, 0, 19)),
		bad("length beyond the frame", Either(tcp.Poke(16, 0, 49), tcp.Poke(18, 0, 29))),
		bad("length 0", Either(tcp.Poke(16, 0, 0), tcp.Poke(18, 0, 0))),
		fine("length shorter than the frame", Either(tcp.Pad(6), tcp.Pad(6))),
		bad("tcp behind the length", Either(tcp.Poke(16, 0, 30), tcp.Poke(18, 0, 10))),
		bad("udp behind the length", Either(udp.Poke(16, 0, 27), udp.Poke(18, 0, 7))),
		bad("icmp behind the length", Either(echo.Poke(16, 0, 27), echo.Poke(18, 0, 7))),
		bad("tcp header of 16 bytes", tcp.TCPWords(4)),
		bad("tcp header beyond the packet", tcp.TCPWords(15)),
		bad("udp length below its header", udp.UDPLength(7)),
		bad("udp length beyond the packet", udp.UDPLength(17)),
		bad("syn and fin", frame(from, to).TCP(40000, 443, SYN|FIN)),
		bad("syn and rst", frame(from, to).TCP(40000, 443, SYN|RST)),
		bad("icmp of the other family", Either(echo.Protocol(58), echo.Protocol(1))),
		fine("options", tcp.Options4(7, 7, 4, 0, 0, 0, 0)),
		fine("40 bytes of options", tcp.Options4(long...)),
		fine("router alert", udp.Options4(0x94, 4, 0, 0)),
		fine("ttl 1", tcp.TTL(1)),
		fine("a wrong transport checksum is the receiver's business", tcp.BadChecksum()),
		fine("no udp checksum", udp.Only(V4).NoChecksum()),
		row("to loopback", from.port(), outward(from, IP("127.0.0.1", "::1")).UDP(1, 53),
			dropped(from, dataplane.ReasonAddress)),
		row("to 0/8", from.port(), outward(from, IP("0.0.0.0", "::")).UDP(1, 53), dropped(from, dataplane.ReasonAddress)),
		row("to the cloud's link-local address", from.port(), outward(from, IP("169.254.169.254", "fe80::a9fe")).TCP(1, 80, SYN),
			dropped(from, dataplane.ReasonAddress)),
	}
}

// ip6Rows: extension headers.
func ip6Rows() []Row {
	from, to := open1, open0
	ip := frame(from, to)
	fine := func(name string, p Packet) Row { return row(name, from.port(), p, delivered(p, from, to)) }
	drop := func(name string, p Packet, r dataplane.Reason) Row {
		return row(name, from.port(), p, dropped(from, r))
	}
	many := ip
	for range 7 {
		many = many.Extension(DestOptions)
	}
	return []Row{
		fine("hop-by-hop", ip.Extension(HopByHop, 1, 4, 0, 0, 0, 0).UDP(1, 53)),
		fine("destination options", ip.Extension(DestOptions, 1, 4, 0, 0, 0, 0).TCP(1, 443, SYN)),
		fine("both", ip.Extension(HopByHop).Extension(DestOptions).TCP(1, 443, SYN)),
		fine("routing header that is used up", ip.Extension(Routing, 2, 0, 0, 0, 0, 0).UDP(1, 53)),
		fine("a long header", ip.Extension(DestOptions, slices.Repeat([]byte{0}, 126)...).UDP(1, 53)),
		drop("source route", ip.Extension(Routing, 0, 1, 0, 0, 0, 0).UDP(1, 53), dataplane.ReasonExtension),
		drop("hop-by-hop in second place", ip.Extension(DestOptions).Extension(HopByHop).UDP(1, 53), dataplane.ReasonExtension),
		drop("seven headers", many.UDP(1, 53), dataplane.ReasonExtension),
		drop("a header of 256 bytes", ip.Extension(DestOptions, slices.Repeat([]byte{0}, 254)...).UDP(1, 53),
			dataplane.ReasonExtension),
		drop("mobility header", ip.Extension(135, 0, 0, 0, 0, 0, 0), dataplane.ReasonExtension),
		drop("header beyond the packet", ip.Extension(DestOptions).UDP(1, 53).Poke(55, 9), dataplane.ReasonMalformed),
		drop("header beyond the packet, before an unknown protocol",
			ip.Extension(DestOptions).Raw(1, 2, 3, 4, 5, 6, 7, 8).Poke(54, 99, 9), dataplane.ReasonMalformed),
		drop("truncated header", ip.Protocol(DestOptions).Raw(17, 0).Only(V6), dataplane.ReasonMalformed),
		fine("no next header", ip.Protocol(NoNext).Only(V6)),
	}
}
