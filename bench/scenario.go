// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"fmt"
	"path"
	"strings"
)

// Scenario is something that can be measured.
type Scenario struct {
	Name  string // GROUP/NAME
	Help  string // one line
	Quick bool   // part of `make bench`
	Run   func(ctx context.Context, r *Run) error
}

// Group is the first part of the scenario's name.
func (s *Scenario) Group() string {
	group, _, _ := strings.Cut(s.Name, "/")
	return group
}

// Select finds the scenarios that words name: a group, a name, or a pattern of package path. Without words it is
// all of them, or only the quick ones. They come in the order of the list, each once.
func Select(all []Scenario, words []string, quickOnly bool) ([]Scenario, error) {
	var chosen []Scenario
	used := make([]bool, len(words))
	for i := range all {
		s := &all[i]
		take := len(words) == 0 && (s.Quick || !quickOnly)
		for j, word := range words {
			matches, err := path.Match(word, s.Name)
			if err != nil {
				return nil, fmt.Errorf("scenario %q: %w", word, err)
			}
			if matches || word == s.Group() {
				used[j], take = true, true
			}
		}
		if take {
			chosen = append(chosen, *s)
		}
	}
	for j, word := range words {
		if !used[j] {
			return nil, fmt.Errorf("no scenario or group %q: enibench list shows them", word)
		}
	}
	return chosen, nil
}
