// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"testing"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/lab"
)

// TestMigrate: an instance moves to the other host and back with its flows: a connection goes on, a stream loses nothing.
// Everything can be reached afterwards, and nothing more than before.
func TestMigrate(t *testing.T) {
	l := common(t)
	for _, to := range []string{"host-b", "host-a"} {
		r, err := l.Migrate(context.Background(), "vm-m", to, internetNode)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("to %s: UDP %s; TCP %s", to, r.UDP, r.TCP)
		if r.UDP.Returned == 0 || r.UDP.Lost() != 0 || r.UDP.Repeated != 0 {
			t.Errorf("the stream: %s", r.UDP)
		}
		if r.TCP.Blocks == 0 || r.TCP.Broken != nil {
			t.Errorf("the connection: %s", r.TCP)
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
