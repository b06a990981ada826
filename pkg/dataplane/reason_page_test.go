// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	givenOut    = "testdata/reasons.golden"
	reasonsPage = "../../bpf/REASONS.md"
)

// A number that was given out keeps its name for ever: pinned counters and flows of older versions hold it.
func TestABIReasonsAreAppendOnly(t *testing.T) {
	var now []string
	for _, r := range Reasons() {
		now = append(now, fmt.Sprintf("%d %s", uint32(r), r))
	}
	text, err := os.ReadFile(givenOut)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	given := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(text) == 0 {
		given = nil
	}
	if problem := appendOnly(given, now); problem != "" {
		t.Fatal(problem)
	}
	if *update {
		if err := os.WriteFile(givenOut, []byte(strings.Join(now, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if len(given) < len(now) {
		t.Errorf("%v are not in %s: run go test ./pkg/dataplane -run TestABI -update", now[len(given):], givenOut)
	}
}

// appendOnly says what is wrong with a list that must begin with those given out before.
func appendOnly(given, now []string) string {
	for i, was := range given {
		if i >= len(now) {
			return fmt.Sprintf("reason %s was given out and is gone: bpf/reason.h is append only", was)
		}
		if was != now[i] {
			return fmt.Sprintf("reason %s was given out and is %s now: bpf/reason.h is append only", was, now[i])
		}
	}
	return ""
}

func TestAppendOnly(t *testing.T) {
	given := []string{"0 A", "1 B"}
	for _, row := range []struct {
		name string
		now  []string
		ok   bool
	}{
		{"the same", []string{"0 A", "1 B"}, true},
		{"one more", []string{"0 A", "1 B", "2 C"}, true},
		{"one less", []string{"0 A"}, false},
		{"another name", []string{"0 A", "1 X"}, false},
		{"in between", []string{"0 A", "1 C", "2 B"}, false},
	} {
		if problem := appendOnly(given, row.now); (problem == "") != row.ok {
			t.Errorf("%s: %q", row.name, problem)
		}
	}
}

// bpf/REASONS.md is what the header says, for people.
func TestABIReasonsPage(t *testing.T) {
	page := renderReasons()
	if *update {
		if err := os.WriteFile(reasonsPage, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(reasonsPage)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(have), page); diff != "" {
		t.Errorf("bpf/REASONS.md is not of this bpf/reason.h: run go test ./pkg/dataplane -run TestABI -update (-have +want):\n%s", diff)
	}
}

func renderReasons() string {
	var b strings.Builder
	b.WriteString("<!-- SPDX-License-Identifier: Apache-2.0 -->\n" +
		"<!-- Generated from reason.h by go test ./pkg/dataplane -run TestABI -update; DO NOT EDIT. -->\n" +
		"# What can become of a packet\n\n" +
		"Counted per ENI and direction: `enictl counters`. Which packet, and by which rule: `enictl trace`. One of them in the\n" +
		"terminal: `enictl explain NAME`. *policy*: somebody wrote a rule or a route, or did not. *sender*: who sent the packet is\n" +
		"at fault. *limit*: more than may be. *fault*: something is wrong with hosts or feed. *none*: no drop.\n\n" +
		"| | reason | kind | stage | meaning | why | what to do |\n|---|---|---|---|---|---|---|\n")
	for _, r := range Reasons() {
		x := r.Explain()
		fmt.Fprintf(&b, "| %d | `%s` | %s | %s | %s | %s | %s |\n", x.Number, r, x.Kind, x.Stage, cell(x.Help), cell(x.Why), cell(x.Do))
	}
	return b.String()
}

func cell(text string) string { return strings.ReplaceAll(text, "|", "\\|") }

// Every reason says why and what to do, in sentences; those of drops name a kind.
func TestReasonsExplain(t *testing.T) {
	for _, r := range append(Reasons(), Reason(63)) {
		x := r.Explain()
		if r.IsDrop() != (x.Kind != "none") {
			t.Errorf("%s is of kind %s, but IsDrop says %v", r, x.Kind, r.IsDrop())
		}
		for _, text := range []string{x.Why, x.Do} {
			if len(text) < 8 || strings.Contains(text, "\n") || strings.Contains(text, "  ") {
				t.Errorf("%s explains itself by %q", r, text)
			}
		}
	}
}
