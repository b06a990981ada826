// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"

	"github.com/spf13/cobra"

	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/feed/etcd"
)

func newENICommand(a *app) *cobra.Command {
	return group("eni", "Attach, detach and move ENIs of a feed",
		newAttachCommand(a, "attach", "Attach an ENI that is attached nowhere", attach),
		newDetachCommand(a),
		newAttachCommand(a, "migrate", "Move an ENI from its instance to another one, with its IPs, EIPs and groups", migrate))
}

// place is where an ENI shall be.
type place struct {
	instance, device string
	index            int // -1 = the lowest that is free
}

func newAttachCommand(a *app, verb, short string, change func(*etcd.Draft, string, place) error) *cobra.Command {
	var to place
	c := &cobra.Command{
		Use: verb + " ENI --instance NAME --device DEVICE", Short: short,
		Example: "  enictl eni " + verb + " web-0 --instance web-vm --device tap7 --feed etcd:https://10.0.0.1:2379/prod --wait",
		Args:    args(cobra.ExactArgs(1)),
	}
	w := a.writes(c)
	c.RunE = func(cmd *cobra.Command, got []string) error {
		if to.instance == "" || to.device == "" {
			return usagef("--instance and --device are required: which instance, and by which device of its host")
		}
		return w.commit(cmd.Context(), etcd.Options{}, func(d *etcd.Draft) error { return change(d, got[0], to) })
	}
	c.Flags().StringVar(&to.instance, "instance", "", "the instance")
	c.Flags().StringVar(&to.device, "device", "", "the port: a tap or veth of the instance's host")
	c.Flags().IntVar(&to.index, "index", -1, "place at the instance, 0 to 7 (default the lowest that is free)")
	return c
}

func newDetachCommand(a *app) *cobra.Command {
	c := &cobra.Command{Use: "detach ENI", Short: "Detach an ENI from its instance", Args: args(cobra.ExactArgs(1))}
	w := a.writes(c)
	c.RunE = func(cmd *cobra.Command, got []string) error {
		return w.commit(cmd.Context(), etcd.Options{}, func(d *etcd.Draft) error {
			e, err := find[*api.ENI](d, got[0])
			if err != nil {
				return err
			}
			detached := *e
			detached.Attachment = nil
			d.Put(&detached)
			return nil
		})
	}
	return c
}

// attach puts an ENI to its place. That it is there already is no error: who asks twice gets what he asked for.
func attach(d *etcd.Draft, name string, to place) error {
	e, err := find[*api.ENI](d, name)
	if err != nil {
		return err
	}
	if at := e.Attachment; at != nil && (at.Instance != to.instance || at.Device != to.device || to.index >= 0 && at.Index != to.index) {
		return fmt.Errorf("ENI %s is attached to instance %s already, at index %d by device %s (detach it first, or use enictl eni migrate)",
			name, at.Instance, at.Index, at.Device)
	}
	return move(d, e, to)
}

// migrate moves an ENI that is attached.
func migrate(d *etcd.Draft, name string, to place) error {
	e, err := find[*api.ENI](d, name)
	if err != nil {
		return err
	}
	if e.Attachment == nil {
		return fmt.Errorf("ENI %s is attached nowhere (use enictl eni attach)", name)
	}
	return move(d, e, to)
}

func move(d *etcd.Draft, e *api.ENI, to place) error {
	if _, err := find[*api.Instance](d, to.instance); err != nil {
		return err
	}
	if at := e.Attachment; to.index < 0 && at != nil && at.Instance == to.instance {
		to.index = at.Index
	}
	taken := map[int]bool{}
	for _, o := range d.All() {
		if other, ok := o.(*api.ENI); ok && other.Name != e.Name && other.Attachment != nil && other.Attachment.Instance == to.instance {
			taken[other.Attachment.Index] = true
		}
	}
	for i := 0; to.index < 0; i++ {
		if i == api.MaxENIsPerInstance {
			return fmt.Errorf("instance %s has %d ENIs, and no index is free (detach one)", to.instance, i)
		}
		if !taken[i] {
			to.index = i
		}
	}
	moved := *e
	moved.Attachment = &api.Attachment{Instance: to.instance, Index: to.index, Device: to.device}
	d.Put(&moved) // with the epoch that the store gives it
	return nil
}

func newEIPCommand(a *app) *cobra.Command {
	return group("eip", "Bind and release EIPs of a feed", newAssociateCommand(a), newDisassociateCommand(a))
}

func newAssociateCommand(a *app) *cobra.Command {
	var eni, private string
	c := &cobra.Command{
		Use: "associate EIP --eni NAME [--private-ip IP]", Short: "Bind an EIP to a private IP of an ENI, also if it is bound already",
		Args: args(cobra.ExactArgs(1)),
	}
	w := a.writes(c)
	c.RunE = func(cmd *cobra.Command, got []string) error {
		if eni == "" {
			return usagef("--eni is required: to which ENI")
		}
		var ip netip.Addr
		if private != "" {
			var err error
			if ip, err = netip.ParseAddr(private); err != nil {
				return usagef("--private-ip %q is not an IP address", private)
			}
		}
		return w.commit(cmd.Context(), etcd.Options{}, func(d *etcd.Draft) error { return bindEIP(d, got[0], eni, ip) })
	}
	c.Flags().StringVar(&eni, "eni", "", "the ENI")
	c.Flags().StringVar(&private, "private-ip", "", "one of its private IPs (default the primary of the family)")
	return c
}

func newDisassociateCommand(a *app) *cobra.Command {
	c := &cobra.Command{Use: "disassociate EIP", Short: "Release an EIP from its ENI; it stays reserved", Args: args(cobra.ExactArgs(1))}
	w := a.writes(c)
	c.RunE = func(cmd *cobra.Command, got []string) error {
		return w.commit(cmd.Context(), etcd.Options{}, func(d *etcd.Draft) error { return bindEIP(d, got[0], "", netip.Addr{}) })
	}
	return c
}

// bindEIP binds an EIP to an ENI, or to none.
func bindEIP(d *etcd.Draft, name, eni string, private netip.Addr) error {
	e, err := find[*api.EIP](d, name)
	if err != nil {
		return err
	}
	bound := *e
	bound.ENI, bound.PrivateIP = eni, private
	d.Put(&bound)
	return nil
}
