// SPDX-License-Identifier: Apache-2.0

package bench

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"slices"
)

//go:embed page.html
var page string

// HTML writes a report as one page with plots that needs nothing else: no network, no scripts.
func HTML(w io.Writer, report *Report) error {
	t, err := template.New("page").Funcs(template.FuncMap{
		"number": Number,
		"spread": func(r *Result) string { return fmt.Sprintf("± %.0f %%", 100*Spread(r.Values)) },
		"goal":   promise,
		"ratio":  func(v float64) string { return fmt.Sprintf("%.3f", v) },
	}).Parse(page)
	if err != nil {
		return fmt.Errorf("read the page's template: %w", err)
	}
	if err := t.Execute(w, view(report)); err != nil {
		return fmt.Errorf("write the page: %w", err)
	}
	return nil
}

// section is what the page shows of one scenario.
type section struct {
	Took
	Plots   []plotted
	Results []*Result // without frames
	Frames  []*Result
	Ratios  []*Ratio
	Checks  []*Check
	Gaps    []*Gap
}

type plotted struct {
	Metric
	SVG template.HTML
}

type pageView struct {
	*Report
	Met, Missed []string // goals
	Sections    []section
}

func view(report *Report) pageView {
	v := pageView{Report: report}
	note := func(scenario, name string, g *Goal, value float64) {
		line := fmt.Sprintf("%s: %s: %s (%s)", scenario, name, Number(value), promise(g, value))
		switch {
		case g == nil:
		case g.Met(value):
			v.Met = append(v.Met, line)
		default:
			v.Missed = append(v.Missed, line)
		}
	}
	for i := range report.Ratios {
		r := &report.Ratios[i]
		note(r.Scenario, r.Name, r.Goal, r.Value)
	}
	for i := range report.Checks {
		c := &report.Checks[i]
		note(c.Scenario, c.Name, c.Goal, c.Value)
	}
	for _, took := range report.Took {
		v.Sections = append(v.Sections, sectionOf(report, took))
	}
	return v
}

func sectionOf(report *Report, took Took) section {
	s := section{
		Took:   took,
		Ratios: of(report.Ratios, func(r *Ratio) string { return r.Scenario }, took.Scenario),
		Checks: of(report.Checks, func(c *Check) string { return c.Scenario }, took.Scenario),
		Gaps:   of(report.Gaps, func(g *Gap) string { return g.Scenario }, took.Scenario),
	}
	for _, r := range of(report.Results, func(r *Result) string { return r.Scenario }, took.Scenario) {
		if r.Subject == FrameSubject {
			s.Frames = append(s.Frames, r)
		} else {
			s.Results = append(s.Results, r)
		}
	}
	var metrics []Metric
	for _, r := range s.Results {
		if !slices.Contains(metrics, r.Metric) {
			metrics = append(metrics, r.Metric)
		}
	}
	for _, m := range metrics {
		var same []*Result
		for _, r := range s.Results {
			if r.Metric == m {
				same = append(same, r)
			}
		}
		s.Plots = append(s.Plots, plotted{Metric: m, SVG: plot(same)})
	}
	return s
}

// of selects what belongs to a scenario.
func of[T any](all []T, scenario func(*T) string, name string) []*T {
	var chosen []*T
	for i := range all {
		if scenario(&all[i]) == name {
			chosen = append(chosen, &all[i])
		}
	}
	return chosen
}
