// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"fmt"
	"io"
	"math"
	"strings"
	"text/tabwriter"
)

// Number writes a value with as many digits as mean something.
func Number(v float64) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return "-"
	case a >= 1e9:
		return fmt.Sprintf("%.3gG", v/1e9)
	case a >= 1e6:
		return fmt.Sprintf("%.4gM", v/1e6)
	case a >= 100:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.3g", v)
}

// Figure writes a result's median, unit and spread.
func Figure(r *Result) string {
	return fmt.Sprintf("%s %s ± %.0f %%", Number(r.Median()), r.Unit, 100*Spread(r.Values))
}

// Text writes a report as tables.
func Text(w io.Writer, report *Report) error {
	e := &report.Environment
	fmt.Fprintf(w, "%s, Linux %s, %s, %d CPUs (%s), commit %s\n%s, load %s, %s size, %d rounds, seed %d\n",
		e.System, e.Kernel, e.CPU, e.CPUs, e.Machine, e.Commit, e.Time.Format("2006-01-02 15:04 MST"), e.Load,
		report.Settings.Size, report.Settings.Repeats, report.Settings.Seed)
	for _, took := range report.Took {
		fmt.Fprintf(w, "\n%s (%.1f s)\n", took.Scenario, took.Seconds)
		if err := scenarioText(w, report, took.Scenario); err != nil {
			return err
		}
	}
	return nil
}

func scenarioText(w io.Writer, report *Report, scenario string) error {
	tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, frames := range []bool{false, true} { // what is of least interest comes last
		for i := range report.Results {
			if r := &report.Results[i]; r.Scenario == scenario && (r.Subject == FrameSubject) == frames {
				fmt.Fprintf(tab, "  %s\t%s\t%s\t%s %s\t± %.0f %%\n", r.Subject, r.Params, r.Metric.Name,
					Number(r.Median()), r.Unit, 100*Spread(r.Values))
			}
		}
	}
	for i := range report.Ratios {
		if r := &report.Ratios[i]; r.Scenario == scenario {
			fmt.Fprintf(tab, "  ratio\t%s\t%.3f\t[%.3f %.3f]\t%s\n", r.Name, r.Value, r.Low, r.High, promise(r.Goal, r.Value))
		}
	}
	for i := range report.Checks {
		if c := &report.Checks[i]; c.Scenario == scenario {
			fmt.Fprintf(tab, "  check\t%s\t%s\t\t%s\n", c.Name, Number(c.Value), promise(c.Goal, c.Value))
		}
	}
	if err := tab.Flush(); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	for i := range report.Gaps {
		if g := &report.Gaps[i]; g.Scenario == scenario {
			fmt.Fprintf(w, "  not measured: %s\n", strings.TrimSpace(strings.Join([]string{g.Subject, g.Params.String(), g.Reason}, " ")))
		}
	}
	return nil
}

// promise says whether a goal is met.
func promise(g *Goal, value float64) string {
	if g == nil {
		return ""
	}
	sign, verdict := "<=", "met"
	if g.Better == Higher {
		sign = ">="
	}
	if !g.Met(value) {
		verdict = "MISSED"
	}
	return fmt.Sprintf("goal %s %s: %s", sign, Number(g.Limit), verdict)
}
