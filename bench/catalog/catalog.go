// SPDX-License-Identifier: Apache-2.0

// Package catalog is the one list of all scenarios.
package catalog

import (
	"slices"

	"github.com/eniplane/eniplane/bench"
	flowbench "github.com/eniplane/eniplane/bench/flowtable"
)

// Scenarios lists all scenarios in the order in which they run.
func Scenarios() []bench.Scenario {
	return slices.Concat(
		flowbench.Scenarios(),
	)
}
