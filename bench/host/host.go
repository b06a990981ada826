// SPDX-License-Identifier: Apache-2.0

// Package host makes a host for benchmarks: a network namespace with uplink, ports and an underlay that answers
// nothing, and the real loader with the real programs and maps.
package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/bench/region"
	"github.com/eniplane/eniplane/loader"
	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/lab/netnsdir"
	"github.com/eniplane/eniplane/pkg/testroot"
)

// Host is one host. Its methods must be called inside Do.
type Host struct {
	Loader *loader.Loader // nil: an agent does its work
	State  *compile.State // in force
	maps   *dataplane.Maps
	ids    *compile.IDs

	options   loader.Options
	own, peer netns.NsHandle // of the host, and of the other ends of its devices
	names     [2]string
	dir       string // state
	pins      string
}

// Do makes a host of these ports and a number of flows (0 = the default), runs fn on a thread inside its namespace,
// and takes it down again.
func Do(ctx context.Context, ports []string, maxFlows uint32, fn func(*Host) error) error {
	return Bare(ports, func(h *Host) (err error) {
		h.options.MaxFlows = maxFlows
		if h.Loader, err = loader.Open(ctx, h.options); err != nil {
			return err
		}
		h.maps = h.Loader.Maps()
		return fn(h)
	})
}

// Bare is Do without a loader: for an agent.
func Bare(ports []string, fn func(*Host) error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread, in its namespace, ends with this goroutine
		h := &Host{}
		err := h.open(ports)
		if err == nil {
			err = fn(h)
		}
		done <- errors.Join(err, h.close())
	}()
	return <-done
}

func (h *Host) open(ports []string) error {
	if err := testroot.MountBPFFS(testroot.BPFFS); err != nil {
		return err
	}
	if err := h.namespaces(); err != nil {
		return err
	}
	name := testroot.Name()
	h.pins = filepath.Join(testroot.BPFFS, name)
	var err error
	if h.dir, err = os.MkdirTemp("", "enibench-"); err != nil {
		return fmt.Errorf("make a state directory: %w", err)
	}
	if err := os.Mkdir(h.pins, 0o700); err != nil {
		return fmt.Errorf("make a pin directory: %w", err)
	}
	for _, device := range append([]string{region.Uplink}, ports...) {
		if err := h.veth(device); err != nil {
			return err
		}
	}
	if err := underlay(); err != nil {
		return err
	}
	h.options = loader.Options{Host: region.Host, BPFFS: h.pins, StateDir: h.dir}
	return nil
}

// namespaces leaves the thread in that of the host.
func (h *Host) namespaces() error {
	if err := netnsdir.Share(); err != nil {
		return err
	}
	for i, to := range []*netns.NsHandle{&h.peer, &h.own} {
		name := testroot.Name()
		handle, err := netns.NewNamed(name)
		if err != nil {
			return fmt.Errorf("make network namespace %s: %w", name, err)
		}
		*to, h.names[i] = handle, name
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	return netlink.LinkSetUp(lo)
}

// veth makes a device that is up, and whose other end is too.
func (h *Host) veth(name string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Flags = name, net.FlagUp
	v := &netlink.Veth{LinkAttrs: attrs, PeerName: name, PeerNamespace: netlink.NsFd(h.peer)}
	if err := netlink.LinkAdd(v); err != nil {
		return fmt.Errorf("make device %s: %w", name, err)
	}
	other, err := netlink.NewHandleAt(h.peer)
	if err != nil {
		return fmt.Errorf("reach the other end of %s: %w", name, err)
	}
	defer other.Close()
	l, err := other.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find the other end of %s: %w", name, err)
	}
	if err := other.LinkSetUp(l); err != nil {
		return fmt.Errorf("set the other end of %s up: %w", name, err)
	}
	return nil
}

// underlay gives the uplink its addresses and a default route of each family, by neighbours that need no answer.
func underlay() error {
	l, err := netlink.LinkByName(region.Uplink)
	if err != nil {
		return fmt.Errorf("find the uplink: %w", err)
	}
	router := net.HardwareAddr{2, 0, 0, 0, 0xaa, 0xfe}
	for own, gateway := range map[string]string{region.VTEP + "/16": region.Gateway, "2001:db8:64::1/64": "2001:db8:64::fe"} {
		p := netip.MustParsePrefix(own)
		addr := &netlink.Addr{IPNet: network(p)}
		if p.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(l, addr); err != nil {
			return fmt.Errorf("give the uplink address %s: %w", own, err)
		}
		via := netip.MustParseAddr(gateway)
		neighbour := &netlink.Neigh{LinkIndex: l.Attrs().Index, IP: via.AsSlice(), State: netlink.NUD_PERMANENT, HardwareAddr: router}
		if err := netlink.NeighSet(neighbour); err != nil {
			return fmt.Errorf("add neighbour %s: %w", gateway, err)
		}
		all := netip.PrefixFrom(via, 0).Masked()
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: network(all), Gw: via.AsSlice()}); err != nil {
			return fmt.Errorf("add the default route by %s: %w", gateway, err)
		}
	}
	return nil
}

func network(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// Compile makes the next revision of objects, which is not yet in force. An ENI that cannot be compiled is an error.
func (h *Host) Compile(o *api.Objects) (*compile.State, error) {
	in := compile.Input{Objects: o, Host: region.Host, Revision: 1, Previous: h.State, IDs: h.ids}
	if h.State != nil {
		in.Revision = h.State.Revision + 1
	}
	result, err := compile.Compile(in)
	if err != nil {
		return nil, err
	}
	for name, err := range result.Degraded {
		return nil, fmt.Errorf("compile ENI %s: %w", name, err)
	}
	h.ids = result.IDs
	return result.State, nil
}

// Apply brings a state into force, read back and with all ENIs ready.
func (h *Host) Apply(ctx context.Context, st *compile.State) error {
	report, err := h.Loader.Apply(ctx, st)
	if err != nil {
		return err
	}
	h.State = st
	for name, eni := range report.ENIs {
		if eni.Phase != loader.Ready {
			return fmt.Errorf("ENI %s is %s: %s", name, eni.Phase, eni.Message)
		}
	}
	return nil
}

// Install compiles objects and brings them into force.
func (h *Host) Install(ctx context.Context, o *api.Objects) error {
	st, err := h.Compile(o)
	if err != nil {
		return err
	}
	return h.Apply(ctx, st)
}

// Maps returns the live maps.
func (h *Host) Maps() *dataplane.Maps { return h.maps }

// close takes everything down, also what open left half done.
func (h *Host) close() error {
	var errs []error
	switch {
	case h.Loader != nil:
		errs = append(errs, h.Loader.Close())
	case h.maps != nil:
		errs = append(errs, h.maps.Close())
	}
	if h.options.Host != "" {
		err := loader.Teardown(context.Background(), h.options) // also when the run was interrupted
		if !errors.Is(err, loader.ErrNothing) {
			errs = append(errs, err)
		}
	}
	for i, handle := range []netns.NsHandle{h.peer, h.own} {
		if h.names[i] != "" {
			errs = append(errs, handle.Close(), netns.DeleteNamed(h.names[i]))
		}
	}
	for _, dir := range []string{h.pins, h.dir} {
		if dir != "" {
			errs = append(errs, os.RemoveAll(dir))
		}
	}
	return errors.Join(errs...)
}
