// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"encoding/json"
	"os"
	"regexp"
	"testing"
)

// The Go table is the list in bpf/reason.h.
func TestReasonsAreTheOnesOfTheHeader(t *testing.T) {
	header, err := os.ReadFile("../../bpf/reason.h")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^\tREASON_(\w+) = (\d+), /\* (.+) \*/$`).FindAllStringSubmatch(string(header), -1)
	reasons := Reasons()
	if len(found) != len(reasons) {
		t.Fatalf("bpf/reason.h has %d reasons, the table %d: run make generate", len(found), len(reasons))
	}
	for i, r := range reasons {
		if r.String() != found[i][1] || r.Help() != found[i][3] {
			t.Errorf("reason %d is %s (%s), in bpf/reason.h %s (%s)", i, r, r.Help(), found[i][1], found[i][3])
		}
	}
}

func TestReason(t *testing.T) {
	for _, r := range []Reason{ReasonContinue, ReasonDelivered, ReasonRedirected, ReasonAnswered, ReasonConsumed, ReasonNotOurs} {
		if r.IsDrop() {
			t.Errorf("%s counts as a drop", r)
		}
	}
	for _, r := range Reasons()[ReasonMalformed:] {
		if !r.IsDrop() {
			t.Errorf("%s does not count as a drop", r)
		}
		if parsed, err := ParseReason(r.String()); err != nil || parsed != r {
			t.Errorf("ParseReason(%s) = %v, %v", r, parsed, err)
		}
	}
	if _, err := ParseReason("NONSENSE"); err == nil {
		t.Error("ParseReason takes nonsense")
	}
	if text, err := json.Marshal(ReasonSGDenied); err != nil || string(text) != `"SG_DENIED"` {
		t.Errorf("in JSON: %s, %v", text, err)
	}
	if got := Reason(60).String(); got != "REASON_60" {
		t.Errorf("an unknown reason is %s", got)
	}
}
