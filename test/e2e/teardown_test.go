// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/nftables"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/lab"
)

// TestTeardown: `enictl teardown` leaves a host as it was before the agent.
func TestTeardown(t *testing.T) {
	l := up(t, false)
	allowed(t, l, probe{from: "a1", to: "b1", protocol: "tcp", port: 80})
	const host = "host-a"
	if len(leftovers(t, l, host)) == 0 {
		t.Fatal("the search for leftovers finds nothing while the agent runs")
	}
	if err := l.StopAgent(host); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	command := []string{
		labs.binary(t, "enictl"), "teardown", "--yes", "--host", host, "--bpffs", l.AgentBPFFS(), "--state-dir", l.AgentStateDir(),
	}
	for range 2 { // the second finds nothing to do
		if err := l.Exec(context.Background(), host, command, nil, &out, &out); err != nil {
			t.Fatalf("enictl teardown: %v\n%s", err, out.String())
		}
	}
	for _, s := range leftovers(t, l, host) {
		t.Errorf("left behind: %s", s)
	}
	if err := l.StartAgent(host); err != nil {
		t.Fatal(err)
	}
	if err := l.WaitReady(context.Background(), host); err != nil {
		t.Fatal(err)
	}
	waitPhase(t, l, host, "a1", "Ready")
	allowed(t, l, probe{from: "a1", to: "b1", protocol: "tcp", port: 80})
}

// leftovers finds what an agent makes on a host.
func leftovers(t *testing.T, l *lab.Lab, host string) []string {
	t.Helper()
	var found []string
	for _, dir := range []string{dataplane.PinDir(l.AgentBPFFS(), host), dataplane.HostStateDir(l.AgentStateDir(), host)} {
		_ = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				found = append(found, path)
			}
			return nil
		})
	}
	if err := l.In(host, func(n *lab.Namespace) error {
		devices, err := n.Netlink().LinkList()
		if err != nil {
			return err
		}
		for _, d := range devices {
			if d.Type() == "vxlan" {
				found = append(found, "device "+d.Attrs().Name)
			}
			found = append(found, programsOn(t, d.Attrs().Index, d.Attrs().Name)...)
			if d.Attrs().Xdp != nil && d.Attrs().Xdp.Attached {
				found = append(found, "XDP program on "+d.Attrs().Name)
			}
		}
		c, err := nftables.New()
		if err != nil {
			return err
		}
		tables, err := c.ListTables()
		for _, table := range tables {
			found = append(found, "nftables table "+table.Name)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return found
}

// programsOn lists the tcx programs of a device.
func programsOn(t *testing.T, ifindex int, name string) []string {
	t.Helper()
	var found []string
	for _, hook := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
		r, err := link.QueryPrograms(link.QueryOptions{Target: ifindex, Attach: hook})
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Programs) > 0 {
			found = append(found, "tcx program on "+name)
		}
	}
	return found
}

// TestTwoLabs: two labs with the same hosts, names and addresses do not know of each other.
func TestTwoLabs(t *testing.T) {
	first, second := common(t), up(t, false)
	for _, l := range []*lab.Lab{first, second} {
		allowed(t, l, probe{from: "a1", to: "b1", protocol: "tcp", port: 80})
	}
	before := counters(t, second)
	allowed(t, first, probe{from: "a1", to: "b1", protocol: "udp", port: 81})
	for _, m := range counters(t, second).Since(before) {
		if m.ENI == "b1" && m.Reason == dataplane.ReasonDelivered {
			t.Errorf("traffic of one lab is counted in the other: %v", m)
		}
	}
	if err := lab.Down(second.Plan.Lab); err != nil {
		t.Fatal(err)
	}
	allowed(t, first, probe{from: "a1", to: "b1", protocol: "tcp", port: 80})
	left, err := filepath.Glob("/run/netns/" + second.Namespace("*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}
