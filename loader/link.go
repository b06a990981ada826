// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// role is what a device is to us; links are pinned as <role>_<ifindex>. Not by the device's name: it
// may hold a dot, which a bpffs refuses. An ifindex that was given to another device shows in the
// link itself, which then names no device.
type role string

const (
	rolePort   role = "port"
	roleVXLAN  role = "vxlan"
	roleUplink role = "uplink"
	roleXDP    role = "xdp"    // of an uplink
	roleShaper role = "shaper" // the far end of one
)

func (p place) link(r role, ifindex int) string {
	return filepath.Join(p.links(), fmt.Sprintf("%s_%d", r, ifindex))
}

// ensureTC makes our stub run first at the tcx ingress of a device. It says whether anything had to
// be done. A link is updated, never detached and attached again.
func (p place) ensureTC(r role, device *netlink.LinkAttrs, stub *ebpf.Program) (changed bool, err error) {
	pin := p.link(r, device.Index)
	found, err := keepLink(pin, device.Index, stub)
	if err != nil || found != linkMissing {
		return found == linkUpdated, err
	}
	l, err := attachTC(device, stub)
	if err != nil {
		return false, fmt.Errorf("attach to tcx ingress of %s: %w", device.Name, err)
	}
	return true, pinLink(l, pin)
}

// attachTC attaches, or finds the link of ours whose pin somebody removed: a link that a process
// still holds is taken over, one that is on its way out is waited for.
func attachTC(device *netlink.LinkAttrs, stub *ebpf.Program) (link.Link, error) {
	for attempt := 0; ; attempt++ {
		l, err := link.AttachTCX(link.TCXOptions{
			Interface: device.Index, Program: stub, Attach: ebpf.AttachTCXIngress, Anchor: link.Head(),
		})
		if !errors.Is(err, unix.EEXIST) || attempt == 100 {
			return l, err
		}
		if l, err = findTC(device, stub); err != nil || l != nil {
			return l, err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// findTC finds the link that holds our stub on a device; nil = there is none that lives.
func findTC(device *netlink.LinkAttrs, stub *ebpf.Program) (link.Link, error) {
	result, err := link.QueryPrograms(link.QueryOptions{Target: device.Index, Attach: ebpf.AttachTCXIngress})
	if err != nil {
		return nil, fmt.Errorf("list tcx programs: %w", err)
	}
	for _, attached := range result.Programs {
		id, isLink := attached.LinkID()
		if !isLink {
			continue
		}
		same, err := sameProgram(attached.ID, stub)
		if errors.Is(err, fs.ErrNotExist) || err == nil && !same {
			continue
		}
		if err != nil {
			return nil, err
		}
		l, err := link.NewFromID(id)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		return l, err
	}
	return nil, nil
}

// ensureXDP makes our stub the XDP program of an uplink: native, or generic where the driver has no
// native XDP. The program of somebody else there is left: errForeignXDP.
func (p place) ensureXDP(device *netlink.LinkAttrs, stub *ebpf.Program) (changed, generic bool, err error) {
	pin := p.link(roleXDP, device.Index)
	found, err := keepLink(pin, device.Index, stub)
	if err != nil || found != linkMissing {
		return found == linkUpdated, false, err
	}
	l, generic, err := attachXDP(device, stub)
	if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST) {
		return false, false, errForeignXDP
	}
	if err != nil {
		return false, false, fmt.Errorf("attach XDP to %s: %w", device.Name, err)
	}
	return true, generic, pinLink(l, pin)
}

// attachXDP tries native, then generic XDP. A link of ours whose pin somebody removed is taken over if something still holds
// it; one that is on its way out is waited for.
func attachXDP(device *netlink.LinkAttrs, stub *ebpf.Program) (l link.Link, generic bool, err error) {
	opts := link.XDPOptions{Interface: device.Index, Program: stub, Flags: link.XDPDriverMode}
	for range 100 {
		l, err = link.AttachXDP(opts)
		if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) {
			generic = true
			opts.Flags = link.XDPGenericMode
			l, err = link.AttachXDP(opts)
		}
		if !errors.Is(err, unix.EBUSY) || device.Xdp == nil {
			break
		}
		if ours, lookErr := sameProgram(ebpf.ProgramID(device.Xdp.ProgId), stub); lookErr == nil && !ours {
			break
		}
		if held, findErr := findXDP(device, stub); findErr != nil || held != nil {
			return held, generic, findErr
		}
		time.Sleep(10 * time.Millisecond)
	}
	return l, generic, err
}

// findXDP finds the link by which our stub is the XDP program of a device; nil = there is none that lives. The kernel tells
// of a device only which program it has, so all links are looked at.
func findXDP(device *netlink.LinkAttrs, stub *ebpf.Program) (link.Link, error) {
	all := new(link.Iterator)
	defer all.Close()
	for all.Next() {
		info, err := all.Link.Info()
		if err != nil {
			return nil, fmt.Errorf("look at link %d: %w", all.ID, err)
		}
		xdp := info.XDP()
		if xdp == nil || int(xdp.Ifindex) != device.Index {
			continue
		}
		same, err := sameProgram(info.Program, stub)
		if err != nil {
			return nil, err
		}
		if same {
			return all.Take(), nil
		}
	}
	if err := all.Err(); err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	return nil, nil
}

var errForeignXDP = errors.New("another XDP program holds the device")

func pinLink(l link.Link, pin string) error {
	defer l.Close()
	if err := l.Pin(pin); err != nil {
		return fmt.Errorf("pin link at %s: %w", pin, err)
	}
	return nil
}

type linkFound int

const (
	linkMissing linkFound = iota
	linkKept
	linkUpdated
)

// keepLink finds our link by its pin. A link whose device is gone, or that serves another device by
// now, is unpinned and counts as missing.
func keepLink(pin string, ifindex int, stub *ebpf.Program) (linkFound, error) {
	l, err := link.LoadPinnedLink(pin, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return linkMissing, nil
	}
	if err != nil {
		return linkMissing, fmt.Errorf("open link %s: %w", pin, err)
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return linkMissing, fmt.Errorf("look at link %s: %w", pin, err)
	}
	if linkDevice(info) != ifindex {
		return linkMissing, removePin(pin)
	}
	same, err := sameProgram(info.Program, stub)
	if err != nil {
		return linkMissing, err
	}
	if same {
		return linkKept, nil
	}
	err = l.Update(stub)
	if errors.Is(err, unix.ENOLINK) {
		return linkMissing, removePin(pin)
	}
	if err != nil {
		return linkMissing, fmt.Errorf("update link %s: %w", pin, err)
	}
	return linkUpdated, nil
}

// linkDevice returns the ifindex that a link serves; 0 = its device is gone.
func linkDevice(info *link.Info) int {
	if tcx := info.TCX(); tcx != nil {
		return int(tcx.Ifindex)
	}
	if xdp := info.XDP(); xdp != nil {
		return int(xdp.Ifindex)
	}
	return 0
}

func removePin(pin string) error {
	if err := os.Remove(pin); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove pin: %w", err)
	}
	return nil
}

// sweepLinks removes the pins of links whose device is gone.
func (p place) sweepLinks() error {
	pins, err := os.ReadDir(p.links())
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	for _, entry := range pins {
		_, suffix, _ := strings.Cut(entry.Name(), "_")
		pin := filepath.Join(p.links(), entry.Name())
		ifindex, err := strconv.Atoi(suffix)
		if err != nil {
			continue
		}
		serves, err := linkServes(pin, ifindex)
		if err != nil {
			return err
		}
		if serves {
			continue
		}
		if err := removePin(pin); err != nil {
			return err
		}
	}
	return nil
}

func linkServes(pin string, ifindex int) (bool, error) {
	l, err := link.LoadPinnedLink(pin, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("open link %s: %w", pin, err)
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return false, fmt.Errorf("look at link %s: %w", pin, err)
	}
	return linkDevice(info) == ifindex, nil
}

// linkIsHere tells whether a pinned tcx link is on a device of this network namespace. One whose
// device is gone is nowhere else.
func linkIsHere(pin string) (bool, error) {
	l, err := link.LoadPinnedLink(pin, nil)
	if err != nil {
		return false, fmt.Errorf("open link %s: %w", pin, err)
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return false, fmt.Errorf("look at link %s: %w", pin, err)
	}
	device := linkDevice(info)
	if device == 0 {
		return true, nil
	}
	result, err := link.QueryPrograms(link.QueryOptions{Target: device, Attach: ebpf.AttachTCXIngress})
	if errors.Is(err, unix.ENODEV) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("list tcx programs: %w", err)
	}
	return slices.ContainsFunc(result.Programs, func(attached link.AttachedProgram) bool {
		id, isLink := attached.LinkID()
		return isLink && id == info.ID
	}), nil
}

// pinned lists the ifindexes of the devices that have a link of ours in a role.
func (p place) pinned(r role) ([]int, error) {
	pins, err := os.ReadDir(p.links())
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	var all []int
	for _, entry := range pins {
		of, suffix, _ := strings.Cut(entry.Name(), "_")
		ifindex, err := strconv.Atoi(suffix)
		if err != nil || of != string(r) {
			continue
		}
		serves, err := linkServes(filepath.Join(p.links(), entry.Name()), ifindex)
		if err != nil {
			return nil, err
		}
		if serves {
			all = append(all, ifindex)
		}
	}
	return all, nil
}

// foreignBefore picks the programs that see a device's packets before ours does.
func foreignBefore(device *netlink.LinkAttrs, programs []link.AttachedProgram, stub *ebpf.Program) ([]Foreign, error) {
	var before []Foreign
	for _, attached := range programs {
		same, err := sameProgram(attached.ID, stub)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it went meanwhile
		}
		if err != nil {
			return nil, err
		}
		if same {
			break
		}
		before = append(before, Foreign{Device: device.Name, Hook: "tcx ingress", Program: programName(attached.ID), ID: uint32(attached.ID)})
	}
	return before, nil
}

func programName(id ebpf.ProgramID) string {
	prog, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return ""
	}
	defer prog.Close()
	info, err := prog.Info()
	if err != nil {
		return ""
	}
	return info.Name
}
