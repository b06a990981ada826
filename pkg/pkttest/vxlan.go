// SPDX-License-Identifier: Apache-2.0

package pkttest

import (
	"encoding/binary"
	"slices"
)

type vxlanLayer struct {
	flags    uint8
	policy   uint16 // the bytes of group policy: flags above, id below
	reserved [2]uint8
	vni      uint32
}

func (l vxlanLayer) build(_ position, payload []byte) []byte {
	b := []byte{l.flags, l.reserved[0]}
	b = binary.BigEndian.AppendUint16(b, l.policy)
	b = binary.BigEndian.AppendUint32(b, l.vni<<8|uint32(l.reserved[1]))
	return append(b, payload...)
}

// VXLANPort is where VTEPs listen.
const VXLANPort = 4789

// VXLAN adds the outer UDP and VXLAN headers behind an IP header; Inside goes on. UDP has no
// checksum, as the kernel sends it over IPv4.
func (p Packet) VXLAN(vni uint32) Packet {
	l := vxlanLayer{flags: 0x08, vni: vni}
	return p.UDP(49152, VXLANPort).NoChecksum().add(l, l)
}

// VXLANFlags sets the first byte of the VXLAN header (0x08 = the VNI is valid, 0x80 = so is the
// policy), the group policy bytes, and both reserved bytes.
func (p Packet) VXLANFlags(flags uint8, policy uint16, reserved1, reserved2 uint8) Packet {
	return change(p, false, func(l vxlanLayer) vxlanLayer {
		l.flags, l.policy, l.reserved = flags, policy, [2]uint8{reserved1, reserved2}
		return l
	})
}

// Underlay adds an IPv4 header in both families: VTEPs are IPv4 whatever they carry.
func (p Packet) Underlay(src, dst Addr) Packet {
	l := ip4Layer{src: src.V4, dst: dst.V4, ttl: 64, protocol: -1}
	return p.add(l, l)
}

// overlaid is the step before the VXLAN device: the same packet with its outer headers, at the uplink.
func (w *World) overlaid(step Step) Step {
	outer := Eth(w.setup.Uplink, w.setup.Uplink).Underlay(IP(step.Tunnel.Remote), IP(w.base.Host.VTEP.String()))
	outer = outer.VXLAN(step.Tunnel.VNI)
	if step.Tunnel.Policy != 0 {
		outer = outer.VXLANFlags(0x88, uint16(step.Tunnel.Policy), 0, 0)
	}
	step.In = outer.Inside(step.In)
	step.Ahead = slices.Clone(step.Ahead)
	for i, p := range step.Ahead {
		step.Ahead[i] = outer.Inside(p)
	}
	step.At = Hook{Program: UplinkProgram, Device: w.base.Host.Uplinks[0]}
	step.Mark, step.Tunnel = 0, nil
	return step
}

// nested is a whole packet inside another one.
type nested struct {
	packet Packet
	family Family
}

func (l nested) build(_ position, payload []byte) []byte {
	return append(l.packet.Bytes(l.family), payload...)
}

// Inside puts a whole frame into this packet, behind VXLAN.
func (p Packet) Inside(inner Packet) Packet {
	p = p.add(nested{inner, V4}, nested{inner, V6})
	p.v4.absent = p.v4.absent || !inner.In(V4)
	p.v6.absent = p.v6.absent || !inner.In(V6)
	return p
}
