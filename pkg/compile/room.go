// SPDX-License-Identifier: Apache-2.0

package compile

import "fmt"

// Capacity is how many entries the maps hold that the policies of all ENIs of a host share, as in
// bpf/maps.h. Addresses and routes have a map of this size for each family.
type Capacity struct {
	Addrs, Groups, Services, Blocks, Verdicts, Classes, Routes int
}

// MapCapacity returns the sizes of this version's maps.
func MapCapacity() Capacity {
	return Capacity{
		Addrs: 1 << 22, Groups: 1 << 20, Services: 1 << 20, Blocks: 1 << 17, Verdicts: 1 << 22, Classes: 1 << 17, Routes: 1 << 22,
	}
}

// room is what is left of the shared maps. One revision gets half of each: while it replaces
// another, both are in the maps. So policies that are too big fail the ENIs that have them, never
// the revision with everybody else in it.
type room struct{ total, used Capacity }

func newRoom() room {
	c := MapCapacity()
	return room{total: Capacity{c.Addrs / 2, c.Groups / 2, c.Services / 2, c.Blocks / 2, c.Verdicts / 2, c.Classes / 2, c.Routes / 2}}
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
		{"blocks of ports in rules", r.total.Blocks, r.used.Blocks, need.Blocks},
		{"verdicts", r.total.Verdicts, r.used.Verdicts, need.Verdicts},
		{"classes in wide rule sets", r.total.Classes, r.used.Classes, need.Classes},
		{"routes", r.total.Routes, r.used.Routes, need.Routes},
	} {
		if part.used+part.need > part.total {
			return fmt.Errorf("the host's map of %s has no room for %d more, %d of %d are in use: shrink the groups, lists or tables of its ENIs, or move instances to other hosts",
				part.what, part.need, part.used, part.total)
		}
	}
	r.used.Addrs += need.Addrs
	r.used.Groups += need.Groups
	r.used.Services += need.Services
	r.used.Blocks += need.Blocks
	r.used.Verdicts += need.Verdicts
	r.used.Classes += need.Classes
	r.used.Routes += need.Routes
	return nil
}
