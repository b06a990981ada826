// SPDX-License-Identifier: Apache-2.0

// Package frames makes and counts the frames of packet-rate measurements, in the kernel: a generator that sends live
// frames out of real devices, sinks at the other end of the path, and programs that do the least that a path can do.
package frames

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
)

// Lengths of headers.
const (
	ethLen   = 14
	ip4Len   = 20
	ip6Len   = 40
	udpLen   = 8
	tcpLen   = 20
	vxlanLen = 8
)

// maxHeader is HEADER_MAX in C, maxFrame what fits into a live frame.
const (
	maxHeader = 192
	maxFrame  = 3000
)

// Protocols of the measured packets.
const (
	TCP = 6
	UDP = 17
)

// TCP flags.
const (
	FIN = 1
	SYN = 2
	RST = 4
	PSH = 8
	ACK = 16
)

// Payload begins every UDP packet and every TCP packet that has a payload.
const Payload = "eniplane-bench.."

// End is one side of all flows: the address and the MAC of number 0. Number n has both higher by n.
type End struct {
	Addr netip.Addr
	MAC  [6]byte
}

// Overlay is the outer part of VXLAN packets.
type Overlay struct {
	VNI            uint32
	Src, Dst       netip.Addr // VTEPs, IPv4
	SrcMAC, DstMAC [6]byte
}

// Flows is a set of connections between ENIs and peers, seen from one side. Flow number f belongs to ENI f mod ENIs;
// what remains of the number gives the peer and then its port. All counts are powers of two.
type Flows struct {
	Count    int // at most of all that will be sent; tells how numbers are split
	ENIs     int
	Peers    int
	ENI      End
	Peer     End
	Protocol uint8
	Port     uint16 // of the ENIs
	PeerPort uint16 // the lowest of the peers

	FromENI  bool // else the peers send
	Gateway  [6]byte
	PeerMACs bool     // peers are in the same network and have MACs of their own; else all are behind Gateway
	HostMAC  [6]byte  // destination of frames of peers behind a gateway
	Overlay  *Overlay // outer headers; only of what peers send
	Flags    uint8    // of TCP
	Seq, Ack uint32
	Size     int // of the frame without outer headers and without checksum, in bytes; 0: the smallest
}

// layout is struct layout in C.
type layout struct {
	Words, ENIAddr, PeerAddr, PeerPort, ENIMAC, PeerMAC, IPCsum, L4Csum, OuterPort, UDP uint32
	IPSum, L4Sum                                                                        uint32
	ENIBase, PeerBase, ENIMACBase, PeerMACBase, PortBase                                uint32
	ENIBits, PeerBits, ByENI                                                            uint32
}

func powerOfTwo(n int) bool { return n > 0 && n&(n-1) == 0 }

// check finds what cannot be built.
func (f *Flows) check() error {
	switch {
	case !powerOfTwo(f.Count) || !powerOfTwo(f.ENIs) || !powerOfTwo(f.Peers):
		return fmt.Errorf("%d flows of %d ENIs with %d peers: these must be powers of two", f.Count, f.ENIs, f.Peers)
	case f.Count > f.ENIs*f.Peers<<16:
		return fmt.Errorf("%d flows: %d ENIs and %d peers have too few ports", f.Count, f.ENIs, f.Peers)
	case f.ENI.Addr.Is4() != f.Peer.Addr.Is4() || !f.ENI.Addr.IsValid():
		return fmt.Errorf("flows between %s and %s", f.ENI.Addr, f.Peer.Addr)
	case f.Protocol != TCP && f.Protocol != UDP:
		return fmt.Errorf("flows of protocol %d: want TCP or UDP", f.Protocol)
	case f.Overlay != nil && f.FromENI:
		return fmt.Errorf("an ENI sends no outer headers")
	case f.Size > maxFrame:
		return fmt.Errorf("frames of %d bytes: at most %d", f.Size, maxFrame)
	}
	return nil
}

// ENIOffset is where in a frame the lowest 32 bits of the ENI's address are.
func (f *Flows) ENIOffset() int {
	at := ethLen
	if f.Overlay != nil {
		at += ethLen + ip4Len + udpLen + vxlanLen
	}
	switch {
	case f.ENI.Addr.Is4() && f.FromENI:
		return at + 12
	case f.ENI.Addr.Is4():
		return at + 16
	case f.FromENI:
		return at + 8 + 12
	}
	return at + 24 + 12
}

// builder puts one frame together. What differs between flows is zero in it, and the sums know.
type builder struct {
	*Flows
	frame []byte
	at    layout
}

// build returns the frame of all flows and where they differ.
func (f *Flows) build() ([]byte, *layout, error) {
	if err := f.check(); err != nil {
		return nil, nil, err
	}
	b := &builder{Flows: f}
	l3, l4 := ip4Len, udpLen
	if f.ENI.Addr.Is6() {
		l3 = ip6Len
	}
	if f.Protocol == TCP {
		l4 = tcpLen
	}
	size := max(f.Size, 60)
	if least := ethLen + l3 + l4; f.Protocol == UDP {
		size = max(size, least+len(Payload))
	} else {
		size = max(size, least)
	}
	if f.Overlay != nil {
		b.outer(size)
	}
	b.ethernet()
	switch {
	case f.ENI.Addr.Is4() && f.Protocol == TCP && f.Size == 0:
		b.ip4(l4) // padding, no payload
	case f.ENI.Addr.Is4():
		b.ip4(size - ethLen - l3)
	default:
		b.ip6(size - ethLen - l3)
	}
	b.at.ENIBits, b.at.PeerBits = uint32(bits.Len(uint(f.ENIs))-1), uint32(bits.Len(uint(f.Peers))-1)
	b.at.PortBase = uint32(f.PeerPort)
	if f.FromENI {
		b.at.ByENI = 1
	}
	headers := len(b.frame)
	for len(b.frame) < size+b.outerLen() {
		b.frame = append(b.frame, 0)
	}
	b.at.Words = uint32(min(len(b.frame), maxHeader) / 8)
	if int(b.at.Words)*8 < headers-len(Payload) {
		return nil, nil, fmt.Errorf("headers of %d bytes do not fit", headers)
	}
	return b.frame, &b.at, nil
}

func (b *builder) outerLen() int {
	if b.Overlay == nil {
		return 0
	}
	return ethLen + ip4Len + udpLen + vxlanLen
}

// outer appends the headers of VXLAN around an inner frame of so many bytes.
func (b *builder) outer(inner int) {
	o := b.Overlay
	b.frame = append(append(b.frame, o.DstMAC[:]...), o.SrcMAC[:]...)
	b.frame = append(b.frame, 8, 0)
	ip := ip4Header(ip4Len+udpLen+vxlanLen+inner, UDP, o.Src, o.Dst)
	binary.BigEndian.PutUint16(ip[10:], ^fold(sum(ip)))
	b.frame = append(b.frame, ip...)
	b.at.OuterPort = uint32(len(b.frame))
	b.frame = binary.BigEndian.AppendUint16(b.frame, 0)
	b.frame = binary.BigEndian.AppendUint16(b.frame, 4789)
	b.frame = binary.BigEndian.AppendUint16(b.frame, uint16(udpLen+vxlanLen+inner))
	b.frame = append(b.frame, 0, 0, 8, 0, 0, 0)
	b.frame = binary.BigEndian.AppendUint32(b.frame, o.VNI<<8)
}

// ethernet appends the inner Ethernet header.
func (b *builder) ethernet() {
	at := uint32(len(b.frame))
	b.at.ENIMACBase = binary.BigEndian.Uint32(b.ENI.MAC[2:])
	b.at.PeerMACBase = binary.BigEndian.Uint32(b.Peer.MAC[2:])
	peer := b.Gateway
	if b.PeerMACs {
		peer = b.Peer.MAC
	}
	switch {
	case b.FromENI:
		b.frame = append(append(b.frame, peer[:]...), b.ENI.MAC[:]...)
		b.at.ENIMAC = at + 8
		if b.PeerMACs {
			b.at.PeerMAC = at + 2
		}
	case b.PeerMACs:
		b.frame = append(append(b.frame, b.ENI.MAC[:]...), peer[:]...)
		b.at.ENIMAC, b.at.PeerMAC = at+2, at+8
	default:
		b.frame = append(append(b.frame, b.HostMAC[:]...), peer[:]...)
	}
	if b.ENI.Addr.Is4() {
		b.frame = append(b.frame, 0x08, 0x00)
	} else {
		b.frame = append(b.frame, 0x86, 0xdd)
	}
}

// ends are source and destination with their lowest 32 bits cleared; the bases keep them.
func (b *builder) ends(srcAt, dstAt uint32) (src, dst netip.Addr) {
	b.at.ENIBase, b.at.PeerBase = low32(b.ENI.Addr), low32(b.Peer.Addr)
	if b.FromENI {
		b.at.ENIAddr, b.at.PeerAddr = srcAt, dstAt
		return without32(b.ENI.Addr), without32(b.Peer.Addr)
	}
	b.at.PeerAddr, b.at.ENIAddr = srcAt, dstAt
	return without32(b.Peer.Addr), without32(b.ENI.Addr)
}

// ip4 appends an IPv4 packet with so many bytes behind its header.
func (b *builder) ip4(payload int) {
	at := uint32(len(b.frame))
	src, dst := b.ends(at+12, at+16)
	ip := ip4Header(ip4Len+payload, b.Protocol, src, dst)
	b.at.IPCsum, b.at.IPSum = at+10, native(sum(ip))
	b.frame = append(b.frame, ip...)
	b.transport(src, dst, payload)
}

// ip6 appends an IPv6 packet with so many bytes behind its header.
func (b *builder) ip6(payload int) {
	at := uint32(len(b.frame))
	src, dst := b.ends(at+8+12, at+24+12)
	b.frame = append(b.frame, 0x60, 0, 0, 0)
	b.frame = binary.BigEndian.AppendUint16(b.frame, uint16(payload))
	b.frame = append(b.frame, b.Protocol, 64)
	b.frame = append(append(b.frame, src.AsSlice()...), dst.AsSlice()...)
	b.transport(src, dst, payload)
}

// transport appends UDP or TCP with so many bytes, header included.
func (b *builder) transport(src, dst netip.Addr, length int) {
	at := uint32(len(b.frame))
	var h []byte
	ports := [2]uint16{0, b.Port} // the peer's is added in the kernel
	b.at.PeerPort = at
	if b.FromENI {
		ports = [2]uint16{b.Port, 0}
		b.at.PeerPort = at + 2
	}
	h = binary.BigEndian.AppendUint16(h, ports[0])
	h = binary.BigEndian.AppendUint16(h, ports[1])
	if b.Protocol == UDP {
		h = binary.BigEndian.AppendUint16(h, uint16(length))
		h = append(h, 0, 0)
		b.at.L4Csum, b.at.UDP = at+6, 1
	} else {
		h = binary.BigEndian.AppendUint32(h, b.Seq)
		h = binary.BigEndian.AppendUint32(h, b.Ack)
		h = append(h, tcpLen/4<<4, b.Flags, 0xff, 0xff, 0, 0, 0, 0)
		b.at.L4Csum = at + 16
	}
	if len(h)+len(Payload) <= length {
		h = append(h, Payload...)
	}
	pseudo := binary.BigEndian.AppendUint16([]byte{0, b.Protocol}, uint16(length))
	b.at.L4Sum = native(sum(src.AsSlice()) + sum(dst.AsSlice()) + sum(pseudo) + sum(h))
	b.frame = append(b.frame, h...)
}

// ip4Header is a header without options; its checksum is zero.
func ip4Header(length int, protocol uint8, src, dst netip.Addr) []byte {
	h := []byte{0x45, 0}
	h = binary.BigEndian.AppendUint16(h, uint16(length))
	h = append(h, 0, 0, 0x40, 0, 64, protocol, 0, 0)
	return append(append(h, src.AsSlice()...), dst.AsSlice()...)
}

func low32(a netip.Addr) uint32 {
	b := a.AsSlice()
	return binary.BigEndian.Uint32(b[len(b)-4:])
}

func without32(a netip.Addr) netip.Addr {
	b := a.AsSlice()
	clear(b[len(b)-4:])
	cleared, _ := netip.AddrFromSlice(b) // as long as before
	return cleared
}

// sum adds up 16-bit words (RFC 1071), fold makes 16 bits of it.
func sum(b []byte) uint32 {
	var s uint32
	for ; len(b) > 1; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	return s
}

func fold(s uint32) uint16 {
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// native is a sum as the program adds it, in the byte order of the wire read on a little-endian machine.
func native(s uint32) uint32 { return uint32(bits.ReverseBytes16(fold(s))) }
