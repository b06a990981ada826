// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"testing"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/lab"
)

// TestTenants: a1 and blue1 are both 10.0.1.10 on host-a, with the same MAC; a2 (on host-a) and
// blue2 (on host-b) are both 10.0.1.20. Each tenant finds its own.
func TestTenants(t *testing.T) {
	l := common(t)
	for _, f := range []lab.Family{lab.IPv4, lab.IPv6} {
		rows := []struct{ from, to, twin, want string }{
			{"a1", "a2", "blue2", "vm-a2"},
			{"blue1", "blue2", "a2", "vm-blue2"},
			{"b1", "a1", "blue1", "vm-a1"},
			{"blue2", "blue1", "a1", "vm-blue1"},
		}
		for _, r := range rows {
			from, to, err := l.Spots(r.from, r.to, f)
			if err != nil {
				t.Fatal(err)
			}
			twin, _, err := l.Spots(r.twin, r.twin, f)
			if err != nil {
				t.Fatal(err)
			}
			got, err := l.WhoAnswers(context.Background(), from, to.Addr, 8080, to, twin)
			if err != nil || got != r.want {
				t.Errorf("%s asks %s, %s: %q answers (%v), want %s", r.from, to.Addr, f, got, err, r.want)
			}
		}
		denied(t, l, probe{from: "blue1", to: "a3", protocol: "tcp", port: 8000, family: f}, "blue1", dataplane.Out, dataplane.ReasonNoEndpoint)
		denied(t, l, probe{from: "blue2", to: "mute", protocol: "icmp", family: f}, "blue2", dataplane.Out, dataplane.ReasonNoEndpoint)
		// Same prefix: nobody answers for an address that only the other tenant has.
		denied(t, l, probe{from: "blue1", to: "b1", protocol: "udp", port: 53, family: f}, "blue1", dataplane.Out, dataplane.ReasonARPUnknown)
	}
}

// TestSecondENI: the second ENI of an instance is another member of the network, on its own.
func TestSecondENI(t *testing.T) {
	l := common(t)
	for _, f := range []lab.Family{lab.IPv4, lab.IPv6} {
		allowed(t, l, probe{from: "a1-back", to: "b2", protocol: "tcp", port: 8000, family: f})
		allowed(t, l, probe{from: "b2", to: "a1-back", protocol: "tcp", port: 8000, family: f})
		allowed(t, l, probe{from: "b2", to: "a1", protocol: "udp", port: 8000, family: f})
		allowed(t, l, probe{from: "a3", to: "a1-back", protocol: "udp", port: 8000, family: f})
	}
	allowed(t, l, probe{from: "10.0.1.11", to: "b1", protocol: "tcp", port: 80})
	allowed(t, l, probe{from: "b1", to: "10.0.1.11", protocol: "tcp", port: 80})
}
