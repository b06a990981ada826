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
		"way":       wayRows(),
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
		"left":      leftRows(),
		"prepared":  preparedRows(),
		"moving":    gatewayMoveRows(),
		"packets":   packetRateRows(),
		"opened":    flowRateRows(),
		"shape":     shapeRows(),
		"far":       farRows(),
	}
}

// asksAll makes XDP ask about each packet that it leaves to TC whether it is dropped.
var asksAll = map[string]any{"refuse_every": uint32(1)}

// asksNone makes it finish UDP and ask about nothing.
var asksNone = map[string]any{"xdp_owns": uint32(2)}

// leftToTC are the reasons for which XDP, as it is shipped, never drops a packet that it only asks about: who finds them
// changes something, or must have seen the packet before this one.
var leftToTC = map[dataplane.Reason]string{
	dataplane.ReasonFragment:       "the first fragment may be on its way to TC",
	dataplane.ReasonICMPUnrelated:  "a flow may have to be judged again for the answer",
	dataplane.ReasonTCPWindow:      "it depends on the state of a flow",
	dataplane.ReasonFlowJudgeLimit: "the budget is spent where flows are judged again",
	dataplane.ReasonFlowQuota:      "who counts flows stores them",
	dataplane.ReasonPacketRate:     "only what passes is counted for the limit",
	dataplane.ReasonFlowRate:       "only what opens a flow is counted for the limit",
	dataplane.ReasonTooBig:         "it is answered",
	dataplane.ReasonStrayNd:        "some of it is answered",
}

// inTurn is the host on which XDP asks about each packet: it must drop all that it may.
func inTurn() Setup {
	s := setup(asksAll)
	s.Refuses = func(step Step) bool {
		counts := step.Want.Counts
		if step.Tunnel != nil && (step.Tunnel.Policy != 0 || step.Mark == toGatewayMark) {
			return false // what has to do with gateways needs what only TC has
		}
		return len(counts) > 0 && !step.TCDrops && leftToTC[counts[len(counts)-1].Reason] == ""
	}
	return s
}

// variant is a row in one family and one way in.
type variant struct {
	row    Row
	family Family
	by     By
}

func (v variant) name() string {
	return strings.ReplaceAll(v.row.Name+"/"+v.family.String()+"/"+v.by.String(), " ", "_")
}

func variants(rows []Row) []variant {
	var all []variant
	for _, r := range rows {
		for _, f := range r.Families() {
			if r.Hooks != XDPOnly {
				all = append(all, variant{r, f, ByTC})
			}
			if !r.UsesUplink() || r.Hooks == DeviceOnly || refusedOutside(r) {
				continue
			}
			if r.Hooks != XDPOnly {
				all = append(all, variant{r, f, ByInTurn})
			}
			if r.Hooks != TCOnly {
				all = append(all, variant{r, f, ByXDP})
			}
		}
	}
	return all
}

// refusedOutside: with its outer headers on, the packet would not come so far.
func refusedOutside(r Row) bool {
	return slices.ContainsFunc(r.Steps, func(s Step) bool {
		t := s.Tunnel
		return t != nil && t.Policy == 0 && s.Mark != toGatewayMark && (s.Mark != vxlanMark || t.VNI == red && t.Remote == hostC || t.VNI != red && t.VNI != blue)
	})
}

// Every row holds, in both families where its addresses exist, under both hooks where both see it.
func TestRows(t *testing.T) {
	worlds := map[By]*World{ByTC: NewWorld(t, setup(nil)), ByXDP: NewWorld(t, setup(ownsAll)), ByInTurn: NewWorld(t, inTurn())}
	for stage, rows := range stages() {
		t.Run(stage, func(t *testing.T) {
			for _, v := range variants(rows) {
				t.Run(v.name(), func(t *testing.T) {
					worlds[v.by].Run(t, &v.row, v.family, v.by)
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
				if v.by != ByTC {
					continue
				}
				t.Run(v.name(), func(t *testing.T) { w.Run(t, &v.row, v.family, v.by) })
			}
		})
	}
}

// unreachable lists the reasons that no row can provoke, and why.
var unreachable = map[dataplane.Reason]string{
	dataplane.ReasonContinue: "no outcome: it counts what came in, in every row",
	dataplane.ReasonNotOurs:  "never counted: the rows whose packet passes the uplink untouched",
	dataplane.ReasonHelper:   "the kernel refuses nothing that a packet of a row can ask for",
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
