// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/eniplane/eniplane/loader"
	"github.com/eniplane/eniplane/pkg/announce"
	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/feed"
)

// fakeFeed says what the test tells it to say, and keeps the last good revision in memory.
type fakeFeed struct {
	says chan feed.Update
	good *feed.Revision
	fail error // of LastGood
}

func (f *fakeFeed) Run(ctx context.Context, _ uint64, updates chan<- feed.Update) error {
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
	degraded   map[string]bool
	problems   []string
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
	r := &loader.Report{ENIs: map[string]loader.ENIStatus{}, Problems: k.problems}
	if len(k.applied) == 0 {
		return r
	}
	r.Revision = k.last().Revision
	for _, e := range k.last().ENIs {
		s := loader.ENIStatus{Phase: loader.Ready, Device: e.Device, Ifindex: 3}
		if k.waiting[e.Name] {
			s = loader.ENIStatus{Phase: loader.Waiting, Device: e.Device, Message: "no device " + e.Device}
		}
		if k.degraded[e.Name] {
			s = loader.ENIStatus{Phase: loader.Degraded, Device: e.Device, Message: "no memory"}
		}
		r.ENIs[e.Name] = s
	}
	return r
}

// fakeAnnouncer keeps what it was told.
type fakeAnnouncer struct {
	held     []announce.Held
	problems []string
}

func (f *fakeAnnouncer) Announce(_ context.Context, held announce.Held) {
	f.held = append(f.held, held)
}
func (f *fakeAnnouncer) Withdraw()          {}
func (f *fakeAnnouncer) Problems() []string { return f.problems }
func (f *fakeAnnouncer) Wait()              {}

func (f *fakeAnnouncer) last() announce.Held { return f.held[len(f.held)-1] }

// world is an agent and all around it.
type world struct {
	t         *testing.T
	feed      *fakeFeed
	kernel    *fakeKernel
	announcer *fakeAnnouncer
	dir       string
	agent     *Agent

	obstacles []string
}

func newWorld(t *testing.T) *world {
	w := &world{
		t: t, dir: t.TempDir(), feed: &fakeFeed{says: make(chan feed.Update)},
		kernel: &fakeKernel{}, announcer: &fakeAnnouncer{},
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
		Source: w.feed, LastGood: w.feed.LastGood, Dataplane: w.kernel, Announcer: w.announcer, Links: make(chan struct{}), Obstacles: func() []string { return w.obstacles },
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
