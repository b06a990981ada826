// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/cilium/ebpf/link"
	"go.yaml.in/yaml/v3"

	"github.com/eniplane/eniplane/pkg/dataplane"
)

// UnplugPort deletes the host's device of an ENI, as a guest that is shut down does.
func (l *Lab) UnplugPort(eni string) error {
	inst, port := l.Plan.Port(eni)
	if port == nil {
		return fmt.Errorf("no instance of the lab has an ENI %s", eni)
	}
	return l.open(func(ns ...*Namespace) error { return ns[0].remove(port.Device) }, inst.Host)
}

// PlugPort makes the device of an ENI again, and the guest does with it what it did at first.
func (l *Lab) PlugPort(eni string) error {
	inst, port := l.Plan.Port(eni)
	if port == nil {
		return fmt.Errorf("no instance of the lab has an ENI %s", eni)
	}
	if inst.Migrates {
		return l.plugLeg(inst, port, l.hostIndex(inst.Host))
	}
	if err := l.connect(inst, port); err != nil {
		return err
	}
	return l.routeGuest(inst)
}

// FlapPort takes the host's device of an ENI down and up again.
func (l *Lab) FlapPort(eni string) error {
	inst, port := l.Plan.Port(eni)
	if port == nil {
		return fmt.Errorf("no instance of the lab has an ENI %s", eni)
	}
	return l.open(func(ns ...*Namespace) error {
		return errors.Join(ns[0].down(port.Device), ns[0].up(port.Device))
	}, inst.Host)
}

// DetachPrograms takes the programs of a host off their devices, behind the agent's back, and
// returns the links that it broke.
func (l *Lab) DetachPrograms(host string) ([]string, error) {
	dir := filepath.Join(dataplane.PinDir(l.AgentBPFFS(), host), "links")
	var broken []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		lnk, err := link.LoadPinnedLink(path, nil)
		if err != nil {
			return fmt.Errorf("open link %s: %w", path, err)
		}
		defer lnk.Close()
		if err := lnk.Detach(); err != nil {
			return fmt.Errorf("detach link %s: %w", path, err)
		}
		broken = append(broken, d.Name())
		return nil
	})
	if err != nil {
		return broken, fmt.Errorf("detach programs of %s: %w", host, err)
	}
	return broken, nil
}

// EmptyGroup takes all ingress rules out of a security group and returns the new revision.
func (l *Lab) EmptyGroup(group string) (uint64, error) {
	return l.EditFeed(Edit{Kind: "SecurityGroup", Name: group, Change: func(spec *yaml.Node) error {
		return Set(spec, "ingress", []any{})
	}})
}
