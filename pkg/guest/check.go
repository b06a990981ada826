// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"errors"
	"fmt"
	"net/netip"
	"syscall"
)

// Problem is a reply that does not go back the way that its packet came, or another reason for which an ENI does not
// work.
type Problem struct {
	ENI     string `json:"eni"`
	Address string `json:"address,omitempty"` // the private IP
	Peer    string `json:"peer,omitempty"`    // who would get the reply
	Want    string `json:"want,omitempty"`    // the device that it must leave by
	Got     string `json:"got,omitempty"`     // the device that it leaves by; "" = none
	Text    string `json:"text"`
	Mend    string `json:"mend"`
}

// mend is what mends what is missing of ours.
const mend = "enictl guest routes --apply"

// Somewhere on the internet: addresses that are nobody's (RFC 5737, RFC 3849).
var (
	somewhere4 = netip.AddrFrom4([4]byte{192, 0, 2, 1})
	somewhere6 = netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 15: 1})
)

// LeaveFunc says by which device and gateway a packet would leave, as Leave does.
type LeaveFunc func(src, dst netip.Addr) (device string, via netip.Addr, err error)

// Check asks for each private IP by which device the replies leave to a client beyond the gateway, to one in its own
// subnet, and to one in the subnet of each other ENI, where the main table knows a shorter way.
func Check(m *Machine, k *Kernel, leave LeaveFunc) []Problem {
	c := &checker{machine: m, kernel: k, leave: leave, pending: len(Changes(Plan(m, k), k)) > 0}
	for i := range m.ENIs {
		c.eni(&m.ENIs[i])
	}
	c.unbound()
	return c.problems
}

type checker struct {
	machine  *Machine
	kernel   *Kernel
	leave    LeaveFunc
	pending  bool // something of ours is missing
	problems []Problem
}

func (c *checker) add(p Problem, format string, args ...any) {
	p.Text = fmt.Sprintf(format, args...)
	if p.Mend == "" {
		p.Mend = mend
		if !c.pending {
			p.Mend = fmt.Sprintf("all of ours is in place: look for a rule of others with a priority below %d (ip rule, ip -6 rule)", priorityFrom)
		}
	}
	c.problems = append(c.problems, p)
}

func (c *checker) eni(e *ENI) {
	p := Problem{ENI: e.Name}
	link := c.kernel.device(e.MAC)
	if link == nil {
		p.Mend = "plug it in, or take it out of the file"
		c.add(p, "no device has the MAC %s", e.MAC)
		return
	}
	p.Want = link.Name
	if !link.Up {
		c.add(p, "%s is down", link.Name)
		return
	}
	for _, a := range e.Addrs {
		p.Address = a.IP.String()
		if !c.kernel.has(link.Name, a.IP) {
			c.add(p, "%s is not on %s", a.IP, link.Name)
			continue
		}
		c.replies(p, a)
	}
}

// replies asks where the replies from a private IP go.
func (c *checker) replies(p Problem, a Addr) {
	peers := []netip.Addr{a.Gateway, somewhere4}
	if a.IP.Is6() {
		peers[1] = somewhere6
	}
	if a.Gateway.IsLinkLocalUnicast() {
		peers = peers[1:]
	}
	for i := range c.machine.ENIs {
		other, ok := c.machine.ENIs[i].primary(a.IP.Is6())
		if ok && other.Subnet != a.Subnet && !other.Gateway.IsLinkLocalUnicast() {
			peers = append(peers, other.Gateway)
		}
	}
	for _, peer := range peers {
		p.Peer = peer.String()
		device, via, err := c.leave(a.IP, peer)
		p.Got = device
		switch {
		case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
			c.add(p, "replies from %s to %s have no route", a.IP, peer)
		case err != nil:
			c.add(p, "replies from %s to %s: %v", a.IP, peer, err)
		case device != p.Want:
			c.add(p, "replies from %s to %s leave by %s, not by %s: the host drops them (WRONG_ENI)", a.IP, peer, device, p.Want)
		case peer != a.Gateway && via != a.Gateway:
			c.add(p, "replies from %s to %s leave by %s, but not through the gateway %s", a.IP, peer, device, a.Gateway)
		}
	}
}

// unbound asks where connections begin that name no source address.
func (c *checker) unbound() {
	first := &c.machine.ENIs[0]
	link := c.kernel.device(first.MAC)
	if first.Index != 0 || link == nil {
		return
	}
	for _, peer := range []netip.Addr{somewhere4, somewhere6} {
		if _, ok := first.primary(peer.Is6()); !ok {
			continue
		}
		p := Problem{ENI: first.Name, Peer: peer.String(), Want: link.Name}
		device, _, err := c.leave(netip.Addr{}, peer)
		p.Got = device
		switch {
		case err != nil:
			c.add(p, "connections to %s have no route: %v", peer, err)
		case device != link.Name:
			p.Mend = fmt.Sprintf("%s; a default route of others with a metric up to %d must go", mend, mainMetric)
			c.add(p, "connections to %s that name no source leave by %s, not by %s, the ENI of index 0", peer, device, link.Name)
		}
	}
}
