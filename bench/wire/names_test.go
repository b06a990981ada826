// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/eniplane/eniplane/bench"
	"github.com/eniplane/eniplane/pkg/lab"
	"github.com/eniplane/eniplane/pkg/lab/netnsdir"
	"github.com/eniplane/eniplane/pkg/testroot"
)

// left lists what this process has made and not removed.
func left(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, dir := range []string{netnsdir.Dir, bpffs, runDir} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), fmt.Sprintf("eb%d-", os.Getpid())) {
				all = append(all, filepath.Join(dir, e.Name()))
			}
		}
	}
	return all
}

// A run that is stopped in the middle removes all that it made.
func TestStopped(t *testing.T) {
	testroot.Require(t)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for len(left(t)) < 8 && ctx.Err() == nil { // some sites are up
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	runner := bench.Runner{Settings: bench.Settings{Size: bench.Tiny, Repeats: 100, Seed: 1}, Progress: t.Output()}
	_, err := runner.Do(ctx, []bench.Scenario{{Name: "forwarding/x", Run: forwardingIn(true)}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("a stopped run ends with %v", err)
	}
	if all := left(t); len(all) > 0 {
		t.Errorf("left behind: %v", all)
	}
}

// What a killed run left is swept by the next one, its processes too; what belongs to a living one stays.
func TestSweep(t *testing.T) {
	testroot.Require(t)
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("eb%d-1", dead.Process.Pid)
	ns, err := lab.NewNamespace(name + "-host")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close() //nolint:errcheck // it is only a handle
	dir := filepath.Join(runDir, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	sleeper := exec.Command("sh", "-c", "sleep 60; :", dir+"/x")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "x.pid"), fmt.Appendln(nil, sleeper.Process.Pid), 0o600); err != nil {
		t.Fatal(err)
	}
	ours := newName()
	if err := os.MkdirAll(filepath.Join(runDir, ours), 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(filepath.Join(runDir, ours))
	if err := sweep(); err != nil {
		t.Fatal(err)
	}
	if err := sleeper.Wait(); err == nil {
		t.Error("the process of the killed run ended by itself")
	}
	for _, path := range []string{dir, filepath.Join(netnsdir.Dir, name+"-host")} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there (%v)", path, err)
		}
	}
	if _, err := os.Stat(filepath.Join(runDir, ours)); err != nil {
		t.Errorf("what belongs to a living run is gone: %v", err)
	}
}
