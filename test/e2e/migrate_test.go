// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"testing"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/lab"
)

// TestMigrate: an instance moves to the other host and back. Connections are not asked for yet, but
// everything can be reached afterwards, nothing more than before, and the stream comes back.
func TestMigrate(t *testing.T) {
	l := common(t)
	for _, to := range []string{"host-b", "host-a"} {
		r, err := l.Migrate(context.Background(), "vm-m", to, internetNode)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("to %s: UDP %s; TCP %s", to, r.UDP, r.TCP)
		if r.UDP.Returned == 0 {
			t.Error("the stream never flowed")
		}
		for _, f := range []lab.Family{lab.IPv4, lab.IPv6} {
			for _, peer := range []string{"a1", "a2", "b1"} {
				allowed(t, l, probe{from: "m", to: peer, protocol: "tcp", port: 80, family: f})
				allowed(t, l, probe{from: peer, to: "m", protocol: "udp", port: 80, family: f})
			}
			denied(t, l, probe{from: "m", to: "b2", protocol: "tcp", port: 22, family: f}, "b2", dataplane.In, dataplane.ReasonSGDenied)
		}
		allowed(t, l, probe{from: internetNode, to: "m", protocol: "tcp", port: 443})
		denied(t, l, probe{from: internetNode, to: "m", protocol: "tcp", port: 23}, "m", dataplane.In, dataplane.ReasonNACLDenied)
		waitPhase(t, l, to, "m", "Ready")
	}
}
