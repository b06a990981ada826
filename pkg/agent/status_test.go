// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/eniplane/eniplane/loader"
	"github.com/eniplane/eniplane/pkg/announce"
	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/feed"
)

func TestDevices(t *testing.T) {
	w := newWorld(t)
	w.kernel.waiting = map[string]bool{"eni-2": true}
	w.say(feed.Update{Revision: w.revision(1, objects(t, names(1, 2), nil))})
	want := []ENIStatus{
		{Name: "eni-1", UID: "eni-1", Phase: loader.Ready, Device: "eni-1", Ifindex: 3, Index: 1},
		{Name: "eni-2", UID: "eni-2", Phase: loader.Waiting, Device: "eni-2", Index: 2, Reason: "no device eni-2"},
	}
	if diff := cmp.Diff(want, w.agent.Status().ENIs); diff != "" {
		t.Error(diff)
	}
	w.kernel.waiting = nil
	w.agent.reconcile(context.Background())
	if got := w.agent.Metrics().ENIs; got["Ready"] != 2 || got["Waiting"] != 0 {
		t.Errorf("states %v", got)
	}
}

func TestDegraded(t *testing.T) {
	w := newWorld(t)
	w.say(feed.Update{Revision: w.revision(1, objects(t, names(1, 2), names(3, 4)))})
	w.agent.degraded = map[string]error{
		"eni-2": errors.New("too many rules"), "eni-3": errors.New("no next hop"), "eni-4": errors.New("no next hop"),
	}
	w.agent.observe(w.kernel.report())
	w.agent.noteUnreachable()
	s := w.agent.Status()
	want := []ENIStatus{
		{Name: "eni-1", UID: "eni-1", Phase: loader.Ready, Device: "eni-1", Ifindex: 3, Index: 1},
		{Name: "eni-2", UID: "eni-2", Phase: loader.Degraded, Device: "eni-2", Ifindex: 3, Index: 2, Reason: "too many rules"},
	}
	if diff := cmp.Diff(want, s.ENIs); diff != "" {
		t.Error(diff)
	}
	if len(s.Errors) != 1 || s.Errors[0].Text != "2 ENIs of other hosts cannot be reached from here, the first is eni-3: no next hop" {
		t.Errorf("errors %v", s.Errors)
	}
}

func TestProblemsOfTheHostComeAndGo(t *testing.T) {
	w := newWorld(t)
	for _, problems := range [][]string{{"uplink uplink0 does not exist"}, nil} {
		w.kernel.problems = problems
		w.agent.reconcile(context.Background())
		if diff := cmp.Diff(problems, w.agent.Status().Problems); diff != "" {
			t.Error(diff)
		}
	}
}

func TestObstaclesComeAndGo(t *testing.T) {
	w := newWorld(t)
	w.obstacles = []string{"a firewall"}
	w.agent.lookAround()
	if diff := cmp.Diff(w.obstacles, w.agent.Status().Obstacles); diff != "" {
		t.Error(diff)
	}
	w.obstacles = nil
	w.agent.lookAround()
	if o := w.agent.Status().Obstacles; len(o) != 0 {
		t.Errorf("still there: %v", o)
	}
}

func TestErrorsAreFew(t *testing.T) {
	var s Status
	now := time.Now()
	for i := range 3 * keptErrors {
		s.noteError(now.Add(time.Duration(i)), fmt.Errorf("error %d", i%(2*keptErrors)))
	}
	if len(s.Errors) != keptErrors || s.Errors[0].Text != fmt.Sprintf("error %d", keptErrors-1) {
		t.Errorf("errors %v", s.Errors)
	}
	s.noteError(now, errors.New(s.Errors[3].Text))
	if len(s.Errors) != keptErrors || s.Errors[0].Text == s.Errors[4].Text {
		t.Errorf("the same error is there twice: %v", s.Errors)
	}
}

// Held is what has a Ready ENI here, once the revision is in force; a restored revision is not announced.
func TestAnnouncements(t *testing.T) {
	w := newWorld(t)
	w.kernel.waiting = map[string]bool{"eni-1": true}
	w.kernel.onApply = func(*compile.State) {
		if len(w.kernel.applied) == 0 && len(w.announcer.held) > 0 {
			t.Error("something was announced before a revision was in force")
		}
	}
	ctx, public := context.Background(), []netip.Addr{netip.MustParseAddr("203.0.113.10")}
	want := func(what string, addrs []netip.Addr, quiet bool) {
		t.Helper()
		held := announce.Held{Uplinks: []string{"uplink0"}, Addrs: addrs, Quiet: quiet}
		if diff := cmp.Diff(held, w.announcer.last(), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("%s: %s", what, diff)
		}
	}
	w.agent.update(ctx, feed.Update{Revision: w.revision(1, objects(t, names(1, 2), nil))})
	want("the ENI has no device", nil, false)
	w.kernel.waiting = nil
	w.agent.reconcile(ctx)
	want("the ENI is Ready", public, false)
	if e := w.agent.Status().EIPs; len(e) != 1 || !e[0].Announced || e[0].ENI != "eni-1" {
		t.Errorf("EIPs %v", e)
	}
	w.agent.update(ctx, feed.Update{Revision: w.revision(2, objects(t, nil, names(1, 2)))})
	want("the ENI has moved away", nil, false)
	w.agent.update(ctx, feed.Update{Revision: w.revision(3, objects(t, names(1, 2), nil))})
	want("the ENI is back", public, false)
	w.start()
	w.agent.restore(ctx)
	want("a restored revision", public, true)
	if e := w.agent.Status().EIPs; len(e) != 1 || e[0].Announced {
		t.Errorf("EIPs of a restored revision %v", e)
	}
	w.agent.update(ctx, feed.Update{Revision: w.revision(3, objects(t, names(1, 2), nil))})
	want("the feed has spoken", public, false)

	w.announcer.problems = []string{"announce EIPs: no uplink"}
	if p := w.agent.Status().Problems; !slices.Contains(p, "announce EIPs: no uplink") {
		t.Errorf("problems %v: what cannot be announced is missing", p)
	}
}

// A peer address counts as infrastructure; nobody listens on it yet, which is no reason to refuse it.
func TestPeerIsAccepted(t *testing.T) {
	w := newWorld(t)
	o := objects(t, names(1, 2), nil)
	o.Hosts["host-a"].Peer = netip.MustParseAddrPort("192.168.100.1:9967")
	w.say(feed.Update{Revision: w.revision(1, o)})
	if s := w.agent.Status(); s.Revision == nil || s.Feed.Error != "" {
		t.Errorf("revision %v, error %q", s.Revision, s.Feed.Error)
	}
}

func TestReady(t *testing.T) {
	w := newWorld(t)
	get := func(path string) (int, string) {
		rec := httptest.NewRecorder()
		w.agent.Handler(http.NotFoundHandler()).ServeHTTP(rec, httptest.NewRequest("GET", path, nil))
		return rec.Code, rec.Body.String()
	}
	if code, _ := get("/healthz"); code != 200 {
		t.Errorf("/healthz %d before any revision", code)
	}
	if code, _ := get("/readyz"); code != 503 {
		t.Errorf("/readyz %d before any revision", code)
	}
	w.kernel.fail = errors.New("no memory")
	w.say(feed.Update{Revision: w.revision(1, objects(t, names(1, 2), nil))})
	if code, body := get("/readyz"); code != 503 || !strings.Contains(body, w.kernel.fail.Error()) {
		t.Errorf("/readyz %d %q after a revision that failed", code, body)
	}
	w.kernel.fail, w.kernel.waiting = nil, map[string]bool{"eni-1": true, "eni-2": true}
	w.agent.take(context.Background(), w.agent.waiting)
	if code, body := get("/readyz"); code != 200 || body != "revision 1 (hash-of-1)\n" {
		t.Errorf("/readyz %d %q", code, body)
	}
	w.kernel.fail = errors.New("no memory")
	w.say(feed.Update{Revision: w.revision(2, objects(t, names(1, 3), nil))})
	w.say(feed.Update{Err: errors.New("syntax")})
	if code, body := get("/readyz"); code != 200 || body != "revision 1 (hash-of-1)\n" {
		t.Errorf("/readyz %d %q after bad revisions", code, body)
	}
	if code, body := get("/status"); code != 200 || !strings.Contains(body, `"phase": "Waiting"`) {
		t.Errorf("/status %d %s", code, body)
	}
}

// TestRun drives the loop itself, over channels.
func TestRun(t *testing.T) {
	w := newWorld(t)
	links := make(chan struct{}, 1)
	w.agent.Links = links
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { w.agent.Run(ctx); close(done) }()
	w.feed.says <- feed.Update{Err: errors.New("half a file")}
	w.feed.says <- feed.Update{Revision: w.revision(5, objects(t, names(1, 2), nil))}
	for range 2 { // when the feed takes the second, the agent has taken the first and is done with revision 5
		w.feed.says <- feed.Update{Err: errors.New("half a file")}
	}
	links <- struct{}{}
	w.wantInForce(5)
	cancel()
	<-done
	s, err := ReadStatus(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	if s.Host != "host-a" || s.Revision == nil || s.Revision.Number != 5 || len(s.ENIs) != 2 {
		t.Errorf("status file %+v", s)
	}
	if left, _ := filepath.Glob(filepath.Join(w.dir, ".*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
