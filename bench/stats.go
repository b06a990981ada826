// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"math"
	"slices"
)

// Median is the middle value, the mean of the two middle ones of an even count, and NaN of nothing.
func Median(values []float64) float64 { return Quantile(values, 0.5) }

// Quantile is the value below which a part q of the values lies, interpolated.
func Quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	at := q * float64(len(sorted)-1)
	low := int(at)
	if low >= len(sorted)-1 {
		return sorted[len(sorted)-1]
	}
	return sorted[low] + (at-float64(low))*(sorted[low+1]-sorted[low])
}

// Spread is half the distance of the quartiles relative to the median: "± 2 %" says that half of the rounds lie
// that near. It is 0 for fewer than two values.
func Spread(values []float64) float64 {
	median := Median(values)
	if len(values) < 2 || median == 0 {
		return 0
	}
	return math.Abs((Quantile(values, 0.75) - Quantile(values, 0.25)) / 2 / median)
}

// ratioOf divides two results: their medians, and the quartiles of the ratios of the rounds, which were taken at
// nearly the same time and so share much of the noise.
func ratioOf(of, to []float64) (value, low, high float64) {
	value = Median(of) / Median(to)
	var rounds []float64
	for i := range min(len(of), len(to)) {
		rounds = append(rounds, of[i]/to[i])
	}
	return value, Quantile(rounds, 0.25), Quantile(rounds, 0.75)
}
