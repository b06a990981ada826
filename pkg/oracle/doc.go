// SPDX-License-Identifier: Apache-2.0

// Package oracle says what must become of a packet: the semantics of the dataplane, evaluated straight from the
// objects, packet by packet, without a thought of speed. It is what the programs are compared with, so it shares no
// code, table or constant with pkg/compile, pkg/dataplane or bpf/; where it and the programs differ, one of them is
// wrong.
//
// Nothing is cached: the verdict on a live flow is asked for anew with every packet, always for the direction in
// which the flow was opened. Three moments are therefore known only roughly, because the programs round them: when a
// flow expires (within a second), until when a blocked flow is kept if something else of its ENI changed meanwhile,
// and for how long a first fragment is remembered (2 s, or less if a revision comes between). Unsure tells whether a
// packet at a given time could depend on that.
//
// Where the contract does not say which of several reasons wins, the order is: device, READY, frame, source MAC;
// then the packet's headers, DHCP and neighbour discovery, group addresses, impossible addresses; then flows; then
// source address, what may open a flow, and the verdict: gateway, security groups, network ACL, route. Into an ENI:
// flows; who sent it (overlay) or whether the source can be on the internet; what may open a flow; network ACL,
// security groups. What came from the VPC must have a way back to its sender's VPC before these are asked. Sizes are
// judged last. A later fragment and an ICMP error come instead of flows, after who sent
// them, and ask for no more than the packet that they belong to, but for the network ACL, which judges the error.
package oracle
