// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// Compare writes what changed from one report to another: figures that both have, then ratios, then what only one
// of them has.
func Compare(w io.Writer, before, after *Report) error {
	if a, b := before.Environment, after.Environment; a.Kernel != b.Kernel || a.CPU != b.CPU || a.CPUs != b.CPUs {
		fmt.Fprintf(w, "The machines differ (%s, %s / %s, %s): compare ratios only.\n", a.CPU, a.Kernel, b.CPU, b.Kernel)
	}
	tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tab, "SCENARIO\tSUBJECT\tPARAMETERS\tMETRIC\tBEFORE\tAFTER\tAFTER/BEFORE\t")
	for i := range after.Results {
		r := &after.Results[i]
		old := before.Result(r.Key())
		if old == nil {
			fmt.Fprintf(tab, "%s\t%s\t%s\t%s\t-\t%s %s\tnew\t\n", r.Scenario, r.Subject, r.Params, r.Metric.Name, Number(r.Median()), r.Unit)
			continue
		}
		fmt.Fprintf(tab, "%s\t%s\t%s\t%s\t%s %s\t%s %s\t%.3f\t%s\n", r.Scenario, r.Subject, r.Params, r.Metric.Name,
			Number(old.Median()), old.Unit, Number(r.Median()), r.Unit, r.Median()/old.Median(), change(old, r))
	}
	for i := range before.Results {
		if r := &before.Results[i]; after.Result(r.Key()) == nil {
			fmt.Fprintf(tab, "%s\t%s\t%s\t%s\t%s %s\t-\tgone\t\n", r.Scenario, r.Subject, r.Params, r.Metric.Name, Number(r.Median()), r.Unit)
		}
	}
	fmt.Fprintln(tab, "\nSCENARIO\tRATIO\tBEFORE\tAFTER\tAFTER/BEFORE\t")
	for i := range after.Ratios {
		r := &after.Ratios[i]
		if old := before.ratio(r); old != nil {
			fmt.Fprintf(tab, "%s\t%s\t%.3f\t%.3f\t%.3f\t\n", r.Scenario, r.Name, old.Value, r.Value, r.Value/old.Value)
		}
	}
	if err := tab.Flush(); err != nil {
		return fmt.Errorf("write the comparison: %w", err)
	}
	return nil
}

// ratio finds the same ratio; nil if there is none.
func (r *Report) ratio(like *Ratio) *Ratio {
	for i := range r.Ratios {
		if c := &r.Ratios[i]; c.Scenario == like.Scenario && c.Of == like.Of && c.To == like.To {
			return c
		}
	}
	return nil
}

// change says whether two results differ by more than their rounds do among themselves: "same" if the middle halves
// of their values overlap.
func change(before, after *Result) string {
	if Quantile(before.Values, 0.25) <= Quantile(after.Values, 0.75) && Quantile(after.Values, 0.25) <= Quantile(before.Values, 0.75) {
		return "same"
	}
	if (after.Median() > before.Median()) == (after.Better == Higher) {
		return "better"
	}
	return "worse"
}
