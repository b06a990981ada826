// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/eniplane/eniplane/loader"
	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/feed"
)

// fakeFeed says what the test tells it to say, and keeps the last good revision in memory.
type fakeFeed struct {
	says chan feed.Update
	good *feed.Revision
	fail error // of LastGood
}

func (f *fakeFeed) Run(ctx context.Context, updates chan<- feed.Update) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case u := <-f.says:
			updates <- u
		}
	}
}

func (f *fakeFeed) LastGood() (*feed.Revision, error) { return f.good, f.fail }

func (f *fakeFeed) Commit(r *feed.Revision) error { f.good = r; return nil }

// fakeKernel takes states as the loader would: all ENIs are Ready but those in waiting.
type fakeKernel struct {
	applied    []*compile.State
	reconciled int
	waiting    map[string]bool
	fail       error
	onApply    func(*compile.State)
}

func (k *fakeKernel) InForce() (uint64, error) {
	if len(k.applied) == 0 {
		return 0, nil
	}
	return k.last().Revision, nil
}

func (k *fakeKernel) last() *compile.State { return k.applied[len(k.applied)-1] }

func (k *fakeKernel) Apply(_ context.Context, st *compile.State) (*loader.Report, error) {
	if k.onApply != nil {
		k.onApply(st)
	}
	if k.fail != nil {
		return k.report(), k.fail
	}
	k.applied = append(k.applied, st)
	return k.report(), nil
}

func (k *fakeKernel) Reconcile(context.Context) (*loader.Report, error) {
	k.reconciled++
	return k.report(), k.fail
}

func (k *fakeKernel) report() *loader.Report {
	r := &loader.Report{ENIs: map[string]loader.ENIStatus{}}
	if len(k.applied) == 0 {
		return r
	}
	r.Revision = k.last().Revision
	for _, e := range k.last().ENIs {
		s := loader.ENIStatus{Phase: loader.Ready, Device: e.Device, Ifindex: 3}
		if k.waiting[e.Name] {
			s = loader.ENIStatus{Phase: loader.Waiting, Device: e.Device, Message: "no device " + e.Device}
		}
		r.ENIs[e.Name] = s
	}
	return r
}

type lockedAnnouncer struct {
	mu   sync.Mutex
	sent map[string]int
}

func (l *lockedAnnouncer) Announce(uplink string, addr netip.Addr) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent[uplink+" "+addr.String()]++
	return nil
}

func (l *lockedAnnouncer) all() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.sent)
}

// world is an agent and all around it.
type world struct {
	t        *testing.T
	feed     *fakeFeed
	kernel   *fakeKernel
	announce *lockedAnnouncer
	dir      string
	agent    *Agent
}

func newWorld(t *testing.T) *world {
	w := &world{
		t: t, dir: t.TempDir(), feed: &fakeFeed{says: make(chan feed.Update)},
		kernel: &fakeKernel{}, announce: &lockedAnnouncer{sent: map[string]int{}},
	}
	w.start()
	return w
}

// start makes a new agent over what the last one left.
func (w *world) start() {
	w.t.Helper()
	var err error
	if w.agent, err = w.create(); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) create() (*Agent, error) {
	return New(Options{
		Host: "host-a", Feed: "dir:/feed", StateDir: w.dir, MaxDeleteRatio: 0.2, Log: slog.New(slog.DiscardHandler),
		Source: w.feed, LastGood: w.feed.LastGood, Dataplane: w.kernel, Announcer: w.announce, Links: make(chan struct{}),
	})
}

// say lets the feed say something and the agent act on it.
func (w *world) say(u feed.Update) { w.agent.update(context.Background(), u) }

func (w *world) revision(number uint64, objects *api.Objects) *feed.Revision {
	return &feed.Revision{Number: number, Hash: fmt.Sprintf("hash-of-%d", number), Objects: objects}
}

// objects makes a feed with ENIs of host-a and host-b, and an EIP of the first of host-a.
func objects(t *testing.T, here, there []string) *api.Objects {
	t.Helper()
	var b strings.Builder
	doc := func(kind, name, format string, args ...any) {
		fmt.Fprintf(&b, "---\napiVersion: eniplane.io/v1alpha1\nkind: %s\nmetadata: {name: %s}\nspec: {%s}\n",
			kind, name, fmt.Sprintf(format, args...))
	}
	doc("Host", "host-a", "zone: z, vtep: 192.168.100.1, uplinks: [uplink0]")
	doc("Host", "host-b", "zone: z, vtep: 192.168.100.2, uplinks: [uplink0]")
	doc("InstanceType", "small", "maxENIs: 1, maxIPsPerENI: 1")
	doc("VPC", "red", "vni: 1001, cidrs: [10.0.0.0/16]")
	doc("Subnet", "web", "vpc: red, cidrs: [10.0.1.0/24], routeTable: public")
	doc("RouteTable", "public", "vpc: red, routes: [{destination: 0.0.0.0/0, target: internet}]")
	doc("SecurityGroup", "open", "vpc: red, ingress: [{protocol: all, from: [0.0.0.0/0]}]")
	eni := func(host, name string) {
		var n int
		if _, err := fmt.Sscanf(name, "eni-%d", &n); err != nil {
			t.Fatal(err)
		}
		doc("Instance", "vm-"+name, "host: %s, type: small", host)
		doc("ENI", name, `subnet: web, mac: "02:00:00:00:01:%02x", ips: [10.0.1.%d], securityGroups: [open], `+
			`attachment: {instance: vm-%s, index: 0, device: %s}`, n, n+10, name, name)
	}
	for _, name := range here {
		eni("host-a", name)
	}
	for _, name := range there {
		eni("host-b", name)
	}
	if len(here) > 0 {
		doc("EIP", "public", "address: 203.0.113.10, eni: %s", here[0])
	}
	o, wrong := api.Decode([]api.File{{Name: "test.yaml", Data: []byte(b.String())}})
	if len(wrong) > 0 {
		t.Fatal(api.Errors(wrong))
	}
	return o
}

// names returns eni-from, …, eni-to.
func names(from, to int) []string {
	var list []string
	for i := from; i <= to; i++ {
		list = append(list, fmt.Sprintf("eni-%d", i))
	}
	return list
}

func (w *world) wantInForce(number uint64) {
	w.t.Helper()
	if r := w.agent.revision(); r == nil || r.Number != number {
		w.t.Errorf("revision in force %v, want %d", r, number)
	}
}

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
	w.agent.retry(context.Background())
	w.wantInForce(1) // what the brake holds is not tried again

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
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
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
		known, err := dataplane.LoadNames(w.dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range st.ENIs {
			if ids.ENIs[e.Name].Incarnation != e.Incarnation {
				t.Errorf("revision %d: incarnation %d of %s is not in the file", st.Revision, e.Incarnation, e.Name)
			}
			if known.ENIs[e.Index] != e.Name {
				t.Errorf("revision %d: index %d of %s has no name", st.Revision, e.Index, e.Name)
			}
		}
	}
	w.say(feed.Update{Revision: w.revision(1, objects(t, names(1, 2), nil))})
	w.say(feed.Update{Revision: w.revision(2, objects(t, names(2, 4), nil))})
	if len(w.kernel.applied) != 2 {
		t.Fatalf("%d applies", len(w.kernel.applied))
	}
}

// TestNumbersSurviveACrash: the agent dies in the apply. Its successor gives the numbers to nobody else.
func TestNumbersSurviveACrash(t *testing.T) {
	w := newWorld(t)
	var used []uint32
	w.kernel.onApply = func(st *compile.State) {
		for _, e := range st.ENIs {
			used = append(used, e.Incarnation)
		}
	}
	w.kernel.fail = errors.New("killed")
	w.say(feed.Update{Revision: w.revision(1, objects(t, names(1, 2), nil))})
	w.start()
	w.kernel.fail = nil
	w.say(feed.Update{Revision: w.revision(2, objects(t, names(3, 4), nil))})
	slices.Sort(used)
	if unique := slices.Compact(slices.Clone(used)); len(unique) != 4 {
		t.Errorf("incarnations %v: some were given twice", used)
	}
}

func TestStartWithoutNumbers(t *testing.T) {
	w := newWorld(t)
	w.say(feed.Update{Revision: w.revision(1, objects(t, names(1, 2), nil))})
	if err := os.Remove(filepath.Join(w.dir, idsFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.create(); err == nil || !strings.Contains(err.Error(), "enictl teardown --host host-a") {
		t.Errorf("error %v", err)
	}
	w.kernel.applied = nil // as after a reboot
	if _, err := w.create(); err != nil {
		t.Error(err)
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
	w.kernel.fail = nil
	w.agent.retry(context.Background())
	w.wantInForce(2)
	w.agent.retry(context.Background())
	if len(w.kernel.applied) != 2 {
		t.Errorf("%d applies", len(w.kernel.applied))
	}
}

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

func TestAnnouncements(t *testing.T) {
	w := newWorld(t)
	w.kernel.waiting = map[string]bool{"eni-1": true}
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // one round only
	rounds := func() int {
		w.agent.announcements.Wait()
		return w.announce.all()["uplink0 203.0.113.10"]
	}
	w.agent.update(ctx, feed.Update{Revision: w.revision(1, objects(t, names(1, 2), nil))})
	if n := rounds(); n != 0 {
		t.Errorf("announced %d times although the ENI has no device", n)
	}
	w.kernel.waiting = nil
	w.agent.reconcile(ctx)
	w.agent.reconcile(ctx)
	if n := rounds(); n != 1 {
		t.Errorf("announced %d times, want once", n)
	}
	if e := w.agent.Status().EIPs; len(e) != 1 || !e[0].Announced || e[0].ENI != "eni-1" {
		t.Errorf("EIPs %v", e)
	}
	w.agent.update(ctx, feed.Update{Revision: w.revision(2, objects(t, nil, names(1, 2)))})
	w.agent.update(ctx, feed.Update{Revision: w.revision(3, objects(t, names(1, 2), nil))})
	if n := rounds(); n != 2 {
		t.Errorf("announced %d times, want again after it came back", n)
	}
	// A restored revision may be old: silence until the feed speaks.
	w.start()
	w.agent.restore(ctx)
	if n := rounds(); n != 2 {
		t.Errorf("announced %d times: a restored revision was announced", n)
	}
	w.agent.update(ctx, feed.Update{Revision: w.revision(3, objects(t, names(1, 2), nil))})
	if n := rounds(); n != 3 {
		t.Errorf("announced %d times, want again after the restart", n)
	}
}

func TestPeerIsRefused(t *testing.T) {
	w := newWorld(t)
	o := objects(t, names(1, 2), nil)
	o.Hosts["host-a"].Peer = netip.MustParseAddrPort("192.168.100.1:9967")
	w.say(feed.Update{Revision: w.revision(1, o)})
	if s := w.agent.Status(); s.Revision != nil || !strings.Contains(s.Feed.Error, "Host/host-a: spec.peer: is not supported by this version") {
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
	if code, _ := get("/readyz"); code != 503 {
		t.Errorf("/readyz %d after a revision that failed", code)
	}
	w.kernel.fail, w.kernel.waiting = nil, map[string]bool{"eni-1": true, "eni-2": true}
	w.agent.retry(context.Background())
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
