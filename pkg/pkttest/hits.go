// SPDX-License-Identifier: Apache-2.0

package pkttest

import (
	"fmt"
	"slices"
	"strings"
	"unsafe"

	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane"
)

// hitName is how a rule is called in what rows want: "ingress web/https".
func hitName(n compile.RuleName) string { return strings.TrimSpace(n.Direction + " " + n.Name) }

// hitsFor gives the rules that a row wants to have been hit in a family, sorted.
func hitsFor(want []string, family Family) []string {
	var names []string
	for _, name := range want {
		if v4, v6, differ := strings.Cut(name, "|"); differ {
			name = v4
			if family == V6 {
				name = v6
			}
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// hits reads the counters of all rules that have a name now.
func (w *World) hits() (map[string]uint64, error) {
	counts := map[string]uint64{}
	for id, name := range w.state.Names.Rules {
		var n uint64
		if err := w.coll.Maps[dataplane.MapRuleHits].Lookup(id, &n); err != nil {
			return nil, fmt.Errorf("read the hits of rule %d: %w", id, err)
		}
		counts[hitName(name)] += n
	}
	return counts, nil
}

// newHits lists the rules whose counters grew, one time for each hit, sorted.
func newHits(before, now map[string]uint64) []string {
	var names []string
	for name, n := range now {
		names = append(names, slices.Repeat([]string{name}, int(n-before[name]))...)
	}
	slices.Sort(names)
	return names
}

// hitCounters are the counters of the rules of a revision.
type hitCounters struct {
	memory mapped
	rules  []hitCounter
	delta  []string
}

type hitCounter struct {
	id   uint32
	name string
	seen uint64
}

func (h *hitCounters) at(id uint32) uint64 { return *(*uint64)(unsafe.Pointer(&h.memory[id*8])) }

// follow looks at the rules of a revision from now on.
func (h *hitCounters) follow(st *compile.State) {
	h.rules = h.rules[:0]
	for id, name := range st.Names.Rules {
		h.rules = append(h.rules, hitCounter{id, hitName(name), h.at(id)})
	}
}

// Hits lists the rules that were hit since the last call, one time for each hit. It is valid until the next call.
func (q *Quick) Hits() []string {
	q.hits.delta = q.hits.delta[:0]
	for i := range q.hits.rules {
		r := &q.hits.rules[i]
		for now := q.hits.at(r.id); r.seen != now; r.seen++ {
			q.hits.delta = append(q.hits.delta, r.name)
		}
	}
	return q.hits.delta
}
