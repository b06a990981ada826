// SPDX-License-Identifier: Apache-2.0

package rows

import (
	"slices"
	"strings"
	"testing"

	"github.com/eniplane/eniplane/pkg/dataplane"
	. "github.com/eniplane/eniplane/pkg/pkttest"
)

// ownsAll makes XDP on the uplink finish all that it can.
var ownsAll = map[string]any{"xdp_owns": uint32(7)}

// stages lists the rows by the stage that decides them.
func stages() map[string][]Row {
	return map[string][]Row{
		"stub":      stubRows(),
		"port":      portRows(),
		"spoof":     spoofRows(),
		"neighbour": neighbourRows(),
		"service":   serviceRows(),
		"parse":     parseRows(),
		"ip6":       ip6Rows(),
		"options":   optionRows(),
		"chains":    chainRows(),
		"protocols": protocolRows(),
		"local":     localRows(),
		"too big":   tooBigRows(),
		"sg":        sgRows(),
		"nacl":      naclRows(),
		"hits":      hitRows(),
		"route":     routeRows(),
		"middlebox": middleboxRows(),
		"peer":      peerRows(),
		"policy":    policyRouteRows(),
		"flow":      flowRows(),
		"icmp":      icmpRows(),
		"eip":       eipRows(),
		"internet":  internetRows(),
		"overlay":   overlayRows(),
		"outer":     outerRows(),
		"uplink":    uplinkRows(),
		"gateway":   gatewayRows(),
		"carry":     carryRows(),
		"behind":    behindRows(),
		"revision":  revisionRows(),
		"fragment":  fragmentRows(),
		"pieces":    fragmentWayRows(),
		"error":     errorRows(),
		"unrelated": unrelatedRows(),
		"told":      errorStateRows(),
		"stray":     strayRows(),
		"mode":      modeRows(),
		"timeout":   timeoutRows(),
		"reset":     resetRows(),
		"half-open": halfOpenRows(),
		"blind":     blindRows(),
		"end":       endRows(),
		"code":      codeRows(),
		"quota":     quotaRows(),
		"ring":      ringRows(),
		"budget":    budgetRows(),
		"packets":   packetRateRows(),
		"opened":    flowRateRows(),
	}
}

// variant is a row in one family and by one hook.
type variant struct {
	row    Row
	family Family
	xdp    bool
}

func (v variant) name() string {
	hook := "tc"
	if v.xdp {
		hook = "xdp"
	}
	return strings.ReplaceAll(v.row.Name, " ", "_") + "/" + v.family.String() + "/" + hook
}

func variants(rows []Row) []variant {
	var all []variant
	for _, r := range rows {
		for _, f := range r.Families() {
			if r.Hooks != XDPOnly {
				all = append(all, variant{r, f, false})
			}
			if r.UsesUplink() && r.Hooks != TCOnly && !refusedOutside(r) {
				all = append(all, variant{r, f, true})
			}
		}
	}
	return all
}

// refusedOutside: with its outer headers on, the packet would not come so far.
func refusedOutside(r Row) bool {
	return slices.ContainsFunc(r.Steps, func(s Step) bool {
		t := s.Tunnel
		return t != nil && t.Policy == 0 && (s.Mark != vxlanMark || t.VNI == red && t.Remote == hostC || t.VNI != red && t.VNI != blue)
	})
}

// Every row holds, in both families where its addresses exist, under both hooks where both see it.
func TestRows(t *testing.T) {
	tc := NewWorld(t, setup(nil))
	xdp := NewWorld(t, setup(ownsAll))
	for stage, rows := range stages() {
		t.Run(stage, func(t *testing.T) {
			for _, v := range variants(rows) {
				t.Run(v.name(), func(t *testing.T) {
					w := tc
					if v.xdp {
						w = xdp
					}
					w.Run(t, &v.row, v.family, v.xdp)
				})
			}
		})
	}
}

// Rules decide the same if their sets are wide.
func TestRowsOfWideRules(t *testing.T) {
	s := setup(nil)
	s.WideRules = true
	w, all := NewWorld(t, s), stages()
	for _, stage := range []string{"sg", "nacl", "hits", "mode", "spoof"} {
		t.Run(stage, func(t *testing.T) {
			for _, v := range variants(all[stage]) {
				if v.xdp {
					continue
				}
				t.Run(v.name(), func(t *testing.T) { w.Run(t, &v.row, v.family, false) })
			}
		})
	}
}

// unreachable lists the reasons that no row can provoke, and why.
var unreachable = map[dataplane.Reason]string{
	dataplane.ReasonContinue:   "no outcome: it counts what came in, in every row",
	dataplane.ReasonNotOurs:    "never counted: the rows whose packet passes the uplink untouched",
	dataplane.ReasonRedirected: "sent only during a migration, which this version does not have",
	dataplane.ReasonHelper:     "the kernel refuses nothing that a packet of a row can ask for",
}

// Every reason has a row in which it is counted, or a written excuse.
func TestEveryReasonHasARow(t *testing.T) {
	counted := make(map[dataplane.Reason]bool)
	for _, rows := range stages() {
		for _, r := range rows {
			for _, s := range r.Steps {
				for _, c := range s.Want.Counts {
					counted[c.Reason] = true
				}
			}
		}
	}
	for _, r := range dataplane.Reasons() {
		switch why := unreachable[r]; {
		case counted[r] && why != "":
			t.Errorf("%v has a row, but is excused: %s", r, why)
		case !counted[r] && why == "":
			t.Errorf("%v has no row (%s)", r, r.Help())
		}
	}
}

// The rows are many and all different: by name within a stage.
func TestRowsAreDistinct(t *testing.T) {
	distinct, runs := 0, 0
	for stage, rows := range stages() {
		names := make(map[string]bool)
		for _, r := range rows {
			if names[r.Name] {
				t.Errorf("stage %s has two rows %q", stage, r.Name)
			}
			names[r.Name] = true
			if len(r.Families()) == 0 {
				t.Errorf("stage %s: row %q exists in no family", stage, r.Name)
			}
		}
		distinct += len(rows)
		runs += len(variants(rows))
	}
	t.Logf("%d rows, %d runs", distinct, runs)
	if distinct < 500 {
		t.Errorf("%d rows, want at least 500", distinct)
	}
}
