// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/lab"
)

// TestGateways: the EIPs of a range with two gateways, in and out, hairpin, too big, and one gateway after the other.
func TestGateways(t *testing.T) {
	l := upFrom(t, "../../examples/gateways-lab.yaml", false)
	t.Cleanup(func() { balanced(t, l) })
	families := []lab.Family{lab.IPv4, lab.IPv6}
	t.Run("reach", func(t *testing.T) {
		for _, f := range families {
			for _, eni := range []string{"a1", "b1", "b2"} {
				for _, p := range []probe{{protocol: "icmp"}, {protocol: "tcp", port: 443}, {protocol: "udp", port: 53}} {
					p.family, p.from, p.to = f, internetNode, eni
					allowed(t, l, p)
					p.from, p.to = eni, internetNode
					allowed(t, l, p)
				}
				sourceIsEIP(t, l, eni, f)
				denied(t, l, probe{from: internetNode, to: eni, protocol: "tcp", port: 22, family: f}, eni, dataplane.In, dataplane.ReasonSGDenied)
			}
		}
	})
	t.Run("hairpin", func(t *testing.T) {
		for _, f := range families {
			for _, pair := range [][2]string{{"a1", "a2"}, {"a1", "b1"}, {"a1", "b2"}, {"b2", "a1"}, {"b2", "b1"}} {
				hairpins(t, l, pair[0], pair[1], f)
			}
		}
	})
	t.Run("bulk", func(t *testing.T) {
		for _, f := range families {
			for _, way := range [][2]string{{internetNode, "a1"}, {"b1", internetNode}} {
				from, to, err := l.Spots(way[0], way[1], f)
				if err != nil {
					t.Fatal(err)
				}
				exchangeUDP(t, l, from, to, func() {})
				exchangeTCP(t, l, from, to, transferBytes, func() {})
			}
		}
	})
	t.Run("too big", func(t *testing.T) {
		for _, f := range families {
			tooBigForOverlay(t, l, "a1", f)
		}
	})
	t.Run("failover", func(t *testing.T) { gatewayDies(t, l) })
}

// hairpins wants answers of an ENI at the EIP of another.
func hairpins(t *testing.T, l *lab.Lab, from, to string, f lab.Family) {
	t.Helper()
	src, _, err := l.Spots(from, internetNode, f)
	if err != nil {
		t.Fatal(err)
	}
	_, public, err := l.Spots(internetNode, to, f)
	if err != nil {
		t.Fatal(err)
	}
	for _, protocol := range []string{"icmp", "tcp", "udp"} {
		answer, err := l.Probe(context.Background(), lab.Probe{From: src, To: public, Protocol: protocol, Port: 8080, Wait: answerWait})
		if err != nil {
			t.Fatal(err)
		}
		if !answer.Allowed {
			t.Errorf("%s from %s to the EIP of %s, %s: %v", protocol, from, to, f, answer.Why)
		}
	}
}

// tooBigForOverlay sends what the uplink carries and the overlay does not, and wants to be told.
func tooBigForOverlay(t *testing.T, l *lab.Lab, eni string, f lab.Family) {
	t.Helper()
	from, to, err := l.Spots(internetNode, eni, f)
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.ListenUDP(from, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	const probing = 2 // IP_PMTUDISC_DO, IPV6_PMTUDISC_DO: the kernel learns the path's MTU and cuts nothing
	level, option := syscall.IPPROTO_IP, syscall.IP_MTU_DISCOVER
	if to.Addr.Is6() {
		level, option = syscall.IPPROTO_IPV6, syscall.IPV6_MTU_DISCOVER
	}
	var fail error
	if err := raw.Control(func(fd uintptr) { fail = syscall.SetsockoptInt(int(fd), level, option, probing) }); err != nil || fail != nil {
		t.Fatal(err, fail)
	}
	size := l.Plan.MTU - 28
	if to.Addr.Is6() {
		size -= 20
	}
	for end := time.Now().Add(answerWait); ; time.Sleep(20 * time.Millisecond) {
		_, err := c.WriteToUDPAddrPort(make([]byte, size), netip.AddrPortFrom(to.Addr, 8005))
		if errors.Is(err, syscall.EMSGSIZE) {
			return
		}
		if err != nil && !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatal(err)
		}
		if time.Now().After(end) {
			t.Errorf("%s: %d bytes to %s were sent for %v, and nobody said that they are too big", f, size, to.Addr, answerWait)
			return
		}
	}
}

// gatewayDies takes the gateway that an EIP prefers off the network and out of the feed, in the middle of a transfer:
// the connection goes on by the other one, which keeps nothing of it.
func gatewayDies(t *testing.T, l *lab.Lab) {
	from, to, err := l.Spots(internetNode, "a1", lab.IPv4)
	if err != nil {
		t.Fatal(err)
	}
	o := api.NewObjects()
	gateways := []string{"gw-1", "gw-2"}
	o.Region.EIPRanges = []api.EIPRange{{CIDR: netip.MustParsePrefix("203.0.113.0/25"), Gateways: gateways}}
	dies := o.GatewaysOf(to.Addr)[0]
	stays := slices.DeleteFunc(slices.Clone(gateways), func(g string) bool { return g == dies })
	ranges := []any{
		map[string]any{"cidr": "203.0.113.0/25", "gateways": stays}, map[string]any{"cidr": "2001:db8:113::/80", "gateways": stays},
		map[string]any{"cidr": "203.0.113.128/25"}, map[string]any{"cidr": "2001:db8:113:0:8000::/80"},
	}
	exchangeTCP(t, l, from, to, transferBytes, func() {
		if err := l.Exec(context.Background(), dies, []string{"ip", "link", "set", "uplink0", "down"}, nil, nil, nil); err != nil {
			t.Fatal(err)
		}
		edit(t, l, []lab.Edit{{Kind: "Region", Name: "here", Change: func(spec *yaml.Node) error { return lab.Set(spec, "eipRanges", ranges) }}})
	})
	for _, f := range []lab.Family{lab.IPv4, lab.IPv6} {
		allowed(t, l, probe{from: internetNode, to: "a1", protocol: "tcp", port: 443, family: f})
		allowed(t, l, probe{from: "b1", to: internetNode, protocol: "udp", port: 53, family: f})
	}
}
