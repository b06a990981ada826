// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/eniplane/eniplane/pkg/api"
)

// moving is region while vm-a moves to host-b.
func moving(t *testing.T) *api.Objects {
	obj := decode(t, region)
	obj.Instances["vm-a"].Migration = &api.Migration{To: "host-b", Devices: map[string]string{"web-0": "tap8", "db-0": "tap9", "ops-0": "tap7"}}
	return obj
}

// moved is region when vm-a is on host-b.
func moved(t *testing.T) *api.Objects {
	obj := decode(t, region)
	obj.Instances["vm-a"].Host = "host-b"
	for name, device := range map[string]string{"web-0": "tap8", "db-0": "tap9", "ops-0": "tap7"} {
		obj.ENIs[name].Attachment.Device = device
		obj.ENIs[name].Attachment.Epoch++
	}
	return obj
}

func on(t *testing.T, host string, before *Result, obj *api.Objects, settled bool) *Result {
	t.Helper()
	in := Input{Objects: obj, Host: host, Revision: 1, Settled: settled}
	if before != nil {
		in.Revision, in.Previous, in.IDs = before.State.Revision+1, before.State, before.IDs
	}
	return mustCompile(t, in)
}

var (
	vtepA = netip.MustParseAddr("192.0.2.1")
	vtepB = netip.MustParseAddr("192.0.2.2")
)

func moveOf(st *State, hop uint32) *Move {
	for i := range st.Moves {
		if st.Moves[i].NextHop == hop {
			return &st.Moves[i]
		}
	}
	return nil
}

// TestSource: an ENI that moves away is the same until all is settled, and only its next hop changes.
func TestSource(t *testing.T) {
	first := on(t, "host-a", nil, decode(t, region), false)
	second := on(t, "host-a", first, moving(t), false)
	third := on(t, "host-a", second, moved(t), false)
	again := on(t, "host-a", third, moved(t), false)
	last := on(t, "host-a", again, moved(t), true)
	was := eniOf(first.State, "web-0")
	for i, tt := range []struct {
		res      *Result
		stage    Stage
		vtep     netip.Addr
		pending  bool
		movingTo string
	}{
		{second, Attached, netip.Addr{}, true, "host-b"}, {third, Left, vtepB, false, "host-b"}, {again, Left, vtepB, false, "host-b"},
	} {
		now, hop := eniOf(tt.res.State, "web-0"), hopOf(tt.res.State, "web-0")
		if now == nil {
			t.Fatalf("revision %d: web-0 is gone", i+2)
		}
		if now.Stage != tt.stage || now.Index != was.Index || now.Incarnation != was.Incarnation || now.Generation != was.Generation ||
			now.Device != "tap0" || now.MovingTo != tt.movingTo {
			t.Errorf("revision %d: web-0 is %+v, it was %+v", i+2, now, was)
		}
		if hop.Local != was.Index || hop.VTEP != tt.vtep || hop.Generation != hopOf(first.State, "web-0").Generation {
			t.Errorf("revision %d: next hop %+v", i+2, hop)
		}
		want := &Move{NextHop: hop.Index, From: vtepA, To: vtepB, Pending: tt.pending}
		if d := cmp.Diff(want, moveOf(tt.res.State, hop.Index), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
			t.Errorf("revision %d: move (-want +got):\n%s", i+2, d)
		}
	}
	if len(third.State.EIPs) != 1 {
		t.Errorf("who has left has %d EIPs here, want its own for what still comes to it", len(third.State.EIPs))
	}
	if eniOf(last.State, "web-0") != nil || len(last.State.Moves) != 0 {
		t.Errorf("settled, but something is left: %+v", last.State.Moves)
	}
}

// TestTarget: what was prepared becomes what is attached, with all numbers.
func TestTarget(t *testing.T) {
	first := on(t, "host-b", nil, decode(t, region), false)
	second := on(t, "host-b", first, moving(t), false)
	third := on(t, "host-b", second, moved(t), false)
	early, now := eniOf(second.State, "db-0"), eniOf(third.State, "db-0")
	if early == nil || early.Stage != Prepared || early.Device != "tap9" || early.Epoch != 1 {
		t.Fatalf("prepared: %+v", early)
	}
	if now.Stage != Attached || now.Index != early.Index || now.Incarnation != early.Incarnation || now.Generation != early.Generation || now.Flows != early.Flows {
		t.Errorf("attached: %+v, it was %+v", now, early)
	}
	hop := hopOf(second.State, "db-0")
	if hop.Local != 0 || hop.Prepared != early.Index || hop.VTEP != vtepA {
		t.Errorf("next hop of who is prepared: %+v", hop)
	}
	if hop = hopOf(third.State, "db-0"); hop.Local != now.Index || hop.Prepared != 0 || hop.VTEP.IsValid() {
		t.Errorf("next hop of who is here: %+v", hop)
	}
	if !slices.ContainsFunc(third.State.VTEPs, func(v VTEP) bool { return v.Addr == vtepA }) {
		t.Error("the host from which it came cannot send on")
	}
}

// TestMoveTakenBack: the target forgets the ENI, and what is prepared later is another one. The source has never stopped.
func TestMoveTakenBack(t *testing.T) {
	target := on(t, "host-b", on(t, "host-b", nil, moving(t), false), decode(t, region), false)
	if eniOf(target.State, "web-0") != nil || len(target.State.Moves) != 0 {
		t.Errorf("the move was taken back, but the target has %+v", target.State.Moves)
	}
	again := on(t, "host-b", target, moving(t), false)
	if now := eniOf(again.State, "web-0"); now.Incarnation <= target.IDs.Last.Incarnation {
		t.Errorf("incarnation %d was given out before", now.Incarnation)
	}
	before := on(t, "host-a", nil, decode(t, region), false)
	source := on(t, "host-a", on(t, "host-a", before, moving(t), false), decode(t, region), false)
	if d := cmp.Diff(eniOf(before.State, "web-0"), eniOf(source.State, "web-0"), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Errorf("the source (-before +after):\n%s", d)
	}
}

// TestBystander: both hosts may send as the ENI meanwhile.
func TestBystander(t *testing.T) {
	obj := func(o *api.Objects) *api.Objects {
		o.Instances["vm-b"].Host = "host-c"
		return o
	}
	first := on(t, "host-c", nil, obj(decode(t, region)), false)
	second := on(t, "host-c", first, obj(moving(t)), false)
	third := on(t, "host-c", second, obj(moved(t)), false)
	last := on(t, "host-c", third, obj(moved(t)), true)
	senders := func(r *Result) (s []string) {
		for _, v := range r.State.VTEPs {
			s = append(s, v.Addr.String())
		}
		return s
	}
	for i, tt := range []struct {
		res  *Result
		want []string
	}{{first, []string{"192.0.2.1"}}, {second, []string{"192.0.2.1", "192.0.2.2"}}, {third, []string{"192.0.2.1", "192.0.2.2"}}, {last, []string{"192.0.2.2"}}} {
		if d := cmp.Diff(tt.want, senders(tt.res)); d != "" {
			t.Errorf("revision %d: senders (-want +got):\n%s", i+1, d)
		}
	}
	if hop := hopOf(third.State, "web-0"); hop.VTEP != vtepB || hop.Generation != hopOf(first.State, "web-0").Generation {
		t.Errorf("next hop: %+v", hop)
	}
}

// TestToldMove: where the feed says when a move is over, that counts and no time; and who hears of it late knows of it.
func TestToldMove(t *testing.T) {
	told := func() *api.Objects {
		obj := moved(t)
		obj.Instances["vm-a"].Migration = &api.Migration{To: "host-b", From: "host-a"}
		return obj
	}
	source := on(t, "host-a", on(t, "host-a", on(t, "host-a", nil, decode(t, region), false), moving(t), false), told(), false)
	source = on(t, "host-a", source, told(), true)
	if e := eniOf(source.State, "web-0"); e == nil || e.Stage != Left || len(source.State.Moves) == 0 {
		t.Fatalf("the source settles by itself: %+v", e)
	}
	again := mustCompile(t, Input{Objects: told(), Host: "host-a", Revision: source.State.Revision, IDs: source.IDs}) // after a restart
	if d := cmp.Diff(eniOf(source.State, "web-0"), eniOf(again.State, "web-0"), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Errorf("the source that starts anew (-before +after):\n%s", d)
	}
	source = on(t, "host-a", source, moved(t), false)
	if eniOf(source.State, "web-0") != nil || len(source.State.Moves) != 0 {
		t.Errorf("it is over, but the source has %+v", source.State.Moves)
	}
	late := on(t, "host-b", nil, told(), false)
	hop := hopOf(late.State, "web-0")
	if m := moveOf(late.State, hop.Index); m == nil || m.From != vtepA || m.To != vtepB || m.Pending {
		t.Errorf("who hears of it late: %+v", m)
	}
	if over := on(t, "host-b", late, moved(t), false); len(over.State.Moves) != 0 {
		t.Errorf("it is over, but the target has %+v", over.State.Moves)
	}
}

// TestOpen: an ENI that is here before the feed says so stays the same when it does, whatever epoch it gets.
func TestOpen(t *testing.T) {
	target := on(t, "host-b", nil, moving(t), false)
	early := moved(t)
	in := Input{Objects: early, Host: "host-b", Revision: 2, Previous: target.State, IDs: target.IDs, Open: map[string]bool{"web-0": true}}
	open := mustCompile(t, in)
	late := moved(t)
	for _, name := range []string{"web-0", "db-0"} {
		late.ENIs[name].Attachment.Epoch = 77
	}
	there := on(t, "host-b", open, late, false)
	for name, same := range map[string]bool{"web-0": true, "db-0": false} {
		before, now := eniOf(open.State, name), eniOf(there.State, name)
		if (before.Incarnation == now.Incarnation) != same || now.Epoch != 77 {
			t.Errorf("%s: %+v became %+v", name, before, now)
		}
	}
}
