// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// writer brings a directory from state to state by every bad habit of writers. State n consists of
// some of the files f0.yaml to f5.yaml, each with objects that bear n.
type writer struct {
	t   *testing.T
	dir string
	rng *rand.Rand

	last  time.Time
	pause atomic.Int64 // the longest moment without a change while a state was incomplete
}

const tortureFiles = 6

func fileName(i int) string { return fmt.Sprintf("f%d.yaml", i) }

// has tells whether state n has file i: each file is missing in some of the states.
func has(n, i int) bool { return (n+i)%4 != 0 }

func content(n, i int) string {
	return vpc(fmt.Sprintf("v%d", i), n*tortureFiles+i+1) + "---\n" + vpc(fmt.Sprintf("w%d", i), (n+5000)*tortureFiles+i+1)
}

// stateOf returns the state that the content of a revision is, or an error if it is a mixture.
func stateOf(r *Revision) (int, error) {
	n := -1
	for name, v := range r.Objects.VPCs {
		m := (int(v.VNI) - 1) / tortureFiles
		if strings.HasPrefix(name, "w") {
			m -= 5000
		}
		if n >= 0 && n != m {
			return 0, fmt.Errorf("it mixes the states %d and %d", n, m)
		}
		n = m
	}
	for i := range tortureFiles {
		for _, prefix := range []string{"v", "w"} {
			_, there := r.Objects.VPCs[fmt.Sprintf("%s%d", prefix, i)]
			if there != has(n, i) {
				return 0, fmt.Errorf("of state %d it has %s%d: %v", n, prefix, i, there)
			}
		}
	}
	return n, nil
}

func (w *writer) path(name string) string { return filepath.Join(w.dir, name) }

// tick sometimes lets the reader run, and notes how long nothing has changed: on a busy machine longer than meant.
func (w *writer) tick() {
	if w.rng.IntN(3) == 0 {
		time.Sleep(time.Duration(w.rng.IntN(2000)) * time.Microsecond)
	}
	now := time.Now()
	if idle := now.Sub(w.last); int64(idle) > w.pause.Load() {
		w.pause.Store(int64(idle))
	}
	w.last = now
}

// state writes state n, without mark.
func (w *writer) state(n int) {
	w.last = time.Now()
	for _, i := range w.rng.Perm(tortureFiles) {
		w.tick()
		if !has(n, i) {
			if err := os.Remove(w.path(fileName(i))); err != nil && !os.IsNotExist(err) {
				w.t.Error(err)
			}
			continue
		}
		w.file(fileName(i), content(n, i))
	}
}

func (w *writer) file(name, text string) {
	half := w.rng.IntN(len(text))
	path := w.path(name)
	switch w.rng.IntN(5) {
	case 0: // in place, in two halves
		w.inPlace(path, os.O_TRUNC, text[:half], text[half:])
	case 1: // half of it, closed, and the rest later
		w.inPlace(path, os.O_TRUNC, text[:half])
		w.tick()
		w.inPlace(path, os.O_APPEND, text[half:])
	case 2: // beside it, then renamed
		w.inPlace(path+".tmp", os.O_TRUNC, text[:half], text[half:])
		w.tick()
		w.check(os.Rename(path+".tmp", path))
	case 3: // as an editor: the old one becomes a backup, which goes in the end
		if err := os.Rename(path, path+"~"); err != nil && !os.IsNotExist(err) {
			w.t.Error(err)
		}
		w.tick()
		w.inPlace(path, os.O_EXCL, text[:half], text[half:])
		w.tick()
		_ = os.Remove(path + "~")
	case 4: // over the old text, which is cut in the end
		w.inPlace(path, 0, text[:half], text[half:])
		w.check(os.Truncate(path, int64(len(text))))
	}
}

func (w *writer) inPlace(path string, flags int, parts ...string) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|flags, 0o644)
	if err != nil {
		w.t.Error(err)
		return
	}
	for _, part := range parts {
		w.tick()
		_, err := f.WriteString(part)
		w.check(err)
	}
	w.tick()
	w.check(f.Close())
}

// mark writes REVISION, in place or renamed.
func (w *writer) mark(n int) {
	path := w.path(revisionFile)
	if w.rng.IntN(2) == 0 {
		w.inPlace(path, os.O_TRUNC, fmt.Sprint(n))
		return
	}
	w.inPlace(path+".new", os.O_TRUNC, fmt.Sprint(n))
	w.check(os.Rename(path+".new", path))
}

func (w *writer) check(err error) {
	if err != nil {
		w.t.Error(err)
	}
}

// torture runs a writer of many states against the source, and judges each revision.
func torture(t *testing.T, states int, write func(w *writer, n int), judge func(w *writer, r *Revision) (last bool)) {
	b := newBench(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	w := &writer{t: t, dir: b.dir, rng: rand.New(rand.NewPCG(seed, 0))}
	b.start()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := 1; n <= states; n++ {
			write(w, n)
		}
	}()
	seen := 0
	for last := false; !last; {
		u := b.next()
		if u.Err != nil {
			continue // the parts of a state may well be invalid
		}
		seen++
		last = judge(w, u.Revision)
	}
	<-done
	t.Logf("%d of %d states seen", seen, states)
}

// Marked revisions are whole however the writer writes and whenever it goes on.
func TestTortureMarked(t *testing.T) {
	const states = 300
	torture(t, states, func(w *writer, n int) {
		w.state(n)
		w.mark(n)
		if w.rng.IntN(4) == 0 {
			time.Sleep(time.Duration(w.rng.IntN(20)) * time.Millisecond)
		}
	}, func(w *writer, r *Revision) bool {
		n, err := stateOf(r)
		rested := time.Duration(w.pause.Load())
		switch {
		case !r.Marked && rested >= 40*time.Millisecond: // before the first mark a rest makes a revision
		case err != nil:
			t.Errorf("revision %d (marked: %v) is torn: %v (the writer rested for at most %s)", r.Number, r.Marked, err, rested)
		case uint64(n) != r.Number:
			t.Errorf("revision %d holds state %d", r.Number, n)
		}
		return r.Number == states
	})
}

// Unmarked revisions are whole if the writer never rests for 50 ms within one.
func TestTortureUnmarked(t *testing.T) {
	const states = 25
	torture(t, states, func(w *writer, n int) {
		w.state(n)
		time.Sleep(200 * time.Millisecond)
	}, func(w *writer, r *Revision) bool {
		n, err := stateOf(r)
		if rested := time.Duration(w.pause.Load()); err != nil && rested < 40*time.Millisecond {
			t.Errorf("revision %d is torn: %v (the writer rested for at most %s)", r.Number, err, rested)
		}
		return err == nil && n == states
	})
}
