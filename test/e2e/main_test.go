// SPDX-License-Identifier: Apache-2.0

// Package e2e drives whole labs: real sockets in namespaces, the real agent, the feed as files.
// It uses the same lab package as `enictl lab`. Most tests share one lab, which is never left in
// another state than it was found in; those that break things bring up their own.
package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/eniplane/eniplane/pkg/lab"
	"github.com/eniplane/eniplane/pkg/testroot"
)

// made are the labs of this process, for the end of all tests and for an interrupt.
type made struct {
	mu    sync.Mutex
	names []string
	bin   string // directory of the binaries
}

// labs is what TestMain has to clean up after.
var labs made

func TestMain(m *testing.M) {
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		<-interrupted
		fmt.Fprintln(os.Stderr, "interrupted", labs.clean())
		os.Exit(1)
	}()
	if err := lab.DownAll(testroot.Abandoned); err != nil { // of runs that were killed
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if err := labs.clean(); err != nil {
		fmt.Fprintln(os.Stderr, "clean up:", err)
		code = 1
	}
	os.Exit(code)
}

func (m *made) clean() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	for _, name := range m.names {
		errs = append(errs, lab.Down(name))
	}
	if m.bin != "" {
		errs = append(errs, os.RemoveAll(m.bin))
	}
	m.names, m.bin = nil, ""
	return errors.Join(errs...)
}

// binary builds a command of this tree once. Where there is no compiler, ENIPLANE_BIN names the directory of those
// that were built before: test/kernel does so.
func (m *made) binary(t *testing.T, name string) string {
	t.Helper()
	if dir := os.Getenv("ENIPLANE_BIN"); dir != "" {
		return filepath.Join(dir, name)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.bin == "" {
		dir, err := os.MkdirTemp("", "eniplane-e2e-")
		if err != nil {
			t.Fatal(err)
		}
		m.bin = dir
	}
	path := filepath.Join(m.bin, name)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	build := exec.Command("go", "build", "-o", path, "./cmd/"+name)
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", name, err, out)
	}
	return path
}

// up brings up a lab that lives until the end of the test, or of all tests if it is shared.
func up(t *testing.T, shared bool) *lab.Lab {
	t.Helper()
	return upFrom(t, "testdata/lab.yaml", shared)
}

func upFrom(t *testing.T, topology string, shared bool) *lab.Lab {
	t.Helper()
	testroot.Require(t)
	name := testroot.Name()
	labs.mu.Lock()
	labs.names = append(labs.names, name)
	labs.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	l, err := lab.Up(ctx, topology, lab.Options{Name: name, Enid: labs.binary(t, "enid")})
	if err != nil {
		t.Fatal(err)
	}
	if !shared {
		t.Cleanup(func() {
			if t.Failed() {
				logAgents(t, l)
			}
			if err := lab.Down(name); err != nil {
				t.Errorf("take the lab down: %v", err)
			}
		})
	}
	return l
}

// sharedLab is brought up by the first test that wants it.
var sharedLab = struct {
	once sync.Once
	lab  *lab.Lab
}{}

// common is the lab that tests share. After each, nothing is unaccounted for.
func common(t *testing.T) *lab.Lab {
	t.Helper()
	testroot.Require(t)
	sharedLab.once.Do(func() { sharedLab.lab = up(t, true) })
	if sharedLab.lab == nil {
		t.Fatal("the lab did not come up, see the first test")
	}
	t.Cleanup(func() { balanced(t, sharedLab.lab) })
	return sharedLab.lab
}

// balanced wants each ENI's packets accounted for, in each direction (invariant 5). A packet may be
// on its way, so it looks until it is true.
func balanced(t *testing.T, l *lab.Lab) {
	t.Helper()
	var wrong []string
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		c, err := l.Counters()
		if err != nil {
			t.Fatal(err)
		}
		if len(c) == 0 {
			t.Fatal("no counter is above zero: nothing was counted")
		}
		if wrong = c.Unbalanced(); len(wrong) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Errorf("packets are not accounted for: %q", wrong)
			return
		}
	}
}

// logAgents shows what the agents said.
func logAgents(t *testing.T, l *lab.Lab) {
	t.Helper()
	for _, h := range l.Plan.Hosts {
		t.Log(l.LogTail(h.Name))
	}
}
