// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/lab"
)

// TestMigrate: an instance moves to the other host and back with its flows: a connection goes on, a stream loses nothing.
// Everything can be reached afterwards, and nothing more than before.
func TestMigrate(t *testing.T) {
	l := common(t)
	for _, to := range []string{"host-b", "host-a"} {
		r, err := l.Migrate(context.Background(), "vm-m", to, internetNode)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("to %s: UDP %s; TCP %s", to, r.UDP, r.TCP)
		if r.UDP.Returned == 0 || r.UDP.Lost() != 0 || r.UDP.Repeated != 0 {
			t.Errorf("the stream: %s", r.UDP)
		}
		if r.TCP.Blocks == 0 || r.TCP.Broken != nil {
			t.Errorf("the connection: %s", r.TCP)
		}
		for _, f := range []lab.Family{lab.IPv4, lab.IPv6} {
			for _, peer := range []string{"a1", "a2", "b1"} {
				allowed(t, l, probe{from: "m", to: peer, protocol: "tcp", port: 80, family: f})
				allowed(t, l, probe{from: peer, to: "m", protocol: "udp", port: 80, family: f})
			}
			denied(t, l, probe{from: "m", to: "b2", protocol: "tcp", port: 22, family: f}, "b2", dataplane.In, dataplane.ReasonSGDenied)
		}
		allowed(t, l, probe{from: internetNode, to: "m", protocol: "tcp", port: 443})
		denied(t, l, probe{from: internetNode, to: "m", protocol: "tcp", port: 23}, "m", dataplane.In, dataplane.ReasonNACLDenied)
		waitPhase(t, l, to, "m", "Ready")
	}
}

// logDrops says at the end of a test that has failed what was dropped meanwhile.
func logDrops(t *testing.T, l *lab.Lab) {
	t.Helper()
	before := counters(t, l)
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		for key, n := range counters(t, l) {
			if n > before[key] && key.Reason != dataplane.ReasonContinue && key.Reason != dataplane.ReasonDelivered {
				t.Logf("+%d %s", n-before[key], key)
			}
		}
	})
}

// TestMigrateFaults: an agent dies at each step of a migration and comes back later, and the instance goes back at once. No
// connection ends and nothing is lost: what is in force does not need agents, and what was not told is told again. Half of
// the steps, since agents start slowly; in make soak all.
func TestMigrateFaults(t *testing.T) {
	l := common(t)
	logDrops(t, l)
	here, there := "host-a", "host-b"
	for _, tt := range []struct {
		name string
		who  func() string
		hook func(h *lab.MigrateHooks, kill, start func() error)
		long bool
	}{
		{"source while it prepares", func() string { return here }, restartAnnounced, true},
		{"target while it prepares", func() string { return there }, restartAnnounced, false},
		{"source prepared", func() string { return here }, restartPrepared, true},
		{"target prepared", func() string { return there }, restartPrepared, true},
		{"source does not hear that it is over", func() string { return here }, deafToTheEnd, false},
		{"target does not hear that it is over", func() string { return there }, deafToTheEnd, false},
		{"source at the end", func() string { return here }, restartDecided, false},
		{"target at the end", func() string { return there }, restartDecided, true},
	} {
		host := tt.who()
		if tt.long && !soak() {
			continue
		}
		var hooks lab.MigrateHooks
		tt.hook(&hooks, func() error { return l.KillAgent(host) }, func() error { return l.StartAgent(host) })
		r, err := l.MigrateWith(context.Background(), "vm-m", there, internetNode, hooks)
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		wantWhole(t, tt.name, r)
		denied(t, l, probe{from: internetNode, to: "m", protocol: "tcp", port: 23}, "m", dataplane.In, dataplane.ReasonNACLDenied)
		here, there = there, here
	}
	for range 2 { // back before anything is settled
		r, err := l.MigrateWith(context.Background(), "vm-m", there, internetNode, lab.MigrateHooks{})
		if err != nil {
			t.Fatal(err)
		}
		wantWhole(t, "at once to "+there, r)
		here, there = there, here
	}
	waitPhase(t, l, here, "m", "Ready")
}

func wantWhole(t *testing.T, name string, r *lab.MigrationReport) {
	t.Helper()
	t.Logf("%s: UDP %s; TCP %s", name, r.UDP, r.TCP)
	if r.UDP.Returned == 0 || r.UDP.Lost() != 0 || r.UDP.Repeated != 0 {
		t.Errorf("%s: the stream: %s, %d repeated", name, r.UDP, r.UDP.Repeated)
	}
	if r.TCP.Blocks == 0 || r.TCP.Broken != nil {
		t.Errorf("%s: the connection: %s", name, r.TCP)
	}
}

// whileDead is long enough for all others to go on.
const whileDead = 300 * time.Millisecond

func restart(kill, start func() error) func() error {
	return func() error {
		if err := kill(); err != nil {
			return err
		}
		time.Sleep(whileDead)
		return start()
	}
}

func restartAnnounced(h *lab.MigrateHooks, kill, start func() error) {
	h.Announced = restart(kill, start)
}

func restartPrepared(h *lab.MigrateHooks, kill, start func() error) {
	h.Prepared = restart(kill, start)
}

func restartDecided(h *lab.MigrateHooks, kill, start func() error) { h.Decided = restart(kill, start) }

func deafToTheEnd(h *lab.MigrateHooks, kill, start func() error) {
	h.Prepared = kill
	h.Decided = func() error {
		time.Sleep(whileDead)
		return start()
	}
}

// TestMigrateUnderLoad: an instance moves to and fro under 20,000 datagrams a second and 200 connections, opened by both
// sides. Nothing is lost or repeated, and no connection ends. In make soak it moves 100 times.
func TestMigrateUnderLoad(t *testing.T) {
	l := common(t)
	logDrops(t, l)
	moves := 4
	if soak() {
		moves = 100
	}
	from, to, err := l.Spots("m", "b1", lab.IPv4)
	if err != nil {
		t.Fatal(err)
	}
	load, err := l.StartLoad(context.Background(), from, to, lab.LoadPlan{Port: 7100, Rate: 10_000, Connections: 100})
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	for i := range moves {
		host := []string{"host-b", "host-a"}[i%2]
		if err := l.Move(context.Background(), "vm-m", host); err != nil {
			t.Errorf("move %d: %v", i+1, err)
			break
		}
		denied(t, l, probe{from: internetNode, to: "m", protocol: "tcp", port: 23}, "m", dataplane.In, dataplane.ReasonNACLDenied)
	}
	spent := time.Since(start)
	r := load.Stop()
	t.Logf("%d moves in %v: %s", moves, spent.Round(time.Millisecond), r)
	for name, way := range map[string]lab.OneWay{"there": r.There, "back": r.Back} {
		if way.Arrived == 0 || way.Lost() != 0 || way.Repeated != 0 {
			t.Errorf("%s: %s", name, way)
		}
	}
	for _, err := range r.Broken {
		t.Errorf("broken: %v", err)
	}
	if r.Connections != 200 || r.Blocks < 200 {
		t.Errorf("%d connections, %d blocks", r.Connections, r.Blocks)
	}
	if at := l.Plan.Instance("vm-m").Host; at != "host-a" { // where other tests expect it
		if err := l.Move(context.Background(), "vm-m", "host-a"); err != nil {
			t.Fatal(err)
		}
	}
}

// TestMigrateState: what is let in by state alone goes on at the other host, also if the groups change in the middle; and
// nothing else is let in.
func TestMigrateState(t *testing.T) {
	l := common(t)
	logDrops(t, l)
	groups := func(names ...string) {
		t.Helper()
		revision, err := l.EditFeed(lab.Edit{Kind: "ENI", Name: "m", Change: func(spec *yaml.Node) error { return lab.Set(spec, "securityGroups", names) }})
		if err != nil {
			t.Fatal(err)
		}
		if err := l.WaitRevisionAll(context.Background(), revision); err != nil {
			t.Fatal(err)
		}
	}
	groups("outward")
	defer groups("open")
	from, to, err := l.Spots("m", "b1", lab.IPv4)
	if err != nil {
		t.Fatal(err)
	}
	load, err := l.StartLoad(context.Background(), from, to, lab.LoadPlan{Port: 7300, Rate: 500, Connections: 20, OneSide: true})
	if err != nil {
		t.Fatal(err)
	}
	for i, host := range []string{"host-b", "host-a"} {
		if err := l.Prepare(context.Background(), "vm-m", host); err != nil {
			t.Fatal(err)
		}
		groups([]string{"outward", "client"}[:2-i]...)
		if err := l.Move(context.Background(), "vm-m", host); err != nil {
			t.Fatal(err)
		}
		denied(t, l, probe{from: "a1", to: "m", protocol: "tcp", port: 80}, "m", dataplane.In, dataplane.ReasonSGDenied)
	}
	r := load.Stop()
	t.Log(r)
	if r.There.Arrived == 0 || r.There.Lost()+r.Back.Lost()+r.There.Repeated+r.Back.Repeated+len(r.Broken) != 0 || r.Blocks == 0 {
		t.Errorf("%s %v", r, r.Broken)
	}
}

// TestMigrateVerb: one command moves an instance, on a feed in a directory.
func TestMigrateVerb(t *testing.T) {
	l := common(t)
	logDrops(t, l)
	enictl := labs.binary(t, "enictl")
	for _, to := range []string{"host-b", "host-a"} {
		moveByVerb(t, l, to, func(args ...string) *exec.Cmd {
			return exec.Command(enictl, append(args, "--feed", "dir:"+l.FeedDir(), "--state-dir", l.AgentStateDir())...)
		}, func(cmd *exec.Cmd) error { return cmd.Start() })
		waitPhase(t, l, to, "m", "Ready")
	}
}

// TestMigrateVerbEtcd: the same on a feed in etcd, whose agents tell how far they are.
func TestMigrateVerbEtcd(t *testing.T) {
	e := upEtcd(t)
	for _, to := range []string{"host-b", "host-a"} {
		moveByVerb(t, e.Lab, to, func(args ...string) *exec.Cmd {
			return exec.Command(e.enictl, append(args, "--feed", e.Source)...)
		}, func(cmd *exec.Cmd) error { return e.In("internet", func(*lab.Namespace) error { return cmd.Start() }) })
		waitPhase(t, e.Lab, to, "m", "Ready")
		if said := e.ctl(true, "get", "instance", "vm-m", "-o", "yaml"); strings.Contains(said, "migration") {
			t.Errorf("the migration is not over:\n%s", said)
		}
	}
}

// moveByVerb prepares and moves vm-m by two calls of enictl while streams run. The machine moves when the command says
// that it may: by --hook.
func moveByVerb(t *testing.T, l *lab.Lab, to string, command func(...string) *exec.Cmd, start func(*exec.Cmd) error) {
	t.Helper()
	dir := t.TempDir()
	open, done := filepath.Join(dir, "open"), filepath.Join(dir, "done")
	run := func(args ...string) (*exec.Cmd, *bytes.Buffer) {
		var out bytes.Buffer
		cmd := command(append([]string{"instance", "migrate", "vm-m", "--to", to}, args...)...)
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := start(cmd); err != nil {
			t.Fatal(err)
		}
		return cmd, &out
	}
	from, peer, err := l.Spots("m", "b1", lab.IPv4)
	if err != nil {
		t.Fatal(err)
	}
	load, err := l.StartLoad(context.Background(), from, peer, lab.LoadPlan{Port: 7200, Rate: 1000, Connections: 10})
	if err != nil {
		t.Fatal(err)
	}
	cmd, out := run("--prepare")
	if err := cmd.Wait(); err != nil {
		t.Fatalf("prepare: %v\n%s", err, out)
	}
	err = l.MoveBy(context.Background(), "vm-m", to, func(arrived func() error) error {
		cmd, out := run("--hook", "touch "+open+"; while [ ! -e "+done+" ]; do sleep 0.01; done")
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		for {
			if _, err := os.Stat(open); err == nil {
				break
			}
			select {
			case err := <-ended:
				return fmt.Errorf("it ended before the machine could move: %w\n%s", err, out)
			case <-time.After(5 * time.Millisecond):
			}
		}
		if err := arrived(); err != nil {
			return err
		}
		if err := os.WriteFile(done, nil, 0o600); err != nil {
			return err
		}
		if err := <-ended; err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
		return nil
	})
	r := load.Stop()
	t.Logf("to %s: %s", to, r)
	if err != nil {
		t.Fatal(err)
	}
	if r.There.Arrived == 0 || r.There.Lost()+r.Back.Lost()+r.There.Repeated+r.Back.Repeated+len(r.Broken) != 0 || r.Blocks == 0 {
		t.Errorf("%s %v", r, r.Broken)
	}
}
