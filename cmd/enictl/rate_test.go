// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane"
)

// What limits per second have taken stands in the status: an ENI's two directions in one line.
func TestRateDrops(t *testing.T) {
	m := &fakeMaps{counters: []dataplane.Counter{
		{ENI: 2, Direction: dataplane.Out, Reason: dataplane.ReasonPacketRate, Packets: 7},
		{ENI: 2, Direction: dataplane.In, Reason: dataplane.ReasonPacketRate, Packets: 8},
		{ENI: 1, Direction: dataplane.In, Reason: dataplane.ReasonFlowRate, Packets: 9},
		{ENI: 1, Direction: dataplane.In, Reason: dataplane.ReasonSGDenied, Packets: 10},
		{ENI: 3, Direction: dataplane.In, Reason: dataplane.ReasonFlowRate},
	}}
	drops, err := readRateDrops(m, compile.Names{ENIs: map[uint32]string{2: "web-0"}})
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, d := range drops {
		lines = append(lines, d.String())
	}
	want := []string{
		"ENI #1 has lost 0 packets that it sent and 9 to it beyond its limits.newFlowsPerSecond (FLOW_RATE)",
		"ENI web-0 has lost 7 packets that it sent and 8 to it beyond its limits.packetsPerSecond (PACKET_RATE)",
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}

// Only limits that differ from the usual ones are shown.
func TestLimitsCell(t *testing.T) {
	l := api.DefaultLimits()
	if got := limits(l); got != "" {
		t.Errorf("the usual limits are shown as %q", got)
	}
	l.Flows, l.NewFlowsPerSecond, l.PacketsPerSecond, l.IngressMbps, l.EgressMbps = 5, 6, 7, 8, 9
	if got, want := limits(l), "flows=5,newFlowsPerSecond=6,packetsPerSecond=7,ingressMbps=8,egressMbps=9"; got != want {
		t.Errorf("limits are shown as %q, want %q", got, want)
	}
}
