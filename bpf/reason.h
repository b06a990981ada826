/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The one list of what can become of a packet. Append only: numbers are part of the ABI, names
 * reach the CLI, metrics, docs and tests through pkg/dataplane/internal/abigen. The comment after a
 * value is its help text; the one below it says of what kind it is (none = no drop, policy, sender,
 * limit, fault), at which stage it arises, why it happens and what to do.
 */
#pragma once

enum reason {
	REASON_CONTINUE = 0, /* not decided yet; as a counter: all packets that came in */
	/*
	 * none, -
	 * why: The packet is on its way; at rest, what came in is the sum of all other
	 *   reasons.
	 * do: Nothing.
	 */

	/* what is not a drop */
	REASON_DELIVERED = 1, /* handed to the next device, overlay or uplink */
	/*
	 * none, next hop
	 * why: Every stage let it pass. What a device loses later is in the statistics of that
	 *   device.
	 * do: If it does not arrive: `ip -s link` of the receiving device, then the host that
	 *   has the receiver.
	 */
	REASON_REDIRECTED = 2, /* sent on to the host that has the ENI now */
	/*
	 * none, next hop
	 * why: The ENI has moved and the sender did not know yet.
	 * do: Nothing; it ends when all hosts know. If it does not end, compare revisions:
	 *   `enictl status`.
	 */
	REASON_ANSWERED = 3, /* answered here: ARP, neighbour discovery */
	/*
	 * none, neighbours
	 * why: ARP and neighbour discovery are answered on the host; nothing is flooded.
	 * do: Nothing.
	 */
	REASON_CONSUMED = 4, /* ended here by design: DAD, announcements, MLD, DHCP client */
	/*
	 * none, neighbours
	 * why: A message to the network that nobody else is to see.
	 * do: Nothing.
	 */
	REASON_NOT_OURS = 5, /* uplink only: left to the host untouched, never counted */
	/*
	 * none, uplink
	 * why: The uplink is shared with the host, whose packet this is.
	 * do: If it should be for an ENI: is the EIP associated, and the ENI Ready on this
	 *   host? `enictl get eip`
	 */

	/* layer 2 and parsing */
	REASON_MALFORMED = 6, /* truncated, or lengths and headers contradict each other */
	/*
	 * sender, parse
	 * why: What cannot be parsed cannot be judged. The guest, or whoever sent it, builds
	 *   wrong headers, or a guest asks for a checksum where none belongs.
	 * do: Look at the packet where it is sent: tcpdump in the guest. Checksum offload of
	 *   an old virtio driver: `ethtool -K DEVICE tx off` in the guest.
	 */
	REASON_ETHERTYPE = 7, /* not IPv4, IPv6 or ARP, VLAN-tagged or 802.3 */
	/*
	 * sender, parse
	 * why: ENIs carry IPv4, IPv6 and ARP without VLAN tags.
	 * do: Take the VLAN device or the bridge protocol (STP, LLDP) off the interface of the
	 *   guest.
	 */
	REASON_FRAGMENT = 8, /* an IP fragment that no first fragment vouches for */
	/*
	 * sender, parse
	 * why: Only the first fragment has the ports. The others pass for 2 s after it, if it
	 *   passed and they do not reach into it.
	 * do: Was the first fragment dropped? Its reason is counted, too. If fragments are
	 *   reordered or lost on the way, send smaller packets.
	 */
	REASON_EXTENSION = 9, /* a source route, or an IPv6 extension header that is not followed */
	/*
	 * sender, parse
	 * why: A source route would lead past what was judged; headers behind which the
	 *   transport cannot be found are not followed.
	 * do: Leave the option or header out at the sender.
	 */
	REASON_ADDRESS = 10, /* source or destination that can never be valid here */
	/*
	 * sender, parse
	 * why: Loopback, link-local, unspecified or multicast addresses are no sender, and no
	 *   receiver beyond the link.
	 * do: Which program in the guest binds to that address? `ss -tunp` there.
	 */

	/* who sends */
	REASON_NOT_READY = 11, /* the ENI's configuration is not complete yet */
	/*
	 * fault, port
	 * why: An ENI carries nothing before its whole configuration was written and read
	 *   back.
	 * do: `enictl status` says why the ENI is Waiting or Degraded.
	 */
	REASON_UNKNOWN_PORT = 12, /* a device that belongs to no ENI */
	/*
	 * fault, port
	 * why: The device has a program of eniplane, but no ENI of the revision in force names
	 *   it.
	 * do: Compare `attachment.device` of the ENI with the name of the device: `enictl get
	 *   eni -o wide`
	 */
	REASON_SPOOFED_MAC = 13, /* source MAC is not the ENI's */
	/*
	 * sender, source
	 * why: An ENI may send from its own MAC only.
	 * do: Give the interface of the guest the MAC of the ENI (`enictl get eni`), or take
	 *   the bridge or macvlan in the guest away.
	 */
	REASON_SPOOFED_IP = 14, /* source IP is neither the ENI's own nor allowed */
	/*
	 * sender, source
	 * why: The source is no private IP of the ENI and not in its allowedAddresses, or
	 *   belongs to a connection that is not its.
	 * do: Add the address to `ips` or `allowedAddresses`; for a router or VPN gateway set
	 *   `sourceDestCheck: false`.
	 */
	REASON_SPOOFED_ARP = 15, /* sender fields of ARP or ND are not the ENI's */
	/*
	 * sender, source
	 * why: ARP and neighbour discovery that name others would draw their packets here.
	 * do: As for SPOOFED_IP; keepalived and others that claim an address need it in
	 *   `allowedAddresses`, or the VIP.
	 */
	REASON_ARP_UNKNOWN = 16, /* ARP or ND for an address that nobody owns here */
	/*
	 * sender, neighbours
	 * why: No ENI of the subnet has the address, or it lies outside the subnet.
	 * do: Is the receiver attached, and in this subnet? Else the guest has a wrong prefix
	 *   length: `enictl guest check`
	 */
	REASON_GUEST_SERVER = 17, /* DHCP reply, router advertisement or redirect sent by an ENI */
	/*
	 * sender, source
	 * why: Who answers DHCP or sends router advertisements from an ENI would take the
	 *   network of its neighbours over.
	 * do: Stop the DHCP server or radvd in the guest, or bind it to another interface.
	 */
	REASON_MULTICAST = 18, /* broadcast or multicast: nothing is flooded */
	/*
	 * sender, parse
	 * why: Nothing is flooded in a VPC.
	 * do: Use unicast: unicast VRRP in keepalived, explicit peers in clusters.
	 */
	REASON_TO_GATEWAY = 19, /* to the gateway's address, which answers ARP and ND only */
	/*
	 * sender, route
	 * why: The gateway is no machine: nobody is there to answer ping or TCP.
	 * do: Test with another address.
	 */

	/* policy */
	REASON_SG_DENIED = 20, /* no security group rule allows it */
	/*
	 * policy, security groups
	 * why: Security groups allow and never deny: what no rule of the ENI's groups allows
	 *   is dropped, in the direction and at the ENI that is named.
	 * do: Add a rule to one of the groups of that ENI (`enictl describe eni NAME`):
	 *   ingress where it is received, egress where it is sent.
	 */
	REASON_NACL_DENIED = 21, /* denied by the network ACL */
	/*
	 * policy, network ACL
	 * why: The first entry of the subnet's network ACL that matches denies, or none
	 *   matches. It is stateless: answers are judged, too.
	 * do: Change the entry, or add one with a lower number; think of the answers' ports
	 *   (1024-65535) in the other direction.
	 */
	REASON_NO_ROUTE = 22, /* no route to the destination */
	/*
	 * policy, route
	 * why: No entry of the route table leads there, and no policy route does.
	 * do: Add a route to the table of the subnet: `enictl get rtb -o yaml`
	 */
	REASON_BLACKHOLE = 23, /* the route says blackhole */
	/*
	 * policy, route
	 * why: A route with the target `blackhole` matches best.
	 * do: Take the route away, or add a longer one with another target.
	 */
	REASON_NO_ENDPOINT = 24, /* inside the VPC, but no ENI has this address */
	/*
	 * policy, route
	 * why: The address is in the VPC, but no ENI has it in the revision in force.
	 * do: Does the receiver exist and have that IP? `enictl get eni -o wide`; how old is
	 *   the feed? `enictl status`
	 */
	REASON_INFRA = 25, /* address of the infrastructure */
	/*
	 * policy, route
	 * why: infraCIDRs, VTEPs and addresses of agents are out of reach for every ENI.
	 * do: Nothing, unless infraCIDRs of the Region is too wide.
	 */
	REASON_NO_EIP = 26, /* the sending private IP has no EIP */
	/*
	 * policy, EIP
	 * why: The route leads to the internet, but the source has no EIP, or is not the ENI's
	 *   own.
	 * do: `enictl eip associate EIP --eni NAME`, for this private IP; or route by an ENI
	 *   that has one.
	 */
	REASON_EIP_SOURCE = 27, /* from the internet with a source that cannot be there */
	/*
	 * policy, EIP
	 * why: Answers to this source would not go to the internet: it lies in the VPC, a peer
	 *   or the infrastructure, or the subnet does not route it there.
	 * do: Add a route with target `internet` for the source; if it is a private address,
	 *   somebody forges it.
	 */

	/* flows */
	REASON_NO_FLOW = 28, /* middle of a connection, or a reply, that no flow knows */
	/*
	 * sender, flow
	 * why: Without state only what opens a connection passes: a TCP SYN, a request of
	 *   ICMP. The flow has expired, was flushed or cut, or was never here.
	 * do: Connect anew. If connections die after idling: keepalives, or
	 *   `timeouts.tcpEstablished` of the ENI.
	 */
	REASON_FLOW_FULL = 29, /* no room for a new flow */
	/*
	 * limit, flow
	 * why: Both places of the flow table where this connection could be are full of live
	 *   flows.
	 * do: More flows for the host: `enid --max-flows`; who has them: `enictl flow list`,
	 *   `enictl status`.
	 */
	REASON_FLOW_BUSY = 30, /* too many inserts at once in one place */
	/*
	 * fault, flow
	 * why: Several CPUs insert in one place at the same moment; the sender tries again.
	 * do: Nothing, unless it grows steadily: then report it with `enictl status`.
	 */
	REASON_ICMP_UNRELATED = 31, /* ICMP error that belongs to no flow */
	/*
	 * sender, flow
	 * why: An ICMP error passes only with the connection that it quotes, to the end that
	 *   sent the quoted packet.
	 * do: Usually nothing: late errors, or forged ones.
	 */

	/* where to */
	REASON_TOO_BIG = 32, /* larger than the path carries */
	/*
	 * sender, next hop
	 * why: Larger than the overlay, the uplink or the port carries. The sender is told
	 *   (fragmentation needed, packet too big).
	 * do: Let ICMP errors in at the sender, or set the MTU in the guest to what the error
	 *   says; TCP: clamp the MSS.
	 */
	REASON_NO_NEXTHOP = 33, /* the ENI that had this address is gone */
	/*
	 * fault, next hop
	 * why: The next hop is of an ENI that is not attached anywhere now.
	 * do: Attach it, or wait for its move to end: `enictl get eni -o wide`
	 */
	REASON_NO_FIB = 34, /* the host has no route or no uplink for it */
	/*
	 * fault, next hop
	 * why: The host's own routing has no way by one of its uplinks.
	 * do: `ip route get DESTINATION iif eniplane0 from EIP` on the host; are the uplinks
	 *   of the Host object right?
	 */
	REASON_HELPER = 35, /* the kernel refused an operation on the packet */
	/*
	 * fault, next hop
	 * why: The kernel could not change or send the packet: no memory, or headers that it
	 *   does not take.
	 * do: If it grows: report it with the kernel version and `enictl trace --from-pcap`.
	 */

	/* overlay */
	REASON_VXLAN_HEADER = 36, /* flags, reserved bits or group policy id that we never send */
	/*
	 * sender, overlay
	 * why: Somebody who is no host of this region sends VXLAN to this host, or a newer
	 *   version.
	 * do: Which host sends it? tcpdump -i UPLINK udp port 4789; keep strangers off the
	 *   underlay.
	 */
	REASON_VXLAN_SOURCE = 37, /* a VTEP that does not have this VPC */
	/*
	 * sender, overlay
	 * why: A host sends for a VPC that the feed does not place there.
	 * do: Do both hosts have the same revision? `enictl status` on both; else somebody
	 *   forges.
	 */
	REASON_VXLAN_UNMARKED = 38, /* decapsulated without having passed the uplink's check */
	/*
	 * fault, overlay
	 * why: It reached the VXLAN device without having passed our program at the uplink.
	 * do: Is the uplink in `Host.uplinks`, and does a foreign program run before ours?
	 *   `enictl status`
	 */
	REASON_VXLAN_NO_ENI = 39, /* no ENI with this MAC and VNI here */
	/*
	 * fault, overlay
	 * why: The ENI has just left this host, or the sender has an old revision.
	 * do: If it lasts: compare the revisions of both hosts, `enictl status`.
	 */
	REASON_VXLAN_SENDER = 40, /* inner source is not behind the VTEP that sent it */
	/*
	 * sender, overlay
	 * why: The inner source is not an ENI of the host that sent it.
	 * do: Do both hosts have the same revision? Else the sending host is misused.
	 */
	REASON_ROUTE_LOOP = 41, /* the next hop is the sender itself */
	/*
	 * policy, route
	 * why: The route leads to the ENI that sends.
	 * do: Take the routing ENI's own subnet out of that route, or give its subnet another
	 *   table.
	 */

	REASON_STRAY_ND = 42, /* neighbour discovery that comes from beyond the subnet */
	/*
	 * sender, overlay
	 * why: Neighbour discovery is about one link and came over several.
	 * do: Nothing: somebody forges it.
	 */

	REASON_TCP_WINDOW = 43, /* RST far from what its sender last sent, or a blind ACK */
	/*
	 * sender, flow
	 * why: A RST more than 16 MiB from the stream, or an ACK of what was never sent, is
	 *   not of the connection's ends.
	 * do: Usually nothing. A peer that lost its state gets through with the RST that
	 *   answers the next ACK.
	 */

	REASON_FLOW_JUDGE_LIMIT = 44, /* too many flows of the ENI to be judged again at once */
	/*
	 * limit, flow
	 * why: After a change of rules each flow is judged once again, so many in 0.27 s; the
	 *   packet comes again.
	 * do: Nothing, if it ends soon. If not: which feed changes all the time? `enictl
	 *   status`
	 */
	REASON_FLOW_QUOTA = 45, /* the ENI has as many flows as it may have */
	/*
	 * limit, flow
	 * why: Every ENI has a share of the host's flows that others cannot take, and borrows
	 *   the rest while there is some.
	 * do: `limits.flows` of the ENI, or `enid --max-flows`; who has them: `enictl status`,
	 *   `enictl flow list --eni NAME`
	 */

	REASON_NOT_PEERED = 46, /* to or from another VPC without routes on both sides */
	/*
	 * policy, route
	 * why: A peering is a route on both sides. One is missing, or the source is not of the
	 *   VPC.
	 * do: Add the route `vpc/NAME` in the other VPC's table, too.
	 */
	REASON_NO_TRANSIT = 47, /* addressed to another, and this ENI does not forward */
	/*
	 * policy, route
	 * why: The ENI got a packet for somebody else's address and has `sourceDestCheck:
	 *   true`.
	 * do: For a router set `sourceDestCheck: false`; else the route that leads to this ENI
	 *   is wrong.
	 */

	REASON_PACKET_RATE = 48, /* the ENI has more packets in a second than it may have */
	/*
	 * limit, port
	 * why: limits.packetsPerSecond counts both directions together.
	 * do: Raise `limits.packetsPerSecond`; who sends: `enictl flow list --eni NAME -o
	 *   wide`
	 */
	REASON_FLOW_RATE = 49, /* the ENI has more new flows in a second than it may have */
	/*
	 * limit, flow
	 * why: limits.newFlowsPerSecond counts what rules have allowed.
	 * do: Raise `limits.newFlowsPerSecond`, or reuse connections.
	 */

	REASON_WRONG_ENI = 50, /* sent from an address that another ENI of the same instance has */
	/*
	 * sender, source
	 * why: The guest answers by another interface than the one whose address it uses.
	 * do: `enictl guest check` in the instance; `enictl guest routes --apply` mends it.
	 */

	REASON_EIP_UNKNOWN = 51, /* an EIP that nobody has, or that only other gateways take */
	/*
	 * policy, EIP
	 * why: The address lies in a range for which this host is a gateway, and no ENI has it in the
	 *   revision in force.
	 * do: `enictl get eip`: is it associated? Else packets to it should not be routed to this host.
	 */
	REASON_STALE_EPOCH = 52, /* sent on by a host from which the ENI does not move */
	/*
	 * sender, overlay
	 * why: While an ENI moves, its old host sends on what it has judged. Another host, or one of an older
	 *   attachment epoch, may not.
	 * do: Do the hosts have the same revision? `enictl status` on both; it ends with the move.
	 */

	REASON_LAST,
};
