// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"fmt"
	"slices"
)

// tableKey is the key of the content of a table that begins with h.
func (c *content) tableKey(what string) {
	c.num(rulesetFormat)
	c.str(what)
}

func (t *AddrTable) contentKey() string {
	var h content
	h.tableKey("addresses")
	for _, p := range t.Prefixes {
		h.addr(p.Prefix.Addr())
		h.num(uint64(p.Prefix.Bits())<<32 | uint64(p.Class))
	}
	return h.key()
}

func (t *GroupTable) contentKey() string {
	var h content
	h.tableKey("groups")
	for _, g := range t.Groups {
		h.num(uint64(g.GroupSet)<<32 | uint64(g.Class))
	}
	return h.key()
}

func (t *ServiceTable) contentKey() string {
	var h content
	h.tableKey("services")
	h.num(uint64(len(t.Prefixes)))
	for _, s := range t.Prefixes {
		h.num(uint64(s.Protocol)<<32 | uint64(s.Port)<<8 | uint64(s.Bits))
		h.num(uint64(s.Class))
	}
	for i := range t.Blocks {
		b := &t.Blocks[i]
		h.num(uint64(b.Protocol)<<8 | uint64(b.High))
		for _, class := range b.Classes {
			h.num(uint64(class))
		}
	}
	return h.key()
}

// ruleTables are rule sets and their tables by id.
type ruleTables struct {
	sets     map[uint32]*Ruleset
	addrs    map[uint32]*AddrTable
	groups   map[uint32]*GroupTable
	services map[uint32]*ServiceTable
	labels   map[uint32]string
}

func newRuleTables() ruleTables {
	return ruleTables{
		map[uint32]*Ruleset{}, map[uint32]*AddrTable{}, map[uint32]*GroupTable{}, map[uint32]*ServiceTable{}, map[uint32]string{},
	}
}

// tablesOf returns those of a state, and the ids of what has a key.
func tablesOf(st *State) (ruleTables, map[string]uint32) {
	t, ids := newRuleTables(), map[string]uint32{}
	for i := range st.Rulesets {
		t.sets[st.Rulesets[i].ID] = &st.Rulesets[i]
		ids[st.Rulesets[i].Key] = st.Rulesets[i].ID
	}
	for i := range st.Addrs {
		t.addrs[st.Addrs[i].ID] = &st.Addrs[i]
		ids[st.Addrs[i].Key] = st.Addrs[i].ID
	}
	for i := range st.Groups {
		t.groups[st.Groups[i].ID] = &st.Groups[i]
	}
	for i := range st.Services {
		t.services[st.Services[i].ID] = &st.Services[i]
	}
	t.labels = st.Names.Rulesets
	return t, ids
}

// parts returns a rule set with its tables, nil if one is missing.
func (t *ruleTables) parts(set *Ruleset) *ruleParts {
	p := &ruleParts{set: set, addrs: t.addrs[set.Addrs], lists: t.addrs[set.Lists], groups: t.groups[set.Groups], services: t.services[set.Services]}
	if p.addrs == nil && set.Addrs != 0 || p.lists == nil && set.Lists != 0 ||
		p.groups == nil && set.Groups != 0 || p.services == nil && set.Services != 0 {
		return nil
	}
	return p
}

// admit gives a rule set, or tables alone, ids, if the maps have room for what of it is not there already. Tables alone
// have the key of the whole.
func (c *compiler) admit(out *compiled, p *ruleParts, label string) {
	key := keyOf(out.hash)
	if id, ok := c.alloc.ids.Rulesets[key]; ok {
		out.id = id
		return
	}
	if err := c.room.take(c.need(p)); err != nil {
		out.err = fmt.Errorf("compile %s: %w", label, err)
		return
	}
	out.id = c.numberTable(key, label)
	addrs, lists := c.share(p.addrs, label), c.share(p.lists, label)
	var groups, services uint32
	if p.groups != nil {
		groups = c.numberTable(p.groups.Key, label)
		table := *p.groups
		table.ID = groups
		c.made.groups[groups] = &table
	}
	if p.services != nil {
		services = c.numberTable(p.services.Key, label)
		table := *p.services
		table.ID = services
		c.made.services[services] = &table
	}
	if p.set == nil {
		return
	}
	set := *p.set
	set.ID, set.Key, set.Addrs, set.Lists, set.Groups, set.Services = out.id, key, addrs, lists, groups, services
	c.made.sets[out.id] = &set
}

// share gives a table of addresses its id; one without any is none.
func (c *compiler) share(t *AddrTable, label string) uint32 {
	if t == nil || len(t.Prefixes) == 0 {
		return 0
	}
	table := *t
	table.ID = c.numberTable(t.Key, label)
	c.made.addrs[table.ID] = &table
	return table.ID
}

func (c *compiler) numberTable(key, label string) uint32 {
	id := c.alloc.ruleset(key)
	if c.made.labels[id] == "" {
		c.made.labels[id] = label
	}
	return id
}

// need is what the maps must take for a rule set, without the tables that it shares with others. The families are not
// told apart: an estimate that is too high costs nobody who stays within the limits of one rule set.
func (c *compiler) need(p *ruleParts) (need Capacity) {
	there := func(key string) bool {
		_, ok := c.alloc.ids.Rulesets[key]
		return ok
	}
	for _, t := range []*AddrTable{p.addrs, p.lists} {
		if t != nil && !there(t.Key) {
			need.Addrs += len(t.Prefixes)
		}
	}
	if p.groups != nil && !there(p.groups.Key) {
		need.Groups = len(p.groups.Groups)
	}
	if p.services != nil && !there(p.services.Key) {
		need.Services, need.Blocks = len(p.services.Prefixes), len(p.services.Blocks)
	}
	if p.set == nil {
		return need
	}
	need.Verdicts = len(p.set.Verdicts)
	for _, sets := range p.set.ClassRules {
		if len(sets) > 0 {
			need.Classes += len(sets)/ClassesPerEntry + 1
		}
	}
	return need
}

// addPolicies adds the rule sets, their tables and the route tables that the ENIs of the state use, from this run or, for
// ENIs that keep what they had, from the previous one, and their names.
func (c *compiler) addPolicies() {
	names := &c.out.Names
	names.Tables = map[uint32]string{c.out.Host.Infra: "infra"}
	names.Rulesets = map[uint32]string{}
	u := user{compiler: c, used: newRuleTables()}
	policies := map[uint32]bool{}
	for i := range c.out.ENIs {
		eni := &c.out.ENIs[i]
		for _, id := range []uint32{eni.SGIn, eni.SGOut, eni.NACLIn, eni.NACLOut} {
			u.ruleset(id)
		}
		for _, id := range []uint32{eni.Allowed, eni.PolicyFrom, eni.PolicyTo} {
			u.addrs(id)
		}
		u.services(eni.PolicyTo)
		if eni.PolicyTo != 0 && !policies[eni.PolicyTo] {
			policies[eni.PolicyTo] = true
			c.addPolicyRoutes(eni.PolicyTo)
		}
		if names.Tables[eni.Routes] == "" {
			c.addTable(eni.Routes)
		}
	}
	slices.SortFunc(c.out.Rulesets, func(a, b Ruleset) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(c.out.Addrs, func(a, b AddrTable) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(c.out.Groups, func(a, b GroupTable) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(c.out.Services, func(a, b ServiceTable) int { return cmp.Compare(a.ID, b.ID) })
}

// user adds to the state what is used, once.
type user struct {
	*compiler
	used ruleTables
}

// find returns a table of this run or, if this run did not make it, of the previous one. ok is false if it was found before,
// or is none.
func find[T any](u *user, id uint32, used, made, previous map[uint32]*T) (table *T, ok bool) {
	if id == 0 || used[id] != nil {
		return nil, false
	}
	labels := u.made.labels
	if table = made[id]; table == nil {
		table, labels = previous[id], u.previous.labels
	}
	used[id] = table
	if u.out.Names.Rulesets[id] == "" {
		u.out.Names.Rulesets[id] = labels[id]
	}
	return table, table != nil
}

func (u *user) ruleset(id uint32) {
	set, ok := find(u, id, u.used.sets, u.made.sets, u.previous.sets)
	if !ok {
		return
	}
	u.out.Rulesets = append(u.out.Rulesets, *set)
	u.addrs(set.Addrs)
	u.addrs(set.Lists)
	if t, ok := find(u, set.Groups, u.used.groups, u.made.groups, u.previous.groups); ok {
		u.out.Groups = append(u.out.Groups, *t)
	}
	u.services(set.Services)
}

func (u *user) addrs(id uint32) {
	if t, ok := find(u, id, u.used.addrs, u.made.addrs, u.previous.addrs); ok {
		u.out.Addrs = append(u.out.Addrs, *t)
	}
}

func (u *user) services(id uint32) {
	if t, ok := find(u, id, u.used.services, u.made.services, u.previous.services); ok {
		u.out.Services = append(u.out.Services, *t)
	}
}
