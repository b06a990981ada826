// SPDX-License-Identifier: Apache-2.0

package instructions_test

import (
	"context"
	"flag"
	"maps"
	"os"
	"strings"
	"testing"

	"github.com/eniplane/eniplane/bench/instructions"
	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/testroot"
)

var update = flag.Bool("update", false, "write the table anew")

const golden = "testdata/instructions.golden"

const head = `# Instructions of the BPF object: of its programs with all functions, of its functions, and executed per packet (median
# of some flows; without what the kernel's helpers do). A test fails if a number grows by more than a tenth.
# Write it anew: go test ./bench/instructions -update
`

// TestInstructions is the guard of speed that needs no clock.
func TestInstructions(t *testing.T) {
	testroot.Require(t)
	spec, err := dataplane.LoadSpec()
	if err != nil {
		t.Fatal(err)
	}
	now := instructions.Sizes(spec)
	executed, err := instructions.Executed(context.Background())
	if err != nil {
		t.Fatalf("%+v", err)
	}
	maps.Copy(now, executed)
	if *update {
		if err := os.WriteFile(golden, []byte(head+now.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	committed, err := instructions.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := instructions.Compare(committed, now); err != nil {
		t.Errorf("the programs have changed (if they must: go test ./bench/instructions -update, and say why in the commit):\n%v", err)
	}
}

func TestCompare(t *testing.T) {
	was := instructions.Table{"a": 100, "b": 10, "gone": 1, "function old": 3}
	rows := []struct {
		now  instructions.Table
		want string
	}{
		{instructions.Table{"a": 100, "b": 10, "gone": 1}, ""},
		{instructions.Table{"a": 110, "b": 1, "gone": 1, "function new": 9}, ""},
		{instructions.Table{"a": 111, "b": 11, "gone": 1}, "a: 111 instructions, were 100: +11 %"},
		{instructions.Table{"a": 100, "b": 12, "new": 5}, "b: 12 instructions, were 10: +20 %\nnew: 5 instructions, not in the table\n" +
			"gone: in the table, but there is nothing of this name any more"},
	}
	for _, r := range rows {
		got := ""
		if err := instructions.Compare(was, r.now); err != nil {
			got = err.Error()
		}
		if got != r.want {
			t.Errorf("%v:\n%s\nwant\n%s", r.now, got, r.want)
		}
	}
}

func TestParse(t *testing.T) {
	table := instructions.Table{"program port": 5, "executed x y": 70000}
	got, err := instructions.Parse([]byte("# for people\n" + table.String()))
	if err != nil || !maps.Equal(got, table) {
		t.Errorf("read back %v (%v), want %v", got, err, table)
	}
	for _, bad := range []string{"no number", "a\tb", "a\t-1"} {
		if _, err := instructions.Parse([]byte(bad)); err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("%q: error %v, want one that shows it", bad, err)
		}
	}
}
