// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"testing"

	"github.com/eniplane/eniplane/pkg/api"
)

// TestModes: what judges flows again under each mode, and what ends them.
func TestModes(t *testing.T) {
	groups := func(o *api.Objects) []string { return o.ENIs["db-0"].SecurityGroups }
	rules := func(o *api.Objects) { g := o.SecurityGroups[groups(o)[0]]; g.Ingress = g.Ingress[:len(g.Ingress)-1] }
	route := func(o *api.Objects) { o.ENIs["db-0"].SourceDestCheck = !o.ENIs["db-0"].SourceDestCheck }
	timeouts := func(o *api.Objects) { o.ENIs["db-0"].Timeouts.UDP = 59 }
	for _, tt := range []struct {
		name        string
		mode        api.PolicyChange
		change      func(*api.Objects)
		judged, cut bool
	}{
		{"rules", api.Reevaluate, rules, true, false},
		{"rules", api.Keep, rules, false, false},
		{"rules", api.Cut, rules, true, true},
		{"address check", api.Reevaluate, route, true, false},
		{"address check", api.Keep, route, true, false},
		{"address check", api.Cut, route, true, false},
		{"timeouts", api.Reevaluate, timeouts, false, false},
		{"timeouts", api.Keep, timeouts, false, false},
		{"timeouts", api.Cut, timeouts, false, false},
	} {
		t.Run(string(tt.mode)+" "+tt.name, func(t *testing.T) {
			objects := func() *api.Objects {
				o := decode(t, region)
				o.ENIs["db-0"].OnPolicyChange = tt.mode
				return o
			}
			before := mustCompile(t, Input{Objects: objects(), Host: "host-a", Revision: 1})
			changed := objects()
			tt.change(changed)
			res := after(t, before, changed)
			old, now := eniOf(before.State, "db-0"), eniOf(res.State, "db-0")
			if old.Flows != old.Incarnation || now.Incarnation != old.Incarnation {
				t.Fatalf("incarnation %d with flows %d became %d", old.Incarnation, old.Flows, now.Incarnation)
			}
			if judged := now.Generation != old.Generation; judged != tt.judged {
				t.Errorf("judged again: %v, want %v", judged, tt.judged)
			}
			if cut := now.Flows > before.IDs.Last.Incarnation; cut != tt.cut || cut != (now.Flows != old.Flows) {
				t.Errorf("cut: %v (flows %d became %d), want %v", cut, old.Flows, now.Flows, tt.cut)
			}
			// The number stays, also under another mode.
			changed.ENIs["db-0"].OnPolicyChange = api.Reevaluate
			if last := eniOf(after(t, res, changed).State, "db-0"); last.Flows != now.Flows {
				t.Errorf("flows %d became %d with the mode", now.Flows, last.Flows)
			}
		})
	}
}
