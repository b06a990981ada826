// SPDX-License-Identifier: Apache-2.0

package rows

import (
	"testing"

	"github.com/eniplane/eniplane/pkg/dataplane"
	. "github.com/eniplane/eniplane/pkg/pkttest"
)

// Of packets that XDP does not finish it asks about one in so many; after one that it drops about all, as long as more of
// them come; and then again about few.
func TestRefusedInTurn(t *testing.T) {
	const every, packets, cpus = 8, 4000, 4 // to so many CPUs a run may be moved
	w := NewWorld(t, setup(map[string]any{"refuse_every": uint32(every)}))
	drops := func(p Packet, f Family, reason dataplane.Reason, n int) int {
		t.Helper()
		counts, err := w.Repeat("uplink0", p, f, n)
		if err != nil {
			t.Fatal(err)
		}
		var in, out uint64
		for _, c := range counts {
			switch c.Reason {
			case dataplane.ReasonContinue:
				in += c.Packets
			case reason:
				out += c.Packets
			default:
				t.Errorf("counted %v", c)
			}
		}
		if in != out {
			t.Errorf("%d packets came in, %d of them were dropped as %v", in, out, reason)
		}
		return int(out)
	}
	calm := func(f Family) {
		t.Helper()
		if n := drops(inward(client, web0).TCP(40000, 443, SYN), f, dataplane.ReasonSGDenied, cpus*every); n != 0 {
			t.Fatalf("%d welcome packets were dropped", n)
		}
	}
	for _, f := range Families() {
		for _, c := range []struct {
			name   string
			packet Packet
			reason dataplane.Reason
		}{
			{"tcp that no rule allows", inward(client, web0).TCP(40000, 25, SYN), dataplane.ReasonSGDenied},
			{"tcp without a flow", inward(client, web0).TCP(40000, 443, ACK), dataplane.ReasonNoFlow},
			{"a protocol that no rule allows", inward(client, web0).Carries(GRE), dataplane.ReasonSGDenied},
			{"tcp from a host that does not have the VPC", Eth(routerMAC, uplinkMAC).Underlay(vtepC, vtepA).VXLAN(red).
				Inside(inner(web9, web0).TCP(1, 443, SYN)), dataplane.ReasonVXLANSource},
		} {
			t.Run(c.name+"/"+f.String(), func(t *testing.T) {
				calm(f)
				if n := drops(c.packet, f, c.reason, packets); n < packets-cpus*every {
					t.Errorf("of %d in a row %d were dropped", packets, n)
				}
				calm(f)
				seldom := 0
				for range 40 { // each alone among welcome ones
					seldom += drops(c.packet, f, c.reason, 1)
					calm(f)
				}
				if seldom > 20 {
					t.Errorf("of 40 alone %d were dropped: far more than one in %d are asked about", seldom, every)
				}
			})
		}
	}
}
