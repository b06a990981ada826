// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/cilium/ebpf"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/dataplane/flowtable"
)

// copiedSet is a set of a flow table that the twin has a copy of.
type copiedSet struct {
	family flowtable.Family
	set    uint32
}

// Begin forgets all packets: the next one meets the host as it is now.
func (t *Twin) Begin() error {
	t.history, t.known = nil, []uint32{0}
	return t.seed()
}

// seed makes the twin's own maps copies of the live ones, without flows and fragments.
func (t *Twin) seed() error {
	for name, m := range t.own {
		if !seeded(name, m) {
			continue
		}
		live := t.maps.Map(name)
		if live == nil {
			continue // the scratch memory of a packet
		}
		if err := copyMap(live, m); err != nil {
			return fmt.Errorf("copy map %s for the trace: %w", name, err)
		}
	}
	if t.copied == nil { // another process may have left something
		clear(t.hits)
		clear(t.counters)
	}
	return t.emptyFlows()
}

// emptyFlows deletes flows and fragments: all of them if another process may have left some, else what this one has put
// there.
func (t *Twin) emptyFlows() error {
	if t.copied == nil {
		for _, name := range []string{dataplane.MapFlows4, dataplane.MapFlows6, mapFragments} {
			if err := empty(t.own[name]); err != nil {
				return fmt.Errorf("empty map %s of the trace: %w", name, err)
			}
		}
	}
	for c := range t.copied {
		if err := t.own[flowMap(c.family)].Delete(c.set); err != nil {
			return fmt.Errorf("empty set %d of %s of the trace: %w", c.set, flowMap(c.family), err)
		}
	}
	zero := make([]byte, t.own[mapFragments].ValueSize())
	for _, at := range t.fragmented {
		if err := t.own[mapFragments].Put(at, zero); err != nil {
			return fmt.Errorf("empty map %s of the trace: %w", mapFragments, err)
		}
	}
	t.copied, t.fragmented = map[copiedSet]bool{}, nil
	return nil
}

func flowMap(family flowtable.Family) string {
	if family == flowtable.IPv6 {
		return dataplane.MapFlows6
	}
	return dataplane.MapFlows4
}

// empty deletes the entries of a hash, and zeroes those of an array.
func empty(m *ebpf.Map) error {
	have, err := dataplane.ReadMap(m)
	if err != nil {
		return err
	}
	return forget(m, have)
}

func forget(m *ebpf.Map, entries []dataplane.Entry) error {
	if len(entries) == 0 {
		return nil
	}
	if m.Type() == ebpf.Array {
		zero := make([]dataplane.Entry, len(entries))
		for i := range entries {
			zero[i] = dataplane.Entry{Key: entries[i].Key, Value: make([]byte, m.ValueSize())}
		}
		return dataplane.WriteMap(m, zero)
	}
	var keys [][]byte
	for _, e := range entries {
		keys = append(keys, e.Key)
	}
	return dataplane.DeleteKeys(m, keys)
}

func copyMap(from, to *ebpf.Map) error {
	if from.Type() == ebpf.Array {
		return dataplane.CopyArray(from, to)
	}
	want, err := dataplane.ReadMap(from)
	if err != nil {
		return err
	}
	have, err := dataplane.ReadMap(to)
	if err != nil {
		return err
	}
	stays := map[string]bool{}
	for _, e := range want {
		stays[string(e.Key)] = true
	}
	have = slices.DeleteFunc(have, func(e dataplane.Entry) bool { return stays[string(e.Key)] })
	if err := forget(to, have); err != nil {
		return err
	}
	if len(want) == 0 {
		return nil
	}
	return dataplane.WriteMap(to, want)
}

// expect guesses which ENIs a packet comes by, so that one run will do, and copies the flows that it could meet.
func (t *Twin) expect(p Packet) error {
	look, err := t.maps.Look()
	if err != nil {
		return err
	}
	vni := uint32(0)
	if p.Tunnel != nil {
		vni = p.Tunnel.VNI
	}
	if p.Program == dataplane.ProgramPort {
		if value, err := t.maps.Map(dataplane.MapPorts).LookupBytes(p.Ifindex); err == nil && len(value) >= 4 {
			eni := binary.LittleEndian.Uint32(value)
			t.know(eni)
			if e, err := look.ENI(eni); err == nil && e != nil {
				vni = e.VNI
			}
		}
	}
	for _, c := range tuples(p.Frame) {
		if eni, _, err := look.EIP(c.dst); err == nil {
			t.know(eni)
		}
		end, err := look.Endpoint(vni, c.dst)
		if err != nil || end == nil {
			continue
		}
		if hop, err := look.NextHop(end.NextHop); err == nil && hop != nil {
			t.know(hop.ENI)
		}
	}
	return t.seedFlows(p)
}

func (t *Twin) know(eni uint32) {
	if !slices.Contains(t.known, eni) {
		t.known = append(t.known, eni)
	}
}

// seedFlows copies the sets in which a packet could find its flows at the ENIs that are known, or put new ones, and the
// fragments of those ENIs.
func (t *Twin) seedFlows(p Packet) error {
	keys, err := t.keys(p)
	if err != nil {
		return err
	}
	if err := t.copySets(keys); err != nil {
		return err
	}
	return t.copyFragments(p.Frame)
}

// keys lists the keys under which the ENIs that are known could have flows of a packet.
func (t *Twin) keys(p Packet) ([]flowtable.Key, error) {
	look, err := t.maps.Look()
	if err != nil {
		return nil, err
	}
	var scopes []scope
	var vnis []uint32
	for _, eni := range t.known {
		e, err := look.ENI(eni)
		if err != nil {
			return nil, err
		}
		if e == nil {
			continue
		}
		scopes = append(scopes, scope{id: eni, class: classTransit})
		if !slices.Contains(vnis, e.VNI) {
			vnis = append(vnis, e.VNI)
			scopes = append(scopes, scope{id: e.VNI})
		}
	}
	all := tuples(p.Frame)
	addrs, err := standIns(look, all, vnis)
	if err != nil {
		return nil, err
	}
	var keys []flowtable.Key
	for i := range all {
		keys = append(keys, all[i].keys(addrs, scopes)...)
	}
	return keys, nil
}

// flows lists the live flows of a packet that the twin has, if they are asked for.
func (t *Twin) flows(p Packet) ([]flowtable.Flow, error) {
	if !t.showFlows {
		return nil, nil
	}
	const internet = 1 << 3
	keys, err := t.keys(p)
	if err != nil || len(keys) == 0 {
		return nil, err
	}
	now, err := flowtable.Now()
	if err != nil {
		return nil, err
	}
	family := familyOf(keys[0])
	want := map[flowtable.Key]bool{}
	for _, k := range keys {
		want[k] = true
	}
	var flows []flowtable.Flow
	for c := range t.copied {
		if c.family != family {
			continue
		}
		set, err := t.own[flowMap(family)].LookupBytes(c.set)
		if err != nil || set == nil {
			return nil, fmt.Errorf("read the flows of the trace: set %d: %w", c.set, err)
		}
		err = flowtable.EachOf(set, family, now, func(f *flowtable.Flow) {
			if want[flowtable.Key{Scope: f.Scope, Class: f.Class &^ internet, Local: f.Local, Remote: f.Remote, LocalPort: f.LocalPort, RemotePort: f.RemotePort}] {
				flows = append(flows, *f)
			}
		})
		if err != nil {
			return nil, err
		}
	}
	return flows, nil
}

func familyOf(k flowtable.Key) flowtable.Family {
	if k.Local.Is6() {
		return flowtable.IPv6
	}
	return flowtable.IPv4
}

// standIns lists the addresses of tuples, and those that stand for them under EIPs.
func standIns(look *dataplane.Look, all []tuple, vnis []uint32) ([]netip.Addr, error) {
	var addrs []netip.Addr
	add := func(a netip.Addr) {
		if a.IsValid() && !slices.Contains(addrs, a) {
			addrs = append(addrs, a)
		}
	}
	for _, c := range all {
		for _, a := range []netip.Addr{c.src, c.dst} {
			add(a)
			_, private, err := look.EIP(a)
			if err != nil {
				return nil, err
			}
			add(private)
			for _, vni := range vnis {
				public, err := look.EIPOf(vni, a)
				if err != nil {
					return nil, err
				}
				add(public)
			}
		}
	}
	return addrs, nil
}

// copySets copies the sets of keys, all of one family, that were not copied yet.
func (t *Twin) copySets(keys []flowtable.Key) error {
	if len(keys) == 0 {
		return nil
	}
	family := familyOf(keys[0])
	name := flowMap(family)
	places, err := flowtable.OpenPlaces(t.maps.Map(dataplane.MapFlowTables), family)
	if err != nil {
		return err
	}
	for _, k := range keys {
		first, second, ok := places.Sets(k)
		if !ok {
			return nil
		}
		for _, set := range []uint32{first, second} {
			c := copiedSet{family, set}
			if t.copied[c] {
				continue
			}
			memory, err := settled(t.maps.Map(name), family, set)
			if err != nil {
				return err
			}
			if err := t.own[name].Put(set, memory); err != nil {
				return fmt.Errorf("copy set %d of %s for the trace: %w", set, name, err)
			}
			t.copied[c] = true
		}
	}
	return nil
}

// settled reads a set while nobody rewrites it.
func settled(flows *ebpf.Map, family flowtable.Family, set uint32) ([]byte, error) {
	const tries, wait = 100, 100 * time.Microsecond
	for range tries {
		memory, err := flows.LookupBytes(set)
		if err == nil && memory == nil {
			err = errors.New("it is not there")
		}
		if err != nil {
			return nil, fmt.Errorf("read set %d of the %s flow table: %w", set, family, err)
		}
		if flowtable.Settle(memory, family) {
			return memory, nil
		}
		time.Sleep(wait)
	}
	return nil, fmt.Errorf("read set %d of the %s flow table: it never stood still", set, family)
}

// fragmentsPerENI is FRAGMENTS of bpf/fragment.h.
const fragmentsPerENI = 64

// copyFragments copies what the known ENIs know of first fragments, if the frame is a fragment itself: the twin may write
// there, too.
func (t *Twin) copyFragments(frame []byte) error {
	fragment := slices.ContainsFunc(tuples(frame), func(c tuple) bool { return c.fragment })
	if !fragment {
		return nil
	}
	live, own := t.maps.Map(mapFragments), t.own[mapFragments]
	for _, eni := range t.known {
		first := eni * fragmentsPerENI
		if slices.Contains(t.fragmented, first) {
			continue
		}
		for at := first; at < first+fragmentsPerENI; at++ {
			value, err := live.LookupBytes(at)
			if err == nil && value != nil {
				err = own.Put(at, value)
			}
			if err != nil {
				return fmt.Errorf("copy a fragment for the trace: %w", err)
			}
			t.fragmented = append(t.fragmented, at)
		}
	}
	return nil
}
