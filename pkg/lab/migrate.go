// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/eniplane/eniplane/pkg/migrate"
)

// The ports of the streams that measure a migration.
const (
	MeasureUDPPort = 7007
	MeasureTCPPort = 8443
)

// how long the streams run before and after the move.
const (
	measureBefore = 300 * time.Millisecond
	measureAfter  = 1200 * time.Millisecond
)

// MigrationReport says what a migration cost.
type MigrationReport struct {
	Instance, From, To string
	Peer               string
	Prepare            time.Duration // from the edit of the feed until the target is prepared and has the flows
	Switch             time.Duration // from the edit of the feed until the guest is at the target
	UDP                UDPReport
	TCP                TCPReport
}

// MigrateHooks are called in the middle of a migration; nil = nothing.
type MigrateHooks struct {
	Announced func() error // the feed says that the instance moves, and agents may not know it yet
	Prepared  func() error // the other host is prepared and has the flows
	Decided   func() error // the feed says that it is there, and agents may not know it yet
}

func call(hook func() error) error {
	if hook == nil {
		return nil
	}
	return hook()
}

// Migrate moves an instance to another host while streams between it and a peer run: the feed says
// where it is from now on, and as soon as the target host is ready the wire is switched.
func (l *Lab) Migrate(ctx context.Context, instance, to, peer string) (*MigrationReport, error) {
	return l.MigrateWith(ctx, instance, to, peer, MigrateHooks{})
}

// MigrateWith is Migrate with something that happens meanwhile.
func (l *Lab) MigrateWith(ctx context.Context, instance, to, peer string, hooks MigrateHooks) (*MigrationReport, error) {
	unlock, err := lock(l.dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	inst := l.Plan.Instance(instance)
	if err := l.mayMigrate(inst, instance, to); err != nil {
		return nil, err
	}
	report := &MigrationReport{Instance: instance, From: inst.Host, To: to, Peer: peer}
	udp, tcp, err := l.startMeasuring(ctx, instance, peer)
	if err != nil {
		return nil, err
	}
	sleep(ctx, measureBefore)
	err = l.move(ctx, inst, to, report, hooks)
	if err == nil {
		sleep(ctx, measureAfter)
	}
	report.UDP, report.TCP = udp.Stop(), tcp.Stop()
	if err != nil {
		return nil, fmt.Errorf("migrate %s to %s: %w", instance, to, err)
	}
	return report, ctx.Err()
}

func (l *Lab) mayMigrate(inst *InstancePlan, instance, to string) error {
	switch {
	case inst == nil:
		return fmt.Errorf("the lab has no instance %s", instance)
	case l.Plan.Host(to) == nil:
		return fmt.Errorf("the lab has no host %s", to)
	case inst.Host == to:
		return fmt.Errorf("%s is on %s already", instance, to)
	case !inst.Migrates:
		return fmt.Errorf("%s is wired to %s only: give it `migrates: true` in the topology", instance, inst.Host)
	}
	return nil
}

// startMeasuring starts the streams from the instance: its security groups need to let out what
// the peer lets in.
func (l *Lab) startMeasuring(ctx context.Context, instance, peer string) (*UDPStream, *TCPStream, error) {
	from, to, err := l.Spots(instance, peer, IPv4)
	if err != nil {
		return nil, nil, err
	}
	tcp, err := l.StartTCP(ctx, from, to, MeasureTCPPort)
	if err != nil {
		return nil, nil, err
	}
	udp, err := l.StartUDP(from, to, MeasureUDPPort)
	if err != nil {
		_ = tcp.Stop()
		return nil, nil, err
	}
	return udp, tcp, nil
}

// What follows the switch of the wire, before the guest is deaf to its old host: packets that are under way there.
const underWay = 100 * time.Millisecond

// Move moves an instance to another host, and measures nothing.
func (l *Lab) Move(ctx context.Context, instance, to string) error {
	inst := l.Plan.Instance(instance)
	if err := l.mayMigrate(inst, instance, to); err != nil {
		return err
	}
	return l.move(ctx, inst, to, &MigrationReport{}, MigrateHooks{})
}

// move is the migration itself: the instance is prepared at the other host, with its flows, before the feed says
// that it is there. Only then the guest is.
func (l *Lab) move(ctx context.Context, inst *InstancePlan, to string, report *MigrationReport, hooks MigrateHooks) error {
	start := time.Now()
	if err := l.prepare(ctx, inst, to, hooks); err != nil {
		return err
	}
	report.Prepare = time.Since(start)
	start = time.Now()
	return l.moveBy(ctx, inst, to, func(arrived func() error) error {
		from := inst.Host
		edits := []Edit{{Kind: "Instance", Name: inst.Name, Change: func(spec *yaml.Node) error {
			return errors.Join(Set(spec, "migration", map[string]string{"to": to, "from": from}), Set(spec, "host", to))
		}}}
		for _, p := range inst.Ports {
			edits = append(edits, Edit{Kind: "ENI", Name: p.ENI, Change: nextEpoch})
		}
		revision, err := l.EditFeed(edits...)
		if err != nil {
			return err
		}
		if err := call(hooks.Decided); err != nil {
			return err
		}
		if l.Enid != "" {
			if err := l.WaitRevisionAll(ctx, revision); err != nil {
				return err
			}
		}
		err = arrived()
		report.Switch = time.Since(start)
		if err != nil {
			return err
		}
		sleep(ctx, underWay)
		revision, err = l.EditFeed(Edit{Kind: "Instance", Name: inst.Name, Change: func(spec *yaml.Node) error {
			Remove(spec, "migration")
			return nil
		}})
		if err != nil || l.Enid == "" {
			return err
		}
		return l.WaitRevisionAll(ctx, revision)
	})
}

// MoveBy moves an instance by other means than an edit of the feed by the lab: whoever drives it calls arrived when the guest
// shall be at the other host. Meanwhile the guest hears both.
func (l *Lab) MoveBy(ctx context.Context, instance, to string, drive func(arrived func() error) error) error {
	inst := l.Plan.Instance(instance)
	if err := l.mayMigrate(inst, instance, to); err != nil {
		return err
	}
	return l.moveBy(ctx, inst, to, drive)
}

func (l *Lab) moveBy(ctx context.Context, inst *InstancePlan, to string, drive func(arrived func() error) error) error {
	if err := l.switchWire(inst, inst.Host, true); err != nil {
		return err
	}
	err := drive(func() error {
		if err := l.switchWire(inst, to, true); err != nil {
			return err
		}
		inst.Host = to
		return errors.Join(l.announce(inst), l.save())
	})
	if err == nil {
		sleep(ctx, underWay)
	}
	return errors.Join(err, l.switchWire(inst, inst.Host, false))
}

// Prepare lets the feed say that an instance moves to a host, and waits until that has its flows.
func (l *Lab) Prepare(ctx context.Context, instance, to string) error {
	inst := l.Plan.Instance(instance)
	if err := l.mayMigrate(inst, instance, to); err != nil {
		return err
	}
	return l.prepare(ctx, inst, to, MigrateHooks{})
}

func (l *Lab) prepare(ctx context.Context, inst *InstancePlan, to string, hooks MigrateHooks) error {
	revision, err := l.EditFeed(Edit{Kind: "Instance", Name: inst.Name, Change: func(spec *yaml.Node) error {
		return Set(spec, "migration", map[string]string{"to": to})
	}})
	if err != nil {
		return err
	}
	if err := call(hooks.Announced); err != nil {
		return err
	}
	if l.Enid != "" {
		if err := l.WaitRevisionAll(ctx, revision); err != nil {
			return err
		}
		if l.Plan.Host(to).Peer.IsValid() {
			if err := l.waitCopies(ctx, inst); err != nil {
				return err
			}
		}
	}
	return call(hooks.Prepared)
}

// waitCopies waits until the flows of all ENIs of an instance have been copied once since now.
func (l *Lab) waitCopies(ctx context.Context, inst *InstancePlan) error {
	ctx, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	var last string
	for {
		_, text, err := l.AgentGet(ctx, inst.Host, "/status")
		if err != nil {
			return err
		}
		var status struct{ Copies []migrate.Status }
		if err := json.Unmarshal([]byte(text), &status); err != nil {
			return fmt.Errorf("read the status of the agent of %s: %w", inst.Host, err)
		}
		done := 0
		for _, c := range status.Copies {
			last = c.Error
			if c.Whole && slices.ContainsFunc(inst.Ports, func(p PortPlan) bool { return p.ENI == c.ENI }) {
				done++
			}
		}
		if done == len(inst.Ports) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the flows of %s are not copied: %s\n%s", inst.Name, last, l.LogTail(inst.Host))
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// nextEpoch makes the attachment of an ENI a new one.
func nextEpoch(spec *yaml.Node) error {
	attachment := child(spec, "attachment")
	if attachment == nil {
		return errors.New("the ENI is attached nowhere")
	}
	var epoch uint64
	if n := child(attachment, "epoch"); n != nil {
		var err error
		if epoch, err = strconv.ParseUint(n.Value, 10, 64); err != nil {
			return fmt.Errorf("epoch: %w", err)
		}
	}
	return Set(attachment, "epoch", epoch+1)
}

// sleep waits, or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
