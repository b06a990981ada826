// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"fmt"
)

// Reconcile looks at devices, links, slots and guards again and repairs what differs from the
// revision in force. Before the first Apply it only repairs what needs no revision.
func (l *Loader) Reconcile(ctx context.Context) (*Report, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	report := &Report{}
	err := l.reconcile(ctx, report)
	report.Revision = l.engine.revision()
	if err != nil {
		err = fmt.Errorf("reconcile: %w", err)
	}
	if report.ENIs == nil {
		report.ENIs = l.report.ENIs
	}
	l.report = *report
	return report.clone(), err
}

func (l *Loader) reconcile(ctx context.Context, report *Report) error {
	// Without a place for pins ports must be looked at all the same: what has lost its program is closed.
	pins := l.ensurePins(report)
	return errors.Join(pins, l.reconcileAll(ctx, report))
}

func (l *Loader) reconcileAll(ctx context.Context, report *Report) error {
	filled, err := fillSlots(l.slots, l.maps)
	for _, name := range filled {
		report.repaired(l.log, "the slot of program %s held another or none and has it again", name)
	}
	if err != nil {
		return err
	}
	if err := l.keepSweeping(report); err != nil {
		return err
	}
	all, err := l.tend(ctx, report)
	if err != nil || all == nil {
		return err
	}
	if err := l.place.sweepLinks(); err != nil {
		return err
	}
	return l.guard.sweepIngress(all)
}

// tend makes devices, links and guards as the revision in force needs them. Who is READY stays so, who must not be is
// closed, and what is to become READY is closed and prepared first. It returns no devices if that took another apply.
func (l *Loader) tend(ctx context.Context, report *Report) (devices, error) {
	l.looked = false
	l.events.drain()
	all, facts, err := l.base(report, l.state)
	if err != nil || l.state == nil {
		return nil, err
	}
	if facts != l.facts || l.engine.current == nil {
		report.Problems, report.Foreign = nil, nil
		return nil, l.apply(ctx, l.state, report)
	}
	ports := l.survey(report, all, l.state)
	if err := errors.Join(l.closePorts(report, ports), l.ensureCaps(report, ports, l.state, all)); err != nil {
		return nil, err
	}
	if err := l.shut(wantedOpenings(ports)); err != nil {
		return nil, err
	}
	if err := l.openPorts(report, ports, all); err != nil {
		return nil, err
	}
	l.looked = true
	return all, nil
}
