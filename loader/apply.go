// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane"
)

// Apply brings a revision into force: all of it or, with an error, nothing. Of devices, links and guards only what the
// revision changes, or what may have changed since the last look, is looked at before; the rest follows at once. ENIs
// whose own device fails are reported and do not fail the revision. An error after the flip is possible too: then
// Report.Revision is the new one, and the next Apply or Reconcile finishes it.
func (l *Loader) Apply(ctx context.Context, st *compile.State) (*Report, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	report := &Report{}
	err := l.apply(ctx, st, report)
	report.Revision = l.engine.revision()
	if err != nil {
		err = fmt.Errorf("apply revision %d: %w", st.Revision, err)
	}
	if report.ENIs == nil {
		report.ENIs = l.report.ENIs
	}
	l.report = *report
	return report.clone(), err
}

func (l *Loader) apply(ctx context.Context, st *compile.State, report *Report) error {
	if st.Revision == 0 || st.Revision >= 1<<63 {
		return fmt.Errorf("revision numbers are 1 to 2^63-1")
	}
	if l.undisturbed(st) {
		return l.applyRules(ctx, st, report)
	}
	l.looked = false
	all, facts, err := l.base(report, st)
	if err != nil {
		return err
	}
	p, fresh, err := l.stage(st, facts)
	if err != nil {
		return err
	}
	ports := l.survey(report, all, st)
	err = errors.Join(l.closePorts(report, ports), l.ensureCaps(report, ports, st, all))
	if err := l.enforce(ctx, err, p); err != nil {
		return err
	}
	l.state, l.facts = st, facts
	report.count(p)
	return l.settle(report, p, ports, fresh, all)
}

// stage prepares a revision: all is written and read back that no packet sees yet. It returns who is new.
func (l *Loader) stage(st *compile.State, facts dataplane.HostFacts) (*plan, []uint32, error) {
	if err := l.engine.refresh(); err != nil {
		return nil, nil, err
	}
	tables, err := dataplane.Encode(st, facts)
	if err != nil {
		return nil, nil, err
	}
	p, err := l.engine.plan(tables)
	if err != nil {
		return nil, nil, err
	}
	fresh, err := l.newcomers(tables)
	if err != nil {
		return nil, nil, err
	}
	if err := errors.Join(l.findOrphans(tables), l.newRules(st)); err != nil {
		return nil, nil, err
	}
	return p, fresh, l.engine.prepare(p)
}

// enforce flips to what is staged unless there was an error or ctx has ended; then it takes that back.
func (l *Loader) enforce(ctx context.Context, err error, p *plan) error {
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		err = l.engine.flip(p)
	}
	if err != nil {
		return errors.Join(err, l.engine.abandon(p))
	}
	return nil
}

// settle is what follows the flip: who is gone closes first, who is new becomes READY last, then
// what nobody uses is removed.
func (l *Loader) settle(report *Report, p *plan, ports []*port, fresh []uint32, all devices) error {
	want := wantedOpenings(ports)
	if err := l.shut(want); err != nil {
		return err
	}
	if err := l.moveOn(p); err != nil {
		return err
	}
	if err := l.engine.finish(p); err != nil {
		return err
	}
	for _, eni := range fresh {
		if err := l.maps.ZeroCounters(eni); err != nil {
			return err
		}
	}
	if err := l.openPorts(report, ports, all); err != nil {
		return err
	}
	if err := l.dropUplinks(all); err != nil {
		return err
	}
	if err := l.engine.clean(p); err != nil {
		return err
	}
	l.endOrphans()
	l.looked = true
	return nil
}

// moveOn follows the flip at once: where ENIs are, and who of them is heard here. Who is here is open before neighbours
// are told, and who has left is so after they are: packets to it have a way at any moment.
func (l *Loader) moveOn(p *plan) error {
	moved := l.moving
	l.moving = slices.ContainsFunc(l.state.ENIs, func(e compile.ENI) bool { return e.Stage != compile.Attached })
	if !moved && !l.moving {
		return l.engine.move(p)
	}
	if err := l.restate(l.state, compile.Attached); err != nil {
		return err
	}
	if err := l.engine.move(p); err != nil {
		return err
	}
	return l.restate(l.state, compile.Prepared, compile.Left)
}

// openPorts makes what may be READY so and reports on every ENI.
func (l *Loader) openPorts(report *Report, ports []*port, all devices) error {
	want := wantedOpenings(ports)
	if err := l.drainCaps(want); err != nil {
		return err
	}
	if err := l.admit(want); err != nil {
		return err
	}
	if err := l.releaseCaps(ports, all); err != nil {
		return err
	}
	l.raise(ports)
	report.ENIs = make(map[string]ENIStatus, len(ports))
	for _, p := range ports {
		report.ENIs[p.eni.Name] = p.status()
	}
	return l.lowerStrangers(ports, all)
}

// newRules clears the counters of ids that were given to other rules since the revision in force: none of
// it counts there.
func (l *Loader) newRules(st *compile.State) error {
	now := l.engine.revision()
	for _, rule := range st.RuleIDs {
		if rule.Revision <= now {
			continue
		}
		if err := l.maps.ZeroRuleHits(rule.ID); err != nil {
			return err
		}
	}
	return nil
}

// newcomers lists the indexes that an incarnation takes that did not have them: its counters begin
// at zero.
func (l *Loader) newcomers(want *dataplane.Tables) ([]uint32, error) {
	var fresh []uint32
	now := l.engine.current[dataplane.MapENIs]
	for key, half := range want.Contents[dataplane.MapENIs] {
		next, err := dataplane.Incarnation(half)
		if err != nil {
			return nil, err
		}
		if both := now[key]; both != nil {
			had, err := dataplane.Incarnation(both[l.engine.slot()*len(half):][:len(half)])
			if err != nil {
				return nil, err
			}
			if had == next {
				continue
			}
		}
		index, err := dataplane.ParseIndex(key)
		if err != nil {
			return nil, err
		}
		fresh = append(fresh, index)
	}
	return fresh, nil
}
