// SPDX-License-Identifier: Apache-2.0

package flowtable

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
)

// Key is what a flow is found by.
type Key struct {
	Scope      uint32 // VNI, or ENI index of a transit flow
	Class      uint8  // enum flow_class
	Local      netip.Addr
	Remote     netip.Addr
	LocalPort  uint16
	RemotePort uint16
}

// Places says where flows may be in a table: its random seed and its size.
type Places struct{ header header }

// OpenPlaces reads them from the map flow_tables.
func OpenPlaces(tables *ebpf.Map, family Family) (Places, error) {
	var p Places
	if err := tables.Lookup(uint32(family), &p.header); err != nil {
		return p, fmt.Errorf("read the seed of the %s flow table: %w", family, err)
	}
	return p, nil
}

// Sets returns the two sets in one of which a flow is, if it is there (flow_hash_words of bpf/flow_slot.h). The origin
// of a flow does not count. False: the table is not prepared.
func (p *Places) Sets(k Key) (first, second uint32, ok bool) {
	const internet = 1 << 3
	h := &p.header
	if h.Sets == 0 {
		return 0, 0, false
	}
	words := append(make([]uint32, 0, len(h.Words)), k.Scope<<8|uint32(k.Class)&^internet)
	for _, a := range []netip.Addr{k.Local, k.Remote} {
		b := a.AsSlice()
		for i := 0; i < len(b); i += 4 {
			words = append(words, binary.LittleEndian.Uint32(b[i:]))
		}
	}
	words = append(words, uint32(k.LocalPort)|uint32(k.RemotePort)<<16)
	hash := h.Seed
	for i := 0; i < len(words); i += 2 {
		hash += uint64(words[i]+h.Words[i]) * uint64(words[i+1]+h.Words[i+1])
	}
	hash ^= hash >> 32
	hash *= 0x9fb21c651e98df25
	hash ^= hash >> 29
	hash *= 0xd6e8feb86659fd93
	hash ^= hash >> 32
	return uint32(hash >> 32 * uint64(h.Sets) >> 32), uint32(uint64(uint32(hash)) * uint64(h.Sets) >> 32), true
}

// EachOf calls fn with the flows alive at `now` of a set, given as the map holds it.
func EachOf(set []byte, family Family, now uint32, fn func(*Flow)) error {
	t := Table{family: family, memory: set, sets: 1}
	if want := t.setSize(); len(set) != want {
		return fmt.Errorf("look at a set of the %s flow table: it has %d bytes, want %d", family, len(set), want)
	}
	t.Each(now, func(f *Flow) bool {
		fn(f)
		return true
	})
	return nil
}

// Settle makes a copy of a set one that nobody writes to: its lock is open. False: a slot was being rewritten when it was
// copied.
func Settle(set []byte, family Family) bool {
	t := Table{family: family, memory: set, sets: 1}
	t.line(0).Lock = 0
	for i := range ways {
		if *t.control(place{slot: i})&busy != 0 {
			return false
		}
	}
	return true
}
