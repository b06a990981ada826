// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"

	"github.com/eniplane/eniplane/pkg/dataplane"
)

// TestStatusWrongENI: the status names the ENI by which an instance answers for another of its ENIs, and what mends it.
func TestStatusWrongENI(t *testing.T) {
	h := newHost(t)
	if got := h.run("status"); strings.Contains(got.out, "WRONG_ENI") {
		t.Errorf("nothing is wrong, but %s", got.out)
	}
	h.maps.counters = append(h.maps.counters,
		dataplane.Counter{ENI: 2, Direction: dataplane.Out, Reason: dataplane.ReasonWrongENI, Packets: 7},
		dataplane.Counter{ENI: 1, Direction: dataplane.Out, Reason: dataplane.ReasonSpoofedIP, Packets: 9})
	got := h.run("status")
	if !strings.Contains(got.out, ": 7 packets left by it whose source is another ENI of its instance (WRONG_ENI)") ||
		!strings.Contains(got.out, "enictl guest check") || strings.Count(got.out, "WRONG_ENI") != 1 {
		t.Errorf("status says %s", got.out)
	}
	if got := h.run("status", "-o", "json"); !strings.Contains(got.out, `"wrongENIs"`) {
		t.Errorf("in JSON: %s", got.out)
	}
}
