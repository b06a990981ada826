// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/feed"
)

func TestBrake(t *testing.T) {
	for _, tt := range []struct {
		name        string
		before      []string
		here, there []string
		ratio       float64
		refused     bool
	}{
		{name: "nothing deleted", before: names(1, 10), here: names(1, 10), ratio: 0.2},
		{name: "four of four", before: names(1, 4), ratio: 0.2},
		{name: "four always pass, even at ratio 0", before: names(1, 10), here: names(5, 10), ratio: 0},
		{name: "five of ten", before: names(1, 10), here: names(6, 10), ratio: 0.2, refused: true},
		{name: "all of five", before: names(1, 5), ratio: 0.2, refused: true},
		{name: "the ratio exactly", before: names(1, 25), here: names(6, 25), ratio: 0.2},
		{name: "one above the ratio", before: names(1, 29), here: names(7, 29), ratio: 0.2, refused: true},
		{name: "moved away is not deleted", before: names(1, 10), there: names(1, 10), ratio: 0.2},
		{name: "replaced by others is deleted", before: names(1, 10), here: names(11, 20), ratio: 0.2, refused: true},
		{name: "ratio 1 lets everything pass", before: names(1, 10), ratio: 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			local := localENIs(objects(t, tt.before, nil), "host-a")
			err := brake(local, objects(t, tt.here, tt.there), tt.ratio, "42")
			if (err != nil) != tt.refused {
				t.Errorf("error %v, want refused = %v", err, tt.refused)
			}
		})
	}
	t.Run("another UID is another object", func(t *testing.T) {
		local := localENIs(objects(t, names(1, 10), nil), "host-a")
		for name := range local {
			local[name] = "another"
		}
		if err := brake(local, objects(t, names(1, 10), nil), 0.2, "42"); err == nil {
			t.Error("not refused")
		}
	})
}

func TestBrakeHoldsUntilForced(t *testing.T) {
	w := newWorld(t)
	w.say(feed.Update{Revision: w.revision(1, objects(t, names(1, 10), nil))})
	w.wantInForce(1)
	bad := w.revision(2, objects(t, names(1, 3), nil))
	w.say(feed.Update{Revision: bad})
	w.wantInForce(1)
	s := w.agent.Status()
	for _, want := range []string{"deletes 7 of the 10 ENIs", "eni-10, eni-4", "hash-of-2", "FORCE"} {
		if !strings.Contains(s.Feed.Error, want) {
			t.Errorf("error %q does not say %q", s.Feed.Error, want)
		}
	}
	if len(w.kernel.applied) != 1 || w.feed.good.Number != 1 {
		t.Errorf("%d states applied, last good %d", len(w.kernel.applied), w.feed.good.Number)
	}
	if w.agent.retryAt != nil {
		t.Error("what the brake holds is tried again")
	}
	marked := *bad
	marked.Marked = true
	w.say(feed.Update{Revision: &marked})
	if got := w.agent.Status().Feed.Error; !strings.Contains(got, "write 2 into") {
		t.Errorf("error %q does not name the REVISION", got)
	}
	forced := *bad
	forced.Forced = true
	w.say(feed.Update{Revision: &forced})
	w.wantInForce(2)
	if s := w.agent.Status(); s.Feed.Error != "" || len(s.ENIs) != 3 {
		t.Errorf("feed error %q, ENIs %v", s.Feed.Error, s.ENIs)
	}
}

// TestBrakeAfterRestart: the brake knows the last good revision before anything is applied.
func TestBrakeAfterRestart(t *testing.T) {
	w := newWorld(t)
	w.say(feed.Update{Revision: w.revision(1, objects(t, names(1, 10), nil))})
	w.start()
	w.say(feed.Update{Revision: w.revision(2, objects(t, nil, nil))})
	w.wantInForce(1) // restored
	if n := len(w.kernel.last().ENIs); n != 10 {
		t.Errorf("%d ENIs left", n)
	}
}

// TestBrakeWithoutLastGood: a last good revision that this version cannot read does not lift the brake.
func TestBrakeWithoutLastGood(t *testing.T) {
	w := newWorld(t)
	w.say(feed.Update{Revision: w.revision(1, objects(t, names(1, 10), nil))})
	w.agent.save()
	w.feed.fail = errors.New("torn")
	w.start()
	w.say(feed.Update{Revision: w.revision(2, objects(t, nil, nil))})
	if len(w.kernel.applied) != 1 {
		t.Error("ten ENIs were deleted")
	}
	torn := func(e ErrorLine) bool { return e.Text == "torn" }
	if s := w.agent.Status(); !slices.ContainsFunc(s.Errors, torn) {
		t.Errorf("errors %v", s.Errors)
	}
}

func TestBadFeedKeepsOld(t *testing.T) {
	w := newWorld(t)
	w.say(feed.Update{Revision: w.revision(1, objects(t, names(1, 2), nil))})
	w.say(feed.Update{Err: errors.New("feed.yaml:3: ENI/x: spec.mac: not a MAC")})
	w.wantInForce(1)
	s := w.agent.Status()
	if len(w.kernel.applied) != 1 || len(s.ENIs) != 2 || !strings.Contains(s.Feed.Error, "feed.yaml:3") {
		t.Errorf("%d applies, status %+v", len(w.kernel.applied), s)
	}
	if age := s.Age(time.Now()); age <= 0 {
		t.Errorf("age %v of a feed that is not usable", age)
	}
	w.say(feed.Update{Revision: w.revision(2, objects(t, names(1, 3), nil))})
	w.wantInForce(2)
	if s := w.agent.Status(); s.Feed.Error != "" || s.Age(time.Now()) != 0 {
		t.Errorf("feed %+v", s.Feed)
	}
}

func TestRestoredStart(t *testing.T) {
	w := newWorld(t)
	w.say(feed.Update{Revision: w.revision(1, objects(t, names(1, 2), nil))})
	want := w.kernel.last()
	w.start()
	w.say(feed.Update{Revision: w.feed.good, Restored: true})
	if w.agent.restoreAt == nil || w.agent.revision() != nil {
		t.Error("the feed was not given a moment")
	}
	w.say(feed.Update{Err: errors.New("no such directory")})
	w.wantInForce(1)
	if diff := cmp.Diff(want, w.kernel.last(), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmpopts.IgnoreUnexported(compile.State{}, compile.AddrTable{})); diff != "" {
		t.Errorf("the restored state differs from the one in force: %s", diff)
	}
	if !w.agent.revision().Restored {
		t.Error("not marked as restored")
	}
	if age := w.agent.Status().Age(time.Now()); age <= 0 {
		t.Error("a feed that was never heard has an age")
	}
	w.agent.restore(context.Background())
	if len(w.kernel.applied) != 2 {
		t.Errorf("restored twice: %d applies", len(w.kernel.applied))
	}
	w.say(feed.Update{Revision: w.revision(1, objects(t, names(1, 2), nil))})
	if w.agent.revision().Restored {
		t.Error("still marked as restored after the feed spoke")
	}
}

// TestOlderRevisionIsNotRestored: an agent that ended between the flip and the file leaves an older
// revision on disk. It may allow what the one in force forbids.
func TestOlderRevisionIsNotRestored(t *testing.T) {
	w := newWorld(t)
	w.say(feed.Update{Revision: w.revision(1, objects(t, names(1, 2), nil))})
	old := w.feed.good
	w.say(feed.Update{Revision: w.revision(2, objects(t, names(1, 1), nil))})
	w.feed.good = old
	w.start()
	w.say(feed.Update{Revision: old, Restored: true})
	w.say(feed.Update{Err: errors.New("no such directory")})
	if n := len(w.kernel.applied); n != 2 {
		t.Errorf("%d applies, the last of revision %d", n, w.kernel.last().Revision)
	}
	if errs := w.agent.Status().Errors; len(errs) == 0 || !strings.Contains(errs[0].Text, "the kernel holds the newer 2") {
		t.Errorf("errors: %v", errs)
	}
	w.say(feed.Update{Revision: w.revision(3, objects(t, names(1, 1), nil))})
	w.wantInForce(3)
}

func TestNothingToRestore(t *testing.T) {
	w := newWorld(t)
	w.agent.restore(context.Background())
	if r := w.agent.revision(); r != nil || len(w.kernel.applied) != 0 {
		t.Errorf("revision %v", r)
	}
}

// TestNumbersAreKeptBeforeTheApply: when the kernel sees a number, the file has it.
func TestNumbersAreKeptBeforeTheApply(t *testing.T) {
	w := newWorld(t)
	w.kernel.onApply = func(st *compile.State) {
		var ids compile.IDs
		if err := readJSON(filepath.Join(w.dir, idsFile), &ids); err != nil {
			t.Fatal(err)
		}
		for _, e := range st.ENIs {
			if ids.ENIs[e.Name].Incarnation != e.Incarnation {
				t.Errorf("revision %d: incarnation %d of %s is not in the file", st.Revision, e.Incarnation, e.Name)
			}
		}
	}
	w.say(feed.Update{Revision: w.revision(1, objects(t, names(1, 2), nil))})
	w.say(feed.Update{Revision: w.revision(2, objects(t, names(2, 4), nil))})
	if len(w.kernel.applied) != 2 {
		t.Fatalf("%d applies", len(w.kernel.applied))
	}
}

// TestNamesFollowTheApply: what is in force has names; after an error so has what may still be there.
func TestNamesFollowTheApply(t *testing.T) {
	w := newWorld(t)
	want := func(eni ...string) {
		t.Helper()
		known, err := dataplane.LoadNames(w.dir)
		if err != nil {
			t.Fatal(err)
		}
		if got := slices.Sorted(maps.Values(known.ENIs)); !slices.Equal(got, eni) {
			t.Errorf("named are %v, want %v", got, eni)
		}
	}
	w.say(feed.Update{Revision: w.revision(1, objects(t, names(1, 2), nil))})
	want("eni-1", "eni-2")
	w.kernel.fail = errors.New("killed")
	w.say(feed.Update{Revision: w.revision(2, objects(t, names(2, 3), nil))})
	want("eni-1", "eni-2", "eni-3")
	w.kernel.fail = nil
	w.say(feed.Update{Revision: w.revision(3, objects(t, names(2, 3), nil))})
	want("eni-2", "eni-3")
}

// TestNumbersSurviveAFailedApply: whether the agent dies in the apply or only fails, the numbers that
// the kernel may have seen are given to nobody else.
func TestNumbersSurviveAFailedApply(t *testing.T) {
	for name, between := range map[string]func(*world){"crash": (*world).start, "error": func(*world) {}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			var used []uint32
			w.kernel.onApply = func(st *compile.State) {
				for _, e := range st.ENIs {
					used = append(used, e.Incarnation)
				}
			}
			w.kernel.fail = errors.New("killed")
			w.say(feed.Update{Revision: w.revision(1, objects(t, names(1, 2), nil))})
			between(w)
			w.kernel.fail = nil
			w.say(feed.Update{Revision: w.revision(2, objects(t, names(3, 4), nil))})
			slices.Sort(used)
			if unique := slices.Compact(slices.Clone(used)); len(unique) != 4 {
				t.Errorf("incarnations %v: some were given twice", used)
			}
		})
	}
}

func TestStartWithoutNumbers(t *testing.T) {
	w := newWorld(t)
	w.say(feed.Update{Revision: w.revision(1, objects(t, names(1, 2), nil))})
	for _, text := range []string{"", "null", "{}", "[]", `{"last": null}`} {
		if err := os.WriteFile(filepath.Join(w.dir, idsFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := w.create(); err == nil || !strings.Contains(err.Error(), "enictl teardown --host host-a") {
			t.Errorf("numbers %q: %v", text, err)
		}
	}
	if err := os.Remove(filepath.Join(w.dir, idsFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.create(); err == nil || !strings.Contains(err.Error(), "enictl teardown --host host-a") {
		t.Errorf("error %v", err)
	}
	w.kernel.applied = nil // as after a reboot, or a loss of power
	if _, err := w.create(); err != nil {
		t.Error(err)
	}
	for text, starts := range map[string]bool{"": true, "\x00\x00\x00": true, `{"last": {"ruleset": 1`: true, "[]": false} {
		if err := os.WriteFile(filepath.Join(w.dir, idsFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := w.create(); (err == nil) != starts {
			t.Errorf("numbers %q after a reboot: %v", text, err)
		}
	}
}

func TestFailedApplyIsTriedAgain(t *testing.T) {
	w := newWorld(t)
	w.say(feed.Update{Revision: w.revision(1, objects(t, names(1, 2), nil))})
	w.kernel.fail = errors.New("no memory")
	w.say(feed.Update{Revision: w.revision(2, objects(t, names(1, 3), nil))})
	w.wantInForce(1)
	if w.feed.good.Number != 1 {
		t.Errorf("revision %d was committed", w.feed.good.Number)
	}
	if s := w.agent.Status(); len(s.Errors) != 1 || !strings.Contains(s.Errors[0].Text, "no memory") {
		t.Errorf("errors %v", s.Errors)
	}
	if n := w.agent.Metrics().ApplyErrors; n != 1 {
		t.Errorf("%d apply errors", n)
	}
	if w.agent.retryAt == nil || w.agent.waiting == nil {
		t.Fatal("it is not tried again")
	}
	w.kernel.fail = nil
	w.agent.take(context.Background(), w.agent.waiting)
	w.wantInForce(2)
	if w.agent.retryAt != nil {
		t.Error("it is tried again although it is in force")
	}
}

func TestRetriesBecomeRare(t *testing.T) {
	w := newWorld(t)
	w.kernel.fail = errors.New("no memory")
	w.say(feed.Update{Revision: w.revision(1, objects(t, names(1, 1), nil))})
	for range 20 {
		w.agent.take(context.Background(), w.agent.waiting)
	}
	if w.agent.retryAfter != retryLast {
		t.Errorf("tried again every %v", w.agent.retryAfter)
	}
	w.say(feed.Update{Revision: w.revision(2, objects(t, names(1, 1), nil))})
	if w.agent.retryAfter != 2*retryFirst {
		t.Errorf("the next revision waits %v", w.agent.retryAfter)
	}
}

// TestLookAgain: a look that fails, or finds an ENI that fails, is followed by another, at first soon.
func TestLookAgain(t *testing.T) {
	w := newWorld(t)
	w.say(feed.Update{Revision: w.revision(1, objects(t, names(1, 2), nil))})
	if w.agent.againAt != nil {
		t.Error("all is well, but it is looked at again")
	}
	w.kernel.fail = errors.New("no memory")
	for _, want := range []time.Duration{retryFirst, 2 * retryFirst, 4 * retryFirst} {
		w.agent.reconcile(context.Background())
		if w.agent.againAt == nil || w.agent.againAfter != want {
			t.Errorf("looked at again after %v, want %v", w.agent.againAfter, want)
		}
	}
	w.kernel.fail = nil
	w.agent.reconcile(context.Background())
	if w.agent.againAt != nil {
		t.Error("looked at again although the last look succeeded")
	}
	w.kernel.degraded = map[string]bool{"eni-1": true}
	w.agent.reconcile(context.Background())
	if w.agent.againAt == nil || w.agent.againAfter != retryFirst {
		t.Errorf("an ENI is degraded and looked at again after %v", w.agent.againAfter)
	}
}

func TestStatusFileIsWrittenOnChange(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(w.dir, statusFile)
	stamp := func() os.FileInfo {
		w.agent.save()
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	first := stamp()
	if again := stamp(); !os.SameFile(first, again) {
		t.Error("written although nothing changed")
	}
	w.say(feed.Update{Err: errors.New("syntax")})
	if again := stamp(); os.SameFile(first, again) {
		t.Error("not written although an error came")
	}
}
