// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"slices"
	"time"

	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/migrate"
)

// follow tells who copies flows what is in force, and sets the time at which what has moved is settled if the feed does not
// say so.
func (a *Agent) follow(ctx context.Context) {
	over := slices.DeleteFunc(slices.Clone(a.inForce.Moves), func(m compile.Move) bool { return m.Pending || m.Told })
	if len(a.claims) > 0 {
		over = nil // others cannot know yet
	}
	if !slices.Equal(over, a.moves) {
		a.moves, a.settleAt = over, nil
		if len(over) > 0 {
			a.settleAt = time.After(redirectFor)
		}
	}
	if a.Migrator == nil {
		a.mu.Lock()
		a.status.Copies = uncopied(a.inForce)
		a.mu.Unlock()
		return
	}
	objects, _ := a.claimed(a.current.Objects)
	a.Migrator.Update(ctx, migrate.NewView(a.Host, a.inForce, objects))
}

// uncopied says of the ENIs that move away that nobody copies their flows.
func uncopied(st *compile.State) (list []migrate.Status) {
	for i := range st.ENIs {
		if e := &st.ENIs[i]; e.MovingTo != "" && e.Stage == compile.Attached {
			list = append(list, migrate.Status{ENI: e.Name, To: e.MovingTo, Error: "enid runs without --peer-cert: it does not talk to other agents"})
		}
	}
	return list
}

// settle ends what is kept for ENIs that have moved. If it fails it is tried again: nothing is lost meanwhile.
func (a *Agent) settle(ctx context.Context) {
	restored := a.revision().Restored
	if err := a.apply(ctx, a.current, terms{restored: restored, settled: true}); err != nil {
		a.settleAt = time.After(redirectFor)
	}
}
