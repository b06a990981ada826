// SPDX-License-Identifier: Apache-2.0

package pkttest

import "encoding/binary"

// TCP flags.
const (
	FIN uint8 = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
)

type tcpLayer struct {
	sport, dport uint16
	flags        uint8
	seq, ack     uint32
	words        uint8 // header length; 0 = 5
	sum          sumMode
}

func (l tcpLayer) build(at position, payload []byte) []byte {
	words := l.words
	if words == 0 {
		words = 5
	}
	b := binary.BigEndian.AppendUint16(nil, l.sport)
	b = binary.BigEndian.AppendUint16(b, l.dport)
	b = binary.BigEndian.AppendUint32(b, l.seq)
	b = binary.BigEndian.AppendUint32(b, l.ack)
	b = append(b, words<<4, l.flags, 0xfa, 0xf0, 0, 0, 0, 0)
	b = append(b, payload...)
	binary.BigEndian.PutUint16(b[16:], l.sum.apply(transportSum(at, 6, b)))
	return b
}

type udpLayer struct {
	sport, dport uint16
	length       int // 0 = the true one
	sum          sumMode
}

func (l udpLayer) build(at position, payload []byte) []byte {
	length := l.length
	if length == 0 {
		length = 8 + len(payload)
	}
	b := binary.BigEndian.AppendUint16(nil, l.sport)
	b = binary.BigEndian.AppendUint16(b, l.dport)
	b = binary.BigEndian.AppendUint16(b, uint16(length))
	b = append(b, 0, 0)
	b = append(b, payload...)
	sum := transportSum(at, 17, b)
	if sum == 0 { // zero means "none": the other zero is sent (RFC 768)
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(b[6:], l.sum.apply(sum))
	return b
}

func transportSum(at position, protocol uint8, segment []byte) uint16 {
	src, dst := at.addresses()
	return checksum(pseudoHeader(src, dst, protocol, len(segment)), segment)
}

// icmpLayer is ICMP or ICMPv6: type, code, checksum and four more bytes.
type icmpLayer struct {
	v6   bool
	typ  uint8
	code uint8
	rest [4]byte
	sum  sumMode
}

func (l icmpLayer) build(at position, payload []byte) []byte {
	b := append([]byte{l.typ, l.code, 0, 0}, l.rest[:]...)
	b = append(b, payload...)
	sum := checksum(b)
	if l.v6 {
		sum = transportSum(at, ICMPv6, b)
	}
	binary.BigEndian.PutUint16(b[2:], l.sum.apply(sum))
	return b
}

// TCP adds a TCP header.
func (p Packet) TCP(sport, dport uint16, flags uint8) Packet {
	l := tcpLayer{sport: sport, dport: dport, flags: flags, seq: 1000}
	if flags&ACK != 0 {
		l.ack = 2000
	}
	return p.add(l, l)
}

// UDP adds a UDP header.
func (p Packet) UDP(sport, dport uint16) Packet {
	l := udpLayer{sport: sport, dport: dport}
	return p.add(l, l)
}

// Echo adds an echo request of the family's ICMP.
func (p Packet) Echo(id uint16) Packet { return p.ICMP(8, 128, 0, echoRest(id)) }

// EchoReply adds an echo reply of the family's ICMP.
func (p Packet) EchoReply(id uint16) Packet { return p.ICMP(0, 129, 0, echoRest(id)) }

func echoRest(id uint16) [4]byte { return [4]byte{byte(id >> 8), byte(id), 0, 1} }

// ICMP adds an ICMP header with one type per family; rest are the bytes 4 to 7.
func (p Packet) ICMP(type4, type6, code uint8, rest [4]byte) Packet {
	return p.add(
		icmpLayer{typ: type4, code: code, rest: rest},
		icmpLayer{v6: true, typ: type6, code: code, rest: rest})
}

// Unreachable adds the error "port unreachable" that quotes another packet.
func (p Packet) Unreachable(quoted Packet) Packet {
	return p.add(icmpLayer{typ: 3, code: 3}, icmpLayer{v6: true, typ: 1, code: 4}).Quote(quoted, -1)
}

// TooBig adds the error "fragmentation needed" or "packet too big" that quotes the first n bytes of
// another packet.
func (p Packet) TooBig(quoted Packet, n int, mtu uint16) Packet {
	rest := [4]byte{2: byte(mtu >> 8), 3: byte(mtu)}
	return p.add(icmpLayer{typ: 3, code: 4, rest: rest}, icmpLayer{v6: true, typ: 2, rest: rest}).Quote(quoted, n)
}

// Quote adds the first n bytes of a packet behind its Ethernet header, as ICMP errors carry them; -1
// = all of it.
func (p Packet) Quote(quoted Packet, n int) Packet {
	for _, f := range Families() {
		if !p.In(f) || !quoted.In(f) {
			p = p.Only(V4 + V6 - f)
			continue
		}
		quote := bytesLayer(quoted.WithoutEthernet(f))
		if n >= 0 {
			quote = quote[:n]
		}
		if f == V4 {
			p.v4 = p.v4.add(quote)
		} else {
			p.v6 = p.v6.add(quote)
		}
	}
	return p
}

// QuoteLeast quotes only the IP header of a packet and the first 8 bytes behind it.
func (p Packet) QuoteLeast(quoted Packet) Packet {
	var byFamily [2]Packet
	for i, f := range Families() {
		least := 48
		if f == V4 && quoted.In(V4) {
			least = int(quoted.WithoutEthernet(V4)[0]&15)*4 + 8
		}
		byFamily[i] = p.Quote(quoted, least)
	}
	return Either(byFamily[0], byFamily[1])
}

// Ports gives the innermost TCP or UDP header other ports.
func (p Packet) Ports(sport, dport uint16) Packet {
	return p.changeL4(
		func(l tcpLayer) tcpLayer { l.sport, l.dport = sport, dport; return l },
		func(l udpLayer) udpLayer { l.sport, l.dport = sport, dport; return l })
}

// NoChecksum leaves the UDP checksum out.
func (p Packet) NoChecksum() Packet {
	return change(p, true, func(l udpLayer) udpLayer { l.sum.zero = true; return l })
}

// BadChecksum makes the innermost TCP or UDP checksum wrong by a constant, so that a translated
// packet is exactly as wrong as its input.
func (p Packet) BadChecksum() Packet {
	return p.changeL4(
		func(l tcpLayer) tcpLayer { l.sum.wrong = 0x0101; return l },
		func(l udpLayer) udpLayer { l.sum.wrong = 0x0101; return l })
}

// UDPLength writes any length into the innermost UDP header.
func (p Packet) UDPLength(n int) Packet {
	return change(p, true, func(l udpLayer) udpLayer { l.length = n; return l })
}

// TCPWords writes any header length, in words of four bytes, into the TCP header.
func (p Packet) TCPWords(n uint8) Packet {
	return change(p, true, func(l tcpLayer) tcpLayer { l.words = n; return l })
}

func (p Packet) changeL4(tcp func(tcpLayer) tcpLayer, udp func(udpLayer) udpLayer) Packet {
	for _, l := range slicesOf(p) {
		if _, ok := l.(tcpLayer); ok {
			return change(p, true, tcp)
		}
	}
	return change(p, true, udp)
}

// slicesOf gives the layers of the family in which the packet exists.
func slicesOf(p Packet) []layer {
	if p.v4.absent {
		return p.v6.layers
	}
	return p.v4.layers
}
