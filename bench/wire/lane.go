// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/eniplane/eniplane/bench/peer"
	"github.com/eniplane/eniplane/pkg/lab"
)

// lanePlan says how two guests with real sockets are joined.
type lanePlan struct {
	across  bool // on two hosts, by VXLAN; else on one
	offload bool // uplinks carry TSO packets and partial checksums, as no NIC's wire does
	tap     bool // the second guest is behind a tap, as a virtual machine is
}

// lane is two guests and the hosts between them.
type lane struct {
	lanePlan
	subject peer.Subject
	hosts   []*lab.Namespace
	jobs    []*peer.Job
	guests  [2]*lab.Namespace
	addrs   [2]netip.Addr
	undo    []func() error
}

// newLane joins two guests by a subject. If that fails nothing is left.
func newLane(ctx context.Context, p lanePlan, subject peer.Subject) (*lane, error) {
	l := &lane{lanePlan: p, subject: subject}
	err := l.build()
	for i := 0; err == nil && i < len(l.jobs); i++ {
		err = l.start(ctx, l.jobs[i])
	}
	for i := 0; err == nil && i < len(l.guests); i++ {
		err = l.settle(i)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lane of %s: %w", subject.Name(), err), l.Close())
	}
	return l, nil
}

// Close removes everything.
func (l *lane) Close() error {
	var errs []error
	for i := len(l.undo) - 1; i >= 0; i-- {
		errs = append(errs, l.undo[i]())
	}
	l.undo = nil
	return errors.Join(errs...)
}

func (l *lane) start(ctx context.Context, j *peer.Job) error {
	running, err := l.subject.Start(ctx, j)
	if err != nil {
		return err
	}
	l.undo = append(l.undo, running.Close)
	for _, e := range j.ENIs {
		if err := peer.Up(j.Host, e.Port.Name); err != nil {
			return err
		}
	}
	return nil
}

// namespace makes one and has it removed in the end.
func (l *lane) namespace(name string) (*lab.Namespace, error) {
	n, err := lab.NewNamespace(name)
	if err == nil {
		l.undo = append(l.undo, n.Remove)
	}
	return n, err
}

func (l *lane) build() error {
	names := []string{newName()}
	if l.across {
		names = append(names, newName())
	}
	for i, name := range names {
		h, err := l.namespace(name + "-host")
		if err != nil {
			return err
		}
		l.hosts = append(l.hosts, h)
		j := l.job(i, name)
		l.jobs = append(l.jobs, j)
		if err := os.MkdirAll(j.Dir, 0o755); err != nil {
			return fmt.Errorf("make a directory for the lane: %w", err)
		}
		l.undo = append(l.undo, func() error { return os.RemoveAll(j.Dir) })
	}
	if err := l.uplinks(names[0]); err != nil {
		return err
	}
	for i, what := range []string{"-guest", "-other"} {
		var err error
		if l.guests[i], err = l.namespace(names[0] + what); err != nil {
			return err
		}
		if err := l.plug(i); err != nil {
			return err
		}
	}
	return nil
}

// job is what host number i has to do.
func (l *lane) job(i int, name string) *peer.Job {
	addrs := [2][2]netip.Prefix{addresses, {netip.MustParsePrefix("192.0.2.2/24"), netip.MustParsePrefix("fd00:100::2/64")}}
	nets := [2][2]netip.Prefix{subnet, remoteNet}
	j := &peer.Job{
		Name: name, Host: l.hosts[i], Dir: filepath.Join(runDir, name), Uplink: peer.Device{Name: uplinkDevice},
		Gateway: gateway, Addrs: addrs[i], Subnet: nets[i], Clients: clients, Service: servicePort, Rules: rulesUsual, Flows: 1 << 12,
	}
	ends := [2]peer.ENI{{Port: peer.Device{Name: "p0"}}, {Port: peer.Device{Name: "p1"}}}
	ends[0].IPs, ends[0].MAC = end(eniEnd, eniMAC, 0)
	if l.across {
		ends[1].IPs, ends[1].MAC = end(remoteEnd, remoteMAC, 0)
		other := ends[1-i]
		j.ENIs, j.VNI, j.RemoteVTEP, j.RemoteNet = ends[i:i+1], vni, addrs[1-i][0].Addr(), nets[1-i]
		j.Remotes = []peer.Remote{{MAC: other.MAC, IPs: other.IPs}}
	} else {
		ends[1].IPs, ends[1].MAC = end(eniEnd, eniMAC, 1)
		j.ENIs, j.Clients = ends[:], subnet
	}
	l.addrs = [2]netip.Addr{ends[0].IPs[0], ends[1].IPs[0]}
	return j
}

// uplinks joins the hosts, or a single one to nobody.
func (l *lane) uplinks(name string) error {
	var far *lab.Namespace
	if l.across {
		far = l.hosts[1]
	} else {
		var err error
		if far, err = l.namespace(name + "-out"); err != nil {
			return err
		}
	}
	if err := l.hosts[0].Join(uplinkDevice, far, uplinkDevice, underlayMTU); err != nil {
		return err
	}
	ends := []*lab.Namespace{l.hosts[0], far}
	_, process := l.subject.(peer.OVS)
	for _, n := range ends {
		if err := n.SetOffload(uplinkDevice, l.offload, lab.OffloadTX); err != nil {
			return err
		}
		if err := n.SetOffload(uplinkDevice, !process, lab.OffloadGRO); err != nil {
			return err
		}
		if err := peer.Up(n, uplinkDevice); err != nil {
			return err
		}
	}
	for i, j := range l.jobs {
		var err error
		if j.Uplink.MAC, err = macOf(ends[i], uplinkDevice); err != nil {
			return err
		}
		if j.GatewayMAC, err = macOf(ends[1-i], uplinkDevice); err != nil {
			return err
		}
	}
	return nil
}

func macOf(n *lab.Namespace, device string) (mac [6]byte, err error) {
	link, err := n.Netlink().LinkByName(device)
	if err != nil {
		return mac, fmt.Errorf("find device %s: %w", device, err)
	}
	copy(mac[:], link.Attrs().HardwareAddr)
	return mac, nil
}

// side is where guest i is attached: job and number there.
func (l *lane) side(i int) (*peer.Job, int) {
	if l.across {
		return l.jobs[i], 0
	}
	return l.jobs[0], i
}

// plug attaches guest i to its host.
func (l *lane) plug(i int) error {
	j, n := l.side(i)
	port := j.ENIs[n].Port.Name
	if l.tap && i == 1 {
		p, err := newPump(j.Host, port, l.guests[i], guestDevice, guestMTU)
		if err != nil {
			return err
		}
		l.undo = append(l.undo, p.Close)
	} else if err := j.Host.Join(port, l.guests[i], guestDevice, guestMTU); err != nil {
		return err
	}
	if err := setMAC(l.guests[i], guestDevice, j.ENIs[n].MAC); err != nil {
		return err
	}
	if l.routed() {
		if err := setMAC(j.Host, port, gatewayMAC); err != nil {
			return err
		}
	}
	var err error
	if j.ENIs[n].Port.MAC, err = macOf(j.Host, port); err != nil {
		return err
	}
	if _, process := l.subject.(peer.OVS); process {
		if err := plain(j.Host, port, l.guests[i], guestDevice); err != nil {
			return err
		}
	}
	if err := peer.Up(j.Host, port); err != nil {
		return err
	}
	return peer.Up(l.guests[i], guestDevice)
}

// plain makes a cable carry packets as they are on a wire: Open vSwitch's userspace finishes no checksums and cuts
// nothing.
func plain(a *lab.Namespace, nameA string, b *lab.Namespace, nameB string) error {
	for _, off := range []lab.Offload{lab.OffloadTX, lab.OffloadGRO} {
		if err := a.SetOffload(nameA, false, off); err != nil {
			return err
		}
		if err := b.SetOffload(nameB, false, off); err != nil {
			return err
		}
	}
	return nil
}

// guestDevice is the only one that a guest has.
const guestDevice = "e0"

func setMAC(n *lab.Namespace, device string, mac [6]byte) error {
	link, err := n.Netlink().LinkByName(device)
	if err != nil {
		return fmt.Errorf("find device %s: %w", device, err)
	}
	if err := n.Netlink().LinkSetHardwareAddr(link, net.HardwareAddr(mac[:])); err != nil {
		return fmt.Errorf("set the MAC of %s: %w", device, err)
	}
	return nil
}

// routed tells whether guests send to a router's MAC, not to each other's.
func (l *lane) routed() bool {
	switch l.subject.(type) {
	case peer.Forward, peer.NFTables, peer.IPTables:
		return true
	}
	return false
}

// settle gives guest i its address and the way to the other.
func (l *lane) settle(i int) error {
	j, n := l.side(1 - i)
	mac := j.ENIs[n].MAC
	if l.routed() {
		mac = gatewayMAC
	}
	g, other := l.guests[i], l.addrs[1-i]
	if err := peer.Address(g, guestDevice, netip.PrefixFrom(l.addrs[i], 32)); err != nil {
		return err
	}
	if err := peer.Route(g, guestDevice, netip.PrefixFrom(other, 32), netip.Addr{}); err != nil {
		return err
	}
	return peer.Neighbour(g, guestDevice, other, mac)
}
