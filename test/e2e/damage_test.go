// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/lab"
)

// repairWait is how long an agent may take to put right what it has found. What no event tells of is found by a look, for
// which the tests give it a reason.
const repairWait = 20 * time.Second

// damaged is what somebody does to a host, and how one sees that it is as it was.
type damaged struct {
	name   string
	do     func(t *testing.T, l *lab.Lab)
	whole  func(t *testing.T, l *lab.Lab) bool
	silent bool // no event tells of it
}

func hostPins(l *lab.Lab) string { return dataplane.PinDir(l.AgentBPFFS(), "host-a") }

func linkPins(l *lab.Lab) []string {
	pins, _ := filepath.Glob(filepath.Join(hostPins(l), "links", "*")) // the pattern is good
	return pins
}

func mapPins(l *lab.Lab) []string {
	pins, _ := filepath.Glob(filepath.Join(hostPins(l), "maps*", "*"))
	return pins
}

func removeAll(t *testing.T, paths []string) {
	t.Helper()
	if len(paths) == 0 {
		t.Fatal("there is nothing to remove")
	}
	for _, path := range paths {
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
}

// portLink opens the pinned link of the port of a2.
func portLink(t *testing.T, l *lab.Lab) link.Link {
	t.Helper()
	pins, err := filepath.Glob(filepath.Join(hostPins(l), "links", "port_*"))
	if err != nil {
		t.Fatal(err)
	}
	ifindex := ifindexOf(t, l, "host-a", "eni-a2")
	for _, pin := range pins {
		p, err := link.LoadPinnedLink(pin, nil)
		if err != nil {
			t.Fatal(err)
		}
		info, err := p.Info()
		if err != nil {
			t.Fatal(err)
		}
		if int(info.TCX().Ifindex) == ifindex {
			return p
		}
		_ = p.Close()
	}
	t.Fatal("the port of a2 has no pinned link")
	return nil
}

func portProgram(t *testing.T, l *lab.Lab) ebpf.ProgramID {
	t.Helper()
	p := portLink(t, l)
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		t.Fatal(err)
	}
	return info.Program
}

// stackPass is a program that lets everything through to the host's own stack.
func stackPass(t *testing.T) *ebpf.Program {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "somebody", Type: ebpf.SchedCLS, License: "MIT",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func guardTables(t *testing.T, l *lab.Lab) (n int) {
	t.Helper()
	if err := l.In("host-a", func(*lab.Namespace) error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		tables, err := c.ListTables()
		n = len(tables)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

func damages(t *testing.T, l *lab.Lab) []damaged {
	links, maps, tables := len(linkPins(l)), len(mapPins(l)), guardTables(t, l)
	allLinks := func(_ *testing.T, l *lab.Lab) bool { return len(linkPins(l)) == links }
	allMaps := func(_ *testing.T, l *lab.Lab) bool { return len(mapPins(l)) == maps }
	return []damaged{
		{name: "the pins of all links are removed", whole: allLinks, do: func(t *testing.T, l *lab.Lab) { removeAll(t, linkPins(l)) }},
		{name: "the pins of all maps are removed", whole: allMaps, do: func(t *testing.T, l *lab.Lab) { removeAll(t, mapPins(l)) }},
		{
			name:  "the directory of pins is removed",
			do:    func(t *testing.T, l *lab.Lab) { removeAll(t, []string{hostPins(l)}) },
			whole: func(t *testing.T, l *lab.Lab) bool { return allLinks(t, l) && allMaps(t, l) },
		},
		{
			name: "the guards are flushed",
			do: func(t *testing.T, l *lab.Lab) {
				if err := l.In("host-a", func(*lab.Namespace) error {
					c, err := nftables.New()
					if err != nil {
						return err
					}
					c.FlushRuleset()
					return c.Flush()
				}); err != nil {
					t.Fatal(err)
				}
			},
			whole: func(t *testing.T, l *lab.Lab) bool { return guardTables(t, l) == tables },
		},
		{name: "a port's link gets another program", silent: true, do: replacePort, whole: func(t *testing.T, l *lab.Lab) bool {
			p, err := ebpf.NewProgramFromID(portProgram(t, l))
			if err != nil {
				return false
			}
			defer p.Close()
			info, err := p.Info()
			return err == nil && info.Name != "somebody"
		}},
		{name: "the slots of programs are emptied", silent: true, do: emptySlots, whole: func(t *testing.T, l *lab.Lab) bool {
			filled := 0
			eachSlot(t, l, func(array *ebpf.Map, slot dataplane.Slot) {
				var id uint32
				if array.Lookup(slot.Index, &id) == nil {
					filled++
				}
			})
			return filled == len(dataplane.Slots())
		}},
	}
}

func replacePort(t *testing.T, l *lab.Lab) {
	p := portLink(t, l)
	defer p.Close()
	if err := p.Update(stackPass(t)); err != nil {
		t.Fatal(err)
	}
}

func emptySlots(t *testing.T, l *lab.Lab) {
	eachSlot(t, l, func(array *ebpf.Map, slot dataplane.Slot) {
		if err := array.Delete(slot.Index); err != nil {
			t.Fatal(err)
		}
	})
}

func eachSlot(t *testing.T, l *lab.Lab, do func(array *ebpf.Map, slot dataplane.Slot)) {
	t.Helper()
	for _, slot := range dataplane.Slots() {
		array, err := ebpf.LoadPinnedMap(filepath.Join(dataplane.MapsDir(hostPins(l)), dataplane.PinnedName(slot.Array)), nil)
		if err != nil {
			t.Fatal(err)
		}
		do(array, slot)
		_ = array.Close()
	}
}

// TestDamage: what somebody breaks is found and put right while nothing of a tenant gets where it must not. Then the agent
// dies, and what is in force stays in force: nothing hung on it alone.
func TestDamage(t *testing.T) {
	l := up(t, false)
	frames := tenantFrames(t, deviceMAC(t, l, "host-a", "eni-a2"))
	for _, d := range damages(t, l) {
		t.Run(d.name, func(t *testing.T) {
			stack := delivered(t, l, "host-a")
			d.do(t, l)
			if d.silent {
				stir(t, l)
			}
			for end := time.Now().Add(repairWait); !d.whole(t, l); {
				for _, f := range frames {
					if err := l.SendFrame("vm-a2", guestDevice, f); err != nil {
						t.Fatal(err)
					}
				}
				if time.Now().After(end) {
					t.Fatalf("it is not put right\n%s", l.LogTail("host-a"))
				}
			}
			waitPhase(t, l, "host-a", "a2", "Ready")
			judged(t, l)
			if n := seenBy(stack); n != 0 {
				t.Errorf("%d packets of a tenant reached the host's stack meanwhile", n)
			}
			if err := l.KillAgent("host-a"); err != nil {
				t.Fatal(err)
			}
			judged(t, l)
			revive(t, l, "host-a")
			judged(t, l)
		})
	}
}

// stir gives the agent a reason to look at devices.
func stir(t *testing.T, l *lab.Lab) {
	t.Helper()
	succeeds(t, l, "host-a", "ip", "link", "add", "stir0", "type", "veth", "peer", "name", "stir1")
	succeeds(t, l, "host-a", "ip", "link", "del", "stir0")
}

// judged: what may pass does, and what may not is denied and counted.
func judged(t *testing.T, l *lab.Lab) {
	t.Helper()
	for _, f := range []lab.Family{lab.IPv4, lab.IPv6} {
		allowed(t, l, probe{from: "a2", to: "b1", protocol: "tcp", port: 80, family: f})
		allowed(t, l, probe{from: internetNode, to: "a2", protocol: "udp", port: 80, family: f})
		denied(t, l, probe{from: "a2", to: "a3", protocol: "udp", port: 9999, family: f}, "a3", dataplane.In, dataplane.ReasonSGDenied)
	}
}

// TestBPFFSUnmounted: the file system of the pins is unmounted under the agent. What is in force stays in force, the agent
// says what is wrong, and when it is mounted again everything is pinned as before.
func TestBPFFSUnmounted(t *testing.T) {
	l := up(t, false)
	links, maps := len(linkPins(l)), len(mapPins(l))
	mount := filepath.Dir(l.AgentBPFFS())
	if err := unix.Unmount(mount, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	stir(t, l)
	waitError(t, l, "host-a", "not on a bpffs")
	judgedWithoutCounters(t, l)
	if err := errors.Join(unix.Mount("bpffs", mount, "bpf", 0, ""), os.Mkdir(l.AgentBPFFS(), 0o755)); err != nil {
		t.Fatal(err)
	}
	stir(t, l)
	for end := time.Now().Add(repairWait); len(linkPins(l)) != links || len(mapPins(l)) != maps; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("of %d links and %d maps %d and %d are pinned again\n%s", links, maps, len(linkPins(l)), len(mapPins(l)), l.LogTail("host-a"))
		}
	}
	judgedWithoutCounters(t, l) // host-b's maps are not there until its agent has looked, too
	if err := l.KillAgent("host-a"); err != nil {
		t.Fatal(err)
	}
	judgedWithoutCounters(t, l)
	revive(t, l, "host-a")
}

// judgedWithoutCounters is judged where the maps cannot be opened.
func judgedWithoutCounters(t *testing.T, l *lab.Lab) {
	t.Helper()
	for _, f := range []lab.Family{lab.IPv4, lab.IPv6} {
		for _, p := range []struct {
			probe
			passes bool
		}{
			{probe{from: "a2", to: "b1", protocol: "tcp", port: 80, family: f}, true},
			{probe{from: "a2", to: "a3", protocol: "udp", port: 9999, family: f}, false},
		} {
			q := p.resolve(t, l)
			if !p.passes {
				q.Wait = 500 * time.Millisecond
			}
			answer, err := l.Probe(context.Background(), q)
			if err != nil || answer.Allowed != p.passes {
				t.Errorf("%s: allowed %v (%v, %v), want %v", p.probe, answer.Allowed, answer.Why, err, p.passes)
			}
		}
	}
}

// waitError waits until an agent's status tells of an error.
func waitError(t *testing.T, l *lab.Lab, host, text string) {
	t.Helper()
	for end := time.Now().Add(repairWait); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if _, body, err := l.AgentGet(context.Background(), host, "/status"); err == nil && strings.Contains(body, text) {
			return
		}
	}
	t.Fatalf("the status of %s does not tell of %q\n%s", host, text, l.LogTail(host))
}
