// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/dataplane/flowtable"
)

// The states and flags of flows, as in bpf/types.h.
const (
	opening     = 1
	established = 2
)

func importOf(remote string, port uint16) dataplane.ImportedFlow {
	r := netip.MustParseAddr(remote)
	local := netip.MustParseAddr("10.0.0.1")
	if r.Is6() {
		local = netip.MustParseAddr("fd00::1")
	}
	return dataplane.ImportedFlow{
		MovedFlow: dataplane.MovedFlow{
			Local: local, Remote: r, LocalPort: 443, RemotePort: port, State: established, Remaining: 400, Age: 40,
			Seq: [2]uint16{7, 9}, Packets: [2]uint64{3, 5}, Bytes: [2]uint64{300, 500},
		},
		ENI: 1, Incarnation: 1, VNI: 7, NextHop: 2000, Rule: 1,
	}
}

// flows lists a table.
func flows(t *testing.T, l *Loader, family flowtable.Family) (all []flowtable.Flow) {
	t.Helper()
	table, err := l.Maps().FlowTable(family, false)
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	now, err := flowtable.Now()
	if err != nil {
		t.Fatal(err)
	}
	table.Each(now, func(f *flowtable.Flow) bool {
		all = append(all, *f)
		return true
	})
	return all
}

// imports takes flows, or says what came of them.
func imports(t *testing.T, l *Loader, list ...dataplane.ImportedFlow) []dataplane.Reason {
	t.Helper()
	results, err := l.Import(list)
	if err != nil {
		t.Fatal(err)
	}
	return results
}

// TestImport: flows of another host are in the table with all that they had, and belong to a generation that no ENI has.
func TestImport(t *testing.T) {
	w := newWorld(t)
	l := w.open()
	w.apply(l, testState(1, 1))
	four, six := importOf("10.0.9.9", 40000), importOf("fd00::9", 40000)
	if got := imports(t, l, four, six); !slices.Equal(got, []dataplane.Reason{0, 0}) {
		t.Fatalf("refused: %v", got)
	}
	for family, want := range map[flowtable.Family]dataplane.ImportedFlow{flowtable.IPv4: four, flowtable.IPv6: six} {
		all := flows(t, l, family)
		if len(all) != 1 {
			t.Fatalf("family %v: %d flows", family, len(all))
		}
		f, now := all[0], uint32(0)
		if f.ENI != 1 || f.Incarnation != 1 || f.Generation != 0 || f.Nexthop != 2000 || f.NexthopGeneration != 1 || f.Rule != 1 {
			t.Errorf("family %v: %+v", family, f)
		}
		if now = f.Opened + want.Age; f.Expires != now+want.Remaining {
			t.Errorf("family %v: opened %d, expires %d, want %d ticks between them", family, f.Opened, f.Expires, want.Age+want.Remaining)
		}
		if d := cmp.Diff(want.MovedFlow, dataplane.NewMovedFlow(&f, now), cmp.Comparer(func(a, b netip.Addr) bool {
			return a == b || !a.IsValid() && b.IsUnspecified() || !b.IsValid() && a.IsUnspecified()
		})); d != "" {
			t.Errorf("family %v (-sent +stored):\n%s", family, d)
		}
	}
}

// TestImportAgain: later rounds bring a flow up to date; who is not here gets none, and nobody more than its quota.
func TestImportAgain(t *testing.T) {
	w := newWorld(t)
	l := w.open()
	w.apply(l, testState(1, 1))
	first := importOf("10.0.9.9", 40000)
	first.State, first.Remaining = opening, 20
	later := importOf("10.0.9.9", 40000)
	later.Packets[0] = 99
	imports(t, l, first)
	imports(t, l, later)
	all := flows(t, l, flowtable.IPv4)
	if len(all) != 1 || all[0].State != established || all[0].Packets[0] != 99 || all[0].Expires-all[0].Opened != later.Age+later.Remaining {
		t.Errorf("after the second round: %+v", all)
	}
	gone, other := importOf("10.0.9.9", 1), importOf("10.0.9.9", 2)
	gone.ENI, other.Incarnation = 2, 2
	if got := imports(t, l, gone, other); got[0] != dataplane.ReasonNotReady || got[1] != dataplane.ReasonNotReady {
		t.Errorf("flows of who is not here: %v", got)
	}
	var many []dataplane.ImportedFlow
	for port := range uint16(150) {
		many = append(many, importOf("10.0.9.9", 1000+port))
	}
	full := 0
	for _, reason := range imports(t, l, many...) {
		if reason == dataplane.ReasonFlowQuota {
			full++
		}
	}
	if n := len(flows(t, l, flowtable.IPv4)); n != 100 || full != 51 {
		t.Errorf("%d flows, %d refused; the ENI may have 100", n, full)
	}
}

// TestStages: who stands otherwise by a revision is marked so by it, before anybody looks at devices.
func TestStages(t *testing.T) {
	w, l, _ := calm(t)
	live := func() string {
		content, err := l.content(dataplane.MapLive)
		if err != nil {
			t.Fatal(err)
		}
		v, err := dataplane.DecodeLive(content[dataplane.Index(1)])
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("incarnation %d, closed %t, left %t", v.Incarnation, v.Closed, v.Left)
	}
	for revision, tt := range []struct {
		stage compile.Stage
		phase Phase
		want  string
	}{
		{compile.Prepared, Prepared, "incarnation 1, closed true, left false"},
		{compile.Attached, Ready, "incarnation 1, closed false, left false"},
		{compile.Left, Left, "incarnation 1, closed false, left true"},
	} {
		st := testState(uint64(revision)+2, 1)
		st.ENIs[0].Stage = tt.stage
		report := w.apply(l, st)
		if got := live(); got != tt.want || report.ENIs["eni-1-1"].Phase != tt.phase {
			t.Errorf("stage %v: %s, %+v", tt.stage, got, report.ENIs["eni-1-1"])
		}
	}
}
