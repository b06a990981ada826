// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/lab"
)

// onTinyDisk moves the state of a host whose agent is stopped to a file system of its own.
func onTinyDisk(t *testing.T, l *lab.Lab, host string) (dir string) {
	t.Helper()
	dir = dataplane.HostStateDir(l.AgentStateDir(), host)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for _, e := range entries {
		if files[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount("tiny", dir, "tmpfs", 0, "size=1m,mode=0700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// fill leaves no room on a file system. It returns the file that takes it.
func fill(t *testing.T, dir string) (ballast string) {
	t.Helper()
	ballast = filepath.Join(dir, "ballast")
	f, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for {
		if _, err := f.Write(make([]byte, 4096)); errors.Is(err, unix.ENOSPC) {
			return ballast
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// TestDiskFull: without room for its state an agent brings nothing into force and says so; what is in force stays, also
// when the agent starts again. When there is room it goes on by itself.
func TestDiskFull(t *testing.T) {
	l := up(t, false)
	if err := l.StopAgent("host-a"); err != nil {
		t.Fatal(err)
	}
	dir := onTinyDisk(t, l, "host-a")
	revive(t, l, "host-a")
	ballast := fill(t, dir)
	revision, err := l.EditFeed(lab.Edit{Kind: "SecurityGroup", Name: "strict", Change: func(spec *yaml.Node) error {
		return lab.Set(spec, "ingress", []any{map[string]any{"protocol": "udp", "ports": []any{9999}, "from": []any{"0.0.0.0/0", "::/0"}}})
	}})
	if err != nil {
		t.Fatal(err)
	}
	waitRefused(t, l, "host-a")
	judged(t, l) // by the old one
	allowed(t, l, probe{from: "a2", to: "a3", protocol: "udp", port: 53})
	if err := l.KillAgent("host-a"); err != nil {
		t.Fatal(err)
	}
	if err := l.StartAgent("host-a"); err != nil {
		t.Fatal(err)
	}
	waitRefused(t, l, "host-a")
	if code, body, err := l.AgentGet(context.Background(), "host-a", "/readyz"); code != 503 {
		t.Errorf("an agent that could bring nothing into force is ready: %d %s %v", code, body, err)
	}
	judged(t, l)
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := l.WaitRevisionAll(context.Background(), revision); err != nil {
		t.Fatal(err)
	}
	allowed(t, l, probe{from: "a2", to: "a3", protocol: "udp", port: 9999})
	denied(t, l, probe{from: "a2", to: "a3", protocol: "udp", port: 53}, "a3", dataplane.In, dataplane.ReasonSGDenied)
}

// TestFeedGone: the feed is gone for long, and the agent dies and starts meanwhile. It says so and for how long, what was
// in force is in force, and devices are served as ever. When the feed is back its next revision is taken.
func TestFeedGone(t *testing.T) {
	l := up(t, false)
	away := l.FeedDir() + ".away"
	if err := os.Rename(l.FeedDir(), away); err != nil {
		t.Fatal(err)
	}
	rest := 3 * time.Second
	if soak() {
		rest = 3 * time.Minute
	}
	waitRefused(t, l, "host-a")
	time.Sleep(rest)
	judged(t, l)
	if err := l.KillAgent("host-a"); err != nil {
		t.Fatal(err)
	}
	revive(t, l, "host-a")
	waitRefused(t, l, "host-a")
	judged(t, l)
	if err := l.UnplugPort("a2"); err != nil {
		t.Fatal(err)
	}
	waitPhase(t, l, "host-a", "a2", "Waiting")
	if err := l.PlugPort("a2"); err != nil {
		t.Fatal(err)
	}
	waitPhase(t, l, "host-a", "a2", "Ready")
	judged(t, l)
	if s := agentStatus(t, l, "host-a"); s.Feed.Error == "" {
		t.Error("the agent does not tell any more that the feed is gone")
	}
	if err := os.Rename(away, l.FeedDir()); err != nil {
		t.Fatal(err)
	}
	revision, err := l.EmptyGroup("open")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.WaitRevisionAll(context.Background(), revision); err != nil {
		t.Fatal(err)
	}
	denied(t, l, probe{from: "a2", to: "b1", protocol: "tcp", port: 80}, "b1", dataplane.In, dataplane.ReasonSGDenied)
}
