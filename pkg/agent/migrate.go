// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"slices"
	"time"

	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/migrate"
)

// follow tells who copies flows what is in force, and sets the time at which what has moved is settled.
func (a *Agent) follow(ctx context.Context) {
	over := slices.DeleteFunc(slices.Clone(a.inForce.Moves), func(m compile.Move) bool { return m.Pending })
	if !slices.Equal(over, a.moves) {
		a.moves, a.settleAt = over, nil
		if len(over) > 0 {
			a.settleAt = time.After(redirectFor)
		}
	}
	if a.Migrator != nil {
		a.Migrator.Update(ctx, migrate.NewView(a.Host, a.inForce, a.current.Objects))
	}
}

// settle ends what is kept for ENIs that have moved. If it fails it is tried again: nothing is lost meanwhile.
func (a *Agent) settle(ctx context.Context) {
	restored := a.revision().Restored
	if err := a.apply(ctx, a.current, terms{restored: restored, settled: true}); err != nil {
		a.settleAt = time.After(redirectFor)
	}
}
