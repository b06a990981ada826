// SPDX-License-Identifier: Apache-2.0

package top

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/dataplane/flowtable"
)

func TestLoads(t *testing.T) {
	h := newFakeHost()
	s := h.sampler()
	h.count(1, dataplane.Out, dataplane.ReasonContinue, 1000, 100000)
	first := h.look(t, s, 0)
	if first.Loads[1].Out != (Rate{}) || first.Since != 0 {
		t.Errorf("the first look has rates: %+v", first.Loads[1])
	}
	h.pass(2*time.Second, 8)
	h.count(1, dataplane.Out, dataplane.ReasonContinue, 200, 20000)
	h.count(1, dataplane.In, dataplane.ReasonContinue, 50, 3000)
	h.count(1, dataplane.Out, dataplane.ReasonSGDenied, 10, 600)
	h.count(1, dataplane.In, dataplane.ReasonSGDenied, 30, 1800)
	h.count(1, dataplane.In, dataplane.ReasonDelivered, 20, 1200)
	h.count(9, dataplane.In, dataplane.ReasonContinue, 50, 3000) // of an ENI that is gone
	old := flow(1, 1, flowtable.Ticks(8))
	h.flows = []dataplane.Flow{flow(1, 2, flowtable.Ticks(7)), flow(1, 3, 0), old}
	v := h.look(t, s, 0)
	want := []Load{
		{ENI: "(host)"},
		{
			ENI: "web-0", Index: 1, Out: Rate{100, 80000}, In: Rate{25, 12000}, Drops: 20, Why: "SG_DENIED in",
			Opened: 2 / flowtable.Ticks(8).Seconds(), Flows: 7, Limit: 50,
		},
		{ENI: "db-0", Index: 2, Flows: 9, Limit: 50},
	}
	if diff := cmp.Diff(want, v.Loads, cmpopts.EquateApprox(1e-9, 0)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if v.Since != 2*time.Second || v.Flows != 3 || v.Max != 1000 {
		t.Errorf("%+v", v)
	}

	// Counters that another ENI takes over begin at 0.
	h.pass(2*time.Second, 8)
	h.counters[counterKey{1, dataplane.Out, dataplane.ReasonContinue}] = amount{5, 500}
	if v = h.look(t, s, 0); v.Loads[1].Out != (Rate{}) {
		t.Errorf("a counter that went back makes a rate: %+v", v.Loads[1])
	}
}

func TestDetail(t *testing.T) {
	h := newFakeHost()
	s := h.sampler()
	busy, idle := flow(2, 1000, time.Minute), flow(2, 2000, time.Minute)
	busy.Rule, idle.BytesOut = 5, 1_000_000
	h.flows, h.hits[5] = []dataplane.Flow{idle, busy, flow(1, 3, 0)}, 40
	h.count(2, dataplane.In, dataplane.ReasonDelivered, 10, 600)
	h.count(2, dataplane.In, dataplane.ReasonSGDenied, 1, 60)
	v := h.look(t, s, 2)
	if d := v.Detail; d == nil || d.ENI != "db-0" || d.Known != 2 || d.Flows[0].Remote.Port() != 2000 || d.Flows[0].Out.Bits != 0 {
		t.Fatalf("the first look sorts by bytes and has no rates: %+v", d)
	}
	h.pass(4*time.Second, 15)
	h.flows[1].BytesIn, h.flows[1].PacketsIn = 4000, 40
	h.flows = append(h.flows, flow(2, 3000, 0))
	h.flows[3].BytesOut = 500
	h.hits[5] = 48
	h.count(2, dataplane.In, dataplane.ReasonSGDenied, 8, 480)
	d := h.look(t, s, 2).Detail
	if d.Known != 3 || d.Flows[0].Remote.Port() != 1000 || d.Flows[0].In != (Rate{10, 8000}) ||
		d.Flows[1].Remote.Port() != 3000 || d.Flows[1].Out.Bits != 1000 || d.Flows[2].Out.Bits != 0 {
		t.Errorf("flows: %+v", d.Flows)
	}
	wantReasons := []ReasonLoad{
		{dataplane.In, dataplane.ReasonSGDenied, 2, 9},
		{dataplane.In, dataplane.ReasonDelivered, 0, 10},
	}
	if diff := cmp.Diff(wantReasons, d.Reasons); diff != "" {
		t.Errorf("reasons: %s", diff)
	}
	if diff := cmp.Diff([]RuleLoad{{Rule: "5", Flows: 3, Hits: 48, Rate: 2}}, d.Rules); diff != "" {
		t.Errorf("rules: %s", diff)
	}
	h.gone = true
	if v := h.look(t, s, 2); v.Detail != nil || v.Watched != 2 {
		t.Errorf("an ENI that is gone has details: %+v", v.Detail)
	}
}

func TestManyFlowsHaveNoRates(t *testing.T) {
	h := newFakeHost()
	s := h.sampler()
	for i := range maxRemembered + 1 {
		f := flow(2, uint16(i), time.Minute)
		f.Incarnation, f.BytesOut = uint32(i), uint64(i)
		h.flows = append(h.flows, f)
	}
	h.look(t, s, 2)
	h.pass(time.Second, 4)
	d := h.look(t, s, 2).Detail
	if !d.Partly || len(d.Flows) != maxShown || d.Flows[0].BytesOut != maxRemembered || s.last.flows != nil {
		t.Errorf("%t, %d flows shown, %d bytes first, %d remembered", d.Partly, len(d.Flows), d.Flows[0].BytesOut, len(s.last.flows))
	}
}

func TestShort(t *testing.T) {
	for n, want := range map[float64]string{
		0: "0", 0.5: "0.50", 9.99: "9.99", 9.999: "10.0", 99.96: "100", 999.4: "999", 999.6: "1.00k", 12_345: "12.3k", 2.5e9: "2.50G", 3e15: "3P",
	} {
		if got := Short(n); got != want {
			t.Errorf("Short(%v) = %q, want %q", n, got, want)
		}
	}
}
