// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"io"
	"os/exec"
)

// Exec runs a command in the network namespace of a node and waits for it. Only the network is that
// of the node: files, processes and /sys are the machine's own.
func (l *Lab) Exec(ctx context.Context, node string, command []string, in io.Reader, out, errOut io.Writer) error {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, errOut
	if err := l.In(node, func(*Namespace) error { return cmd.Start() }); err != nil {
		return fmt.Errorf("run %s in %s: %w", command[0], node, err)
	}
	return cmd.Wait()
}

// Suggestions are a few commands to begin with, made for this lab.
func (l *Lab) Suggestions() []string {
	var guests []string
	mover := ""
	for _, i := range l.Plan.Instances {
		if len(i.Ports) > 0 {
			guests = append(guests, i.Name)
		}
		if i.Migrates {
			mover = i.Name
		}
	}
	if len(guests) == 0 {
		return []string{"enictl lab status", "enictl lab down"}
	}
	first, last := guests[0], guests[len(guests)-1]
	if mover != "" {
		last = mover
	}
	s := []string{
		"enictl lab status",
		fmt.Sprintf("enictl lab ping %s %s --tcp 443", nodeInternet, last),
		fmt.Sprintf("enictl lab exec %s -- ip address", first),
		fmt.Sprintf("enictl counters --host %s --bpffs %s --state-dir %s", l.Plan.Hosts[0].Name, l.AgentBPFFS(), l.AgentStateDir()),
	}
	if inst := l.Plan.Instance(mover); inst != nil {
		for _, h := range l.Plan.Hosts {
			if h.Name != inst.Host {
				s = append(s, fmt.Sprintf("enictl lab migrate %s --to %s", mover, h.Name))
				break
			}
		}
	}
	return append(s, "enictl lab down")
}
