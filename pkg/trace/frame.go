// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// TCP flags.
const (
	flagFIN = 1
	flagSYN = 2
	flagRST = 4
	flagPSH = 8
	flagACK = 16
	flagURG = 32
)

// tcpFlag is a flag and its letter, as tcpdump writes it.
type tcpFlag struct {
	bit    uint8
	letter string
}

var tcpFlags = []tcpFlag{{flagSYN, "S"}, {flagFIN, "F"}, {flagRST, "R"}, {flagPSH, "P"}, {flagACK, "."}, {flagURG, "U"}}

// Question is a packet as people write it.
type Question struct {
	Protocol uint8
	Src, Dst netip.Addr
	SrcPort  uint16
	DstPort  uint16
	Flags    uint8 // of TCP; 0 = SYN
	ICMP     *ICMP // nil = an echo request
	ICMPID   uint16
	Size     int // bytes of the IP packet; 0 = as many as the headers need
}

// ICMP is the type and code of a message.
type ICMP struct{ Type, Code uint8 }

// firstSequence is the number with which either side of TCP begins.
const firstSequence = 1000

// ParseQuestion reads "tcp 10.0.1.10:40000 > 10.0.2.9:443".
func ParseQuestion(text string) (Question, error) {
	var q Question
	words := strings.Fields(strings.ReplaceAll(text, ">", " "))
	if len(words) != 3 {
		return q, fmt.Errorf("%q: want PROTOCOL ADDRESS:PORT > ADDRESS:PORT", text)
	}
	number := slices.IndexFunc([]uint8{protoTCP, protoUDP, protoICMP, protoICMPv6}, func(n uint8) bool { return protocolName(n) == words[0] })
	if number >= 0 {
		q.Protocol = []uint8{protoTCP, protoUDP, protoICMP, protoICMPv6}[number]
	} else {
		n, err := strconv.ParseUint(words[0], 10, 8)
		if err != nil {
			return q, fmt.Errorf("%q is not a protocol: want tcp, udp, icmp, icmpv6 or a number of 0 to 255", words[0])
		}
		q.Protocol = uint8(n)
	}
	ports := q.Protocol == protoTCP || q.Protocol == protoUDP
	for i, to := range []struct {
		addr *netip.Addr
		port *uint16
	}{{&q.Src, &q.SrcPort}, {&q.Dst, &q.DstPort}} {
		addr, port, err := parseEnd(words[1+i])
		if err != nil {
			return q, err
		}
		if port != 0 && !ports {
			return q, fmt.Errorf("%q: %s has no ports", words[1+i], words[0])
		}
		*to.addr, *to.port = addr, port
	}
	switch {
	case q.Src.Is4() != q.Dst.Is4():
		return q, fmt.Errorf("%v and %v are not of one address family", q.Src, q.Dst)
	case ports && q.DstPort == 0:
		return q, fmt.Errorf("%q: to which port? Want ADDRESS:PORT", words[2])
	case ports && q.SrcPort == 0:
		q.SrcPort = 40000
	}
	return q, nil
}

// ParseFlags reads the flags of TCP as tcpdump writes them: "S", "S.", ".", "P.", "F.", "R"; 0 for "".
func ParseFlags(text string) (flags uint8, err error) {
	for _, letter := range text {
		i := slices.IndexFunc(tcpFlags, func(f tcpFlag) bool { return f.letter == string(letter) })
		if i < 0 {
			return 0, fmt.Errorf("%q are no flags of TCP: want some of S, F, R, P, U and . for ACK", text)
		}
		flags |= tcpFlags[i].bit
	}
	return flags, nil
}

func parseEnd(text string) (netip.Addr, uint16, error) {
	if addr, err := netip.ParseAddr(text); err == nil {
		return addr, 0, nil
	}
	end, err := netip.ParseAddrPort(text)
	if err != nil {
		return netip.Addr{}, 0, fmt.Errorf("%q is neither ADDRESS nor ADDRESS:PORT", text)
	}
	return end.Addr(), end.Port(), nil
}

// build makes the frame of a question.
func (q *Question) build(smac, dmac [6]byte) ([]byte, error) {
	l4, err := q.transport()
	if err != nil {
		return nil, err
	}
	head := 20
	if q.Src.Is6() {
		head = 40
	}
	if missing := q.Size - head - len(l4); missing > 0 {
		l4 = append(l4, make([]byte, missing)...)
	}
	if head+len(l4) > 0xffff {
		return nil, fmt.Errorf("a packet of %d bytes is larger than IP carries", head+len(l4))
	}
	q.sum(l4)
	frame := slices.Concat(dmac[:], smac[:])
	if q.Src.Is6() {
		frame = binary.BigEndian.AppendUint16(frame, etherIP6)
		frame = append(frame, 0x60, 0, 0, 0)
		frame = binary.BigEndian.AppendUint16(frame, uint16(len(l4)))
		frame = append(frame, q.Protocol, 64)
	} else {
		frame = binary.BigEndian.AppendUint16(frame, etherIP4)
		frame = append(frame, 0x45, 0)
		frame = binary.BigEndian.AppendUint16(frame, uint16(head+len(l4)))
		frame = append(frame, 0, 0, 0x40, 0, 64, q.Protocol, 0, 0)
	}
	frame = slices.Concat(frame, q.Src.AsSlice(), q.Dst.AsSlice())
	if !q.Src.Is6() {
		binary.BigEndian.PutUint16(frame[ethLen+10:], ^fold(frame[ethLen:], 0))
	}
	return append(frame, l4...), nil
}

// transport makes the header behind IP, without its checksum.
func (q *Question) transport() ([]byte, error) {
	ports := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, q.SrcPort), q.DstPort)
	switch q.Protocol {
	case protoTCP:
		flags, ack := q.Flags, uint32(0)
		if flags == 0 {
			flags = flagSYN
		}
		if flags&flagACK != 0 {
			ack = firstSequence + 1
		}
		b := binary.BigEndian.AppendUint32(ports, firstSequence)
		b = binary.BigEndian.AppendUint32(b, ack)
		return append(b, 5<<4, flags, 0xfa, 0xf0, 0, 0, 0, 0), nil
	case protoUDP:
		length := 8
		if head := 20 + 20*btoi(q.Src.Is6()); q.Size > head+8 {
			length = q.Size - head
		}
		return append(binary.BigEndian.AppendUint16(ports, uint16(length)), 0, 0), nil
	case protoICMP, protoICMPv6:
		if (q.Protocol == protoICMPv6) != q.Src.Is6() {
			return nil, fmt.Errorf("icmp is for IPv4 addresses, icmpv6 for IPv6 ones")
		}
		m := ICMP{Type: map[uint8]uint8{protoICMP: 8, protoICMPv6: 128}[q.Protocol]}
		if q.ICMP != nil {
			m = *q.ICMP
		}
		return append(binary.BigEndian.AppendUint16([]byte{m.Type, m.Code, 0, 0}, q.ICMPID), 0, 1), nil
	}
	return make([]byte, 8), nil
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// sum writes the checksum of the transport.
func (q *Question) sum(l4 []byte) {
	at := map[uint8]int{protoTCP: 16, protoUDP: 6, protoICMP: 2, protoICMPv6: 2}[q.Protocol]
	if at == 0 {
		return
	}
	pseudo := uint32(0)
	if q.Protocol != protoICMP {
		pseudo = uint32(fold(slices.Concat(q.Src.AsSlice(), q.Dst.AsSlice()), uint32(q.Protocol)+uint32(len(l4))))
	}
	sum := ^fold(l4, pseudo)
	if sum == 0 && q.Protocol == protoUDP {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(l4[at:], sum)
}

// fold is the ones' complement sum of words (RFC 1071).
func fold(b []byte, sum uint32) uint16 {
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// Lengths of what stands in front of an inner frame, and the port of the overlay.
const (
	outerLen  = ethLen + 20 + 8 + 8
	vxlanPort = 4789
)

// encapsulate makes the VXLAN packet to a host that another one sends for an inner frame.
func encapsulate(inner []byte, smac, dmac [6]byte, to netip.Addr, tunnel Tunnel) ([]byte, error) {
	q := Question{Protocol: protoUDP, Src: tunnel.Remote, Dst: to, SrcPort: 0xc000, DstPort: vxlanPort, Size: 20 + 8 + 8 + len(inner)}
	frame, err := q.build(smac, dmac)
	if err != nil {
		return nil, err
	}
	flags := uint32(0x08000000)
	if tunnel.Policy != 0 { // the group policy extension
		flags |= 0x80000000 | tunnel.Policy
	}
	binary.BigEndian.PutUint16(frame[ethLen+26:], 0) // no checksum (RFC 7348)
	binary.BigEndian.PutUint32(frame[outerLen-8:], flags)
	binary.BigEndian.PutUint32(frame[outerLen-4:], tunnel.VNI<<8)
	copy(frame[outerLen:], inner)
	return frame, nil
}

// inside returns the inner frame of a VXLAN packet and its outer header; nil if it is none.
func inside(frame []byte) (inner []byte, outer tuple) {
	all := tuples(frame)
	if len(all) == 0 || all[0].protocol != protoUDP || all[0].dport != vxlanPort || len(frame) < outerLen+ethLen {
		return nil, outer
	}
	return frame[all[0].l4+16:], all[0]
}

// Describe says in one line what a frame is.
func Describe(frame []byte) string {
	if inner, outer := inside(frame); inner != nil {
		vni := binary.BigEndian.Uint32(frame[outer.l4+12:]) >> 8
		return fmt.Sprintf("vxlan %d %v > %v: %s", vni, outer.src, outer.dst, Describe(inner))
	}
	all := tuples(frame)
	if len(all) == 0 {
		return describeOther(frame)
	}
	text := all[0].String()
	if len(all) > 1 {
		text += fmt.Sprintf(" about (%v)", all[1])
	}
	return text
}

func describeOther(frame []byte) string {
	if len(frame) < ethLen {
		return fmt.Sprintf("%d bytes", len(frame))
	}
	switch kind := binary.BigEndian.Uint16(frame[12:]); {
	case kind == etherARP && len(frame) >= ethLen+28:
		return fmt.Sprintf("arp %v > %v", netip.AddrFrom4([4]byte(frame[28:32])), netip.AddrFrom4([4]byte(frame[38:42])))
	case kind == etherIP4 || kind == etherIP6:
		return fmt.Sprintf("truncated IP packet of %d bytes", len(frame)-ethLen)
	default:
		return fmt.Sprintf("ethertype 0x%04x", kind)
	}
}

// String is the packet as a question names it.
func (t tuple) String() string {
	name := protocolName(t.protocol)
	switch {
	case t.later:
		return fmt.Sprintf("%s %v > %v, a later fragment", name, t.src, t.dst)
	case t.icmp():
		return fmt.Sprintf("%s %v > %v type %d code %d", name, t.src, t.dst, t.icmpType, t.dport&0xff)
	case t.protocol == protoTCP:
		var letters strings.Builder
		for _, f := range tcpFlags {
			if t.flags&f.bit != 0 {
				letters.WriteString(f.letter)
			}
		}
		return fmt.Sprintf("%s %v > %v [%s]", name, netip.AddrPortFrom(t.src, t.sport), netip.AddrPortFrom(t.dst, t.dport), &letters)
	case t.protocol == protoUDP:
		return fmt.Sprintf("%s %v > %v", name, netip.AddrPortFrom(t.src, t.sport), netip.AddrPortFrom(t.dst, t.dport))
	}
	return fmt.Sprintf("%s %v > %v", name, t.src, t.dst)
}

func protocolName(n uint8) string {
	switch n {
	case protoTCP:
		return "tcp"
	case protoUDP:
		return "udp"
	case protoICMP:
		return "icmp"
	case protoICMPv6:
		return "icmpv6"
	}
	return fmt.Sprintf("%d", n)
}
