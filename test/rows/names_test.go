// SPDX-License-Identifier: Apache-2.0

package rows

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/eniplane/eniplane/pkg/dataplane"
	. "github.com/eniplane/eniplane/pkg/pkttest"
)

// proof says by what a bug that others had, or a behaviour that others have a test for, is shown to be absent or
// present here: by rows, "stage/name"; by other tests, "directory.Test"; or why by neither.
type proof struct {
	name  string
	what  string
	rows  []string
	tests []string
	why   string // no row shows it
}

// Every name has a row, or a test and the reason why no packet of a row can show it.
func TestNamesHaveRows(t *testing.T) {
	known := map[string]bool{}
	for stage, rows := range stages() {
		for _, r := range rows {
			known[stage+"/"+r.Name] = true
		}
	}
	tests := testNames(t)
	seen := map[string]bool{}
	withRows, withTests := 0, 0
	for _, p := range slices.Concat(bugsOfOthers(), behavioursOfOthers()) {
		if seen[p.name] {
			t.Errorf("%s is listed twice", p.name)
		}
		seen[p.name] = true
		for _, r := range p.rows {
			if !known[r] {
				t.Errorf("%s (%s): there is no row %q", p.name, p.what, r)
			}
		}
		for _, name := range p.tests {
			if !tests[name] {
				t.Errorf("%s (%s): there is no test %s", p.name, p.what, name)
			}
		}
		if len(p.rows) == 0 && p.why == "" {
			t.Errorf("%s (%s) has neither a row nor a reason for that", p.name, p.what)
		}
		if len(p.rows) > 0 {
			withRows++
		} else if len(p.tests) > 0 {
			withTests++
		}
	}
	t.Logf("%d names: %d have rows, %d other tests, %d only a reason", len(seen), withRows, withTests, len(seen)-withRows-withTests)
}

// testNames lists all tests of the tree as "directory.Test".
func testNames(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	function := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	for _, pattern := range []string{"../../*/*_test.go", "../../*/*/*_test.go", "../../*/*/*/*_test.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range files {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			dir := strings.TrimPrefix(filepath.ToSlash(filepath.Dir(path)), "../../")
			for _, m := range function.FindAllStringSubmatch(string(text), -1) {
				names[dir+"."+m[1]] = true
			}
		}
	}
	if !names["test/rows.TestNamesHaveRows"] {
		t.Fatal("the list of tests lacks this one")
	}
	return names
}

// what a row proves: its stage, the reasons that are counted, what is changed in the packets, and what is sent.
type proven struct{ stage, reasons, rewrites, packets string }

// The rows are many, and no two prove the same of the same packets.
func TestRowsProveDifferentThings(t *testing.T) {
	all, byOutcome := map[proven]string{}, map[proven]bool{}
	for stage, rows := range stages() {
		for i := range rows {
			p := proven{stage: stage}
			for _, f := range rows[i].Families() {
				one := provenBy(stage, &rows[i], f)
				byOutcome[proven{stage, one.reasons, one.rewrites, ""}] = true
				p.reasons, p.rewrites, p.packets = p.reasons+one.reasons, p.rewrites+one.rewrites, p.packets+one.packets
			}
			if other, twice := all[p]; twice {
				t.Errorf("rows %q and %q of stage %s are the same", other, rows[i].Name, stage)
			}
			all[p] = rows[i].Name
		}
	}
	t.Logf("%d rows, distinct by stage, reason or rewrite, and packets; %d outcomes, distinct by stage and reason or rewrite alone", len(all), len(byOutcome))
	if len(all) < 500 || len(byOutcome) < 500 {
		t.Errorf("%d rows with %d outcomes, want at least 500 of both", len(all), len(byOutcome))
	}
}

func provenBy(stage string, r *Row, family Family) proven {
	p := proven{stage: stage}
	for i := range r.Steps {
		s := &r.Steps[i]
		for _, c := range s.Want.Counts {
			if c.Reason != dataplane.ReasonContinue {
				p.reasons += c.String() + ";"
			}
		}
		if !s.Want.Packet.None() {
			p.rewrites += changed(s.In.Bytes(family), s.Want.Packet.Bytes(family)) + ";"
		}
		p.packets += s.At.Program + s.At.Device + string(s.In.Bytes(family))
		if s.Revise != nil || s.Poke != nil || s.Later > 0 || s.GSO > 0 || s.Tunnel != nil || s.Mark != 0 || len(s.Ahead) > 0 || len(s.Want.Flows) > 0 {
			p.packets += r.Name // what happens around the packet makes the difference
		}
	}
	return p
}

// changed says which bytes of a packet are others afterwards.
func changed(before, after []byte) string {
	if len(before) != len(after) {
		return "another length"
	}
	marks := make([]byte, len(before))
	for i := range before {
		marks[i] = '.'
		if before[i] != after[i] {
			marks[i] = 'x'
		}
	}
	return strings.TrimRight(string(marks), ".")
}

// oneFamily lists the rows of one family only, by stage, that have a counterpart or need none in the other.
func oneFamily(rows []Row) (names []string) {
	for i := range rows {
		if len(rows[i].Families()) == 1 {
			names = append(names, rows[i].Name)
		}
	}
	return names
}

// What decides about access runs in both families from one table; only formats differ.
func TestBothFamilies(t *testing.T) {
	all := stages()
	for _, stage := range []string{"sg", "nacl", "flow", "revision", "mode", "timeout", "reset", "overlay", "internet"} {
		for _, name := range oneFamily(all[stage]) {
			if why := formats[stage+"/"+name]; why == "" {
				t.Errorf("stage %s: row %q runs in one family only", stage, name)
			}
		}
	}
}

// formats are such rows of what exists in one family only.
var formats = map[string]string{
	"overlay/in, arp":                         "ARP is IPv4's",
	"internet/udp without a checksum":         "IPv6 wants one",
	"internet/options":                        "of IPv4",
	"internet/extension header":               "of IPv6",
	"internet/another tenant's EIP as source": "one address is reserved in the world of the rows",
	"internet/from a VTEP":                    "VTEPs are IPv4",
}
