// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/trace"
)

// EnsureTwins pins the trace twins of the programs in force, with which `enictl trace` asks what becomes of a packet.
// No packet needs them: it may run at any time between Open and Close.
func (l *Loader) EnsureTwins() error {
	spec, err := dataplane.LoadSpec()
	if err != nil {
		return err
	}
	if err := dataplane.SetRings(spec, l.maps.Map(dataplane.MapHalfOpen)); err != nil {
		return err
	}
	if err := trace.Ensure(l.place.pins, spec, l.maps); err != nil {
		return fmt.Errorf("pin the trace twins: %w", err)
	}
	return nil
}
