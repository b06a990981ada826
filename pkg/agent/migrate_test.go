// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"testing"

	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/feed"
	"github.com/eniplane/eniplane/pkg/migrate"
)

// fakeMigrator keeps the last view.
type fakeMigrator struct{ view *migrate.View }

func (f *fakeMigrator) Update(_ context.Context, v *migrate.View) { f.view = v }
func (f *fakeMigrator) Status() []migrate.Status                  { return []migrate.Status{{ENI: "eni-1"}} }

// TestMoves: who copies flows knows what is in force, and what has left is forgotten when it is settled, not before.
func TestMoves(t *testing.T) {
	w, m := newWorld(t), &fakeMigrator{}
	w.agent.Migrator = m
	stages := func() (list []compile.Stage) {
		for _, e := range w.kernel.last().ENIs {
			list = append(list, e.Stage)
		}
		return list
	}
	w.say(feed.Update{Revision: w.revision(1, objects(t, names(1, 2), nil))})
	if len(m.view.Outgoing) != 0 || w.agent.settleAt != nil {
		t.Errorf("nothing moves, but %+v is copied", m.view.Outgoing)
	}
	moving := objects(t, names(1, 2), nil)
	moving.Instances["vm-eni-1"].Migration = &api.Migration{To: "host-b"}
	w.say(feed.Update{Revision: w.revision(2, moving)})
	if len(m.view.Outgoing) != 1 || m.view.Outgoing[0].ENI != "eni-1" || m.view.Outgoing[0].To != "host-b" {
		t.Errorf("eni-1 moves to host-b, but %+v is copied", m.view.Outgoing)
	}
	if w.agent.settleAt != nil {
		t.Error("what is not over is to be settled")
	}
	there := objects(t, []string{"eni-2"}, []string{"eni-1"})
	w.say(feed.Update{Revision: w.revision(3, there)})
	if got := stages(); len(got) != 2 || got[0] != compile.Left || got[1] != compile.Attached {
		t.Errorf("stages %v", got)
	}
	if len(m.view.Outgoing) != 1 || w.agent.settleAt == nil {
		t.Errorf("what comes late is not copied (%+v), or never settled", m.view.Outgoing)
	}
	w.agent.settle(t.Context())
	if got := stages(); len(got) != 1 || len(m.view.Outgoing) != 0 || w.agent.settleAt != nil {
		t.Errorf("settled: stages %v, copies %+v", got, m.view.Outgoing)
	}
	w.wantInForce(3)
	if s := w.agent.Status(); len(s.Copies) != 1 {
		t.Errorf("copies in the status: %+v", s.Copies)
	}
}
