// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"golang.org/x/sys/unix"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/eniplane/eniplane/pkg/lab/netnsdir"
	"github.com/eniplane/eniplane/pkg/testroot"
)

// upWithoutAgents brings a lab up whose ports are plain devices.
func upWithoutAgents(t *testing.T) *Lab {
	t.Helper()
	testroot.Require(t)
	name := testroot.Name()
	t.Cleanup(func() {
		if err := Down(name); err != nil {
			t.Errorf("take the lab down: %v", err)
		}
	})
	l, err := Up(context.Background(), filepath.Join("testdata", "lab.yaml"), Options{Name: name, NoAgents: true})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestUpAndDown(t *testing.T) {
	l := upWithoutAgents(t)
	for _, node := range l.Plan.Nodes() {
		if _, err := os.Stat(filepath.Join(netnsdir.Dir, l.Namespace(node))); err != nil {
			t.Errorf("namespace of %s: %v", node, err)
		}
	}
	again, err := Open(l.Plan.Lab)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Up(context.Background(), filepath.Join("testdata", "lab.yaml"), Options{Name: l.Plan.Lab, NoAgents: true}); err == nil {
		t.Error("a second lab of the same name came up")
	}
	for range 2 {
		if err := Down(again.Plan.Lab); err != nil {
			t.Fatal(err)
		}
	}
	for _, node := range l.Plan.Nodes() {
		if _, err := os.Stat(filepath.Join(netnsdir.Dir, l.Namespace(node))); !os.IsNotExist(err) {
			t.Errorf("namespace of %s is left: %v", node, err)
		}
	}
	if _, err := os.Stat(l.dir); !os.IsNotExist(err) {
		t.Errorf("directory of the lab is left: %v", err)
	}
}

// Down removes what Up left when it was killed after any of its steps.
func TestDownAfterCrash(t *testing.T) {
	testroot.Require(t)
	topology, err := ReadTopology("testdata/lab.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for steps := range 7 {
		topology.Name = testroot.Name()
		l, unlock, err := create(topology, &Options{NoAgents: true})
		if err != nil {
			t.Fatal(err)
		}
		for _, do := range []func() error{
			l.makeDirs,
			func() error { return makeNamespace(l.Namespace(nodeUnderlay)) },
			func() error { return os.WriteFile(filepath.Join(netnsdir.Dir, l.Namespace(nodeInternet)), nil, 0o444) }, // not yet mounted
			func() error { return deleteNamespace(l.Namespace(nodeInternet)) },
			func() error { return makeNamespace(l.Namespace(nodeInternet)) },
			l.makeUnderlay,
		}[:steps] {
			if err := do(); err != nil {
				t.Fatal(err)
			}
		}
		unlock()
		if err := Down(topology.Name); err != nil {
			t.Errorf("after %d steps: %v", steps, err)
		}
		left, err := filepath.Glob(filepath.Join(netnsdir.Dir, l.Plan.Namespace("*")))
		if err != nil || len(left) > 0 {
			t.Errorf("after %d steps: %q is left (%v)", steps, left, err)
		}
		if _, err := os.Stat(l.dir); !os.IsNotExist(err) {
			t.Errorf("after %d steps: %s is left", steps, l.dir)
		}
	}
}

// cancelAt is Ctrl-C when a step is announced.
type cancelAt struct {
	step   int
	cancel context.CancelFunc
}

func (c *cancelAt) Write(b []byte) (int, error) {
	if c.step--; c.step < 0 {
		c.cancel()
	}
	return len(b), nil
}

func TestUpInterrupted(t *testing.T) {
	testroot.Require(t)
	for step := range 6 {
		ctx, cancel := context.WithCancel(context.Background())
		name := testroot.Name()
		_, err := Up(ctx, "testdata/lab.yaml", Options{Name: name, NoAgents: true, Progress: &cancelAt{step, cancel}})
		cancel()
		if !errors.Is(err, context.Canceled) {
			t.Errorf("interrupted at step %d: %v", step, err)
		}
		if names, err := List(); err != nil || slices.Contains(names, name) {
			t.Errorf("interrupted at step %d: the lab is left (%v)", step, err)
		}
	}
}

func TestUnderlayCarriesBothFamilies(t *testing.T) {
	l := upWithoutAgents(t)
	for _, f := range []Family{IPv4, IPv6} {
		for _, to := range []string{"host-b", nodeInternet} {
			from, dst, err := l.Spots("host-a", to, f)
			if err != nil {
				t.Fatal(err)
			}
			wantAnswer(t, l, Probe{From: from, To: dst, Protocol: "icmp"}, true)
		}
	}
}

func TestUplinkOffload(t *testing.T) {
	l := upWithoutAgents(t)
	for _, on := range []bool{true, false} {
		if err := l.SetUplinkOffload(on); err != nil {
			t.Fatal(err)
		}
		for _, o := range []Offload{OffloadTX, OffloadTSO} {
			if got := hasOffload(t, l, "host-a", "uplink0", o); got != on {
				t.Errorf("after SetUplinkOffload(%t) offload %#x of uplink0 is %t", on, uint32(o), got)
			}
		}
	}
}

// hasOffload reads what SetOffload set: the ioctls to get have the number before those to set.
func hasOffload(t *testing.T, l *Lab, node, device string, o Offload) bool {
	t.Helper()
	value := ethtoolValue{cmd: uint32(o) - 1}
	if err := l.In(node, func(*Namespace) error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return ethtool(fd, device, &value)
	}); err != nil {
		t.Fatal(err)
	}
	return value.data == 1
}

// wantAnswer sends a probe and compares its fate.
func wantAnswer(t *testing.T, l *Lab, p Probe, allowed bool) {
	t.Helper()
	p.Wait = 300 * time.Millisecond
	if allowed {
		p.Wait = 5 * time.Second
	}
	answer, err := l.Probe(context.Background(), p)
	if err != nil {
		t.Fatal(err)
	}
	if answer.Allowed != allowed {
		t.Errorf("%s %s -> %s port %d: allowed = %t, want %t (%v)", p.Protocol, p.From, p.To, p.Port, answer.Allowed, allowed, answer.Why)
	}
}

// The wire alone, without agents: each host stands in for the gateway, and only the one that the
// wire leads to is heard.
func TestWireSwitches(t *testing.T) {
	l := upWithoutAgents(t)
	gateway := netip.MustParsePrefix("10.0.1.1/24")
	mac := net.HardwareAddr{2, 0, 0x5e, 0, 0, 1}
	for _, h := range l.hostNames() {
		if err := l.open(func(ns ...*Namespace) error {
			dev, err := ns[0].link("eni-web-0")
			if err != nil {
				return err
			}
			if err := ns[0].nl.LinkSetHardwareAddr(dev, mac); err != nil {
				return err
			}
			return errors.Join(ns[0].address("eni-web-0", gateway), ns[0].up("eni-web-0"))
		}, h); err != nil {
			t.Fatal(err)
		}
	}
	guest := Spot{Node: "web-vm", Addr: netip.MustParseAddr("10.0.1.10"), Local: netip.MustParseAddr("10.0.1.10")}
	reaches := func(host string, want bool) {
		t.Helper()
		to := Spot{Node: host, Addr: gateway.Addr(), Local: gateway.Addr()}
		for _, protocol := range []string{"tcp", "udp"} {
			wantAnswer(t, l, Probe{From: guest, To: to, Protocol: protocol, Port: 8080}, want)
		}
	}
	reaches("host-a", true)
	reaches("host-b", false)
	if err := l.move(context.Background(), l.Plan.Instance("web-vm"), "host-b", &MigrationReport{}, MigrateHooks{}); err != nil {
		t.Fatal(err)
	}
	reaches("host-a", false)
	reaches("host-b", true)
	if err := l.UnplugPort("web-0"); err != nil {
		t.Fatal(err)
	}
	gone := Spot{Node: "host-b", Addr: gateway.Addr()}
	wantAnswer(t, l, Probe{From: guest, To: gone, Protocol: "icmp"}, false)
	again, err := Open(l.Plan.Lab)
	if err != nil {
		t.Fatal(err)
	}
	if got := again.Plan.Instance("web-vm").Host; got != "host-b" {
		t.Errorf("the state file says %s, want host-b", got)
	}
}

// A process that only has the pid of one of ours is left alone.
func TestStopSparesOthers(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	p, err := processOf(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	stranger := Process{PID: p.PID, StartTime: p.StartTime - 1}
	if err := stranger.stop(0); err != nil {
		t.Error(err)
	}
	if !p.Alive() {
		t.Fatal("a process with another start time was killed")
	}
	if err := p.kill(); err != nil {
		t.Error(err)
	}
}
