// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/pkg/testroot/sysfault"
)

// wholeOf wants all files of a revision to be of one state.
func wholeOf(r *Revision, state uint32) error {
	for _, name := range []string{"a", "b", "c"} {
		if vni(r, name) == 0 || vni(r, name)%100 != state {
			return fmt.Errorf("of state %d it has VPC %s with VNI %d", state, name, vni(r, name))
		}
	}
	return nil
}

func (b *bench) writeState(state int) {
	b.t.Helper()
	for i, name := range []string{"a", "b", "c"} {
		b.write(name+".yaml", vpc(name, 100*(i+1)+state))
	}
	b.write("REVISION", fmt.Sprint(state))
}

// firstRevision runs a source of its own with calls that fail until it offers a fresh revision.
func (b *bench) firstRevision(judge func(sysfault.Call) unix.Errno) (r *Revision, failures []error, err error) {
	source, err := b.open()
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	updates := make(chan Update)
	go func() {
		for u := range updates {
			switch {
			case u.Err != nil:
				failures = append(failures, u.Err)
			case !u.Restored:
				r = u.Revision
				cancel()
			}
		}
		close(b.updates)
	}()
	b.updates = make(chan Update)
	err = sysfault.Run(judge, func() error {
		defer close(updates)
		if err := source.Run(ctx, 0, updates); !errors.Is(err, context.Canceled) {
			return err
		}
		return nil
	})
	<-b.updates
	return r, failures, err
}

// Whatever call fails by which a directory is read: what is offered is a whole revision, soon after.
func TestReadingSurvivesEveryFailingCall(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	b := newBench(t)
	b.writeState(1)
	if r, failures, err := b.firstRevision(func(c sysfault.Call) unix.Errno { calls.Store(int64(c.Number)); return 0 }); err != nil || r == nil {
		t.Fatalf("without faults: %v, %v", failures, err)
	}
	if calls.Load() < 10 {
		t.Fatalf("only %d calls", calls.Load())
	}
	var running sync.WaitGroup
	slots := make(chan struct{}, 8)
	for n := 1; n <= int(calls.Load()); n++ {
		running.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			b := newBench(t)
			b.writeState(1)
			var failed atomic.Value
			r, failures, err := b.firstRevision(func(c sysfault.Call) unix.Errno {
				if c.Number != n {
					return 0
				}
				failed.Store(c)
				return unix.EIO
			})
			if err != nil || r == nil {
				t.Errorf("%v failed: no revision after it (%v, %v)", failed.Load(), failures, err)
				return
			}
			if err := wholeOf(r, 1); err != nil {
				t.Errorf("%v failed: %v", failed.Load(), err)
			}
		})
	}
	running.Wait()
}

// Whatever call fails by which a revision is kept: the last good one is the old or the new one, and if no error is told
// the new one.
func TestKeepingSurvivesEveryFailingCall(t *testing.T) {
	t.Parallel()
	for n := 1; ; n++ {
		b := newBench(t)
		b.writeState(1)
		first, _, err := b.firstRevision(func(sysfault.Call) unix.Errno { return 0 })
		if err != nil {
			t.Fatal(err)
		}
		must(t, save(b.stateDir, first))
		second := *first
		second.Number = 2
		var failed atomic.Value
		err = sysfault.Run(func(c sysfault.Call) unix.Errno {
			if c.Number != n {
				return 0
			}
			failed.Store(c)
			return unix.ENOSPC
		}, func() error { return save(b.stateDir, &second) })
		if failed.Load() == nil {
			if n < 5 {
				t.Errorf("only %d calls", n-1)
			}
			return
		}
		last, errLast := LastGood(b.stateDir)
		if errLast != nil || last.Number != 1 && last.Number != 2 || err == nil && last.Number != 2 {
			t.Errorf("%v failed (%v): the last good revision is %+v (%v)", failed.Load(), err, last, errLast)
		}
		must(t, save(b.stateDir, &second))
	}
}
