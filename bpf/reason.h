/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The one list of what can become of a packet. Append only: numbers are part of the ABI, names
 * reach the CLI, metrics, docs and tests through bpf2go and stringer. The comment after a value is
 * its help text (pkg/dataplane/reasons_test.go reads it from here).
 */
#pragma once

enum reason {
	REASON_CONTINUE = 0, /* not decided yet; as a counter: all packets that came in */

	/* what is not a drop */
	REASON_DELIVERED = 1, /* handed to the next device, overlay or uplink */
	REASON_REDIRECTED = 2, /* sent on to the host that has the ENI now */
	REASON_ANSWERED = 3, /* answered here: ARP, neighbour discovery */
	REASON_CONSUMED = 4, /* ended here by design: DAD, announcements, MLD, DHCP client */
	REASON_NOT_OURS = 5, /* uplink only: left to the host untouched, never counted */

	/* layer 2 and parsing */
	REASON_MALFORMED = 6, /* truncated, or lengths and headers contradict each other */
	REASON_ETHERTYPE = 7, /* not IPv4, IPv6 or ARP, VLAN-tagged or 802.3 */
	REASON_FRAGMENT = 8, /* an IP fragment that no first fragment vouches for */
	REASON_EXTENSION = 9, /* a source route, or an IPv6 extension header that is not followed */
	REASON_ADDRESS = 10, /* source or destination that can never be valid here */

	/* who sends */
	REASON_NOT_READY = 11, /* the ENI's configuration is not complete yet */
	REASON_UNKNOWN_PORT = 12, /* a device that belongs to no ENI */
	REASON_SPOOFED_MAC = 13, /* source MAC is not the ENI's */
	REASON_SPOOFED_IP = 14, /* source IP is neither the ENI's own nor allowed */
	REASON_SPOOFED_ARP = 15, /* sender fields of ARP or ND are not the ENI's */
	REASON_ARP_UNKNOWN = 16, /* ARP or ND for an address that nobody owns here */
	REASON_GUEST_SERVER = 17, /* DHCP reply, router advertisement or redirect sent by an ENI */
	REASON_MULTICAST = 18, /* broadcast or multicast: nothing is flooded */
	REASON_TO_GATEWAY = 19, /* to the gateway's address, which answers ARP and ND only */

	/* policy */
	REASON_SG_DENIED = 20, /* no security group rule allows it */
	REASON_NACL_DENIED = 21, /* denied by the network ACL */
	REASON_NO_ROUTE = 22, /* no route to the destination */
	REASON_BLACKHOLE = 23, /* the route says blackhole */
	REASON_NO_ENDPOINT = 24, /* inside the VPC, but no ENI has this address */
	REASON_INFRA = 25, /* address of the infrastructure */
	REASON_NO_EIP = 26, /* the sending private IP has no EIP */
	REASON_EIP_SOURCE = 27, /* from the internet with a source that cannot be there */

	/* flows */
	REASON_NO_FLOW = 28, /* middle of a connection, or a reply, that no flow knows */
	REASON_FLOW_FULL = 29, /* no room for a new flow */
	REASON_FLOW_BUSY = 30, /* too many inserts at once in one place */
	REASON_ICMP_UNRELATED = 31, /* ICMP error that belongs to no flow */

	/* where to */
	REASON_TOO_BIG = 32, /* larger than the path carries */
	REASON_NO_NEXTHOP = 33, /* the ENI that had this address is gone */
	REASON_NO_FIB = 34, /* the host has no route or no uplink for it */
	REASON_HELPER = 35, /* the kernel refused an operation on the packet */

	/* overlay */
	REASON_VXLAN_HEADER = 36, /* flags, reserved bits or group policy id that we never send */
	REASON_VXLAN_SOURCE = 37, /* a VTEP that does not have this VPC */
	REASON_VXLAN_UNMARKED = 38, /* decapsulated without having passed the uplink's check */
	REASON_VXLAN_NO_ENI = 39, /* no ENI with this MAC and VNI here */
	REASON_VXLAN_SENDER = 40, /* inner source is not behind the VTEP that sent it */
	REASON_ROUTE_LOOP = 41, /* the next hop is the sender itself */

	REASON_STRAY_ND = 42, /* neighbour discovery that comes from beyond the subnet */

	REASON_TCP_WINDOW = 43, /* RST far from what its sender last sent, or a blind ACK */

	REASON_FLOW_JUDGE_LIMIT = 44, /* too many flows of the ENI to be judged again at once */
	REASON_FLOW_QUOTA = 45, /* the ENI has as many flows as it may have */

	REASON_NOT_PEERED = 46, /* to or from another VPC without routes on both sides */
	REASON_NO_TRANSIT = 47, /* addressed to another, and this ENI does not forward */

	REASON_PACKET_RATE = 48, /* the ENI has more packets in a second than it may have */
	REASON_FLOW_RATE = 49, /* the ENI has more new flows in a second than it may have */
	REASON_WRONG_ENI = 50, /* sent from an address that another ENI of the same instance has */

	REASON_EIP_UNKNOWN = 51, /* an EIP that nobody has, or that only other gateways take */
	REASON_STALE_EPOCH = 52, /* sent on by a host from which the ENI does not move */

	REASON_LAST,
};
