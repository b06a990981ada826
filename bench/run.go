// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"
)

// Size says how much of its sweep a scenario covers.
type Size string

// The sizes: Tiny only shows that a scenario works, Quick fits `make bench`, Full is everything.
const (
	Tiny  Size = "tiny"
	Quick Size = "quick"
	Full  Size = "full"
)

// Settings are the same for all scenarios of a run.
type Settings struct {
	Size    Size   `json:"size"`
	Repeats int    `json:"repeats"` // rounds that count; scenarios may warm up before them
	Seed    uint64 `json:"seed"`    // of everything that is drawn at random
	CPU     int    `json:"cpu"`     // on which programs are measured that need one CPU
}

// Run is a scenario under way. It is for one goroutine.
type Run struct {
	Settings
	Scenario string
	progress io.Writer
	report   *Report
}

// Say tells whoever waits what goes on.
func (r *Run) Say(format string, args ...any) {
	fmt.Fprintf(r.progress, "  "+format+"\n", args...)
}

// Record keeps a figure; the scenario's name is filled in.
func (r *Run) Record(result Result) *Result {
	result.Scenario = r.Scenario
	r.report.Results = append(r.report.Results, result)
	r.Say("%-14s %-40s %s", result.Subject, result.Params, Figure(&result))
	return &result
}

// Ratio keeps what one result is of another, with the goal that it has; nil if it has none.
func (r *Run) Ratio(name string, of, to *Result, goal *Goal) Ratio {
	ratio := Ratio{Scenario: r.Scenario, Name: name, Of: of.Key(), To: to.Key(), Goal: goal}
	ratio.Value, ratio.Low, ratio.High = ratioOf(of.Values, to.Values)
	r.report.Ratios = append(r.report.Ratios, ratio)
	return ratio
}

// Added records by how much one result is above another, round by round, since those of a round share much of the noise.
// It has the parameters of the first.
func (r *Run) Added(of, to *Result) *Result {
	more := Result{Subject: of.Subject, Params: of.Params, Metric: of.Metric}
	more.Name = "added " + of.Name
	for i := range min(len(of.Values), len(to.Values)) {
		more.Values = append(more.Values, of.Values[i]-to.Values[i])
	}
	return r.Record(more)
}

// Check keeps whether a single figure keeps a promise.
func (r *Run) Check(name string, of *Result, goal *Goal) {
	r.report.Checks = append(r.report.Checks, Check{Scenario: r.Scenario, Name: name, Of: of.Key(), Value: of.Median(), Goal: goal})
}

// Missing keeps what could not be measured, and why.
func (r *Run) Missing(subject string, params Params, format string, args ...any) {
	gap := Gap{Scenario: r.Scenario, Subject: subject, Params: params, Reason: fmt.Sprintf(format, args...)}
	r.report.Gaps = append(r.report.Gaps, gap)
	r.Say("%-14s %-40s not measured: %s", subject, params, gap.Reason)
}

// FrameSubject is the subject of what a measurement costs by itself.
const FrameSubject = "frame"

// Contender is one of several that are measured in turn.
type Contender struct {
	Subject string
	Params  Params
	Measure func(ctx context.Context) (float64, error) // one round
	Frame   Frame                                      // of its own, instead of the common one
}

// Frame is what a measurement costs that does nothing: the wrapper, the loop. It is measured in each round like a
// contender, recorded as FrameSubject, and its median is subtracted from the contender's values.
type Frame func(ctx context.Context) (float64, error)

// InTurn measures contenders round by round, every second round in reverse, after one that does not count, and
// records a result for each, in their order. frame, which all share, may be nil.
func (r *Run) InTurn(ctx context.Context, metric Metric, frame Frame, contenders []Contender) ([]*Result, error) {
	var all []Contender
	frameOf := make([]int, len(contenders)) // index in all; -1 = none
	if frame != nil {
		all = append(all, Contender{Subject: FrameSubject, Params: Params{"of": "all"}, Measure: frame})
	}
	for i, c := range contenders {
		switch {
		case c.Frame != nil:
			frameOf[i] = len(all)
			all = append(all, Contender{Subject: FrameSubject, Params: c.Params, Measure: c.Frame})
		case frame == nil:
			frameOf[i] = -1
		}
	}
	frames := len(all)
	values, err := r.rounds(ctx, append(all, contenders...))
	if err != nil {
		return nil, err
	}
	for i := range frames {
		r.Record(Result{Subject: FrameSubject, Params: all[i].Params, Metric: metric, Values: values[i]})
	}
	var results []*Result
	for i, c := range contenders {
		own := values[frames+i]
		if frameOf[i] >= 0 {
			subtract(own, Median(values[frameOf[i]]))
		}
		results = append(results, r.Record(Result{Subject: c.Subject, Params: c.Params, Metric: metric, Values: own}))
	}
	return results, nil
}

func subtract(values []float64, n float64) {
	for i := range values {
		values[i] -= n
	}
}

// rounds measures all in turn and returns the values of each.
func (r *Run) rounds(ctx context.Context, all []Contender) ([][]float64, error) {
	values, order := make([][]float64, len(all)), make([]int, len(all))
	for i := range order {
		order[i] = i
	}
	for round := range r.Repeats + 1 {
		for _, i := range order {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			value, err := all[i].Measure(ctx)
			if err != nil {
				return nil, fmt.Errorf("measure %s %s: %w", all[i].Subject, all[i].Params, err)
			}
			if round > 0 {
				values[i] = append(values[i], value)
			}
		}
		slices.Reverse(order)
	}
	return values, nil
}

// Took is how long a scenario ran.
type Took struct {
	Scenario string  `json:"scenario"`
	Seconds  float64 `json:"seconds"`
}

// Runner runs scenarios one after the other.
type Runner struct {
	Settings Settings
	Progress io.Writer
	Keep     func(*Report) error // called after each scenario, so that a long run cannot be lost; may be nil
}

// Do runs scenarios and reports on them. One that fails is a gap in the report and an error in the end; the others
// run all the same.
func (r *Runner) Do(ctx context.Context, scenarios []Scenario) (*Report, error) {
	report := &Report{Schema: Schema, Environment: Environ(), Settings: r.Settings}
	failed := 0
	for i := range scenarios {
		s := &scenarios[i]
		fmt.Fprintf(r.Progress, "%s: %s\n", s.Name, s.Help)
		run := &Run{Settings: r.Settings, Scenario: s.Name, progress: r.Progress, report: report}
		start := time.Now()
		if err := s.Run(ctx, run); err != nil {
			failed++
			run.Missing("", nil, "it failed: %v", err)
		}
		report.Took = append(report.Took, Took{Scenario: s.Name, Seconds: time.Since(start).Seconds()})
		if r.Keep != nil {
			if err := r.Keep(report); err != nil {
				return report, err
			}
		}
		if err := ctx.Err(); err != nil {
			return report, fmt.Errorf("stopped in scenario %s: %w", s.Name, err)
		}
	}
	if failed > 0 {
		return report, fmt.Errorf("%d of %d scenarios failed; the report says which and why", failed, len(scenarios))
	}
	return report, nil
}
