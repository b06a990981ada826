// SPDX-License-Identifier: Apache-2.0

package catalog_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/eniplane/eniplane/bench"
	"github.com/eniplane/eniplane/bench/catalog"
	"github.com/eniplane/eniplane/bench/wire"
	"github.com/eniplane/eniplane/pkg/testroot"
)

func TestNames(t *testing.T) {
	name := regexp.MustCompile(`^[a-z]+/[a-z0-9-]+$`)
	seen := map[string]bool{}
	quick := 0
	for _, s := range catalog.Scenarios() {
		if !name.MatchString(s.Name) || seen[s.Name] {
			t.Errorf("scenario %q: want a name of its own of the form group/name", s.Name)
		}
		seen[s.Name] = true
		if s.Help == "" || strings.Contains(s.Help, "\n") || s.Run == nil {
			t.Errorf("scenario %s: want one line of help and something to run", s.Name)
		}
		if s.Quick {
			quick++
		}
	}
	if quick == 0 || quick == len(seen) {
		t.Errorf("%d of %d scenarios are quick", quick, len(seen))
	}
}

// Each quick scenario works, at its smallest. Nothing is held against a clock. Those of package wire, whose processes
// are this binary again, run in its own tests.
func TestSmoke(t *testing.T) {
	testroot.Require(t)
	useEnid(t)
	theirs := map[string]bool{}
	for _, s := range wire.Scenarios() {
		theirs[s.Name] = true
	}
	for _, s := range catalog.Scenarios() {
		if !s.Quick || theirs[s.Name] {
			continue
		}
		t.Run(s.Name, func(t *testing.T) {
			runner := bench.Runner{Settings: bench.Settings{Size: bench.Tiny, Repeats: 1, Seed: 1}, Progress: t.Output()}
			report, err := runner.Do(context.Background(), []bench.Scenario{s})
			if err != nil {
				t.Fatal(err)
			}
			if len(report.Results) == 0 && len(report.Gaps) == 0 {
				t.Error("the scenario records nothing")
			}
			for i := range report.Results {
				if r := &report.Results[i]; len(r.Values) == 0 || r.Unit == "" || r.Better == "" || r.Subject == "" {
					t.Errorf("an incomplete result: %+v", *r)
				}
			}
		})
	}
}

// useEnid builds the agent of this tree and puts it where scenarios find it.
func useEnid(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("go", "build", "-o", dir, "../../cmd/enid").CombinedOutput(); err != nil {
		t.Fatalf("build the agent: %v\n%s", err, out)
	}
	t.Setenv("PATH", dir+string(filepath.ListSeparator)+os.Getenv("PATH"))
}
