// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/feed"
	"github.com/eniplane/eniplane/pkg/testroot/sysfault"
)

// Whatever call fails by which the agent keeps its files: no number gets into the kernel that is not in the file, what is
// told as in force is what the kernel has, an agent that starts then gives no number out again, and the next apply works.
func TestFilesSurviveEveryFailingCall(t *testing.T) {
	for n := 1; ; n++ {
		w := newWorld(t)
		given := map[uint32]string{} // incarnations that the kernel has seen
		w.kernel.onApply = func(st *compile.State) {
			var ids compile.IDs
			read := make(chan error)
			go func() { read <- readJSON(filepath.Join(w.dir, idsFile), &ids) }() // on another thread, where no call fails
			if err := <-read; err != nil {
				t.Errorf("call %d failed: applied without the numbers: %v", n, err)
			}
			for _, e := range st.ENIs {
				if ids.ENIs[e.Name].Incarnation != e.Incarnation {
					t.Errorf("call %d failed: incarnation %d of %s is in the kernel and not in the file", n, e.Incarnation, e.Name)
				}
				if other, taken := given[e.Incarnation]; taken && other != e.Name {
					t.Errorf("call %d failed: incarnation %d of %s was that of %s", n, e.Incarnation, e.Name, other)
				}
				given[e.Incarnation] = e.Name
			}
		}
		w.say(feed.Update{Revision: w.revision(1, objects(t, names(1, 2), nil))})
		failed := sysfault.Call{}
		second := w.revision(2, objects(t, names(2, 4), nil))
		if err := sysfault.Run(func(c sysfault.Call) unix.Errno {
			if c.Number != n {
				return 0
			}
			failed = c
			return unix.ENOSPC
		}, func() error {
			w.agent.update(context.Background(), feed.Update{Revision: second})
			w.agent.save()
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if failed.Number == 0 {
			if n < 15 {
				t.Errorf("only %d calls", n-1)
			}
			return
		}
		w.wantInForce(w.kernel.last().Revision)
		if w.kernel.last().Revision == 1 && w.agent.retryAt == nil {
			t.Errorf("%v failed: the revision is not in force and not tried again", failed)
		}
		w.start() // as after a crash
		w.say(feed.Update{Revision: w.revision(3, objects(t, names(4, 6), nil))})
		w.wantInForce(3)
	}
}
