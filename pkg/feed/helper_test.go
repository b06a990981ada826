// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// patient is how long a test waits for what must come.
const patient = 20 * time.Second

// bench is a directory, its source at work, and what it has said.
type bench struct {
	t        *testing.T
	dir      string
	stateDir string
	updates  chan Update
	source   Source
	inForce  uint64 // what the kernel holds when the source starts
	stop     func()

	openOther func() (Source, error) // nil = the directory
}

func newBench(t *testing.T) *bench {
	root := t.TempDir()
	b := &bench{t: t, dir: filepath.Join(root, "feed"), stateDir: filepath.Join(root, "state"), stop: func() {}}
	if err := os.Mkdir(b.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.stop() })
	return b
}

// open opens the source: of a directory unless the test wants another.
func (b *bench) open() (Source, error) {
	if b.openOther != nil {
		return b.openOther()
	}
	return Open("dir:"+b.dir, Options{StateDir: b.stateDir})
}

// start runs the source until stop, or the end of the test.
func (b *bench) start() {
	b.t.Helper()
	source, err := b.open()
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	b.source, b.updates = source, make(chan Update)
	go func() { done <- source.Run(ctx, b.inForce, b.updates) }()
	b.stop = func() {
		b.stop = func() {}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			b.t.Errorf("Run ends with %v", err)
		}
	}
}

func (b *bench) restart() {
	b.stop()
	b.start()
}

// next waits for an update.
func (b *bench) next() Update {
	b.t.Helper()
	select {
	case u := <-b.updates:
		return u
	case <-time.After(patient):
		b.t.Fatal("no update")
		return Update{}
	}
}

// revision waits for a fresh revision; an error is one of the test.
func (b *bench) revision() *Revision {
	b.t.Helper()
	u := b.next()
	if u.Err != nil {
		b.t.Fatalf("got the error %v, want a revision", u.Err)
	}
	if u.Restored {
		b.t.Fatal("got the last good revision, want a fresh one")
	}
	return u.Revision
}

// failure waits for an error and compares its text.
func (b *bench) failure(want string) {
	b.t.Helper()
	u := b.next()
	if u.Err == nil {
		b.t.Fatalf("got revision %d, want the error %s", u.Revision.Number, want)
	}
	if u.Err.Error() != want {
		b.t.Errorf("got the error\n%v\nwant\n%s", u.Err, want)
	}
}

// silence checks that nothing is said for a while.
func (b *bench) silence(d time.Duration) {
	b.t.Helper()
	select {
	case u := <-b.updates:
		b.t.Fatalf("got %+v (%v), want nothing", u.Revision, u.Err)
	case <-time.After(d):
	}
}

func (b *bench) write(name, text string) {
	b.t.Helper()
	must(b.t, os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o644))
}

func (b *bench) remove(name string) {
	b.t.Helper()
	must(b.t, os.Remove(filepath.Join(b.dir, name)))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// vpc is an object file whose content tells states apart.
func vpc(name string, vni int) string {
	return fmt.Sprintf("apiVersion: eniplane.io/v1alpha1\nkind: VPC\nmetadata: {name: %s}\nspec: {vni: %d, cidrs: [10.0.0.0/16]}\n", name, vni)
}

// vni returns the VNI of a VPC, 0 if there is none.
func vni(r *Revision, name string) uint32 {
	if v := r.Objects.VPCs[name]; v != nil {
		return v.VNI
	}
	return 0
}
