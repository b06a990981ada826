// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"testing"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/lab"
)

// TestSecurityGroups asks the same of two members of the group `strict`: one on the asking host, one
// on the other. Every kind of rule is seen to allow and to deny.
func TestSecurityGroups(t *testing.T) {
	l := common(t)
	rows := []struct {
		name     string
		from     string
		protocol string
		port     uint16
		allow    bool
	}{
		{"cidr, inside", "a1", "tcp", 443, true},
		{"cidr, outside", "a1-back", "tcp", 443, false},
		{"range, first", "a2", "tcp", 8000, true},
		{"range, last", "a2", "tcp", 8010, true},
		{"range, before", "a2", "tcp", 7999, false},
		{"range, after", "a2", "tcp", 8011, false},
		{"group, member", "a1", "tcp", 5432, true},
		{"group, stranger", "a2", "tcp", 5432, false},
		{"prefix list, in it", "a1", "tcp", 22, true},
		{"prefix list, not in it", "a2", "tcp", 22, false},
		{"udp, the port", "a2", "udp", 53, true},
		{"udp, another port", "a2", "udp", 54, false},
		{"another protocol, the same port", "a2", "tcp", 53, false},
		{"ping", "a2", "icmp", 0, true},
	}
	for _, target := range []string{"a3", "b2"} {
		for _, f := range []lab.Family{lab.IPv4, lab.IPv6} {
			for _, r := range rows {
				t.Run(fmt.Sprintf("%s/%s/%s", target, f, r.name), func(t *testing.T) {
					p := probe{from: r.from, to: target, protocol: r.protocol, port: r.port, family: f}
					if r.allow {
						allowed(t, l, p)
					} else {
						denied(t, l, p, target, dataplane.In, dataplane.ReasonSGDenied)
					}
				})
			}
		}
	}
}

// TestEgress asks out of an ENI that may only open connections to web servers of one CIDR.
func TestEgress(t *testing.T) {
	l := common(t)
	allowed(t, l, probe{from: "mute", to: "b1", protocol: "tcp", port: 80})
	allowed(t, l, probe{from: "mute", to: "a1", protocol: "tcp", port: 80})
	allowed(t, l, probe{from: "b1", to: "mute", protocol: "udp", port: 99}) // the reply belongs to its flow
	for _, p := range []probe{
		{from: "mute", to: "b1", protocol: "tcp", port: 81},
		{from: "mute", to: "b1", protocol: "udp", port: 80},
		{from: "mute", to: "b1", protocol: "icmp"},
		{from: "mute", to: "a3", protocol: "tcp", port: 80},
		{from: "mute", to: "b1", protocol: "tcp", port: 80, family: lab.IPv6},
	} {
		denied(t, l, p, "mute", dataplane.Out, dataplane.ReasonSGDenied)
	}
}

// TestNetworkACL: it judges what crosses the border of the subnet, and nothing inside.
func TestNetworkACL(t *testing.T) {
	l := common(t)
	for _, f := range []lab.Family{lab.IPv4, lab.IPv6} {
		allowed(t, l, probe{from: "a2", to: "a1", protocol: "tcp", port: 23, family: f})
		allowed(t, l, probe{from: "b1", to: "a1", protocol: "tcp", port: 23, family: f})
		denied(t, l, probe{from: "a3", to: "a1", protocol: "tcp", port: 23, family: f}, "a1", dataplane.In, dataplane.ReasonNACLDenied)
		denied(t, l, probe{from: "b2", to: "a1", protocol: "tcp", port: 23, family: f}, "a1", dataplane.In, dataplane.ReasonNACLDenied)
	}
	allowed(t, l, probe{from: "a1", to: "b1", protocol: "udp", port: 4321})
	denied(t, l, probe{from: "a1", to: "a3", protocol: "udp", port: 4321}, "a1", dataplane.Out, dataplane.ReasonNACLDenied)
	denied(t, l, probe{from: "a1", to: "b2", protocol: "udp", port: 4321}, "a1", dataplane.Out, dataplane.ReasonNACLDenied)
}

// TestRoutes: every way not to get anywhere has its reason.
func TestRoutes(t *testing.T) {
	l := common(t)
	rows := []struct {
		from, to string
		reason   dataplane.Reason
	}{
		{"a1", "198.18.5.5", dataplane.ReasonBlackhole},
		{"a3", "198.51.100.9", dataplane.ReasonNoRoute},
		{"a3", "2001:db8:51::9", dataplane.ReasonNoRoute},
		{"a1", "192.168.100.2", dataplane.ReasonInfra},
		{"a1", "10.0.2.99", dataplane.ReasonNoEndpoint},
		{"a1", "fd00:1:0:2::99", dataplane.ReasonNoEndpoint},
		{"a1", "10.0.7.7", dataplane.ReasonNoEndpoint},
		{"a1", "10.0.1.1", dataplane.ReasonToGateway},
		{"a1", "10.0.1.99", dataplane.ReasonARPUnknown},
		{"10.0.1.11", "198.51.100.7", dataplane.ReasonNoEIP},
	}
	for _, r := range rows {
		t.Run(r.from+" to "+r.to, func(t *testing.T) {
			at := r.from
			if r.from == "10.0.1.11" {
				at = "a1"
			}
			denied(t, l, probe{from: r.from, to: r.to, protocol: "icmp"}, at, dataplane.Out, r.reason)
		})
	}
}
