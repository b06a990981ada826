// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/eniplane/eniplane/bench"
	"github.com/eniplane/eniplane/pkg/testroot"
)

// TestMain lets the test binary be the tool that scenarios start, as enibench is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == ToolCommand {
		if err := Tool(os.Args[2:], os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

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
				if os.Getenv(testroot.EnvRequired) != "1" && strings.Contains(gap.Reason, "not installed") {
					t.Logf("%s: %s", gap.Subject, gap.Reason)
					continue
				}
				t.Errorf("%s %s was not measured: %s", gap.Subject, gap.Params, gap.Reason)
			}
		})
	}
}
