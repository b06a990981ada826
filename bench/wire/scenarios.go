// SPDX-License-Identifier: Apache-2.0

package wire

import "github.com/eniplane/eniplane/bench"

// Scenarios lists what this package measures; the letters are those of the matrix in bench/README.md.
func Scenarios() []bench.Scenario {
	return []bench.Scenario{
		{Name: "forwarding/internet-in", Help: "B4: small UDP from the internet to ENIs by EIP, established, against the floors and peers", Quick: true, Run: forwardingIn(false)},
		{Name: "forwarding/internet-out", Help: "B4: small UDP from ENIs to the internet by EIP, established", Quick: true, Run: forwardingOut(false)},
		{Name: "forwarding/overlay-in", Help: "B4: small UDP from another host by VXLAN to ENIs, established", Quick: true, Run: forwardingIn(true)},
		{Name: "forwarding/overlay-out", Help: "B4: small UDP from ENIs to another host by VXLAN, established", Quick: true, Run: forwardingOut(true)},
		{Name: "bulk/tcp", Help: "B5: TCP streams on one host, across two, and into a tap, by iperf3", Quick: true, Run: bulk},
		{Name: "caps/tcp", Help: "caps in Mbit/s: what TCP gets of one, and the slowest of four streams of its share, across two hosts", Run: caps},
		{Name: "latency/request-response", Help: "B6, B7: requests of a byte by TCP and UDP, and connections for one", Quick: true, Run: latency},
		{Name: "connections/first-packets", Help: "B7: packets that open a connection each", Quick: true, Run: newConnections},
		{Name: "flood/unwanted", Help: "B8: unknown VNI, denied packets, addresses of nobody at the uplink, beside live flows", Quick: true, Run: floods},
		{Name: "flood/half-open", Help: "B8: SYNs from spoofed sources to an open port, beside live connections", Quick: true, Run: synFlood},
		{Name: "policy/wire", Help: "B10: from a change of policy, by feed or command, to the first packet that passes", Quick: true, Run: updates},
	}
}
