// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"math"
	"testing"
)

func TestStatistics(t *testing.T) {
	rows := []struct {
		values                   []float64
		median, q25, q75, spread float64
	}{
		{[]float64{5}, 5, 5, 5, 0},
		{[]float64{3, 1}, 2, 1.5, 2.5, 0.25},
		{[]float64{9, 1, 5}, 5, 3, 7, 0.4},
		{[]float64{4, 1, 3, 2}, 2.5, 1.75, 3.25, 0.3},
		{[]float64{10, 10, 10, 1000}, 10, 10, 257.5, 12.375},
		{[]float64{-1, 0, 1}, 0, -0.5, 0.5, 0},
	}
	near := func(a, b float64) bool { return math.Abs(a-b) < 1e-9 }
	for _, r := range rows {
		got := []float64{Median(r.values), Quantile(r.values, 0.25), Quantile(r.values, 0.75), Spread(r.values)}
		for i, want := range []float64{r.median, r.q25, r.q75, r.spread} {
			if !near(got[i], want) {
				t.Errorf("median, quartiles and spread of %v: %v, want %v", r.values, got, r)
				break
			}
		}
	}
	if !math.IsNaN(Median(nil)) {
		t.Errorf("median of nothing: %v, want NaN", Median(nil))
	}
}

// The rounds are compared with each other: what slows both in one round is no difference.
func TestRatio(t *testing.T) {
	value, low, high := ratioOf([]float64{110, 220, 330}, []float64{100, 200, 300})
	if math.Abs(value-1.1) > 1e-9 || math.Abs(low-1.1) > 1e-9 || math.Abs(high-1.1) > 1e-9 {
		t.Errorf("ratio %v [%v %v], want 1.1 throughout", value, low, high)
	}
	value, low, high = ratioOf([]float64{1, 2, 3}, []float64{2, 2, 2})
	if value != 1 || low != 0.75 || high != 1.25 {
		t.Errorf("ratio %v [%v %v], want 1 [0.75 1.25]", value, low, high)
	}
}

func TestGoals(t *testing.T) {
	most, least := &Goal{Limit: 2, Better: Lower}, &Goal{Limit: 2, Better: Higher}
	for _, r := range []struct {
		goal  *Goal
		value float64
		met   bool
		text  string
	}{
		{most, 2, true, "goal <= 2: met"}, {most, 2.01, false, "goal <= 2: MISSED"},
		{least, 2, true, "goal >= 2: met"}, {least, 1.99, false, "goal >= 2: MISSED"},
	} {
		if got := r.goal.Met(r.value); got != r.met || promise(r.goal, r.value) != r.text {
			t.Errorf("%v of %+v: %v, %q, want %v, %q", r.value, r.goal, got, promise(r.goal, r.value), r.met, r.text)
		}
	}
	if got := promise(nil, 1); got != "" {
		t.Errorf("no goal says %q", got)
	}
}

func TestNumber(t *testing.T) {
	for value, want := range map[float64]string{
		0: "0", 0.1234: "0.123", 9.876: "9.88", 98.76: "98.8", 987.6: "988", 12345: "12345", 1.5e6: "1.5M", 2.5e9: "2.5G",
		-42.42: "-42.4", math.NaN(): "-", math.Inf(1): "-",
	} {
		if got := Number(value); got != want {
			t.Errorf("Number(%v) = %q, want %q", value, got, want)
		}
	}
}
