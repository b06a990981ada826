// SPDX-License-Identifier: Apache-2.0

package compile

import "fmt"

// Capacity is how many entries the maps hold that the policies of all ENIs of a host share, as in
// bpf/maps.h. Addresses and routes have a map of this size for each family.
type Capacity struct {
	Addrs, Groups, Services, Verdicts, Routes, WidePeers, WideServices int
}

// MapCapacity returns the sizes of this version's maps.
func MapCapacity() Capacity {
	return Capacity{
		Addrs: 1 << 22, Groups: 1 << 20, Services: 1 << 20, Verdicts: 1 << 22, Routes: 1 << 22,
		WidePeers: 1 << 19, WideServices: 1 << 19,
	}
}

// room is what is left of the shared maps. One revision gets half of each: while it replaces
// another, both are in the maps. So policies that are too big fail the ENIs that have them, never
// the revision with everybody else in it.
type room struct{ total, used Capacity }

func newRoom() room {
	c := MapCapacity()
	return room{total: Capacity{c.Addrs / 2, c.Groups / 2, c.Services / 2, c.Verdicts / 2, c.Routes / 2, c.WidePeers / 2, c.WideServices / 2}}
}

// take books entries, all of them or none.
func (r *room) take(need Capacity) error {
	for _, part := range []struct {
		what              string
		total, used, need int
	}{
		{"addresses in rules", r.total.Addrs, r.used.Addrs, need.Addrs},
		{"combinations of groups in rules", r.total.Groups, r.used.Groups, need.Groups},
		{"ports in rules", r.total.Services, r.used.Services, need.Services},
		{"verdicts", r.total.Verdicts, r.used.Verdicts, need.Verdicts},
		{"routes", r.total.Routes, r.used.Routes, need.Routes},
		{"classes of peers in wide rule sets", r.total.WidePeers, r.used.WidePeers, need.WidePeers},
		{"ports in wide rule sets", r.total.WideServices, r.used.WideServices, need.WideServices},
	} {
		if part.used+part.need > part.total {
			return fmt.Errorf("the host's map of %s has no room for %d more, %d of %d are in use: shrink the groups, lists or tables of its ENIs, or move instances to other hosts",
				part.what, part.need, part.used, part.total)
		}
	}
	r.used.Addrs += need.Addrs
	r.used.Groups += need.Groups
	r.used.Services += need.Services
	r.used.Verdicts += need.Verdicts
	r.used.Routes += need.Routes
	r.used.WidePeers += need.WidePeers
	r.used.WideServices += need.WideServices
	return nil
}

// size returns what a rule set needs. The families are not told apart: an estimate that is too
// high costs nobody who stays within the limits of one rule set.
func (s *Ruleset) size() Capacity {
	c := Capacity{Addrs: len(s.Peers), Groups: len(s.Groups), Verdicts: len(s.Verdicts)}
	if s.Wide() {
		c.WidePeers, c.WideServices = len(s.PeerRules), len(s.Services)
	} else {
		c.Services = len(s.Services)
	}
	return c
}
