// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func testRun(repeats int) *Run {
	return &Run{Settings: Settings{Repeats: repeats}, Scenario: "a/b", progress: io.Discard, report: &Report{}}
}

// Every second round goes the other way; the first one does not count; each contender's own frame is subtracted.
func TestInTurn(t *testing.T) {
	var order []string
	step := func(name string, first float64) func(context.Context) (float64, error) {
		n := first
		return func(context.Context) (float64, error) {
			order = append(order, name)
			n++
			return n, nil
		}
	}
	r := testRun(2)
	results, err := r.InTurn(context.Background(), Metric{Name: "m"}, step("frame", 0), []Contender{
		{Subject: "x", Measure: step("x", 100)},
		{Subject: "y", Measure: step("y", 200), Frame: step("frame y", 10)},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := "frame,frame y,x,y,y,x,frame y,frame,frame,frame y,x,y"
	if got := strings.Join(order, ","); got != want {
		t.Errorf("order %s, want %s", got, want)
	}
	// Rounds 2 and 3 count: x 102, 103 less 2.5; y 202, 203 less 12.5.
	got := [][]float64{results[0].Values, results[1].Values}
	if diff := cmp.Diff([][]float64{{99.5, 100.5}, {189.5, 190.5}}, got); diff != "" {
		t.Errorf("values (-want +got):\n%s", diff)
	}
	if n := len(r.report.Results); n != 4 {
		t.Errorf("%d results are recorded, want two and their two frames", n)
	}
}

// What one figure is above another is held round by round, under the parameters of the first.
func TestAdded(t *testing.T) {
	r := testRun(3)
	metric := Metric{Name: "cost", Unit: "ns", Better: Lower}
	of := r.Record(Result{Subject: Ours, Params: Params{"peer": "internet"}, Metric: metric, Values: []float64{70, 90, 65}})
	to := r.Record(Result{Subject: Ours, Params: Params{"peer": "overlay"}, Metric: metric, Values: []float64{60, 85, 70}})
	added := r.Added(of, to)
	if diff := cmp.Diff([]float64{10, 5, -5}, added.Values); diff != "" || added.Median() != 5 {
		t.Errorf("values (-want +got):\n%s", diff)
	}
	if added.Key() != "a/b|eniplane|added cost|peer=internet" || len(r.report.Results) != 3 {
		t.Errorf("key %q of %d results", added.Key(), len(r.report.Results))
	}
}

func TestInTurnFails(t *testing.T) {
	_, err := testRun(1).InTurn(context.Background(), Metric{}, nil, []Contender{
		{Subject: "x", Params: Params{"flows": "1"}, Measure: func(context.Context) (float64, error) { return 0, errors.New("broken") }},
	})
	if err == nil || err.Error() != "measure x flows=1: broken" {
		t.Errorf("error %v", err)
	}
}

// A scenario that fails is named in the report, and the others run.
func TestRunner(t *testing.T) {
	kept := 0
	runner := Runner{Settings: Settings{Repeats: 1}, Progress: io.Discard, Keep: func(*Report) error { kept++; return nil }}
	report, err := runner.Do(context.Background(), []Scenario{
		{Name: "a/bad", Run: func(context.Context, *Run) error { return errors.New("no device") }},
		{Name: "a/good", Run: func(_ context.Context, r *Run) error {
			r.Record(Result{Subject: Ours, Values: []float64{1}})
			return nil
		}},
	})
	if err == nil || !strings.Contains(err.Error(), "1 of 2 scenarios failed") {
		t.Errorf("error %v", err)
	}
	if kept != 2 || len(report.Took) != 2 || len(report.Results) != 1 {
		t.Errorf("kept %d times, %d scenarios, %d results", kept, len(report.Took), len(report.Results))
	}
	if diff := cmp.Diff([]Gap{{Scenario: "a/bad", Reason: "it failed: no device"}}, report.Gaps); diff != "" {
		t.Errorf("gaps (-want +got):\n%s", diff)
	}
}

func TestSelect(t *testing.T) {
	all := []Scenario{{Name: "a/one", Quick: true}, {Name: "a/two"}, {Name: "b/one", Quick: true}}
	rows := []struct {
		words string
		quick bool
		want  string
	}{
		{"", true, "a/one b/one"}, {"", false, "a/one a/two b/one"}, {"a", true, "a/one a/two"}, {"b a/two", true, "a/two b/one"},
		{"*/one", false, "a/one b/one"}, {"a a/one", false, "a/one a/two"}, {"c", false, "error"}, {"a c", false, "error"}, {"[", false, "error"},
	}
	for _, r := range rows {
		chosen, err := Select(all, strings.Fields(r.words), r.quick)
		var names []string
		for _, s := range chosen {
			names = append(names, s.Name)
		}
		got := strings.Join(names, " ")
		if err != nil {
			got = "error"
		}
		if got != r.want {
			t.Errorf("Select(%q, quick only %v) = %s, want %s", r.words, r.quick, got, r.want)
		}
	}
}

func TestParams(t *testing.T) {
	p := Params{"rules": "10", "family": "IPv4", "flows": "1"}
	if got := fmt.Sprint(p); got != "family=IPv4 flows=1 rules=10" {
		t.Errorf("parameters in the order %s", got)
	}
}
