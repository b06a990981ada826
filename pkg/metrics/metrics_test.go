// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"errors"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/testroot"
)

type fakeMaps struct {
	counters []dataplane.Counter
	usage    []Usage
	quota    dataplane.FlowQuota
	err      error
}

func (f *fakeMaps) FlowQuota() (*dataplane.FlowQuota, error) { return &f.quota, f.err }

func (f *fakeMaps) Counters(fn func(dataplane.Counter) bool, _ ...uint32) error {
	for _, c := range f.counters {
		if !fn(c) {
			break
		}
	}
	return f.err
}

func (f *fakeMaps) Usage(fn func(Usage) bool) error {
	for _, u := range f.usage {
		if !fn(u) {
			break
		}
	}
	return f.err
}

// serve answers one scrape.
func serve(t *testing.T, m Maps, s Snapshot) *httptest.ResponseRecorder {
	t.Helper()
	reg := prometheus.NewPedanticRegistry() // checks that what is collected was described
	if err := reg.Register(NewCollector(m, func() Snapshot { return s }, Build{Version: "v1", Hash: "abc", Kernel: "6.6.0"})); err != nil {
		t.Fatal(err)
	}
	rec := httptest.NewRecorder()
	promhttp.HandlerFor(reg, promhttp.HandlerOpts{}).ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	return rec
}

// TestLint: names, units and help texts are as Prometheus asks for.
func TestLint(t *testing.T) {
	maps := &fakeMaps{usage: []Usage{{Map: "flows4", Entries: 1, MaxEntries: 2}}}
	rec := serve(t, maps, Snapshot{ENIs: map[string]int{"Ready": 1}})
	problems, err := promlint.New(rec.Body).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// scrape returns the lines of an exposition that are no comments, and the status code.
func scrape(t *testing.T, m Maps, s Snapshot) (map[string]string, int) {
	t.Helper()
	rec := serve(t, m, s)
	lines := map[string]string{}
	for _, line := range strings.Split(rec.Body.String(), "\n") {
		if name, value, ok := strings.Cut(line, "} "); ok && !strings.HasPrefix(line, "#") {
			lines[name+"}"] = value
		} else if name, value, ok := strings.Cut(line, " "); ok && !strings.HasPrefix(line, "#") {
			lines[name] = value
		}
	}
	return lines, rec.Code
}

func TestCollector(t *testing.T) {
	m := &fakeMaps{
		counters: []dataplane.Counter{
			{ENI: 1, Direction: dataplane.Out, Reason: dataplane.ReasonContinue, Packets: 10, Bytes: 1000},
			{ENI: 1, Direction: dataplane.Out, Reason: dataplane.ReasonDelivered, Packets: 6, Bytes: 600},
			{ENI: 1, Direction: dataplane.Out, Reason: dataplane.ReasonSGDenied, Packets: 4, Bytes: 400},
			{ENI: 2, Direction: dataplane.Out, Reason: dataplane.ReasonSGDenied, Packets: 1, Bytes: 100},
			{ENI: 2, Direction: dataplane.In, Reason: dataplane.ReasonSpoofedMAC, Packets: 2, Bytes: 200},
		},
		usage: []Usage{{Map: "endpoints4", Entries: 3, MaxEntries: 100}, {Map: "flows4", Entries: 7, MaxEntries: 1000}},
		quota: dataplane.FlowQuota{Flows: 12, Max: 100, Borrowed: 5, Pool: 60, ENIs: []dataplane.ENIFlows{
			{ENI: 1, Flows: 10, Limit: 10, Guaranteed: 5}, {ENI: 2, Flows: 2, Limit: 10, Guaranteed: 5},
		}},
	}
	got, code := scrape(t, m, Snapshot{
		Revision: 42, FeedAge: 1.5, ApplyErrors: 3, ENIs: map[string]int{"Ready": 2, "Waiting": 0},
	})
	if code != 200 {
		t.Fatalf("status %d", code)
	}
	for name, want := range map[string]string{
		`eni_packets_total{direction="out",verdict="received"}`:      "10",
		`eni_packets_total{direction="out",verdict="delivered"}`:     "6",
		`eni_packets_total{direction="out",verdict="dropped"}`:       "5",
		`eni_bytes_total{direction="out",verdict="dropped"}`:         "500",
		`eni_packets_total{direction="in",verdict="dropped"}`:        "2",
		`eni_packets_total{direction="in",verdict="redirected"}`:     "0",
		`eni_drop_packets_total{direction="out",reason="SG_DENIED"}`: "5",
		`eni_drop_bytes_total{direction="in",reason="SPOOFED_MAC"}`:  "200",
		`eni_drop_packets_total{direction="in",reason="SG_DENIED"}`:  "0",
		`eni_flows{family="ipv4"}`:                                   "7",
		`eni_flows_counted`:                                          "12",
		`eni_flows_limit`:                                            "100",
		`eni_flows_borrowed`:                                         "5",
		`eni_flows_borrowable`:                                       "60",
		`eni_enis_at_flow_limit`:                                     "1",
		`eni_map_entries{map="endpoints4"}`:                          "3",
		`eni_map_max_entries{map="endpoints4"}`:                      "100",
		`eni_feed_revision`:                                          "42",
		`eni_feed_age_seconds`:                                       "1.5",
		`eni_apply_errors_total`:                                     "3",
		`eni_enis{state="Ready"}`:                                    "2",
		`eni_enis{state="Waiting"}`:                                  "0",
		`eni_program_info{hash="abc",kernel="6.6.0",version="v1"}`:   "1",

		`eni_drop_reason_info{kind="policy",reason="SG_DENIED",stage="security groups"}`: "1",
	} {
		if got[name] != want {
			t.Errorf("%s = %q, want %s", name, got[name], want)
		}
	}
}

// TestLabelsAreBounded: a thousand ENIs make no more series than one.
func TestLabelsAreBounded(t *testing.T) {
	few, many := &fakeMaps{}, &fakeMaps{}
	for eni := range uint32(1000) {
		for _, r := range dataplane.Reasons() {
			c := dataplane.Counter{ENI: eni, Direction: dataplane.In, Reason: r, Packets: 1}
			many.counters = append(many.counters, c)
			if eni == 1 {
				few.counters = append(few.counters, c)
			}
		}
	}
	a, _ := scrape(t, few, Snapshot{})
	b, _ := scrape(t, many, Snapshot{})
	if len(a) != len(b) {
		t.Errorf("%d series with one ENI, %d with a thousand", len(a), len(b))
	}
}

func TestEveryReasonHasALabel(t *testing.T) {
	got, _ := scrape(t, &fakeMaps{}, Snapshot{})
	for _, r := range dataplane.Reasons() {
		if r.IsDrop() {
			if name := `eni_drop_packets_total{direction="in",reason="` + r.String() + `"}`; got[name] != "0" {
				t.Errorf("%s = %q", name, got[name])
			}
		} else if r != dataplane.ReasonNotOurs && verdict(r) == "other" {
			t.Errorf("%s has no verdict label", r)
		}
	}
}

func TestScrapeFailsWithTheMaps(t *testing.T) {
	if _, code := scrape(t, &fakeMaps{err: errors.New("closed")}, Snapshot{}); code != 500 {
		t.Errorf("status %d of a scrape that could not read", code)
	}
}

func TestCountEntries(t *testing.T) {
	testroot.Require(t)
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 12, ValueSize: 24, MaxEntries: 20000})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for _, want := range []uint64{0, 1, 10000} {
		for i := range want {
			key := [12]byte{byte(i), byte(i >> 8), byte(i >> 16)}
			if err := m.Put(key, [24]byte{}); err != nil {
				t.Fatal(err)
			}
		}
		got, err := countEntries(m)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
}

func TestNewBuild(t *testing.T) {
	b, err := NewBuild("v1")
	if err != nil {
		t.Fatal(err)
	}
	if b.Version != "v1" || len(b.Hash) != 12 || b.Kernel == "" {
		t.Errorf("%+v", b)
	}
	if again, err := NewBuild("v1"); err != nil || again != b {
		t.Errorf("%+v then %+v, %v", b, again, err)
	}
}
