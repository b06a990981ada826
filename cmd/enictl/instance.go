// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/feed/etcd"
)

func newInstanceCommand(a *app) *cobra.Command {
	return group("instance", "Move instances of a feed from host to host", newInstanceMigrateCommand(a))
}

// migration is one run of `instance migrate`.
type migration struct {
	*writer
	instance, to string
	devices      map[string]string
	prepare      bool // and no more
	cancel       bool
	noFlows      bool
	hook         string
}

func newInstanceMigrateCommand(a *app) *cobra.Command {
	m := &migration{}
	c := &cobra.Command{
		Use: "migrate INSTANCE --to HOST [--device ENI=DEVICE]", Short: "Move an instance to another host, with its flows",
		Long: "Move an instance to another host: its ENIs are prepared there, their flows are copied from agent to agent, then the feed\n" +
			"says that it is there, and when all hosts know, that the move is over. Each step waits for the agents. Whoever moves\n" +
			"a running machine calls it with --prepare before, and without when the machine is about to run on the other host.\n" +
			"Called again it goes on where it was. Agents tell their state in etcd; for a directory, their --state-dir must be here.",
		Example: "  enictl instance migrate web-vm --to host-b --device web-0=tap7 --feed etcd:https://10.0.0.1:2379/prod",
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, got []string) error {
			m.instance = got[0]
			if m.to == "" && !m.cancel {
				return usagef("--to is required: to which host")
			}
			ctx, stop := context.WithTimeout(cmd.Context(), m.timeout)
			defer stop()
			return m.run(ctx)
		},
	}
	m.writer = &writer{app: a}
	c.Flags().StringVar(&m.to, "to", "", "the host")
	c.Flags().StringToStringVar(&m.devices, "device", nil, "port of an ENI there (default the same name as here); may be repeated")
	c.Flags().BoolVar(&m.prepare, "prepare", false, "end when the other host is prepared and has the flows")
	c.Flags().BoolVar(&m.cancel, "cancel", false, "take a migration back that is prepared")
	c.Flags().BoolVar(&m.noFlows, "without-flows", false, "go on if flows cannot be copied: connections end")
	c.Flags().StringVar(&m.hook, "hook", "", "shell command to run when the machine may run on the other host, before the old one forgets it")
	c.Flags().DurationVar(&m.timeout, "timeout", time.Minute, "how long to wait for other writers and for the hosts")
	c.MarkFlagsMutuallyExclusive("prepare", "cancel")
	return c
}

func (m *migration) run(ctx context.Context) error {
	if m.cancel {
		_, err := m.change(ctx, m.takeBack)
		return err
	}
	w, err := m.watch(ctx)
	if err != nil {
		return err
	}
	defer w.close()
	revision, err := m.change(ctx, m.announce)
	if err != nil {
		return err
	}
	objects, err := w.objects(ctx)
	if err != nil {
		return err
	}
	i := objects.Instances[m.instance]
	if i == nil {
		return fmt.Errorf("instance %s has been deleted", m.instance)
	}
	if i.Host != m.to {
		if err := m.waitPrepared(ctx, w, objects, i, revision); err != nil {
			return err
		}
		if m.prepare {
			return nil
		}
		if revision, err = m.change(ctx, func(d *etcd.Draft) error { return m.arrive(d, w.hearsAll(objects)) }); err != nil {
			return err
		}
	}
	if err := w.waitApplied(ctx, w.hosts(objects, i.Host, m.to), revision); err != nil {
		return fmt.Errorf("%s is on %s now, but not all hosts know: %w", m.instance, m.to, err)
	}
	if err := m.runHook(ctx); err != nil {
		return err
	}
	_, err = m.change(ctx, m.settle)
	return err
}

// runHook lets the machine be switched over: both hosts take what is for it now.
func (m *migration) runHook(ctx context.Context) error {
	if m.hook == "" {
		return nil
	}
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", m.hook)
	cmd.Stdout, cmd.Stderr = m.err, m.err
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("run --hook: %w (%s is on %s in the feed, and what it has left sends on: call this again)", err, m.instance, m.to)
	}
	return nil
}

// change commits one step; one that is done already changes nothing.
func (m *migration) change(ctx context.Context, change func(*etcd.Draft) error) (revision uint64, err error) {
	err = m.commitThen(ctx, etcd.Options{}, change, func(r *etcd.Result) { revision = r.Revision })
	return revision, err
}

// announce says where the instance moves to.
func (m *migration) announce(d *etcd.Draft) error {
	i, err := find[*api.Instance](d, m.instance)
	if err != nil {
		return err
	}
	if _, err := find[*api.Host](d, m.to); err != nil {
		return err
	}
	if i.Host == m.to {
		return nil
	}
	if i.Migration != nil && i.Migration.To == m.to && (m.devices == nil || maps.Equal(m.devices, i.Migration.Devices)) {
		return nil
	}
	if i.Migration != nil && i.Migration.To != m.to && i.Migration.To != i.Host {
		return fmt.Errorf("instance %s is moving to %s (take that back first: enictl instance migrate %s --cancel)", m.instance, i.Migration.To, m.instance)
	}
	moves := *i
	moves.Migration = &api.Migration{To: m.to, Devices: m.devices}
	d.Put(&moves)
	return nil
}

// arrive says that the instance is there, by its devices there. If all hosts are heard, the migration stays until they
// know: that is for settle.
func (m *migration) arrive(d *etcd.Draft, heard bool) error {
	i, err := find[*api.Instance](d, m.instance)
	if err != nil {
		return err
	}
	if i.Host == m.to {
		return nil
	}
	if i.Migration == nil || i.Migration.To != m.to {
		return fmt.Errorf("the migration of instance %s to %s has been taken back", m.instance, m.to)
	}
	for _, o := range d.All() {
		e, ok := o.(*api.ENI)
		if !ok || e.Attachment == nil || e.Attachment.Instance != m.instance || i.Migration.Device(e) == e.Attachment.Device {
			continue
		}
		moved, at := *e, *e.Attachment
		at.Device = i.Migration.Device(e)
		moved.Attachment = &at
		d.Put(&moved)
	}
	there := *i
	there.Host, there.Migration = m.to, nil
	if heard {
		there.Migration = &api.Migration{To: m.to}
	}
	d.Put(&there)
	return nil
}

// settle ends a migration of which all hosts know.
func (m *migration) settle(d *etcd.Draft) error {
	i, err := find[*api.Instance](d, m.instance)
	if err != nil || i.Migration == nil || i.Host != m.to || i.Migration.To != m.to {
		return err
	}
	return m.without(d, i)
}

// takeBack ends a migration that is only prepared.
func (m *migration) takeBack(d *etcd.Draft) error {
	i, err := find[*api.Instance](d, m.instance)
	switch {
	case err != nil:
		return err
	case i.Migration == nil:
		return fmt.Errorf("instance %s does not move", m.instance)
	case i.Migration.To == i.Host:
		return fmt.Errorf("instance %s is on %s already (move it back: enictl instance migrate %s --to %s)", m.instance, i.Host, m.instance, i.Migration.From)
	}
	return m.without(d, i)
}

func (m *migration) without(d *etcd.Draft, i *api.Instance) error {
	stays := *i
	stays.Migration = nil
	d.Put(&stays)
	return nil
}

// waitPrepared waits until both hosts have applied the preparation and the flows are copied.
func (m *migration) waitPrepared(ctx context.Context, w hostWatch, objects *api.Objects, i *api.Instance, revision uint64) error {
	if err := w.waitApplied(ctx, []string{i.Host, m.to}, revision); err != nil {
		return fmt.Errorf("%s is not prepared: %w (try again, or take it back: enictl instance migrate %s --cancel)", m.to, err, m.instance)
	}
	var enis []string
	for name, e := range objects.ENIs {
		if e.Attachment != nil && e.Attachment.Instance == m.instance {
			enis = append(enis, name)
		}
	}
	slices.Sort(enis)
	for {
		copies, err := w.copies(ctx, i.Host)
		if err != nil && ctx.Err() == nil {
			return err
		}
		missing := missingCopies(enis, m.to, copies)
		if len(missing) == 0 {
			return nil
		}
		hopeless := !slices.ContainsFunc(enis, func(eni string) bool { return !failed(copies, eni, m.to) })
		if m.noFlows && hopeless {
			fmt.Fprintf(m.err, "flows are not copied:\n%s\n", strings.Join(missing, "\n"))
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is prepared, but has not all flows in time:\n%s\n(see enictl status on %s; --without-flows moves all the same)",
				m.to, strings.Join(missing, "\n"), i.Host)
		case <-time.After(watchEvery):
		}
	}
}

func failed(copies []etcd.CopyStatus, eni, to string) bool {
	return slices.ContainsFunc(copies, func(c etcd.CopyStatus) bool { return c.ENI == eni && c.To == to && c.Error != "" })
}

// missingCopies says of which ENIs the flows are not whole at a host.
func missingCopies(enis []string, to string, copies []etcd.CopyStatus) (missing []string) {
	for _, eni := range enis {
		text := "  " + eni + ": not yet"
		for _, c := range copies {
			switch {
			case c.ENI != eni || c.To != to:
			case c.Whole:
				text = ""
			case c.Error != "":
				text = "  " + eni + ": " + c.Error
			}
		}
		if text != "" {
			missing = append(missing, text)
		}
	}
	return missing
}
