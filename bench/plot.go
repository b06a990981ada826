// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"fmt"
	"html"
	"html/template"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Measures of plots, in the units of the page.
const (
	plotWidth  = 760.0
	plotHeight = 300.0
	barHeight  = 18.0
	labelWidth = 330.0
	margin     = 60.0
	maxBars    = 60
	maxLines   = 8
)

// colours are told apart also by those who see few of them (Okabe and Ito).
func colour(i int) string {
	all := []string{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999933"}
	return all[i%len(all)]
}

// plot draws results of one metric: lines over the parameter that is swept, if one is and they are few, else bars.
// What all results have in common is written once.
func plot(results []*Result) template.HTML {
	same := common(results)
	var svg template.HTML
	if axis := sweptBy(results); axis != "" && len(group(results, axis, same)) <= maxLines {
		svg = lines(results, axis, same)
	} else {
		svg = bars(results, same)
	}
	return template.HTML("<p>"+html.EscapeString(same.String())+"</p>") + svg
}

// common are the parameters that all results have with the same value.
func common(results []*Result) Params {
	same := maps.Clone(results[0].Params)
	for _, r := range results {
		maps.DeleteFunc(same, func(name, value string) bool { return r.Params[name] != value })
	}
	return same
}

// without leaves parameters out.
func without(p, out Params) Params {
	rest := maps.Clone(p)
	maps.DeleteFunc(rest, func(name, _ string) bool { _, drop := out[name]; return drop })
	return rest
}

// sweptBy finds the parameter of numbers that most results differ in while all else is equal; "" if none.
func sweptBy(results []*Result) string {
	best, most := "", 2 // a line of two points is worth its place only if there are several
	for _, name := range paramNames(results) {
		points := 0
		for _, line := range group(results, name, nil) {
			if len(line) > 1 {
				points += len(line)
			}
		}
		if points > most {
			best, most = name, points
		}
	}
	return best
}

// paramNames lists the parameters whose values are all numbers.
func paramNames(results []*Result) []string {
	numbers := map[string]bool{}
	for _, r := range results {
		for name, value := range r.Params {
			_, err := strconv.ParseFloat(value, 64)
			was, known := numbers[name]
			numbers[name] = err == nil && (was || !known)
		}
	}
	var names []string
	for _, name := range slices.Sorted(maps.Keys(numbers)) {
		if numbers[name] {
			names = append(names, name)
		}
	}
	return names
}

// group puts results together that differ by one parameter only, in the order of its values. same is not in the names.
func group(results []*Result, axis string, same Params) map[string][]*Result {
	groups := map[string][]*Result{}
	for _, r := range results {
		if r.Params[axis] == "" {
			continue
		}
		rest := without(without(r.Params, same), Params{axis: ""})
		name := strings.TrimSpace(r.Subject + " " + rest.String())
		groups[name] = append(groups[name], r)
	}
	for _, line := range groups {
		slices.SortFunc(line, func(a, b *Result) int {
			return int(math.Copysign(1, number(a.Params[axis])-number(b.Params[axis])))
		})
	}
	return groups
}

func number(s string) float64 {
	v, _ := strconv.ParseFloat(s, 64) // paramNames has tried it
	return v
}

// lines draws medians, with the quartiles as bars, over the logarithm of a parameter.
func lines(results []*Result, axis string, same Params) template.HTML {
	groups := group(results, axis, same)
	low, high, top := math.Inf(1), 0.0, 0.0
	for _, line := range groups {
		for _, r := range line {
			x := number(r.Params[axis])
			low, high = min(low, x), max(high, x)
			top = max(top, Quantile(r.Values, 0.75))
		}
	}
	place := func(x, y float64) (float64, float64) {
		share := 0.5
		if span := math.Log1p(high) - math.Log1p(low); span > 0 {
			share = (math.Log1p(x) - math.Log1p(low)) / span
		}
		return margin + share*(plotWidth-margin-20), 10 + (1-y/max(top, 1e-9))*(plotHeight-40)
	}
	names := slices.Sorted(maps.Keys(groups))
	var b strings.Builder
	height := plotHeight + 16*float64(len(names)) + 16
	fmt.Fprintf(&b, `<svg viewBox="0 0 %.0f %.0f" role="img">`, plotWidth, height)
	grid(&b, top, results[0].Unit)
	ticks := map[float64]bool{}
	for i, name := range names {
		var points []string
		for _, r := range groups[name] {
			x, y := place(number(r.Params[axis]), r.Median())
			_, up := place(0, Quantile(r.Values, 0.75))
			_, down := place(0, Quantile(r.Values, 0.25))
			points = append(points, fmt.Sprintf("%.1f,%.1f", x, y))
			fmt.Fprintf(&b, `<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke="%s"/><circle cx="%.1f" cy="%.1f" r="3" fill="%s"><title>%s</title></circle>`,
				x, x, up, down, colour(i), x, y, colour(i), html.EscapeString(axis+" "+r.Params[axis]+": "+Figure(r)))
			if v := number(r.Params[axis]); !ticks[v] {
				ticks[v] = true
				fmt.Fprintf(&b, `<text x="%.1f" y="%.0f" text-anchor="middle">%s</text>`, x, plotHeight-10, Number(v))
			}
		}
		fmt.Fprintf(&b, `<polyline fill="none" stroke="%s" points="%s"/>`, colour(i), strings.Join(points, " "))
		y := plotHeight + 16*float64(i+1)
		fmt.Fprintf(&b, `<rect x="%.0f" y="%.0f" width="10" height="10" fill="%s"/><text x="%.0f" y="%.0f">%s</text>`,
			margin, y-9, colour(i), margin+16, y, html.EscapeString(name))
	}
	fmt.Fprintf(&b, `<text x="%.0f" y="%.0f" text-anchor="end">%s</text></svg>`, plotWidth-4, plotHeight+6, html.EscapeString(axis))
	return template.HTML(b.String())
}

// grid draws lines at quarters of the height.
func grid(b *strings.Builder, top float64, unit string) {
	for i := range 5 {
		y := 10 + (1-float64(i)/4)*(plotHeight-40)
		fmt.Fprintf(b, `<line class="grid" x1="%.0f" x2="%.0f" y1="%.1f" y2="%.1f"/><text x="%.0f" y="%.1f" text-anchor="end">%s</text>`,
			margin, plotWidth-20, y, y, margin-6, y+4, Number(top*float64(i)/4))
	}
	fmt.Fprintf(b, `<text x="4" y="%.0f">%s</text>`, plotHeight-10, html.EscapeString(unit))
}

// bars draws a bar per result, with the quartiles as a thin line.
func bars(results []*Result, same Params) template.HTML {
	left := len(results) - maxBars
	results = results[:min(len(results), maxBars)]
	top := 0.0
	for _, r := range results {
		top = max(top, Quantile(r.Values, 0.75))
	}
	scale := (plotWidth - labelWidth - 110) / max(top, 1e-9)
	var b strings.Builder
	fmt.Fprintf(&b, `<svg viewBox="0 0 %.0f %.0f" role="img">`, plotWidth, barHeight*float64(len(results))+6)
	subjects := map[string]int{}
	for i, r := range results {
		if _, known := subjects[r.Subject]; !known {
			subjects[r.Subject] = len(subjects)
		}
		y := barHeight*float64(i) + 3
		label := strings.TrimSpace(r.Subject + " " + without(r.Params, same).String())
		if len(label) > 62 {
			label = label[:60] + "…"
		}
		fmt.Fprintf(&b, `<text x="%.0f" y="%.1f" text-anchor="end">%s</text>`, labelWidth-6, y+11, html.EscapeString(label))
		fmt.Fprintf(&b, `<rect x="%.0f" y="%.1f" width="%.1f" height="%.0f" fill="%s"><title>%s</title></rect>`,
			labelWidth, y, max(r.Median(), 0)*scale, barHeight-5, colour(subjects[r.Subject]), html.EscapeString(r.Params.String()))
		fmt.Fprintf(&b, `<line class="spread" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`,
			labelWidth+max(Quantile(r.Values, 0.25), 0)*scale, labelWidth+max(Quantile(r.Values, 0.75), 0)*scale, y+6, y+6)
		fmt.Fprintf(&b, `<text x="%.1f" y="%.1f">%s %s</text>`, labelWidth+max(Quantile(r.Values, 0.75), 0)*scale+6, y+11,
			Number(r.Median()), html.EscapeString(r.Unit))
	}
	b.WriteString(`</svg>`)
	if left > 0 {
		fmt.Fprintf(&b, `<p>%d more are in the table.</p>`, left)
	}
	return template.HTML(b.String())
}
