// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
)

// Every bug of the list is one of the sources as they are now.
func TestListFitsTheSources(t *testing.T) {
	mutants, err := readList("list", "../../bpf")
	if err != nil {
		t.Fatal(err)
	}
	if len(mutants) < 40 {
		t.Errorf("%d bugs, want at least 40", len(mutants))
	}
	t.Logf("%d bugs", len(mutants))
}

// A bug whose text is gone from the sources, or is there twice, is an error that says so.
func TestListMustFit(t *testing.T) {
	for name, m := range map[string]mutant{
		"gone":     {file: "parse.h", old: "no such text", new: "x"},
		"twice":    {file: "parse.h", old: "return REASON_MALFORMED;", new: "x"},
		"the same": {file: "parse.h", old: "#pragma once", new: "#pragma once"},
		"no file":  {file: "none.h", old: "x", new: "y"},
	} {
		if _, err := m.infected("../../bpf"); err == nil {
			t.Errorf("a bug that is %s is accepted", name)
		}
	}
	if _, err := parse("a name\nparse.h\n- x\n? y\n"); err == nil || !strings.Contains(err.Error(), "a name") {
		t.Errorf("a line that is neither - nor + gives %v", err)
	}
}

// The deepest test that failed names what found the bug, and a world its seed.
func TestFinder(t *testing.T) {
	rows := "--- FAIL: TestRows (0.30s)\n    --- FAIL: TestRows/sg (0.01s)\n        --- FAIL: TestRows/sg/a_row/IPv4/tc (0.00s)\n"
	if got := finder("rows", rows); got != "rows: sg/a_row/IPv4/tc" {
		t.Errorf("found by %q", got)
	}
	diff := "--- FAIL: TestDifferential (1.0s)\n    diff_test.go:122: seed 21: model and programs differ:\n"
	if got := finder("diff", diff); got != "diff: seed 21" {
		t.Errorf("found by %q", got)
	}
}
