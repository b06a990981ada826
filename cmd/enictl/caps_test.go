// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/eniplane/eniplane/loader"
	"github.com/eniplane/eniplane/pkg/agent"
	"github.com/eniplane/eniplane/pkg/dataplane"
)

// What a cap lets through and what is lost behind it is shown by ENI, direction and EIP.
func TestCapLines(t *testing.T) {
	got := capLines([]loader.CapUse{
		{ENI: "web-0", Dir: dataplane.In, Mbps: 100, Packets: 1, Bytes: 2, Dropped: 3, Waiting: 4},
		{ENI: "web-0", Dir: dataplane.Out, Class: 2, Packets: 5},
		{ENI: "web-0", Dir: dataplane.Out, Class: 3, Mbps: 7},
	}, []agent.EIPStatus{{Address: netip.MustParseAddr("203.0.113.10"), ENI: "web-0", Class: 2}})
	want := []string{
		"ENI web-0 receives at most 100 Mbit/s: 1 packets with 2 bytes passed, 3 lost, 4 bytes wait",
		"ENI web-0 sends by EIP 203.0.113.10 no cap of its own: 5 packets with 0 bytes passed, 0 lost, 0 bytes wait",
		"ENI web-0 sends by EIP #3 at most 7 Mbit/s: 0 packets with 0 bytes passed, 0 lost, 0 bytes wait",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}
