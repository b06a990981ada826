// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/eniplane/eniplane/loader"
)

// reconcile looks at devices again.
func (a *Agent) reconcile(ctx context.Context) {
	report, err := a.Dataplane.Reconcile(ctx)
	if err != nil {
		_ = a.fail("cannot reconcile", err) // kept in the status
	}
	a.observe(report)
	a.lookAgain(report, err)
	if r := a.revision(); r != nil {
		a.announce(ctx, r.Restored)
	}
}

// lookAgain arms another look if this one did not find or make everything as it must be: soon, then later each time.
func (a *Agent) lookAgain(report *loader.Report, err error) {
	degraded := report != nil && slices.ContainsFunc(slices.Collect(maps.Values(report.ENIs)), func(s loader.ENIStatus) bool {
		return s.Phase == loader.Degraded
	})
	if err == nil && !degraded {
		a.againAt, a.againAfter = nil, 0
		return
	}
	a.againAfter = min(max(2*a.againAfter, retryFirst), retryLast)
	a.againAt = time.After(a.againAfter)
}

// soon is settleTime from now, or from an event before: else events that never stop would put it off for ever.
func soon(settle <-chan time.Time) <-chan time.Time {
	if settle != nil {
		return settle
	}
	return time.After(settleTime)
}
