// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/pkg/announce"
	"github.com/eniplane/eniplane/pkg/dataplane"
)

// Teardown removes everything of one host: links, pins, guards, the VXLAN device, run-time files.
// Ports are set down first: without program and guard they would belong to the host's own stack.
// It removes what it can and reports all that it could not.
func Teardown(ctx context.Context, opts Options) error {
	p, err := newPlace(opts)
	if err != nil {
		return err
	}
	if err := somethingIsHere(p); err != nil {
		return fmt.Errorf("tear down host %s: %w", p.host, err)
	}
	if err := os.MkdirAll(p.state, 0o700); err != nil {
		return fmt.Errorf("tear down host %s: %w", p.host, err)
	}
	lock, err := p.lock()
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := errors.Join(p.checkNamespace(), checkPins(p)); err != nil {
		return fmt.Errorf("tear down host %s: %w", p.host, err)
	}
	steps := []func(place) error{
		lowerPorts, silenceUplinks, removeShapers, removeTrees, removePins, removeOverlay, removeNeighbours, removeGuard, removeState,
	}
	var errs []error
	for _, step := range steps {
		if err := ctx.Err(); err != nil {
			errs = append(errs, err)
			break
		}
		errs = append(errs, step(p))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("tear down host %s: %w", p.host, err)
	}
	return nil
}

// somethingIsHere fails if there are neither pins nor state nor guards: the name or a directory is
// wrong.
func somethingIsHere(p place) error {
	for _, dir := range []string{p.pins, p.state} {
		if _, err := os.Stat(dir); err == nil {
			return nil
		}
	}
	guarded, err := newGuard(p.host).exists()
	if err != nil || guarded {
		return err
	}
	return fmt.Errorf("%w: no pins in %s, no state in %s, no nftables table in this network namespace; are the name and the directories right?",
		ErrNothing, p.pins, p.state)
}

// checkPins refuses a teardown that would leave the programs: they run here, and their pins are
// elsewhere.
func checkPins(p place) error {
	if _, err := os.Stat(p.pins); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	all, err := listDevices()
	if err != nil {
		return err
	}
	for name, device := range all {
		result, err := link.QueryPrograms(link.QueryOptions{Target: device.Index, Attach: ebpf.AttachTCXIngress})
		if errors.Is(err, unix.ENODEV) {
			continue // it went meanwhile
		}
		if err != nil {
			return fmt.Errorf("list tcx programs of %s: %w", name, err)
		}
		for _, attached := range result.Programs {
			switch programName(attached.ID) {
			case dataplane.StubPort, dataplane.StubVXLAN, dataplane.StubUplink, dataplane.StubShaper:
				return fmt.Errorf("programs of eniplane run on %s, but there are no pins in %s: give the --bpffs of the agent", name, p.pins)
			}
		}
	}
	return nil
}

// lowerPorts finds ports by the guards and by the links: either may have been lost.
func lowerPorts(p place) error {
	guarded, err := newGuard(p.host).names()
	if err != nil {
		return err
	}
	var linked []int
	if _, err := os.Stat(p.links()); err == nil {
		if linked, err = p.pinned(rolePort); err != nil {
			return err
		}
	}
	all, err := listDevices()
	if err != nil {
		return err
	}
	var errs []error
	for name, device := range all {
		if !isUp(device) || !slices.Contains(guarded, name) && !slices.Contains(linked, device.Index) {
			continue
		}
		if err := setDown(device); err != nil {
			errs = append(errs, fmt.Errorf("set port %s down: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// silenceUplinks takes the groups of EIPs out of the filters of the uplinks, which are found by their links.
func silenceUplinks(p place) error {
	if _, err := os.Stat(p.links()); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	linked, err := p.pinned(roleUplink)
	if err != nil {
		return err
	}
	return eachDevice(
		func(device *netlink.LinkAttrs) bool { return slices.Contains(linked, device.Index) },
		func(device *netlink.LinkAttrs) error { return ignoreGone(announce.Silence(device.Name)) })
}

// removePins ends the links, then the maps and programs that they used.
func removePins(p place) error {
	if _, err := os.Stat(p.pins); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if on, err := onBPFFS(p.pins); err != nil || !on {
		return errors.Join(err, fmt.Errorf("%s is not on a bpffs: leaving it alone", p.pins))
	}
	for _, dir := range []string{p.links(), p.maps(), p.pins} {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove pins: %w", err)
		}
	}
	return nil
}

// removeOverlay deletes the VXLAN device if it is as we make it.
func removeOverlay(place) error {
	l, err := netlink.LinkByName(VXLANDevice)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look up %s: %w", VXLANDevice, err)
	}
	if vxlan, is := l.(*netlink.Vxlan); !is || !rightVXLAN(vxlan) {
		return fmt.Errorf("device %s is not as we make it: leaving it alone", VXLANDevice)
	}
	if err := ignoreGone(netlink.LinkDel(l)); err != nil {
		return fmt.Errorf("remove %s: %w", VXLANDevice, err)
	}
	return nil
}

func removeGuard(p place) error { return newGuard(p.host).remove() }

// removeState removes the files of a run, and the directory if nothing else is in it. The lock goes
// last; it is held until the caller closes it.
func removeState(p place) error {
	entries, err := os.ReadDir(p.state)
	if err != nil {
		return fmt.Errorf("list state: %w", err)
	}
	for _, entry := range entries {
		if entry.Name() == lockFile {
			continue
		}
		if err := os.RemoveAll(filepath.Join(p.state, entry.Name())); err != nil {
			return fmt.Errorf("remove state: %w", err)
		}
	}
	if err := os.RemoveAll(p.state); err != nil {
		return fmt.Errorf("remove state: %w", err)
	}
	return nil
}
