// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bytes"
	"encoding/xml"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

// sample is a report with all that a report can hold.
func sample() *Report {
	metric := Metric{Name: "cost", Unit: "ns", Better: Lower}
	rate := Metric{Name: "rate", Unit: "packets/s", Better: Higher}
	result := func(subject string, p Params, m Metric, values ...float64) Result {
		return Result{Scenario: "cost/flows", Subject: subject, Params: p, Metric: m, Values: values}
	}
	r := &Report{
		Schema: Schema,
		Environment: Environment{
			Time: time.Date(2026, 11, 23, 4, 5, 6, 0, time.UTC), Commit: "0123abc", Go: "go1.26", Kernel: "6.18.1",
			System: "Debian 12", Machine: "amd64", CPU: "Some <CPU> & Co", CPUs: 2, MemoryBytes: 1 << 34, Load: "0.1 0.2 0.3",
			JIT: "enable=1 harden=0", Mitigations: map[string]string{"spectre_v2": "Retpolines"},
		},
		Settings: Settings{Size: Quick, Repeats: 3, Seed: 1},
		Took:     []Took{{"cost/flows", 1.5}, {"wire/rate", 2}},
	}
	for _, flows := range []string{"1", "1024", "65536"} {
		v := float64(100 + len(flows)*10)
		r.Results = append(r.Results,
			result(FrameSubject, Params{"flows": flows, "family": "IPv4"}, metric, 50, 51, 52),
			result(Ours, Params{"flows": flows, "family": "IPv4"}, metric, v, v+1, v+4),
			result("kernel hash", Params{"flows": flows, "family": "IPv4"}, metric, 2*v, 2*v, 2*v))
	}
	wire := result("nftables", Params{"size": "64 bytes"}, rate, 1.2e6, 1.3e6, 1.4e6)
	wire.Scenario = "wire/rate"
	r.Results = append(r.Results, wire)
	ours, hash := &r.Results[1], &r.Results[2]
	ratio := Ratio{Scenario: "cost/flows", Name: "own / hash, 1 flow", Of: ours.Key(), To: hash.Key(), Goal: &Goal{Limit: 0.5, Better: Lower, Source: "issue 4"}}
	ratio.Value, ratio.Low, ratio.High = ratioOf(ours.Values, hash.Values)
	r.Ratios = []Ratio{ratio}
	r.Checks = []Check{{Scenario: "cost/flows", Name: "hot", Of: ours.Key(), Value: 111, Goal: &Goal{Limit: 120, Better: Lower}}}
	r.Gaps = []Gap{{Scenario: "wire/rate", Subject: "OVS", Reason: "no module in this kernel"}}
	return r
}

func TestGolden(t *testing.T) {
	later := sample()
	later.Environment.CPU = "another"
	later.Results[1].Values = []float64{10, 11, 12}
	later.Results[2].Values = []float64{400, 410, 420}
	later.Results[4].Subject = "renamed"
	for name, write := range map[string]func(io.Writer) error{
		"text":      func(w io.Writer) error { return Text(w, sample()) },
		"json":      func(w io.Writer) error { return JSON(w, sample()) },
		"benchstat": func(w io.Writer) error { return Benchstat(w, sample()) },
		"html":      func(w io.Writer) error { return HTML(w, sample()) },
		"compare":   func(w io.Writer) error { return Compare(w, sample(), later) },
	} {
		var got bytes.Buffer
		if err := write(&got); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		path := filepath.Join("testdata", "report."+name+".golden")
		if *update {
			if err := os.WriteFile(path, got.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got.String()); diff != "" {
			t.Errorf("%s (-want +got; -update writes it anew):\n%s", name, diff)
		}
	}
}

// The page is well-formed, whatever names hold, and asks nobody for anything.
func TestPage(t *testing.T) {
	var page bytes.Buffer
	if err := HTML(&page, sample()); err != nil {
		t.Fatal(err)
	}
	for _, part := range strings.SplitAfter(page.String(), "</svg>") {
		_, svg, found := strings.Cut(part, "<svg")
		if !found {
			continue
		}
		d := xml.NewDecoder(strings.NewReader("<svg" + svg))
		for {
			_, err := d.Token()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("a plot is not well-formed: %v", err)
			}
		}
	}
	for _, bad := range []string{"http:", "https:", "<script", "src=", "@import", "<CPU>"} {
		if strings.Contains(page.String(), bad) {
			t.Errorf("the page holds %q", bad)
		}
	}
}

func TestSaveLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "r.json")
	if err := sample().Save(path); err != nil {
		t.Fatal(err)
	}
	got, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sample(), got); diff != "" {
		t.Errorf("read back (-want +got):\n%s", diff)
	}
	other := sample()
	other.Schema++
	if err := other.Save(path); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), "schema 2") {
		t.Errorf("a report of another schema: error %v", err)
	}
}

func TestEnviron(t *testing.T) {
	e := Environ()
	if e.Kernel == "" || e.CPUs == 0 || e.MemoryBytes == 0 || e.Go == "" || e.Time.IsZero() {
		t.Errorf("the environment is not known: %+v", e)
	}
}
