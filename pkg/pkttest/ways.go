// SPDX-License-Identifier: Apache-2.0

package pkttest

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/eniplane/eniplane/pkg/dataplane"
)

// firstExit is the index of the only exit of a test.
const firstExit = 1

// writeWays tells the programs by which neighbours VTEPs are reached, all by one uplink.
func writeWays(coll *ebpf.Collection, uplink uint32, mac MAC, ways map[string]MAC) error {
	buckets := map[uint32][dataplane.WaysPerBucket][2]uint64{}
	used := map[uint32]int{}
	for _, vtep := range slices.Sorted(maps.Keys(ways)) {
		way := dataplane.Way{VTEP: netip.MustParseAddr(vtep).As4(), MAC: ways[vtep], Exit: firstExit}
		at := dataplane.WayBucket(way.VTEP)
		bucket := buckets[at]
		bucket[used[at]] = way.Words()
		buckets[at] = bucket
		used[at]++
	}
	for at, bucket := range buckets {
		var value []byte
		for _, words := range bucket {
			value = append(value, wordBytes(words)...)
		}
		if err := coll.Maps[dataplane.MapVTEPWays].Put(at, value); err != nil {
			return fmt.Errorf("write ways: %w", err)
		}
	}
	return writeExit(coll, uplink, mac, math.MaxUint32)
}

// writeExit opens the exit up to a tick of the flow clock.
func writeExit(coll *ebpf.Collection, uplink uint32, mac MAC, until uint32) error {
	exit := dataplane.Exit{Ifindex: uplink, Until: until, MAC: mac}
	if err := coll.Maps[dataplane.MapExits].Put(uint32(firstExit), wordBytes(exit.Words())); err != nil {
		return fmt.Errorf("write the exit: %w", err)
	}
	return nil
}

func wordBytes(words [2]uint64) []byte {
	return append(u64(words[0]), u64(words[1])...)
}

// encapsulated is a packet with the outer headers that a host writes, all but the source port.
func encapsulated(inner Packet, family Family, uplink, neighbour MAC, local, remote string, vni uint32) []byte {
	outer := Eth(uplink, neighbour).Underlay(IP(local), IP(remote)).VXLAN(vni).Inside(inner)
	return change(outer, false, func(l ip4Layer) ip4Layer {
		l.fragment, l.id, l.tos = dontFragment, 0, outerTOS(inner.Bytes(family))
		return l
	}).Bytes(family)
}

// outerTOS is the outer type of service: the ECN bits of an IP packet as RFC 3168 section 9.1.1 lets a tunnel copy them out,
// no more of its class.
func outerTOS(frame []byte) uint8 {
	class := frame[ethLen+1]
	if frame[ethLen]>>4 == 6 {
		class = frame[ethLen]<<4 | frame[ethLen+1]>>4
	}
	if class&3 == 3 {
		return 2
	}
	return class & 3
}

// Outer source ports begin here (RFC 7348 section 5).
const firstSourcePort = 49152

// sourcePorts are the outer source ports by what they must be a function of: a flow, or the addresses of fragments.
type sourcePorts map[string]uint16

// fill puts the outer source port of a frame that a program made into the wanted one: it may be any in the range, as long as
// it is always the same for one flow.
func (s sourcePorts) fill(want, got []byte) {
	const at = ethLen + ip4Len
	if len(got) < at+2 || len(want) < at+2 {
		return
	}
	port := binary.BigEndian.Uint16(got[at:])
	if port < firstSourcePort {
		return
	}
	id := flowOf(want[at+encapsulation:])
	if known, ok := s[id]; ok {
		port = known
	}
	s[id] = port
	binary.BigEndian.PutUint16(want[at:], port)
}

// encapsulation are the headers of UDP, VXLAN and Ethernet.
const encapsulation = 8 + 8 + ethLen

// flowOf is what tells the flow of an IP packet from others: addresses, protocol and ports, no ports of fragments. A packet
// with options or of another protocol is only like itself.
func flowOf(ip []byte) string {
	l4, addresses, protocol, fragment := ip4Len, ip[12:20], ip[9], ip[6]&0x3f != 0 || ip[7] != 0
	if ip[0]>>4 == 6 {
		l4, addresses, protocol, fragment = 40, ip[8:40], ip[6], false
		if ip[6] == fragmentHdr && binary.BigEndian.Uint16(ip[42:])&0xfff9 != 0 { // one of a whole packet means nothing
			protocol, fragment = ip[40], true
		}
	} else if ip[0] != 0x45 {
		return string(ip)
	}
	switch {
	case fragment:
		return fmt.Sprint(addresses, protocol)
	case protocol == 6 || protocol == 17:
		return fmt.Sprint(addresses, protocol, ip[l4:l4+4])
	}
	return string(ip)
}

// SourcePorts is how many different outer source ports the programs have chosen.
func (w *World) SourcePorts() int {
	different := map[uint16]bool{}
	for _, port := range w.ports {
		different[port] = true
	}
	return len(different)
}
