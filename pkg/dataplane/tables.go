// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"
	"maps"
	"slices"

	"github.com/eniplane/eniplane/pkg/compile"
)

// HostFacts is what a host knows of its own devices and the feed does not.
type HostFacts struct {
	VXLANIfindex uint32
	OverlayMTU   uint32 // largest inner IP packet that the underlay carries
	MaxFlows     uint32 // for which the flow tables were made
	HalfOpen     uint32 // half-open flows that an ENI may have per opening direction: places of a ring
}

// Content is what a map must hold: key to value, both as the kernel sees them. In a slotted table
// the value is one of the two halves.
type Content map[string][]byte

// Tables is what the maps of one host must hold for one revision: of the tables in SetTables what the sets
// say, of the others the contents, by the name of the map.
type Tables struct {
	Revision uint64
	Contents map[string]Content
	Sets     map[SetID]Set
}

// All returns the contents of all tables, the sets laid out. Two entries with one key are an error: the
// state would not mean what it says.
func (t *Tables) All() (map[string]Content, error) {
	all := maps.Clone(t.Contents)
	for _, name := range SetTables() {
		all[name] = Content{}
	}
	for _, set := range t.Sets {
		entries, err := set.Entries()
		if err != nil {
			return nil, fmt.Errorf("lay out revision %d: %w", t.Revision, err)
		}
		for name, list := range entries {
			for _, e := range list {
				if _, twice := all[name][string(e.Key)]; twice {
					return nil, fmt.Errorf("lay out revision %d: table %s: two entries with key %x", t.Revision, name, e.Key)
				}
				all[name][string(e.Key)] = e.Value
			}
		}
	}
	return all, nil
}

// Kind says how a revision gets into a table.
type Kind int

// The kinds of tables.
const (
	Plain   Kind = iota // content-addressed: entries are added before and removed after the flip, never changed
	Slotted             // two halves per value, the flip chooses
	InPlace             // nexthops: edited around the flip
)

// TableKinds returns the tables that a revision fills.
func TableKinds() map[string]Kind {
	return map[string]Kind{
		bpfMapHostConf: Slotted, bpfMapEnis: Slotted, bpfMapMacs: Slotted,
		bpfMapEndpoints4: Slotted, bpfMapEndpoints6: Slotted,
		bpfMapEipIn4: Slotted, bpfMapEipIn6: Slotted, bpfMapEipOut4: Slotted, bpfMapEipOut6: Slotted,
		bpfMapMoves:    Slotted,
		bpfMapNexthops: InPlace,
		bpfMapVteps:    Plain, bpfMapRoutes4: Plain, bpfMapRoutes6: Plain,
		bpfMapPolicies: Plain, bpfMapAddrs4: Plain, bpfMapAddrs6: Plain, bpfMapGroups: Plain,
		bpfMapServices: Plain, bpfMapServiceBlocks: Plain, bpfMapVerdicts: Plain, bpfMapClassRules: Plain,
	}
}

// Encode lays out a compiled state as the contents of the maps. Two entries with one key are an
// error: the state would not mean what it says.
func Encode(st *compile.State, facts HostFacts) (*Tables, error) {
	e := encoder{
		tables:   &Tables{Revision: st.Revision, Contents: map[string]Content{}, Sets: map[SetID]Set{}},
		rulesets: map[uint32]*compile.Ruleset{},
	}
	for name := range TableKinds() {
		if !slices.Contains(SetTables(), name) {
			e.tables.Contents[name] = Content{}
		}
	}
	for i := range st.Rulesets {
		e.rulesets[st.Rulesets[i].ID] = &st.Rulesets[i]
	}
	quotas := newQuotas(st.ENIs, facts)
	if err := e.host(&st.Host, facts, quotas); err != nil {
		return nil, err
	}
	for i := range st.ENIs {
		e.eni(&st.ENIs[i], quotas)
	}
	e.nexthops(st.NextHops)
	e.endpoints(st.Endpoints)
	e.macs(st.MACs)
	e.moves(st.Moves)
	e.vteps(st.VTEPs)
	e.eips(st.EIPs)
	e.policies(st.Policies)
	e.sets(st)
	if e.err != nil {
		return nil, fmt.Errorf("encode revision %d: %w", st.Revision, e.err)
	}
	return e.tables, nil
}

// encoder fills the tables; the first error sticks.
type encoder struct {
	tables   *Tables
	rulesets map[uint32]*compile.Ruleset // by id
	err      error
}

func (e *encoder) fail(format string, args ...any) {
	if e.err == nil {
		e.err = fmt.Errorf(format, args...)
	}
}

func (e *encoder) put(table, key string, value []byte) {
	content := e.tables.Contents[table]
	if _, twice := content[key]; twice {
		e.fail("table %s: two entries with key %x", table, key)
		return
	}
	content[key] = value
}
