// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/eniplane/eniplane/bench/peer"
	"github.com/eniplane/eniplane/bench/wire/frames"
	"github.com/eniplane/eniplane/pkg/lab"
)

// MTUs of the underlay and of guests: VXLAN takes 50 bytes.
const (
	underlayMTU = 1500
	guestMTU    = underlayMTU - 50
)

// Devices of a site.
const (
	outsideDevice = "w0"
	uplinkDevice  = "uplink0"
)

// The service that ENIs offer, and one that they do not.
const (
	servicePort = 9000
	deniedPort  = 9001
	vxlanPort   = 4789
)

// vni is the VPC of all ENIs.
const vni = 4711

// plan is what a site is like.
type plan struct {
	enis    int // a power of two
	remotes int // ENIs on another host, reached by VXLAN; 0 = no overlay
	flows   int
	rules   int
	room    int  // connections that may be open; 0 = at least twice as many as flows
	closed  bool // flows are not opened before the measurement
}

// site is a host at work with its surroundings.
type site struct {
	plan
	outside, host, guest *lab.Namespace
	job                  peer.Job
	wire                 int   // index of outsideDevice
	ports, guests        []int // indexes, by ENI
	running              peer.Running
	undo                 []func() error
}

// newSite builds a site and puts a subject to work there. If that fails nothing is left.
func newSite(ctx context.Context, p plan, subject peer.Subject) (*site, error) {
	s := &site{plan: p}
	err := s.build()
	if err == nil {
		s.running, err = subject.Start(ctx, &s.job)
	}
	if err == nil {
		s.undo = append(s.undo, s.running.Close)
		err = s.settle()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("site of %s: %w", subject.Name(), err), s.Close())
	}
	return s, nil
}

// Close takes the subject off and removes the site.
func (s *site) Close() error {
	var errs []error
	for i := len(s.undo) - 1; i >= 0; i-- {
		errs = append(errs, s.undo[i]())
	}
	s.undo = nil
	return errors.Join(errs...)
}

func (s *site) build() error {
	name := newName()
	s.describe(name)
	if err := os.MkdirAll(s.job.Dir, 0o755); err != nil {
		return fmt.Errorf("make a directory for the site: %w", err)
	}
	s.undo = append(s.undo, func() error { return os.RemoveAll(s.job.Dir) })
	for _, n := range []struct {
		to   **lab.Namespace
		what string
	}{{&s.outside, "out"}, {&s.host, "host"}, {&s.guest, "guest"}} {
		ns, err := lab.NewNamespace(name + "-" + n.what)
		if err != nil {
			return err
		}
		*n.to = ns
		s.undo = append(s.undo, ns.Remove)
	}
	s.job.Host = s.host
	for _, n := range []*lab.Namespace{s.outside, s.guest} { // sinks are silent
		if err := peer.Sysctls(n, "ipv6/conf/all/disable_ipv6", "1", "ipv6/conf/default/disable_ipv6", "1"); err != nil {
			return err
		}
	}
	return s.cable()
}

// cable joins the namespaces. Both ends of each cable get NAPI, which GRO brings, so that they take what XDP sends.
func (s *site) cable() error {
	if err := s.outside.Join(outsideDevice, s.host, uplinkDevice, underlayMTU); err != nil {
		return err
	}
	for _, end := range []struct {
		ns   *lab.Namespace
		name string
	}{{s.outside, outsideDevice}, {s.host, uplinkDevice}} {
		if err := end.ns.SetOffload(end.name, false, lab.OffloadTX); err != nil { // a NIC finishes its packets
			return err
		}
	}
	if err := s.plug(s.host, uplinkDevice, s.outside, outsideDevice); err != nil {
		return err
	}
	for i := range s.job.ENIs {
		port, guest := s.job.ENIs[i].Port.Name, fmt.Sprintf("e%d", i)
		if err := s.host.Join(port, s.guest, guest, guestMTU); err != nil {
			return err
		}
		if err := s.routerMAC(port); err != nil {
			return err
		}
		if err := s.plug(s.host, port, s.guest, guest); err != nil {
			return err
		}
		g, err := peer.Index(s.guest, guest)
		if err != nil {
			return err
		}
		p, mac, err := s.deviceOf(port)
		if err != nil {
			return err
		}
		s.guests, s.ports = append(s.guests, g), append(s.ports, p)
		s.job.ENIs[i].Port.MAC = mac
	}
	var err error
	if _, s.job.Uplink.MAC, err = s.deviceOf(uplinkDevice); err != nil {
		return err
	}
	s.wire, err = peer.Index(s.outside, outsideDevice)
	return err
}

// routerMAC gives a port the MAC that guests send to: to the kernel's forwarding other frames are for another host.
// On a bridge guests send to each other.
func (s *site) routerMAC(port string) error {
	if s.remotes > 0 {
		return nil
	}
	l, err := s.host.Netlink().LinkByName(port)
	if err != nil {
		return fmt.Errorf("find device %s: %w", port, err)
	}
	if err := s.host.Netlink().LinkSetHardwareAddr(l, gatewayMAC[:]); err != nil {
		return fmt.Errorf("set the MAC of %s: %w", port, err)
	}
	return nil
}

// plug switches GRO on at both ends and brings them up.
func (s *site) plug(a *lab.Namespace, nameA string, b *lab.Namespace, nameB string) error {
	if err := a.SetOffload(nameA, true, lab.OffloadGRO); err != nil {
		return err
	}
	if err := b.SetOffload(nameB, true, lab.OffloadGRO); err != nil {
		return err
	}
	if err := peer.Up(a, nameA); err != nil {
		return err
	}
	return peer.Up(b, nameB)
}

// deviceOf is index and MAC of a device of the host.
func (s *site) deviceOf(name string) (index int, mac [6]byte, err error) {
	l, err := s.host.Netlink().LinkByName(name)
	if err != nil {
		return 0, mac, fmt.Errorf("find device %s: %w", name, err)
	}
	copy(mac[:], l.Attrs().HardwareAddr)
	return l.Attrs().Index, mac, nil
}

// settle brings up what a subject took down: eniplane closes ports that it finds bare.
func (s *site) settle() error {
	for _, e := range s.job.ENIs {
		if err := peer.Up(s.host, e.Port.Name); err != nil {
			return err
		}
	}
	return nil
}

// Ends of all flows. Every number is added to the lowest 32 bits.
var (
	subnet    = [2]netip.Prefix{netip.MustParsePrefix("10.0.16.0/20"), netip.MustParsePrefix("fd00:1:0:1::/64")}
	remoteNet = [2]netip.Prefix{netip.MustParsePrefix("10.0.32.0/20"), netip.MustParsePrefix("fd00:1:0:2::/64")}
	clients   = [2]netip.Prefix{netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("2001:db8:51::/64")}
	eniEnd    = [2]string{"10.0.16.16", "fd00:1:0:1::1000"}
	remoteEnd = [2]string{"10.0.32.16", "fd00:1:0:2::1000"}
	clientEnd = [2]string{"198.18.0.0", "2001:db8:51::1:0"}
	eipEnd    = [2]string{"203.0.64.16", "2001:db8:113::1000"}
	gateway   = [2]netip.Addr{netip.MustParseAddr("192.0.2.254"), netip.MustParseAddr("fd00:100::fe")}
	addresses = [2]netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("fd00:100::1/64")}
	otherVTEP = netip.MustParseAddr("192.0.2.2")

	eniMAC     = [6]byte{2, 0, 0x0a, 0, 0, 0x10}
	remoteMAC  = [6]byte{2, 0, 0x0b, 0, 0, 0x10}
	outsideMAC = [6]byte{2, 0, 0x0c, 0, 0, 1}
	gatewayMAC = [6]byte{2, 0, 0x5e, 0, 0, 1} // of eniplane, towards ENIs
)

// end is number n of a kind of end.
func end(bases [2]string, mac [6]byte, n int) (addrs [2]netip.Addr, m [6]byte) {
	for i, base := range bases {
		e := frames.End{Addr: netip.MustParseAddr(base), MAC: mac}.Plus(n)
		addrs[i], m = e.Addr, e.MAC
	}
	return addrs, m
}

// describe fills in the job.
func (s *site) describe(name string) {
	s.job = peer.Job{
		Name: name, Dir: filepath.Join(runDir, name),
		Uplink: peer.Device{Name: uplinkDevice}, Gateway: gateway, GatewayMAC: outsideMAC, Addrs: addresses,
		Subnet: subnet, Clients: clients, Service: servicePort, Rules: max(s.rules, 1), Flows: s.flows, Room: s.room,
	}
	for i := range s.enis {
		e := peer.ENI{Port: peer.Device{Name: fmt.Sprintf("p%d", i)}}
		e.IPs, e.MAC = end(eniEnd, eniMAC, i)
		e.EIPs, _ = end(eipEnd, eniMAC, i)
		s.job.ENIs = append(s.job.ENIs, e)
	}
	if s.remotes == 0 {
		return
	}
	s.job.VNI, s.job.RemoteVTEP, s.job.RemoteNet = vni, otherVTEP, remoteNet
	for i := range s.remotes {
		r := peer.Remote{}
		r.IPs, r.MAC = end(remoteEnd, remoteMAC, i)
		s.job.Remotes = append(s.job.Remotes, r)
	}
}
