// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane"
)

// Tracer asks the twins of a host about packets, in the words of the feed.
type Tracer struct {
	twin  *Twin
	look  *dataplane.Look
	names compile.Names
	host  dataplane.ThisHost
}

// NewTracer asks about the revision in force. What was asked before is forgotten.
func NewTracer(twin *Twin, names compile.Names) (*Tracer, error) {
	look, err := twin.maps.Look()
	if err != nil {
		return nil, err
	}
	host, err := look.Host()
	if err != nil {
		return nil, err
	}
	twin.showFlows = true
	return &Tracer{twin: twin, look: look, names: names, host: host}, twin.Begin()
}

// Here fails outside the network namespace of the host: the programs ask the FIB of the namespace that they are run in, and
// devices have other numbers there.
func (t *Tracer) Here() error {
	uplinks, err := t.look.Uplinks()
	if err != nil {
		return err
	}
	here := deviceName(t.host.VXLANIfindex) == api.OverlayDevice
	for _, u := range uplinks {
		device, err := net.InterfaceByIndex(int(u.Ifindex))
		here = here && err == nil && bytes.Equal(device.HardwareAddr, u.MAC[:])
	}
	if !here {
		return errors.New("this is not the network namespace of the host, whose devices and routes decide, too: run it there " +
			"(of a lab: `enictl lab exec HOST -- enictl trace ...`)")
	}
	return nil
}

// routerMAC stands for whoever sends from beyond the underlay.
var routerMAC = [6]byte{2, 0, 0, 0, 0, 0xfe}

// ErrQuestion is wrapped when a question makes no sense for this host.
var ErrQuestion = errors.New("no such packet can come")

func noSuch(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrQuestion, fmt.Sprintf(format, args...))
}

// Out asks about a packet that an ENI of this host sends.
func (t *Tracer) Out(eni uint32, q Question) (*Report, error) {
	e, err := t.eni(eni)
	if err != nil {
		return nil, err
	}
	frame, err := q.build(e.MAC, t.host.GatewayMAC)
	if err != nil {
		return nil, err
	}
	return t.FrameOut(eni, frame)
}

// FrameOut asks about a frame that comes in by the port of an ENI.
func (t *Tracer) FrameOut(eni uint32, frame []byte) (*Report, error) {
	e, err := t.eni(eni)
	if err != nil {
		return nil, err
	}
	p := Packet{Program: dataplane.ProgramPort, Ifindex: e.Ifindex, Frame: frame}
	return t.run(fmt.Sprintf("sent by %s at %s", t.eniName(eni), deviceName(e.Ifindex)), p)
}

func (t *Tracer) eni(index uint32) (*dataplane.ENIFacts, error) {
	e, err := t.look.ENI(index)
	if err != nil {
		return nil, err
	}
	if e == nil || !e.Ready || e.Ifindex == 0 {
		return nil, noSuch("ENI %s is not ready on this host: `enictl status` says why", t.eniName(index))
	}
	return e, nil
}

// In asks about a packet to an ENI of this host: to its EIP from the internet, to a private address from where the
// source is. `via` names the ENI that forwards it, if it is not the source's own; "" = it is.
func (t *Tracer) In(eni uint32, q Question, via string) (*Report, error) {
	e, err := t.eni(eni)
	if err != nil {
		return nil, err
	}
	owner, _, err := t.look.EIP(q.Dst)
	switch {
	case err != nil:
		return nil, err
	case owner == eni:
		return t.fromInternet(q)
	case owner != 0:
		return nil, noSuch("%v is the EIP of %s", q.Dst, t.eniName(owner))
	}
	hop, err := t.sender(e, q.Src, via)
	if err != nil {
		return nil, err
	}
	if hop == nil {
		return nil, t.unknownSender(e, q)
	}
	if hop.ENI != 0 {
		return t.Out(hop.ENI, q)
	}
	frame, err := q.build(hop.MAC, e.MAC)
	if err != nil {
		return nil, err
	}
	return t.fromHost(e.VNI, hop.VTEP, frame)
}

// sender finds where packets from an address come from; nil = nobody has it.
func (t *Tracer) sender(e *dataplane.ENIFacts, src netip.Addr, via string) (*dataplane.NextHopFacts, error) {
	if via != "" {
		for index, name := range t.names.NextHops {
			if name == via {
				return t.look.NextHop(index)
			}
		}
		return nil, noSuch("this host knows no ENI %q", via)
	}
	vnis := []uint32{e.VNI}
	for vni := range t.names.VPCs { // a peer's addresses are no other peer's
		if vni != e.VNI {
			vnis = append(vnis, vni)
		}
	}
	slices.Sort(vnis[1:])
	for _, vni := range vnis {
		end, err := t.look.Endpoint(vni, src)
		if err != nil {
			return nil, err
		}
		if end != nil && !end.Gateway {
			return t.look.NextHop(end.NextHop)
		}
	}
	return nil, nil
}

func (t *Tracer) unknownSender(e *dataplane.ENIFacts, q Question) error {
	public, err := t.look.EIPOf(e.VNI, q.Dst)
	if err != nil {
		return err
	}
	if public.IsValid() {
		return noSuch("%v is the address of no ENI that this host knows; from the internet it would be sent to the EIP of %v: %v", q.Src, q.Dst, public)
	}
	return noSuch("%v is the address of no ENI that this host knows; name the ENI that forwards it by --via, or is %v without an EIP the wrong destination?", q.Src, q.Dst)
}

func (t *Tracer) fromInternet(q Question) (*Report, error) {
	frame, err := q.build(routerMAC, [6]byte{})
	if err != nil {
		return nil, err
	}
	return t.FrameFromInternet(frame)
}

// FrameFromInternet asks about a frame that comes in by an uplink, to whose MAC it is addressed.
func (t *Tracer) FrameFromInternet(frame []byte) (*Report, error) {
	uplink, err := t.uplink()
	if err != nil {
		return nil, err
	}
	frame = slices.Clone(frame)
	copy(frame, uplink.MAC[:])
	return t.run("from the internet at "+deviceName(uplink.Ifindex), Packet{Program: dataplane.ProgramUplink, Ifindex: uplink.Ifindex, Frame: frame})
}

func (t *Tracer) uplink() (dataplane.Uplink, error) {
	uplinks, err := t.look.Uplinks()
	if err != nil {
		return dataplane.Uplink{}, err
	}
	if len(uplinks) == 0 {
		return dataplane.Uplink{}, noSuch("this host has no uplink: `enictl status` says why")
	}
	return uplinks[0], nil
}

// fromHost asks about an inner frame that another host sends: first the uplink looks at its outer headers, then the
// VXLAN device at what is inside.
func (t *Tracer) fromHost(vni uint32, vtep netip.Addr, frame []byte) (*Report, error) {
	return t.fromTunnel(Tunnel{VNI: vni, Remote: vtep}, frame)
}

// policyInternet is GROUP_INTERNET of bpf/deliver.h: a gateway has translated the packet.
const policyInternet = 1

func (t *Tracer) fromTunnel(tunnel Tunnel, frame []byte) (*Report, error) {
	uplink, err := t.uplink()
	if err != nil {
		return nil, err
	}
	outer, err := encapsulate(frame, routerMAC, uplink.MAC, t.host.VTEP, tunnel)
	if err != nil {
		return nil, err
	}
	from := fmt.Sprintf("from host %s through VXLAN %d at %s", t.hostName(tunnel.Remote), tunnel.VNI, deviceName(uplink.Ifindex))
	checked, err := t.twin.Run(Packet{Program: dataplane.ProgramUplink, Ifindex: uplink.Ifindex, Frame: outer})
	if err != nil {
		return nil, err
	}
	if checked.Action != Pass || !dataplane.Vouched(checked.Mark) {
		return t.report(from, frame, checked)
	}
	return t.run(from, Packet{
		Program: dataplane.ProgramVXLAN, Ifindex: t.host.VXLANIfindex, Frame: frame, Mark: checked.Mark,
		Tunnel: &tunnel,
	})
}

// run runs a packet and explains what came of it.
func (t *Tracer) run(from string, p Packet) (*Report, error) {
	out, err := t.twin.Run(p)
	if err != nil {
		return nil, err
	}
	return t.report(from, p.Frame, out)
}

// names of things, as the feed has them.

func (t *Tracer) eniName(index uint32) string {
	if name := t.names.ENIs[index]; name != "" {
		return name
	}
	return fmt.Sprintf("#%d", index)
}

func (t *Tracer) hostName(vtep netip.Addr) string {
	if name := t.names.Hosts[vtep.String()]; name != "" {
		return name
	}
	return vtep.String()
}

func deviceName(ifindex uint32) string {
	device, err := net.InterfaceByIndex(int(ifindex))
	if err != nil {
		return fmt.Sprintf("device %d", ifindex)
	}
	return device.Name
}

// Frame asks about a frame that was captured at the port of an ENI, or in its guest: one from the ENI's MAC is sent by
// it, another one comes to it from where its source is.
func (t *Tracer) Frame(eni uint32, frame []byte) (*Report, error) {
	e, err := t.eni(eni)
	if err != nil {
		return nil, err
	}
	if len(frame) < ethLen {
		return nil, noSuch("%d bytes are no Ethernet frame", len(frame))
	}
	if [6]byte(frame[6:12]) == e.MAC {
		return t.FrameOut(eni, frame)
	}
	all := tuples(frame)
	if len(all) == 0 {
		return nil, noSuch("%s: only IP packets can be asked about as they come to an ENI", Describe(frame))
	}
	if owner, _, err := t.look.EIP(all[0].dst); err != nil || owner == eni {
		if err != nil {
			return nil, err
		}
		return t.FrameFromInternet(frame)
	}
	hop, err := t.sender(e, all[0].src, "")
	if err != nil {
		return nil, err
	}
	frame = append([]byte(nil), frame...)
	switch {
	case hop == nil:
		return t.translated(e, frame, all[0])
	case hop.ENI != 0:
		sender, err := t.eni(hop.ENI)
		if err != nil {
			return nil, err
		}
		copy(frame, t.host.GatewayMAC[:])
		copy(frame[6:], sender.MAC[:])
		return t.FrameOut(hop.ENI, frame)
	}
	copy(frame, e.MAC[:])
	copy(frame[6:], hop.MAC[:])
	return t.fromHost(e.VNI, hop.VTEP, frame)
}

// translated asks about a frame from the internet that was captured behind the EIP: it is built again as it was in front
// of it. Of ICMP errors and fragments, whose insides differ too, that is not possible.
func (t *Tracer) translated(e *dataplane.ENIFacts, frame []byte, c tuple) (*Report, error) {
	public, err := t.look.EIPOf(e.VNI, c.dst)
	if err != nil {
		return nil, err
	}
	if !public.IsValid() || c.fragment || c.isError() {
		return nil, noSuch("%s: it comes from beyond the VPC; capture it at the uplink", Describe(frame))
	}
	q := Question{Protocol: c.protocol, Src: c.src, Dst: public, SrcPort: c.sport, DstPort: c.dport, Flags: c.flags}
	if c.icmp() {
		q.ICMP, q.ICMPID, q.SrcPort, q.DstPort = &ICMP{Type: c.icmpType, Code: uint8(c.dport)}, c.sport, 0, 0
	}
	q.Size = min(len(frame)-ethLen, 0xffff)
	return t.fromInternet(q)
}
