// SPDX-License-Identifier: Apache-2.0

// Package catalog is the one list of all scenarios.
package catalog

import (
	"slices"

	"github.com/eniplane/eniplane/bench"
	"github.com/eniplane/eniplane/bench/agent"
	"github.com/eniplane/eniplane/bench/cost"
	flowbench "github.com/eniplane/eniplane/bench/flowtable"
	"github.com/eniplane/eniplane/bench/instructions"
	"github.com/eniplane/eniplane/bench/policy"
	"github.com/eniplane/eniplane/bench/wire"
)

// Scenarios lists all scenarios in the order in which they run.
func Scenarios() []bench.Scenario {
	return slices.Concat(
		cost.Scenarios(),
		instructions.Scenarios(),
		policy.Scenarios(),
		agent.Scenarios(),
		flowbench.Scenarios(),
		wire.Scenarios(),
	)
}
