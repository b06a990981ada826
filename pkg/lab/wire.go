// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
)

// A wire is the cable of an instance that migrates: the guest's veth and one leg to each host end in
// a namespace of their own, where two tiny programs join the guest to one leg. Which one is a single
// word for all ENIs of the instance, so the switch is one step and loses nothing by itself.

// The word: which leg the guest sends into, and whether it hears all of them, as a machine does whose ports are there
// on both hosts while it moves: what the new one gets early waits there, what the old one got was delivered.
const (
	legMask = 0xff
	allLegs = 0x100
)

// tcx verdicts.
const tcxDrop = 2

const (
	pinActive = "active"
	pinLegs   = "_legs"
	pinLinks  = "_links"
)

// guestEnd and leg are the devices inside the wire namespace.
func guestEnd(port *PortPlan) string      { return fmt.Sprintf("g%d", port.Index) }
func leg(port *PortPlan, host int) string { return fmt.Sprintf("l%d-%d", port.Index, host) }

func (l *Lab) makeWire(inst *InstancePlan, port *PortPlan) error {
	mac, err := net.ParseMAC(port.MAC)
	if err != nil {
		return fmt.Errorf("MAC of %s: %w", port.ENI, err)
	}
	if err := l.open(func(ns ...*Namespace) error {
		wire := ns[0]
		if err := wire.sysctl("ipv6/conf/all/disable_ipv6", "1"); err != nil {
			return err
		}
		if err := wire.sysctl("ipv6/conf/default/disable_ipv6", "1"); err != nil {
			return err
		}
		if err := cable(plug{ns: ns[1], name: port.Guest, mac: mac}, plug{ns: wire, name: guestEnd(port)}, l.guestMTU()); err != nil {
			return err
		}
		return wire.up(guestEnd(port))
	}, nodeWirePrefix+inst.Name, inst.Name); err != nil {
		return err
	}
	if err := l.makeWireMaps(inst, port); err != nil {
		return err
	}
	for i := range l.Plan.Hosts {
		if err := l.plugLeg(inst, port, i); err != nil {
			return err
		}
	}
	return l.attachWire(inst, port, guestEnd(port), guestProgram)
}

// makeWireMaps pins the active leg of the instance and the devices of the legs of this ENI.
func (l *Lab) makeWireMaps(inst *InstancePlan, port *PortPlan) error {
	if err := os.MkdirAll(filepath.Join(l.wirePins(inst.Name), port.ENI+pinLinks), 0o755); err != nil {
		return fmt.Errorf("make pin directory: %w", err)
	}
	active, err := ebpf.NewMapWithOptions(&ebpf.MapSpec{
		Name: pinActive, Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1, Pinning: ebpf.PinByName,
	}, ebpf.MapOptions{PinPath: l.wirePins(inst.Name)})
	if err != nil {
		return fmt.Errorf("make map of the active leg: %w", err)
	}
	defer active.Close()
	if err := active.Put(uint32(0), uint32(l.hostIndex(inst.Host))); err != nil {
		return fmt.Errorf("set the active leg: %w", err)
	}
	legs, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: "legs", Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: uint32(len(l.Plan.Hosts)),
	})
	if err != nil {
		return fmt.Errorf("make map of the legs: %w", err)
	}
	defer legs.Close()
	if err := legs.Pin(filepath.Join(l.wirePins(inst.Name), port.ENI+pinLegs)); err != nil {
		return fmt.Errorf("pin map of the legs: %w", err)
	}
	return nil
}

// plugLeg makes the cable to one host and joins it to the wire. It is also the way to make a port
// again that was deleted.
func (l *Lab) plugLeg(inst *InstancePlan, port *PortPlan, host int) error {
	name := leg(port, host)
	err := l.open(func(ns ...*Namespace) error {
		if err := cable(plug{ns: ns[0], name: name}, plug{ns: ns[1], name: port.Device}, l.guestMTU()); err != nil {
			return err
		}
		if err := ns[0].up(name); err != nil {
			return err
		}
		ifindex, err := ns[0].ifindex(name)
		if err != nil {
			return err
		}
		legs, err := ebpf.LoadPinnedMap(filepath.Join(l.wirePins(inst.Name), port.ENI+pinLegs), nil)
		if err != nil {
			return fmt.Errorf("open map of the legs: %w", err)
		}
		defer legs.Close()
		if err := legs.Put(uint32(host), uint32(ifindex)); err != nil {
			return fmt.Errorf("enter the leg: %w", err)
		}
		return nil
	}, nodeWirePrefix+inst.Name, l.Plan.Hosts[host].Name)
	if err != nil {
		return err
	}
	return l.attachWire(inst, port, name, func(m wireMaps, guest int) asm.Instructions {
		return legProgram(m, guest, host)
	})
}

// wireMaps are the maps of one ENI's wire.
type wireMaps struct{ active, legs *ebpf.Map }

// attachWire loads a program and attaches it to a device of the wire, pinned.
func (l *Lab) attachWire(inst *InstancePlan, port *PortPlan, device string,
	program func(m wireMaps, guest int) asm.Instructions,
) error {
	return l.open(func(ns ...*Namespace) (err error) {
		wire := ns[0]
		guest, err := wire.ifindex(guestEnd(port))
		if err != nil {
			return err
		}
		ifindex, err := wire.ifindex(device)
		if err != nil {
			return err
		}
		var m wireMaps
		if m.active, err = ebpf.LoadPinnedMap(filepath.Join(l.wirePins(inst.Name), pinActive), nil); err != nil {
			return fmt.Errorf("open map of the active leg: %w", err)
		}
		defer m.active.Close()
		if m.legs, err = ebpf.LoadPinnedMap(filepath.Join(l.wirePins(inst.Name), port.ENI+pinLegs), nil); err != nil {
			return fmt.Errorf("open map of the legs: %w", err)
		}
		defer m.legs.Close()
		prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Name: "wire", Type: ebpf.SchedCLS, License: "Apache-2.0", Instructions: program(m, guest),
		})
		if err != nil {
			return fmt.Errorf("load wire program: %w", err)
		}
		defer prog.Close()
		pin := filepath.Join(l.wirePins(inst.Name), port.ENI+pinLinks, device)
		return wire.Do(func() error { return attachPinned(prog, ifindex, pin) })
	}, nodeWirePrefix+inst.Name)
}

// attachPinned attaches a program and pins the link in place of an older one of the same name.
func attachPinned(prog *ebpf.Program, ifindex int, pin string) error {
	if err := os.Remove(pin); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove old wire link: %w", err)
	}
	lnk, err := link.AttachTCX(link.TCXOptions{Interface: ifindex, Program: prog, Attach: ebpf.AttachTCXIngress})
	if err != nil {
		return fmt.Errorf("attach wire program: %w", err)
	}
	defer lnk.Close()
	if err := lnk.Pin(pin); err != nil {
		return fmt.Errorf("pin wire link: %w", err)
	}
	return nil
}

// lookupWord appends code that reads m[*(u32 *)(fp-4)] into R6 or drops the packet.
func lookupWord(m *ebpf.Map) asm.Instructions {
	return asm.Instructions{
		asm.LoadMapPtr(asm.R1, m.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "drop"),
		asm.LoadMem(asm.R6, asm.R0, 0, asm.Word),
	}
}

// redirectR1 appends code that sends the packet out of device R1, and the drop of everything else.
func redirectR1() asm.Instructions {
	return asm.Instructions{
		asm.Mov.Imm(asm.R2, 0),
		asm.FnRedirect.Call(),
		asm.Return(),
		asm.Mov.Imm(asm.R0, tcxDrop).WithSymbol("drop"),
		asm.Return(),
	}
}

// guestProgram sends what the guest sends into the active leg.
func guestProgram(m wireMaps, _ int) asm.Instructions {
	code := asm.Instructions{asm.StoreImm(asm.RFP, -4, 0, asm.Word)}
	code = append(code, lookupWord(m.active)...)
	code = append(code, asm.And.Imm(asm.R6, legMask), asm.StoreMem(asm.RFP, -4, asm.R6, asm.Word))
	code = append(code, lookupWord(m.legs)...)
	code = append(code,
		asm.JEq.Imm(asm.R6, 0, "drop"),
		asm.Mov.Reg(asm.R1, asm.R6))
	return append(code, redirectR1()...)
}

// legProgram sends what comes from a host to the guest, if its leg is the active one, or all are heard.
func legProgram(m wireMaps, guest, host int) asm.Instructions {
	code := asm.Instructions{asm.StoreImm(asm.RFP, -4, 0, asm.Word)}
	code = append(code, lookupWord(m.active)...)
	code = append(code,
		asm.Mov.Reg(asm.R7, asm.R6),
		asm.And.Imm(asm.R6, legMask),
		asm.JEq.Imm(asm.R6, int32(host), "pass"),
		asm.And.Imm(asm.R7, allLegs),
		asm.JEq.Imm(asm.R7, 0, "drop"),
		asm.Mov.Imm(asm.R1, int32(guest)).WithSymbol("pass"))
	return append(code, redirectR1()...)
}

// switchWire makes the leg to a host the active one, for all ENIs of the instance in one step. moving: the guest hears
// the other legs, too.
func (l *Lab) switchWire(inst *InstancePlan, host string, moving bool) error {
	if len(inst.Ports) == 0 {
		return nil
	}
	active, err := ebpf.LoadPinnedMap(filepath.Join(l.wirePins(inst.Name), pinActive), nil)
	if err != nil {
		return fmt.Errorf("open map of the active leg: %w", err)
	}
	defer active.Close()
	word := uint32(l.hostIndex(host))
	if moving {
		word |= allLegs
	}
	if err := active.Put(uint32(0), word); err != nil {
		return fmt.Errorf("switch the wire of %s: %w", inst.Name, err)
	}
	return nil
}

// hostIndex is the position of a host in the plan, -1 if it is not there.
func (l *Lab) hostIndex(name string) int {
	for i, h := range l.Plan.Hosts {
		if h.Name == name {
			return i
		}
	}
	return -1
}
