// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/trace"
)

// twinIDs lists the pinned twins by the names of their pins.
func twinPins(t *testing.T, l *Loader) []string {
	t.Helper()
	entries, err := os.ReadDir(trace.Dir(l.place.pins))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "map_") {
			info, err := e.Info()
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, e.Name()+info.ModTime().String())
		}
	}
	return names
}

// The agent pins twins once for the programs in force; enictl asks them without an object.
func TestTwins(t *testing.T) {
	w := newWorld(t)
	w.veth("port1")
	w.veth("port2")
	l := w.open()
	w.apply(l, testState(5, 2))
	do := func(fn func() error) {
		t.Helper()
		if err := w.host.Do(fn); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := trace.Open(l.place.pins, l.Maps()); !errors.Is(err, trace.ErrStale) {
		t.Fatalf("there are no twins yet, but: %v", err)
	}
	do(l.EnsureTwins)
	pinned := twinPins(t, l)
	do(l.EnsureTwins)
	if again := twinPins(t, l); strings.Join(again, " ") != strings.Join(pinned, " ") || len(pinned) != len(trace.Programs()) {
		t.Errorf("twins %v were pinned again as %v", pinned, again)
	}
	do(func() error { return askTwins(t, l) })

	// Those of another version are replaced.
	dir := trace.Dir(l.place.pins)
	for _, name := range pinned {
		old, _, _ := strings.Cut(name, "_")
		matches, err := filepath.Glob(filepath.Join(dir, old+"_*"))
		if err != nil || len(matches) != 1 {
			t.Fatalf("pins of %s: %v %v", old, matches, err)
		}
		if err := os.Rename(matches[0], filepath.Join(dir, old+"_0123456789abcdef")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := trace.Open(l.place.pins, l.Maps()); !errors.Is(err, trace.ErrStale) || !strings.Contains(err.Error(), "restart enid") {
		t.Errorf("twins of another version: %v", err)
	}
	do(l.EnsureTwins)
	do(func() error { return askTwins(t, l) })
}

// askTwins asks about a packet from one ENI to another, twice, with the answer.
func askTwins(t *testing.T, l *Loader) error {
	twin, err := trace.Open(l.place.pins, l.Maps())
	if err != nil {
		return err
	}
	defer func() { _ = twin.Close() }()
	names := compile.Names{ENIs: map[uint32]string{1: "one", 2: "two"}, Rules: map[uint32]compile.RuleName{1: {Direction: "ingress", Name: "open/any"}}}
	for range 2 {
		tracer, err := trace.NewTracer(twin, names)
		if err != nil {
			return err
		}
		r, err := tracer.Out(1, trace.Question{Protocol: 17, Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.2"), SrcPort: 1, DstPort: 2})
		if err != nil {
			return err
		}
		if r.Verdict != "delivered" || r.At != "two in" || len(r.Stages) < 6 {
			t.Errorf("report = %+v", r)
		}
		back, err := tracer.Reply(r)
		if err != nil {
			return err
		}
		if back.Verdict != "delivered" || back.At != "one in" {
			t.Errorf("report of the answer = %+v", back)
		}
	}
	n := 0
	if err := l.Maps().Flows(func(dataplane.Flow) bool { n++; return true }); err != nil || n != 0 {
		t.Errorf("a trace has made %d flows, %v", n, err)
	}
	return nil
}
