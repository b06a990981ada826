// SPDX-License-Identifier: Apache-2.0

package dataplane

import "fmt"

// RuleHits returns how many connections a rule has decided since it got its id (compile.Rule.ID). Rules
// without an id, 0, have decided none that is known.
func (m *Maps) RuleHits(id uint32) (uint64, error) {
	if id == 0 {
		return 0, nil
	}
	var hits uint64
	if err := m.byName[MapRuleHits].Lookup(id, &hits); err != nil {
		return 0, fmt.Errorf("read the hits of rule %d: %w", id, err)
	}
	return hits, nil
}

// ZeroRuleHits clears the counter of an id, when another rule gets it.
func (m *Maps) ZeroRuleHits(id uint32) error {
	if err := m.byName[MapRuleHits].Put(id, uint64(0)); err != nil {
		return fmt.Errorf("clear the hits of rule %d: %w", id, err)
	}
	return nil
}
