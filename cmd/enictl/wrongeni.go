// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane"
)

// wrongENI is an ENI by which its instance sends what belongs to another of its ENIs.
type wrongENI struct {
	ENI     string `json:"eni"`
	Packets uint64 `json:"packets"` // dropped since the agent made the maps
}

// readWrongENIs lists them by name.
func readWrongENIs(m pinnedMaps, names compile.Names) ([]wrongENI, error) {
	var all []wrongENI
	err := m.Counters(func(c dataplane.Counter) bool {
		if c.Reason == dataplane.ReasonWrongENI && c.Direction == dataplane.Out && c.Packets > 0 {
			all = append(all, wrongENI{eniName(names, c.ENI), c.Packets})
		}
		return true
	})
	slices.SortFunc(all, func(a, b wrongENI) int { return strings.Compare(a.ENI, b.ENI) })
	return all, err
}

// String is the line of an ENI.
func (w wrongENI) String() string {
	return fmt.Sprintf("ENI %s: %d packets left by it whose source is another ENI of its instance (%v). In the instance, `enictl guest check` "+
		"says which, and `enictl guest routes --apply` mends it", w.ENI, w.Packets, dataplane.ReasonWrongENI)
}
