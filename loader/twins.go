// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/trace"
)

// EnsureTwins pins the trace twins of the programs in force, with which `enictl trace` asks what becomes of a packet.
// No packet needs them: it may run beside everything after Open, also beyond Close, and be cut short by the end of the
// process.
func (l *Loader) EnsureTwins() (err error) {
	spec, err := dataplane.LoadSpec()
	if err != nil {
		return err
	}
	maps, err := dataplane.OpenPinned(l.place.pins, false)
	if err != nil {
		return fmt.Errorf("pin the trace twins: %w", err)
	}
	defer func() { err = errors.Join(err, maps.Close()) }()
	if err := dataplane.SetRings(spec, maps.Map(dataplane.MapHalfOpen)); err != nil {
		return err
	}
	if err := trace.Ensure(l.place.pins, spec, maps); err != nil {
		return fmt.Errorf("pin the trace twins: %w", err)
	}
	return nil
}
