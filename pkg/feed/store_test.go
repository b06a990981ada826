// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLastGoodIsOfferedFirst(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.write("a.yaml", vpc("a", 1))
	b.start()
	b.revision()
	b.write("a.yaml", vpc("a", 2))
	second := b.revision()
	must(t, b.source.Commit(second))
	b.write("a.yaml", vpc("a", 3))
	b.revision() // the agent refuses it: not committed
	must(t, os.Rename(b.dir, b.dir+".gone"))
	for b.next().Err == nil {
	}
	b.restart()
	u := b.next()
	if !u.Restored || u.Revision.Number != 2 || vni(u.Revision, "a") != 2 || u.Revision.Hash != second.Hash {
		t.Fatalf("got %+v (%v)", u.Revision, u.Err)
	}
	b.failure("read feed dir:" + b.dir + ": open " + b.dir + ": no such file or directory")
	must(t, os.Rename(b.dir+".gone", b.dir))
	if r := b.revision(); r.Number != 3 || vni(r, "a") != 3 {
		t.Fatalf("got %+v", r)
	}
}

func TestSameRevisionAfterRestart(t *testing.T) {
	t.Parallel()
	for _, mark := range []string{"", "41"} {
		b := newBench(t)
		b.write("a.yaml", vpc("a", 1))
		if mark != "" {
			b.write("REVISION", mark)
		}
		b.start()
		first := b.revision()
		must(t, b.source.Commit(first))
		b.restart()
		if u := b.next(); !u.Restored {
			t.Fatalf("got %+v", u)
		}
		if r := b.revision(); r.Number != first.Number || r.Hash != first.Hash {
			t.Fatalf("got revision %d, want %d again from the feed", r.Number, first.Number)
		}
		b.stop()
	}
}

func TestOlderMarkAfterRestart(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.write("a.yaml", vpc("a", 1))
	b.write("REVISION", "9")
	b.start()
	must(t, b.source.Commit(b.revision()))
	b.stop()
	b.write("REVISION", "8")
	b.start()
	b.next()
	b.failure("refuse feed dir:" + b.dir + ": REVISION is 8, older than 9 which has been seen (write a greater number)")
}

func TestLastGood(t *testing.T) {
	dir := t.TempDir()
	if r, err := LastGood(dir); r != nil || err != nil {
		t.Fatalf("without any: %v, %v", r, err)
	}
	b := newBench(t)
	b.write("a.yaml", vpc("a", 1))
	b.start()
	want := b.revision()
	must(t, b.source.Commit(want))
	must(t, b.source.Commit(want))
	path := filepath.Join(b.stateDir, lastGoodName)
	got, err := LastGood(b.stateDir)
	if err != nil || !cmp.Equal(got.Files, want.Files) || got.Number != 1 || got.Hash != want.Hash || vni(got, "a") != 1 {
		t.Fatalf("got %+v, %v", got, err)
	}
	entries, err := os.ReadDir(b.stateDir)
	must(t, err)
	if len(entries) != 1 {
		t.Errorf("beside the revision there is %v", entries)
	}
	data, err := os.ReadFile(path)
	must(t, err)
	for n := range data {
		must(t, os.WriteFile(path, data[:n], 0o600))
		if r, err := LastGood(b.stateDir); r != nil || err == nil {
			t.Fatalf("torn after %d of %d bytes: %v, %v", n, len(data), r, err)
		}
	}
	for n := range data {
		broken := append([]byte(nil), data...)
		broken[n] ^= 0x40
		must(t, os.WriteFile(path, broken, 0o600))
		if r, err := LastGood(b.stateDir); r != nil || err == nil {
			t.Fatalf("byte %d wrong: %v, %v", n, r, err)
		}
	}
	b.restart()
	if u := b.next(); u.Err == nil || !strings.Contains(u.Err.Error(), "torn") {
		t.Errorf("got %+v", u)
	}
	b.revision()
}

// What another version wrote may be refused by this one; its number still counts.
func TestLastGoodOfAnotherVersion(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.write("a.yaml", vpc("a", 1))
	b.start()
	r := *b.revision()
	b.stop()
	r.Number = 12
	r.Files[0].Data = []byte(strings.Replace(vpc("a", 1), "vni", "vnid", 1))
	must(t, save(b.stateDir, &r))
	b.start()
	if u := b.next(); u.Err == nil || !strings.Contains(u.Err.Error(), "this version refuses it: a.yaml:4: VPC/a: spec.vni: is missing") {
		t.Errorf("got %v", u.Err)
	}
	if r := b.revision(); r.Number != 12 {
		// The hash is that of the text before the test changed it.
		t.Errorf("got revision %d, want 12", r.Number)
	}
}

func TestCommitFails(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.write("a.yaml", vpc("a", 1))
	b.start()
	r := b.revision()
	must(t, os.WriteFile(b.stateDir, nil, 0o600))
	if err := b.source.Commit(r); err == nil || !strings.HasPrefix(err.Error(), "keep revision 1: ") {
		t.Errorf("got %v", err)
	}
}

// TestNumbersStayAboveWhatIsInForce: the state on disk is lost or behind, the kernel's revision is not.
func TestNumbersStayAboveWhatIsInForce(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.inForce = 57
	b.write("a.yaml", vpc("a", 1))
	b.start()
	first := b.revision()
	if first.Number != 58 {
		t.Fatalf("without state: got revision %d, want 58", first.Number)
	}
	must(t, b.source.Commit(first))
	b.stop()
	b.inForce = 60 // two revisions could not be kept
	b.start()
	if u := b.next(); !u.Restored || u.Revision.Number != 58 {
		t.Fatalf("got %+v", u)
	}
	if r := b.revision(); r.Number != 61 {
		t.Fatalf("with old state: got revision %d, want 61", r.Number)
	}
	b.write("REVISION", "59")
	b.failure("refuse feed dir:" + b.dir + ": REVISION is 59, older than 60 which is in force (write a greater number)")
	b.write("REVISION", "62")
	if r := b.revision(); r.Number != 62 {
		t.Fatalf("got revision %d, want 62", r.Number)
	}
}
