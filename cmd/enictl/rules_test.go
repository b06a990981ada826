// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/eniplane/eniplane/pkg/api"
)

// squeeze makes the columns of a table one space apart.
func squeeze(table string) string {
	var lines []string
	for line := range strings.Lines(table) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return strings.Join(lines, "\n")
}

// Each rule stands on a line of its own, with what it matches and how many connections it decided here.
func TestRuleHits(t *testing.T) {
	got := newHost(t).run("get", "sg", "web", "-o", "wide", "--feed", "dir:FEED")
	want := `NAME VPC INGRESS EGRESS RULE MATCHES HITS
web red 3 rules 1 rule ingress web/https tcp 80,443,8000-8999 from 0.0.0.0/0,::/0 300
ingress web/ssh-from-office tcp 22 from pl/office -
ingress web/ping icmp type 8 code 0 from 0.0.0.0/0 -
egress web/any all to 0.0.0.0/0,::/0 400`
	if diff := cmp.Diff(want, squeeze(got.out)); diff != "" {
		t.Errorf("(-want +got):\n%s%s", diff, got.err)
	}
	got = newHost(t).run("get", "nacl", "-o", "wide", "--feed", "dir:FEED")
	if line := "red-web red 3 rules 2 rules ingress red-web/50 deny tcp 23 from 0.0.0.0/0 600"; !strings.Contains(squeeze(got.out), line) {
		t.Errorf("no line %q in\n%s", line, got.out)
	}
	got = newHost(t).run("get", "sg", "--feed", "dir:FEED")
	if strings.Contains(got.out, "https") {
		t.Errorf("the narrow table lists rules:\n%s", got.out)
	}
}

// The status of JSON has the hits; a feed reads the rest as ever.
func TestRuleHitsInJSON(t *testing.T) {
	got := newHost(t).run("get", "sg", "web", "-o", "json", "--feed", "dir:FEED")
	var object struct {
		Status map[string][]struct {
			Name string
			Hits *uint64
		}
	}
	if err := json.Unmarshal([]byte(got.out), &object); err != nil {
		t.Fatal(err)
	}
	in := object.Status["ingress"]
	if len(in) != 3 || in[0].Name != "web/https" || in[0].Hits == nil || *in[0].Hits != 300 || in[1].Hits != nil {
		t.Errorf("status %s", got.out)
	}
	path := filepath.Join(t.TempDir(), "sg.json")
	if err := os.WriteFile(path, []byte(got.out), 0o600); err != nil {
		t.Fatal(err)
	}
	files, err := api.ReadPaths(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range func() []*api.Error { _, e := api.Decode(files); return e }() {
		if strings.Contains(problem.Error(), "status") {
			t.Error(problem)
		}
	}
}

// Without maps the rules are shown all the same.
func TestRulesWithoutMaps(t *testing.T) {
	h := newHost(t)
	h.openErr = errors.New("no permission")
	got := h.run("get", "sg", "web", "-o", "wide", "--feed", "dir:FEED")
	if got.code != exitDone || !strings.Contains(squeeze(got.out), "ingress web/https tcp 80,443,8000-8999 from 0.0.0.0/0,::/0 -") ||
		!strings.Contains(got.err, "No hits of rules are shown: no permission") {
		t.Errorf("exit code %d\n%s\n%s", got.code, got.out, got.err)
	}
}

// Flows name the rule that admitted them, also one that is no more.
func TestFlowRules(t *testing.T) {
	got := newHost(t).run("flow", "list", "-o", "wide")
	for _, rule := range []string{"web/any", "web/gone"} {
		if !strings.Contains(got.out, rule) {
			t.Errorf("no rule %s in\n%s", rule, got.out)
		}
	}
	got = newHost(t).run("flow", "get", "tcp 10.0.1.10:40000 > 10.0.2.10:5432", "-o", "json")
	var flows []struct {
		Rule   string
		RuleID uint32
	}
	if err := json.Unmarshal([]byte(got.out), &flows); err != nil {
		t.Fatal(err)
	}
	if len(flows) != 2 || flows[0].Rule != "" || flows[1].Rule != "web/any" || flows[1].RuleID != 4 {
		t.Errorf("%+v of %s", flows, got.out)
	}
}
