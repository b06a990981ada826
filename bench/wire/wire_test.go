// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"testing"

	"github.com/eniplane/eniplane/bench"
	"github.com/eniplane/eniplane/pkg/testroot"
)

// Each scenario runs, measures all its subjects and leaves nothing behind.
func TestScenarios(t *testing.T) {
	testroot.Require(t)
	for _, s := range Scenarios() {
		t.Run(s.Name, func(t *testing.T) {
			runner := bench.Runner{Settings: bench.Settings{Size: bench.Tiny, Repeats: 1, Seed: 1, CPU: 1}, Progress: t.Output()}
			report, err := runner.Do(t.Context(), []bench.Scenario{s})
			if err != nil {
				t.Error(err)
			}
			for _, gap := range report.Gaps {
				t.Errorf("%s %s was not measured: %s", gap.Subject, gap.Params, gap.Reason)
			}
		})
	}
}
