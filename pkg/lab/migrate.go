// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"go.yaml.in/yaml/v3"
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
	Prepare            time.Duration // from the edit of the feed to the target's readiness
	UDP                UDPReport
	TCP                TCPReport
}

// Migrate moves an instance to another host while streams between it and a peer run: the feed says
// where it is from now on, and as soon as the target host is ready the wire is switched.
func (l *Lab) Migrate(ctx context.Context, instance, to, peer string) (*MigrationReport, error) {
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
	err = l.move(ctx, inst, to, report)
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

// move is the migration itself.
func (l *Lab) move(ctx context.Context, inst *InstancePlan, to string, report *MigrationReport) error {
	start := time.Now()
	edits := []Edit{{Kind: "Instance", Name: inst.Name, Change: func(spec *yaml.Node) error { return Set(spec, "host", to) }}}
	for _, p := range inst.Ports {
		edits = append(edits, Edit{Kind: "ENI", Name: p.ENI, Change: nextEpoch})
	}
	revision, err := l.EditFeed(edits...)
	if err != nil {
		return err
	}
	if l.Enid != "" {
		if err := l.WaitRevision(ctx, to, revision); err != nil {
			return err
		}
	}
	if err := l.switchWire(inst, to); err != nil {
		return err
	}
	report.Prepare = time.Since(start)
	if err := l.announce(inst); err != nil {
		return err
	}
	inst.Host = to
	return l.save()
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
