// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"encoding/binary"
	"net/netip"
)

// The sizes of MapVTEPWays and MapExits.
const (
	WayBuckets    = cWayBuckets
	WaysPerBucket = cWays
	MaxExits      = cMaxUplinks // index 0 is none
)

// Exit is an uplink by which packets leave without asking the kernel.
type Exit struct {
	Ifindex uint32
	Until   uint32 // tick of the flow clock up to which its ways count
	MAC     [6]byte
}

// Words are the two words of the value; the first one is a store of its own.
func (e Exit) Words() [2]uint64 {
	return [2]uint64{uint64(e.Until)<<32 | uint64(e.Ifindex), macWord(e.MAC)}
}

// ExitOf is the reverse of Exit.Words.
func ExitOf(words [2]uint64) Exit {
	return Exit{Ifindex: uint32(words[0]), Until: uint32(words[0] >> 32), MAC: wordMAC(words[1])}
}

// Way is the neighbour of the underlay that leads to a VTEP, and the index of the exit to it.
type Way struct {
	VTEP [4]byte
	MAC  [6]byte
	Exit uint16 // 0 = the kernel's way
}

// Words are the two words of a way in its bucket; the second one is a store of its own.
func (w Way) Words() [2]uint64 {
	return [2]uint64{uint64(binary.LittleEndian.Uint32(w.VTEP[:])), macWord(w.MAC) | uint64(w.Exit)<<48}
}

// WayOf is the reverse of Way.Words.
func WayOf(words [2]uint64) Way {
	w := Way{MAC: wordMAC(words[1]), Exit: uint16(words[1] >> 48)}
	binary.LittleEndian.PutUint32(w.VTEP[:], uint32(words[0]))
	return w
}

// WayBucket is the bucket of MapVTEPWays in which the programs look for a VTEP (bpf/underlay.h).
func WayBucket(vtep [4]byte) uint32 {
	return binary.LittleEndian.Uint32(vtep[:]) * 0x9e3779b1 >> 20
}

func macWord(mac [6]byte) uint64 {
	var word [8]byte
	copy(word[:], mac[:])
	return binary.LittleEndian.Uint64(word[:])
}

func wordMAC(word uint64) (mac [6]byte) {
	copy(mac[:], binary.LittleEndian.AppendUint64(nil, word))
	return mac
}

func exitRow(_ namer, k *uint32, v *bpfExit) any {
	if v.Ifindex == 0 {
		return nil
	}
	return ExitRow{Index: *k, Ifindex: v.Ifindex, MAC: macText(v.Mac), Until: v.Until}
}

func waysRow(n namer, k *uint32, v *bpfVtepWays) any {
	row := WaysRow{Bucket: *k}
	for _, w := range v.V {
		if w.Exit != 0 {
			row.Ways = append(row.Ways, WayText{VTEP: netip.AddrFrom4(w.Vtep).String(), Host: n.host(netip.AddrFrom4(w.Vtep)), MAC: macText(w.Mac), Exit: w.Exit})
		}
	}
	if row.Ways == nil {
		return nil
	}
	return row
}
