// SPDX-License-Identifier: Apache-2.0

package rows

import (
	"fmt"
	"slices"

	"github.com/eniplane/eniplane/pkg/dataplane"
	. "github.com/eniplane/eniplane/pkg/pkttest"
)

// header is what a packet has between its IP header and its transport header, or in the former.
type header struct {
	name   string
	give   func(Packet) Packet
	reason dataplane.Reason // 0 = it passes
}

// everywhere lets packets with these headers come in at a port, from another host and from the internet.
func everywhere(headers []header) []Row {
	var rows []Row
	for _, h := range headers {
		port := h.give(frame(open1, open0)).UDP(40000, 53).Payload(8)
		overlay := h.give(inner(web9, open1)).UDP(40000, 53).Payload(8)
		internet := h.give(inward(client, web0)).UDP(40000, 53).Payload(8)
		wants := []Want{delivered(port, open1, open0), received(overlay, web9, open1), admitted(internet, web0)}
		if h.reason != 0 {
			wants = []Want{dropped(open1, h.reason), {Counts: []Count{in(open1, h.reason)}}, {Counts: []Count{in(web0, h.reason)}}}
		}
		rows = append(rows, row(h.name+", sent", open1.port(), port, wants[0]),
			Row{Name: h.name + ", from another host", Steps: []Step{decapsulated(overlay, red, hostB, wants[1])}},
			row(h.name+", from the internet", fromUplink, internet, wants[2]))
	}
	return rows
}

// optionRows: the options of IPv4.
func optionRows() []Row {
	const malformed, extension = dataplane.ReasonMalformed, dataplane.ReasonExtension
	option := func(name string, r dataplane.Reason, bytes ...byte) header {
		return header{name, func(p Packet) Packet { return p.Options4(bytes...) }, r}
	}
	fine := func(name string, bytes ...byte) header { return option(name, 0, bytes...) }
	rows := everywhere([]header{
		fine("no operation", 1, 1, 1, 1),
		fine("end of options", 0, 0, 0, 0),
		fine("40 bytes of no operation", slices.Repeat([]byte{1}, 40)...),
		fine("behind the end nothing is an option", 1, 0, 131, 255),
		fine("behind the end there is no source route", 0, 131, 7, 4),
		fine("router alert", 148, 4, 0, 0),
		fine("record route", 7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0),
		fine("timestamp", 68, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0),
		fine("security", 130, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0),
		fine("an unknown option", 222, 4, 131, 137),
		fine("an option of 40 bytes", append([]byte{222, 40}, make([]byte, 38)...)...),
		fine("twenty options of two bytes", slices.Repeat([]byte{222, 2}, 20)...),
		fine("up to the end of the header", 1, 1, 222, 2),
		option("loose source route", extension, 131, 7, 4, 198, 51, 100, 9),
		option("strict source route", extension, 137, 7, 4, 198, 51, 100, 9),
		option("a source route that is used up", extension, 131, 7, 8, 198, 51, 100, 9),
		option("a source route behind another option", extension, 148, 4, 0, 0, 1, 131, 3, 4),
		option("a source route in the last byte", extension, append(append([]byte{222, 39}, make([]byte, 37)...), 137)...),
		option("an option without a length", malformed, 1, 1, 1, 222),
		option("an option of length 0", malformed, 222, 0, 0, 0),
		option("an option of length 1", malformed, 222, 1, 0, 0),
		option("an option beyond the header", malformed, 222, 5, 0, 0),
		option("an option far beyond the header", malformed, 222, 255, 0, 0),
		option("the second option beyond the header", malformed, 148, 4, 0, 0, 7, 5, 4, 0),
		option("an option beyond the longest header", malformed, append(append([]byte{222, 38}, make([]byte, 36)...), 7, 3)...),
		option("the end in the middle of an option is none", malformed, 222, 6, 0, 0),
	})
	loose := frame(open1, open0).Options4(131, 7, 4, 198, 51, 100, 9)
	return append(rows,
		row("a source route of a syn", open1.port(), loose.TCP(40000, 443, SYN), dropped(open1, extension)),
		row("a source route of an echo", open1.port(), loose.Echo(7), dropped(open1, extension)),
		row("a source route of a first fragment", open1.port(), loose.Fragment(0, true).UDP(40000, 53).Payload(16),
			dropped(open1, extension)),
		row("a source route of a later fragment", open1.port(), loose.Fragment(24, false).Payload(16).Carries(17),
			dropped(open1, extension)),
		row("a source route of another protocol", open1.port(), loose.Carries(ESP).Payload(16), dropped(open1, extension)),
	)
}

// chainRows: the extension headers of IPv6.
func chainRows() []Row {
	const extension = dataplane.ReasonExtension
	chain := func(name string, r dataplane.Reason, kinds ...uint8) header {
		return header{name, func(p Packet) Packet {
			for _, k := range kinds {
				p = p.Only(V6).Extension(k)
			}
			return p
		}, r}
	}
	body := func(name string, r dataplane.Reason, kind uint8, bytes ...byte) header {
		return header{name, func(p Packet) Packet { return p.Only(V6).Extension(kind, bytes...) }, r}
	}
	const fragment, mobility, hip, shim, d = 44, 135, 139, 140, DestOptions
	rows := everywhere([]header{
		chain("hop-by-hop options", 0, HopByHop),
		chain("destination options", 0, d),
		chain("destination options twice", 0, d, d),
		chain("in the order of the standard", 0, HopByHop, d, Routing, fragment, d),
		chain("five headers", 0, d, d, d, d, d),
		chain("six headers", extension, d, d, d, d, d, d),
		chain("six headers, the last one a fragment header", extension, d, d, d, d, d, fragment),
		chain("hop-by-hop options twice", extension, HopByHop, HopByHop),
		chain("mobility", extension, mobility),
		chain("mobility behind another header", extension, d, mobility),
		chain("an atomic fragment", 0, fragment),
		chain("two atomic fragments", 0, fragment, fragment),
		body("routing type 0, used up", 0, Routing, 0, 0, 0, 0, 0, 0),
		body("routing type 0", extension, Routing, 0, 1, 0, 0, 0, 0),
		body("routing type 2", extension, Routing, 2, 1, 0, 0, 0, 0),
		body("segment routing", extension, Routing, 4, 2, 0, 0, 0, 0),
		body("segment routing, used up", 0, Routing, 4, 0, 0, 0, 0, 0),
		body("a header up to byte 200", 0, d, make([]byte, 142)...),
		body("a header beyond byte 200", extension, d, make([]byte, 150)...),
	})
	// These end the chain: they are protocols, judged by their number.
	for _, kind := range []uint8{AH, ESP, hip, shim, 253} {
		p := frame(open1, open0).Only(V6).Extension(d).Extension(kind).UDP(40000, 53).Payload(8)
		rows = append(rows, row(fmt.Sprintf("protocol %d behind a header", kind), open1.port(), p, delivered(p, open1, open0)))
	}
	return rows
}

// protocolRows: everything that is not TCP, UDP or ICMP is judged by addresses and protocol number, in both families.
func protocolRows() []Row {
	const igmp, ospf, vrrp, udpLite, last = 2, 89, 112, 136, 255
	var rows []Row
	for _, protocol := range []uint8{igmp, IPinIP, IPv6inIP, GRE, ESP, AH, NoNext, ospf, vrrp, SCTP, udpLite, last} {
		p, back := frame(open1, open0).Carries(protocol).Payload(12), frame(open0, open1).Carries(protocol).Payload(9)
		other := frame(open0, mute0).Carries(protocol).Payload(12)
		rows = append(rows,
			Row{Name: fmt.Sprintf("protocol %d", protocol), Steps: []Step{
				tells(open1, open0, p, sides(open1, open0, opening)), tells(open0, open1, back, sides(open1, open0, heard)),
				tells(open1, open0, p, sides(open1, open0, established)),
			}},
			row(fmt.Sprintf("protocol %d, denied", protocol), open0.port(), other, refused(open0, mute0, dataplane.ReasonSGDenied)))
	}
	empty := frame(open1, open0).Carries(ESP)
	return append(rows, row("a protocol without a payload", open1.port(), empty, delivered(empty, open1, open0)))
}
