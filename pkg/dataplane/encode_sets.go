// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"cmp"
	"fmt"
	"unsafe"

	"github.com/eniplane/eniplane/pkg/compile"
)

// SetID names a rule set or a route table as the programs do. It stands for one content.
type SetID struct {
	Routes bool
	ID     uint32
}

// Compare orders sets: rule sets first, by id.
func (s SetID) Compare(other SetID) int {
	if s.Routes != other.Routes {
		if other.Routes {
			return -1
		}
		return 1
	}
	return cmp.Compare(s.ID, other.ID)
}

// Set is all that one rule set or route table has in the plain tables. It is laid out when somebody asks:
// most revisions change few of many.
type Set struct {
	rules  *compile.Ruleset
	routes []compile.Route
}

// SetTables returns the tables whose entries belong to sets.
func SetTables() []string {
	return []string{
		bpfMapRoutes4, bpfMapRoutes6, bpfMapAddrs4, bpfMapAddrs6, bpfMapGroups,
		bpfMapServices, bpfMapVerdicts, bpfMapServiceRules, bpfMapPeerRules,
	}
}

// sets finds the sets of a state.
func (e *encoder) sets(st *compile.State) {
	add := func(id SetID, set Set) {
		if _, twice := e.tables.Sets[id]; twice {
			e.fail("two rule sets or route tables have id %d", id.ID)
		}
		e.tables.Sets[id] = set
	}
	for i := range st.Rulesets {
		rs := &st.Rulesets[i]
		add(SetID{ID: rulesetID(rs)}, Set{rules: rs})
	}
	for begin, end := 0, 0; begin < len(st.Routes); begin = end {
		table := st.Routes[begin].Table
		for end < len(st.Routes) && st.Routes[end].Table == table {
			end++
		}
		add(SetID{Routes: true, ID: table}, Set{routes: st.Routes[begin:end]})
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
	for _, r := range s.routes {
		value := bpfRoute{Kind: uint32(r.Kind), Arg: r.Arg, Subnet: r.Subnet}
		e.lpm(bpfMapRoutes4, bpfMapRoutes6, r.Table, r.Prefix, view(&value))
	}
	if s.rules != nil {
		e.ruleset(s.rules)
	}
	if e.err != nil {
		return nil, e.err
	}
	out := map[string][]Entry{}
	for name, p := range e.tables {
		out[name] = p.entries()
	}
	return out, nil
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

func (e *setEncoder) add(table string, key, value []byte) {
	p := e.tables[table]
	if p == nil {
		p = &packed{key: len(key), value: len(value)}
		e.tables[table] = p
	}
	p.bytes = append(append(p.bytes, key...), value...)
}

func (e *setEncoder) fail(format string, args ...any) {
	if e.err == nil {
		e.err = fmt.Errorf(format, args...)
	}
}
