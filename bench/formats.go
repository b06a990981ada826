// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// JSON writes a report as Save does.
func JSON(w io.Writer, report *Report) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", " ")
	if err := encoder.Encode(report); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// Benchstat writes a report in the form of Go benchmarks, a line per round, which the tool benchstat reads.
func Benchstat(w io.Writer, report *Report) error {
	e := &report.Environment
	fmt.Fprintf(w, "goos: linux\ngoarch: %s\nkernel: %s\ncpu: %s\ncommit: %s\n", e.Machine, e.Kernel, e.CPU, e.Commit)
	for i := range report.Results {
		r := &report.Results[i]
		name := benchName(r)
		for _, value := range r.Values {
			if _, err := fmt.Fprintf(w, "%s 1 %g %s\n", name, value, benchUnit(r)); err != nil {
				return fmt.Errorf("write the report: %w", err)
			}
		}
	}
	return nil
}

// benchName is a name of one word: benchstat takes key=value parts as what it may compare by.
func benchName(r *Result) string {
	clean := strings.NewReplacer(" ", "_", "/", "-", ",", "")
	group, name, _ := strings.Cut(r.Scenario, "/")
	words := []string{"Benchmark" + strings.ToUpper(group[:1]) + group[1:], name, "subject=" + clean.Replace(r.Subject)}
	for _, word := range r.Params.pairs() {
		words = append(words, clean.Replace(word))
	}
	return strings.Join(words, "/")
}

// benchUnit keeps metrics apart; benchstat knows that fewer ns/op are better.
func benchUnit(r *Result) string {
	if r.Unit == "ns" && r.Metric.Name == "cost" {
		return "ns/op"
	}
	return strings.ReplaceAll(r.Metric.Name+"-"+r.Unit, " ", "_")
}
