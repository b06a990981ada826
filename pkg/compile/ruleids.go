// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"iter"
	"maps"
	"slices"
)

// MaxRuleIDs bounds the ids of rules, as in bpf/types.h; 0 is none.
const MaxRuleIDs = 1 << 18

// maxRetired is how many rules that are no more keep id and name: flows that they admitted, and whoever
// reads their counters, still ask for them.
const maxRetired = 4096

// RuleID is the id of a rule, and the revision that gave it out: from then on it stands for this rule.
type RuleID struct {
	ID       uint32 `json:"id"`
	Revision uint64 `json:"revision"`
	Name     string `json:"name"` // as in RuleName
}

// RetiredRule is a rule that no policy of this host has any more. If it comes back, it gets its id again.
type RetiredRule struct {
	Key string `json:"key"`
	RuleID
}

// RuleName says which rule of the feed an id stands for.
type RuleName struct {
	Key       string `json:"key,omitempty"` // as of GroupRules and ACLRules; empty = the rule is no more
	Direction string `json:"direction,omitempty"`
	Name      string `json:"name"` // as people see it: web/https, web/ingress[2], red-web/100
}

// Rule is a rule of a compiled set. ID 0: all ids were in use, what it decides is not counted.
type Rule struct {
	ID   uint32
	Name string
}

// ruleIDs gives rules their ids: a number that nobody ever had, then one that nobody has, then that of
// the rule that has been retired for longest.
type ruleIDs struct {
	revision uint64
	old, now map[string]RuleID
	retired  []RetiredRule // the oldest first
	retiring map[string]RuleID
	names    map[uint32]RuleName
	taken    bitset // retired ones too
	held     bitset // by the last revision or the one in force
	cursor   uint32 // the last number given out
	limit    uint32
	full     bool
}

func newRuleIDs(revision uint64, old *IDs, previous *State) *ruleIDs {
	r := &ruleIDs{
		revision: revision, old: old.Rules, now: make(map[string]RuleID, len(old.Rules)), retired: old.RetiredRules,
		retiring: map[string]RuleID{}, names: make(map[uint32]RuleName, len(old.Rules)),
		taken: newBitset(MaxRuleIDs), held: newBitset(MaxRuleIDs), cursor: old.Last.Rule, limit: MaxRuleIDs,
	}
	for _, id := range old.Rules {
		r.held.add(int(id.ID))
	}
	if previous != nil {
		for i := range previous.Rulesets {
			for _, rule := range previous.Rulesets[i].Rules {
				r.held.add(int(rule.ID))
			}
		}
	}
	r.taken.union(r.held)
	for _, rule := range r.retired {
		r.taken.add(int(rule.ID))
		r.retiring[rule.Key] = rule.RuleID
	}
	return r
}

// give returns the id of a rule, 0 if none is left.
func (r *ruleIDs) give(name RuleName) uint32 {
	key := name.Key
	id, known := r.now[key]
	if known {
		return id.ID
	}
	if id, known = r.old[key]; !known {
		id, known = r.retiring[key]
		delete(r.retiring, key)
	}
	if !known {
		id = RuleID{ID: r.fresh(), Revision: r.revision}
	}
	if id.ID == 0 {
		return 0
	}
	id.Name = name.Name
	r.now[key], r.names[id.ID] = id, name
	return id.ID
}

func (r *ruleIDs) fresh() uint32 {
	for range r.limit {
		if r.full {
			break
		}
		if r.cursor++; r.cursor >= r.limit {
			r.cursor = 1
		}
		if !r.taken.has(int(r.cursor)) {
			r.taken.add(int(r.cursor))
			return r.cursor
		}
	}
	r.full = true
	for len(r.retired) > 0 {
		next := r.retired[0]
		r.retired = r.retired[1:]
		if _, still := r.retiring[next.Key]; still && !r.held.has(int(next.ID)) {
			delete(r.retiring, next.Key)
			return next.ID
		}
	}
	return 0
}

// settle writes down who has which id, and adds the names of those that are no more.
func (r *ruleIDs) settle(ids *IDs) {
	ids.Rules, ids.Last.Rule = r.now, r.cursor
	for _, rule := range r.retired {
		if _, still := r.retiring[rule.Key]; still {
			ids.RetiredRules = append(ids.RetiredRules, rule)
		}
	}
	var gone []string
	for key := range r.old {
		if _, stays := r.now[key]; !stays {
			gone = append(gone, key)
		}
	}
	slices.Sort(gone)
	for _, key := range gone {
		ids.RetiredRules = append(ids.RetiredRules, RetiredRule{key, r.old[key]})
	}
	if more := len(ids.RetiredRules) - maxRetired; more > 0 {
		ids.RetiredRules = ids.RetiredRules[more:]
	}
	for _, rule := range ids.RetiredRules {
		r.names[rule.ID] = RuleName{Name: rule.Name}
	}
}

// checkRules refuses ids that Compile cannot have given out. Which one it names does not depend on the order of a map.
func (ids *IDs) checkRules() error {
	if ids.rulesInOrder(maps.Keys(ids.Rules)) == nil { // there are many, and they are right
		return nil
	}
	return ids.rulesInOrder(slices.Values(slices.Sorted(maps.Keys(ids.Rules))))
}

func (ids *IDs) rulesInOrder(keys iter.Seq[string]) error {
	used := newBitset(MaxRuleIDs)
	claim := func(id RuleID, key string) error {
		if id.ID == 0 || id.ID >= MaxRuleIDs || used.has(int(id.ID)) {
			return fmt.Errorf("read stored ids: id %d of rule %q is out of range or given twice: tear the host down and start it afresh", id.ID, key)
		}
		used.add(int(id.ID))
		return nil
	}
	for key := range keys {
		if err := claim(ids.Rules[key], key); err != nil {
			return err
		}
	}
	for _, rule := range ids.RetiredRules {
		if err := claim(rule.RuleID, rule.Key); err != nil {
			return err
		}
	}
	return nil
}
