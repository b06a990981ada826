// SPDX-License-Identifier: Apache-2.0

package pkttest

import (
	"fmt"
	"slices"
)

// Packet is a recipe for one frame under both families, written from the outside in:
//
//	Eth(src, dst).IP(a, b).TCP(40000, 443, SYN).Payload(10)
//
// Every method returns a new Packet, so that an expected packet is often its input with something
// changed: in.MACs(gateway, db).From(eip). Lengths and checksums are computed when it is built, also
// after a change. A packet that makes no sense in one family (an ARP in IPv6) is absent there.
type Packet struct {
	v4, v6 variant
}

// variant is the packet in one family.
type variant struct {
	absent bool
	layers []layer
	edits  []func([]byte) []byte
}

// layer is one header; build puts it in front of what it carries.
type layer interface {
	build(at position, payload []byte) []byte
}

// position is where in the packet a layer stands: checksums need the addresses outside, type fields
// the layer inside.
type position struct {
	layers []layer
	i      int
}

// inner is the layer inside this one, nil at the end.
func (at position) inner() layer {
	if at.i+1 < len(at.layers) {
		return at.layers[at.i+1]
	}
	return nil
}

// In tells whether the packet exists in a family.
func (p Packet) In(f Family) bool {
	v := p.in(f)
	return !v.absent && len(v.layers) > 0
}

// None tells that the packet is the zero one: nothing expected, nothing sent.
func (p Packet) None() bool { return len(p.v4.layers) == 0 && len(p.v6.layers) == 0 }

// Bytes builds the frame. It panics in a family in which the packet does not exist.
func (p Packet) Bytes(f Family) []byte {
	if !p.In(f) {
		panic(fmt.Sprintf("build packet: it does not exist in %v", f))
	}
	v := p.in(f)
	var frame []byte
	for i := range slices.Backward(v.layers) {
		frame = v.layers[i].build(position{v.layers, i}, frame)
	}
	for _, edit := range v.edits {
		frame = edit(frame)
	}
	return frame
}

// Only leaves the packet out of the other family, for what is peculiar to one.
func (p Packet) Only(f Family) Packet {
	if f == V4 {
		p.v6.absent = true
	} else {
		p.v4.absent = true
	}
	return p
}

// Either is a in IPv4 and b in IPv6.
func Either(a, b Packet) Packet { return Packet{v4: a.v4, v6: b.v6} }

func (p Packet) in(f Family) variant {
	if f == V4 {
		return p.v4
	}
	return p.v6
}

// add appends a layer per family; nil makes the packet absent in that family.
func (p Packet) add(l4, l6 layer) Packet {
	return Packet{v4: p.v4.add(l4), v6: p.v6.add(l6)}
}

func (v variant) add(l layer) variant {
	if l == nil {
		v.absent = true
		return v
	}
	v.layers = append(slices.Clone(v.layers), l)
	return v
}

// change replaces the outermost layer of type T in both families by what f makes of it; last means
// the innermost one. A family without such a layer stays as it is, but one of them must have it.
func change[T layer](p Packet, last bool, f func(T) T) Packet {
	var found bool
	for _, v := range []*variant{&p.v4, &p.v6} {
		at := -1
		for i, l := range v.layers {
			if _, ok := l.(T); ok && (at < 0 || last) {
				at = i
			}
		}
		if at < 0 {
			continue
		}
		found = true
		v.layers = slices.Clone(v.layers)
		v.layers[at] = f(v.layers[at].(T))
	}
	if !found {
		var zero T
		panic(fmt.Sprintf("change packet: it has no %T", zero))
	}
	return p
}

// Edit changes the bytes of the finished frame: the way to write what no sane sender would.
func (p Packet) Edit(edit func([]byte) []byte) Packet {
	for _, v := range []*variant{&p.v4, &p.v6} {
		v.edits = append(slices.Clone(v.edits), edit)
	}
	return p
}

// Poke overwrites bytes of the finished frame.
func (p Packet) Poke(offset int, b ...byte) Packet {
	return p.Edit(func(frame []byte) []byte {
		copy(frame[offset:], b)
		return frame
	})
}

// Cut leaves the first n bytes of the finished frame.
func (p Packet) Cut(n int) Packet {
	return p.Edit(func(frame []byte) []byte { return frame[:min(n, len(frame))] })
}

// Pad appends bytes behind the frame, as short Ethernet frames carry them.
func (p Packet) Pad(n int) Packet {
	return p.Edit(func(frame []byte) []byte {
		return append(frame, slices.Repeat([]byte{0xaa}, n)...)
	})
}

// WithoutEthernet gives the bytes behind the Ethernet header, for quotes in ICMP errors.
func (p Packet) WithoutEthernet(f Family) []byte { return p.Bytes(f)[ethLen:] }
