// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"maps"
	"slices"
	"strings"
)

// Better says which of two values is the good one.
type Better string

// The two directions.
const (
	Lower  Better = "lower"
	Higher Better = "higher"
)

// Ours is the subject that is this project; others are named after what they are: nftables, floor-xdp-drop.
const Ours = "eniplane"

// Params say under which conditions something was measured: "rules": "1000".
type Params map[string]string

// String gives the parameters in one order, always the same.
func (p Params) String() string { return strings.Join(p.pairs(), " ") }

func (p Params) pairs() []string {
	var words []string
	for _, key := range slices.Sorted(maps.Keys(p)) {
		words = append(words, key+"="+p[key])
	}
	return words
}

// Metric is what is measured.
type Metric struct {
	Name   string `json:"metric"` // "cost", "rate"
	Unit   string `json:"unit"`   // "ns", "packets/s", "bytes"
	Better Better `json:"better"`
}

// Result is one figure with all its repeats.
type Result struct {
	Scenario string `json:"scenario"`
	Subject  string `json:"subject"`
	Params   Params `json:"params,omitempty"`
	Metric
	Values []float64 `json:"values"` // of the rounds, in their order
}

// Key tells results apart. Two runs measured the same if their keys are equal.
func (r *Result) Key() string {
	return strings.Join([]string{r.Scenario, r.Subject, r.Metric.Name, r.Params.String()}, "|")
}

// Median is the figure.
func (r *Result) Median() float64 { return Median(r.Values) }

// Ratio compares two results of one run, round by round.
type Ratio struct {
	Scenario string  `json:"scenario"`
	Name     string  `json:"name"`           // "1000 rules / 1 rule"
	Of       string  `json:"of"`             // Key of the result above the line
	To       string  `json:"to"`             // and below it
	Value    float64 `json:"value"`          // of the medians
	Low      float64 `json:"low"`            // quartiles of the rounds' own ratios
	High     float64 `json:"high"`           //
	Goal     *Goal   `json:"goal,omitempty"` // nil: nothing was promised
}

// Goal is a promise: a ratio, or a figure, is at most or at least this.
type Goal struct {
	Limit  float64 `json:"limit"`
	Better Better  `json:"better"` // Lower: at most Limit
	Source string  `json:"source,omitempty"`
}

// Met tells whether a value keeps the promise.
func (g *Goal) Met(value float64) bool {
	if g.Better == Higher {
		return value >= g.Limit
	}
	return value <= g.Limit
}

// Check is a promise about a single figure.
type Check struct {
	Scenario string  `json:"scenario"`
	Name     string  `json:"name"`
	Of       string  `json:"of"` // Key of the result
	Value    float64 `json:"value"`
	Goal     *Goal   `json:"goal"`
}

// Gap is something that was not measured, and why.
type Gap struct {
	Scenario string `json:"scenario"`
	Subject  string `json:"subject,omitempty"`
	Params   Params `json:"params,omitempty"`
	Reason   string `json:"reason"`
}
