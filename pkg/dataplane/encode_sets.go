// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"cmp"
	"fmt"
	"unsafe"

	"github.com/eniplane/eniplane/pkg/compile"
)

// SetKind says what a set is.
type SetKind int

// The kinds of sets.
const (
	SetRules SetKind = iota
	SetAddrs
	SetGroups
	SetServices
	SetRoutes
)

// SetID names a rule set, one of its tables or a route table as the programs do. It stands for one content.
type SetID struct {
	Kind SetKind
	ID   uint32
}

// Compare orders sets by kind, then by id.
func (s SetID) Compare(other SetID) int {
	return cmp.Or(cmp.Compare(s.Kind, other.Kind), cmp.Compare(s.ID, other.ID))
}

// Set is all that one rule set or table has in the plain tables. It is laid out when somebody asks:
// most revisions change few of many.
type Set struct{ layOut func(*setEncoder) }

// SetTables returns the tables whose entries belong to sets.
func SetTables() []string {
	return []string{
		bpfMapRoutes4, bpfMapRoutes6, bpfMapAddrs4, bpfMapAddrs6, bpfMapGroups,
		bpfMapServices, bpfMapServiceBlocks, bpfMapVerdicts, bpfMapClassRules,
	}
}

// sets finds the sets of a state.
func (e *encoder) sets(st *compile.State) {
	add := func(kind SetKind, id uint32, layOut func(*setEncoder)) {
		key := SetID{kind, id}
		if _, twice := e.tables.Sets[key]; twice {
			e.fail("two rule sets or tables have id %d", id)
		}
		e.tables.Sets[key] = Set{layOut}
	}
	for i := range st.Rulesets {
		rs := &st.Rulesets[i]
		add(SetRules, rs.ID, func(e *setEncoder) { e.ruleset(rs) })
	}
	for i := range st.Addrs {
		t := &st.Addrs[i]
		add(SetAddrs, t.ID, func(e *setEncoder) { e.addrs(t) })
	}
	for i := range st.Groups {
		t := &st.Groups[i]
		add(SetGroups, t.ID, func(e *setEncoder) { e.groups(t) })
	}
	for i := range st.Services {
		t := &st.Services[i]
		add(SetServices, t.ID, func(e *setEncoder) { e.services(t) })
	}
	for begin, end := 0, 0; begin < len(st.Routes); begin = end {
		table := st.Routes[begin].Table
		for end < len(st.Routes) && st.Routes[end].Table == table {
			end++
		}
		routes := st.Routes[begin:end]
		add(SetRoutes, table, func(e *setEncoder) { e.routes(routes) })
	}
}

// rulesetID is the id by which the programs know a rule set: it tells how the set is asked.
func rulesetID(rs *compile.Ruleset) uint32 {
	if rs.Wide() {
		return rs.ID | cRulesetWide
	}
	return rs.ID
}

// Entries lays a set out, by table.
func (s Set) Entries() (map[string][]Entry, error) {
	e := setEncoder{tables: map[string]*packed{}}
	s.layOut(&e)
	if e.err != nil {
		return nil, e.err
	}
	out := map[string][]Entry{}
	for name, p := range e.tables {
		out[name] = p.entries()
	}
	return out, nil
}

func (e *setEncoder) routes(routes []compile.Route) {
	for _, r := range routes {
		value := bpfRoute{Kind: uint32(r.Kind), Arg: r.Arg, Subnet: r.Subnet}
		e.lpm(bpfMapRoutes4, bpfMapRoutes6, r.Table, r.Prefix, view(&value))
	}
}

// packed are entries of one table, one behind the other.
type packed struct {
	bytes      []byte
	key, value int // sizes
}

func (p *packed) entries() []Entry {
	size := p.key + p.value
	out := make([]Entry, len(p.bytes)/size)
	for i := range out {
		entry := p.bytes[i*size : (i+1)*size : (i+1)*size]
		out[i] = Entry{Key: entry[:p.key:p.key], Value: entry[p.key:]}
	}
	return out
}

// setEncoder lays out one set; the first error sticks.
type setEncoder struct {
	tables map[string]*packed
	err    error
}

// view is the memory of a generated struct; see bytesOf.
func view[T any](v *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v))
}

func (e *setEncoder) add(table string, key, value []byte) { e.addOf(1, table, key, value) }

// addOf is add for one of so many entries that are still to come.
func (e *setEncoder) addOf(n int, table string, key, value []byte) {
	p := e.tables[table]
	if p == nil {
		p = &packed{key: len(key), value: len(value), bytes: make([]byte, 0, n*(len(key)+len(value)))}
		e.tables[table] = p
	}
	p.bytes = append(append(p.bytes, key...), value...)
}

func (e *setEncoder) fail(format string, args ...any) {
	if e.err == nil {
		e.err = fmt.Errorf(format, args...)
	}
}
