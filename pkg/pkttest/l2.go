// SPDX-License-Identifier: Apache-2.0

package pkttest

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

const ethLen = 14

// The ethertypes that the builders know.
const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherIPv6 = 0x86dd
)

type ethLayer struct {
	src, dst MAC
	typ      uint16 // 0 = that of the layer inside
}

func (l ethLayer) build(at position, payload []byte) []byte {
	typ := l.typ
	if typ == 0 {
		typ = etherType(at.inner())
	}
	frame := slices.Concat(l.dst[:], l.src[:], binary.BigEndian.AppendUint16(nil, typ))
	return append(frame, payload...)
}

func etherType(l layer) uint16 {
	switch l := l.(type) {
	case ip4Layer:
		return etherIPv4
	case ip6Layer:
		return etherIPv6
	case arpLayer:
		return etherARP
	case vlanLayer:
		return l.tpid
	}
	return 0
}

// Eth begins a frame.
func Eth(src, dst MAC) Packet {
	l := ethLayer{src: src, dst: dst}
	return Packet{}.add(l, l)
}

// EtherType writes any number into the outermost frame's type field; below 1536 it is a length.
func (p Packet) EtherType(typ uint16) Packet {
	return change(p, false, func(l ethLayer) ethLayer {
		l.typ = typ
		return l
	})
}

// MACs gives the outermost frame other addresses.
func (p Packet) MACs(src, dst MAC) Packet {
	return change(p, false, func(l ethLayer) ethLayer {
		l.src, l.dst = src, dst
		return l
	})
}

type vlanLayer struct{ tpid, tci uint16 }

func (l vlanLayer) build(at position, payload []byte) []byte {
	tag := binary.BigEndian.AppendUint16(nil, l.tci)
	tag = binary.BigEndian.AppendUint16(tag, etherType(at.inner()))
	return append(tag, payload...)
}

// VLAN adds a tag: 0x8100 for 802.1Q, 0x88a8 for the outer one of QinQ.
func (p Packet) VLAN(tpid, id uint16) Packet {
	l := vlanLayer{tpid, id}
	return p.add(l, l)
}

// ARP operations.
const (
	ARPRequest uint16 = 1
	ARPReply   uint16 = 2
)

type arpLayer struct {
	op                 uint16
	sender, target     MAC
	senderIP, targetIP netip.Addr
}

func (l arpLayer) build(_ position, payload []byte) []byte {
	b := []byte{0, 1, etherIPv4 >> 8, etherIPv4 & 0xff, 6, 4}
	b = binary.BigEndian.AppendUint16(b, l.op)
	b = slices.Concat(b, l.sender[:], l.senderIP.AsSlice(), l.target[:], l.targetIP.AsSlice())
	return append(b, payload...)
}

// ARP adds an ARP message: sender's MAC and IP, target's MAC and IP. IPv4 only.
func (p Packet) ARP(op uint16, sender MAC, senderIP Addr, target MAC, targetIP Addr) Packet {
	l := arpLayer{op: op, sender: sender, senderIP: senderIP.V4, target: target, targetIP: targetIP.V4}
	if !l.senderIP.IsValid() || !l.targetIP.IsValid() {
		return p.add(nil, nil)
	}
	return p.add(l, nil)
}

type bytesLayer []byte

func (l bytesLayer) build(_ position, payload []byte) []byte {
	return append(slices.Clone([]byte(l)), payload...)
}

// Raw adds bytes as they are.
func (p Packet) Raw(b ...byte) Packet { return p.add(bytesLayer(b), bytesLayer(b)) }

// Payload adds n bytes that are all different from their neighbours.
func (p Packet) Payload(n int) Packet {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + 1)
	}
	return p.Raw(b...)
}
