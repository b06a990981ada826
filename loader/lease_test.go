// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"testing"
	"time"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/dataplane/flowtable"
)

// XDP may deliver while the loader is open, however long, and not a moment longer.
func TestXDPLease(t *testing.T) {
	w := newWorld(t)
	l := w.open()
	until := func() (until uint32) {
		if err := l.Maps().Map(dataplane.MapXDPLease).Lookup(uint32(0), &until); err != nil {
			t.Fatal(err)
		}
		return until
	}
	first := until()
	if now, err := flowtable.Now(); err != nil || first < now {
		t.Fatalf("the lease ends at %d, now is %d (%v)", first, now, err)
	}
	for end := time.Now().Add(30 * time.Second); until() == first; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the lease is not renewed")
		}
	}
	pinned := l.Maps().Map(dataplane.MapXDPLease)
	pinned, err := pinned.Clone()
	if err != nil {
		t.Fatal(err)
	}
	defer pinned.Close()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	var left uint32
	if err := pinned.Lookup(uint32(0), &left); err != nil || left != 0 {
		t.Errorf("after the loader has gone the lease ends at %d, want 0 (%v)", left, err)
	}
}
