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
type fakeMigrator struct {
	view       *migrate.View
	departures chan migrate.Departure
}

func (f *fakeMigrator) Changed() <-chan struct{}             { return nil }
func (f *fakeMigrator) Departures() <-chan migrate.Departure { return f.departures }

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

// TestDeparture: the word of the new host counts before the feed's, and ends when that agrees or takes the migration back.
func TestDeparture(t *testing.T) {
	w := newWorld(t)
	w.agent.Migrator = &fakeMigrator{}
	stage := func() compile.Stage {
		for _, e := range w.kernel.last().ENIs {
			if e.Name == "eni-1" {
				return e.Stage
			}
		}
		t.Fatal("eni-1 is gone")
		return 0
	}
	moving := objects(t, names(1, 2), nil)
	moving.Instances["vm-eni-1"].Migration = &api.Migration{To: "host-b"}
	w.say(feed.Update{Revision: w.revision(1, objects(t, names(1, 2), nil))})
	there := migrate.Departure{ENI: "eni-1", To: "host-b", Epoch: 9}
	w.agent.departed(t.Context(), there)
	if stage() != compile.Attached {
		t.Error("who does not move has left")
	}
	w.say(feed.Update{Revision: w.revision(2, moving)})
	for _, wrong := range []migrate.Departure{{ENI: "eni-1", To: "host-b"}, {ENI: "eni-1", To: "host-c", Epoch: 9}, {ENI: "eni-9", To: "host-b", Epoch: 9}} {
		w.agent.departed(t.Context(), wrong)
		if stage() != compile.Attached {
			t.Errorf("%+v is believed", wrong)
		}
	}
	w.agent.departed(t.Context(), there)
	if stage() != compile.Left || w.agent.settleAt != nil {
		t.Errorf("stage %v; others do not know, settled %t", stage(), w.agent.settleAt != nil)
	}
	w.say(feed.Update{Revision: w.revision(3, objects(t, names(1, 2), nil))})
	if stage() != compile.Attached || len(w.agent.claims) != 0 {
		t.Error("the migration was taken back")
	}
	w.say(feed.Update{Revision: w.revision(4, moving)})
	w.agent.departed(t.Context(), there)
	w.say(feed.Update{Revision: w.revision(5, objects(t, []string{"eni-2"}, []string{"eni-1"}))})
	if stage() != compile.Left || w.agent.settleAt == nil || len(w.agent.claims) != 0 {
		t.Errorf("the feed agrees: stage %v, settled %t", stage(), w.agent.settleAt != nil)
	}
}

// TestArrival: a guest that is seen at its prepared port is there, and the same when the feed says so.
func TestArrival(t *testing.T) {
	w, m := newWorld(t), &fakeMigrator{}
	w.agent.Migrator = m
	coming := objects(t, []string{"eni-2"}, []string{"eni-1"})
	coming.Instances["vm-eni-1"].Migration = &api.Migration{To: "host-a"}
	w.say(feed.Update{Revision: w.revision(1, coming)})
	find := func() *compile.ENI {
		st := w.kernel.last()
		for i := range st.ENIs {
			if st.ENIs[i].Name == "eni-1" {
				return &st.ENIs[i]
			}
		}
		t.Fatal("eni-1 is not here")
		return nil
	}
	early := *find()
	if early.Stage != compile.Prepared {
		t.Fatalf("stage %v", early.Stage)
	}
	w.agent.Arrived("vm-eni-1")
	w.agent.claim(t.Context(), <-w.agent.arrivals, claim{to: "host-a"})
	if now := find(); now.Stage != compile.Attached || now.Incarnation != early.Incarnation || !m.view.Incoming["eni-1"].Here {
		t.Errorf("arrived: %+v, told %t", now, m.view.Incoming["eni-1"].Here)
	}
	here := objects(t, names(1, 2), nil)
	here.ENIs["eni-1"].Attachment.Epoch = 77
	w.say(feed.Update{Revision: w.revision(2, here)})
	if now := find(); now.Stage != compile.Attached || now.Incarnation != early.Incarnation || now.Epoch != 77 {
		t.Errorf("the feed agrees: %+v", now)
	}
}
