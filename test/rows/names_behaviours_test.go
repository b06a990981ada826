// SPDX-License-Identifier: Apache-2.0

package rows

// behavioursOfOthers are the names of the tests of other dataplanes, and where the same is shown here.
func behavioursOfOthers() []proof {
	return append(append(behavioursOfOPTE(), behavioursOfCalico()...), behavioursOfMore()...)
}

func behavioursOfOPTE() []proof {
	return []proof{
		{"port_transition_running", "a port carries nothing before it is ready", []string{"port/a port that is not ready"}, []string{"loader.TestApplyMakesPortsReady"}, ""},
		{"port_transition_reset", "a port that begins again knows no flows", []string{"revision/a new attachment of the sender", "revision/a new attachment does not answer"}, nil, ""},
		{"port_transition_pause", "a port that is closed carries nothing", []string{"port/to an ENI that is not ready"}, nil, ""},
		{"add_remove_fw_rule", "a rule counts from when it comes until it goes", []string{"revision/no rule any more", "revision/blocked and revived"}, nil, ""},
		{"packet_body_pullup", "headers behind the first piece of memory", nil, []string{"test/diff.TestDifferential", "test/e2e.TestMatrix"}, "rows are of one piece"},
		{"external_ip_receive_and_reply_on_all", "each EIP is answered from", []string{"internet/an answer to the internet", "eip/an answer from the internet"}, nil, ""},
		{"external_ip_balanced_over_floating_ips", "one of several EIPs is chosen", nil, nil, "a private IP has one EIP"},
		{"external_ip_epoch_affinity_preserved", "a flow keeps its EIP", []string{"revision/the EIP is another one"}, nil, ""},
		{"external_ip_reconfigurable", "EIPs come and go", []string{"revision/the EIP is unbound: nothing goes out", "revision/the EIP is unbound: nothing comes in"}, nil, ""},
		{"snat_icmp4_echo_rewrite", "ping through an EIP, IPv4", []string{"eip/echo", "internet/echo"}, nil, ""},
		{"snat_icmp6_echo_rewrite", "ping through an EIP, IPv6", []string{"eip/echo", "internet/echo"}, nil, ""},
		{"bad_ip_len", "lengths that are not true", []string{"parse/length beyond the frame", "parse/total length below the header", "parse/length 0"}, nil, ""},
		{"arp_gateway", "the gateway answers ARP", []string{"neighbour/who has the gateway"}, nil, ""},
		{"flow_expiration", "flows end when they are idle", []string{"flow/udp is idle for too long", "flow/tcp is idle for too long"}, nil, ""},
		{"outbound_ndp_dropped", "neighbour discovery of a guest goes nowhere", []string{"neighbour/an advertisement for the gateway", "service/router solicitation"}, nil, ""},
		{"uft_lft_invalidation_in", "a changed rule judges a live flow, in", []string{"revision/no rule any more"}, nil, ""},
		{"uft_lft_invalidation_out", "a changed rule judges a live flow, out", []string{"revision/no rule any more, seen by an answer", "revision/the sender's rules change too"}, nil, ""},
		{"early_tcp_invalidation", "a half-open connection is judged again", []string{"revision/no rule any more, in both directions"}, nil, ""},
		{"tcp_invalidation_does_not_block_connection", "a connection may open again", []string{"flow/a closed connection opens again"}, nil, ""},
		{"ephemeral_ip_preferred_over_snat_outbound", "which of two translations", nil, nil, "there is one: 1:1"},
		{"anti_spoof", "sources of others", []string{"spoof/foreign MAC", "spoof/a neighbour's address", "spoof/the gateway's address"}, nil, ""},
		{"no_panic_on_flow_table_full", "a full table drops", []string{"flow/the table takes nothing"}, nil, ""},
		{"external_attached_subnets_dont_apply_nat", "foreign addresses are not translated", []string{"eip/no EIP for an address that is not the ENI's own"}, nil, ""},
		{"icmp_inner_has_nat_applied", "the packet in an error is translated, IPv4", []string{"error/in through an EIP, about udp", "error/out through an EIP, about tcp"}, nil, ""},
		{"icmpv6_inner_has_nat_applied", "the packet in an error is translated, IPv6", []string{"error/in through an EIP, about udp", "error/out through an EIP, about tcp"}, nil, ""},
	}
}

func behavioursOfCalico() []proof {
	return []proof{
		{"icmp_related", "an error about a flow passes", []string{"error/same host, about udp", "error/in from the overlay, about tcp"}, nil, ""},
		{"icmp_too_big", "who sends too much is told", []string{"local/more than the receiver's device carries", "eip/more than the uplink carries", "overlay/out, more than the overlay carries", "too big/from another host, more than the port carries"},
			[]string{"test/e2e.TestServices"}, ""},
		{"multi-ENI replies", "amazon-vpc-cni 75, 1392: replies leave by the wrong ENI",
			[]string{"spoof/the address of another ENI of its instance", "neighbour/sender's IP is that of another ENI of its instance"},
			[]string{"test/e2e.TestServices", "pkg/guest.TestAsymmetric"}, ""},
		{"icmp_ttl_exceeded", "an expired TTL is reported", []string{"error/same host, hop limit"}, nil, ""},
		{"icmp_port_unreachable", "a closed port is reported", []string{"error/same host, fragmentation needed, unreachable port"}, nil, ""},
		{"ip4_defrag", "fragments follow the first one", []string{"fragment/first, middle, last", "fragment/the last before the middle"}, nil, ""},
		{"ip_options", "options are skipped", []string{"parse/options", "parse/router alert"}, nil, ""},
		{"ipv4_opts", "as many options as there can be", []string{"parse/40 bytes of options"}, nil, ""},
		{"malformed_packets", "broken headers are dropped", []string{"parse/version 0", "parse/header of 16 bytes", "parse/syn and fin", "uplink/half a header to an EIP"}, nil, ""},
		{"spoof", "sources of others", []string{"spoof/an address of nobody", "spoof/any address without the check"}, nil, ""},
		{"tcp_rst", "a reset ends a connection", []string{"reset/reset inside the window", "flow/tcp is reset"}, nil, ""},
		{"conntrack_nat_rst", "a reset through a translation", []string{"internet/a connection from the internet is reset"}, nil, ""},
		{"nat_encap", "an EIP that another host has", []string{"eip/an EIP on another host"}, nil, ""},
		{"qos", "packets are marked and limited", nil, nil, laterVersion},
		{"map_upgrade", "newer layouts of maps", nil, []string{"loader.TestOpenRefuses"}, laterVersion},
		{"pkt_byte_counts", "packets and bytes are counted as on the wire", []string{"local/gso to a neighbour", "local/gso whose last segment is full"}, []string{"test/diff.TestDifferential"}, ""},
		{"policy_verdict_events", "which rule decided", []string{"sg/a port", "sg/egress to another port", "nacl/ingress denied at the border"}, nil, ""},
		{"flow_log_events", "what flows did", nil, nil, laterVersion},
		{"conntrack_scanner", "idle flows are cleaned away", []string{"flow/a half-open connection ends", "flow/a closed connection ends"}, nil, ""},
		{"unknown_dest", "nobody is there", []string{"local/nobody in the VPC", "local/nobody in the subnet", "route/no route"}, nil, ""},
	}
}

func behavioursOfMore() []proof {
	return []proof{
		{"conntrack_poisoning", "network policy agent: an entry of one admits another's packet", []string{"route/flows of two VPCs with the same addresses are two", "unrelated/about another ENI's flow"}, nil, ""},
		{"ENI add/delete", "DASH: an ENI comes and goes", []string{"revision/the receiver has left the host", "revision/the receiver is attached nowhere"}, []string{"pkg/compile.TestComesBack"}, ""},
		{"in/out ACL", "DASH: lists in both directions", []string{"nacl/ingress denied at the border", "nacl/egress denied"}, nil, ""},
		{"direction lookup", "DASH: by which side a packet comes", []string{"icmp/both sides ask with one identifier", "flow/syn-ack without a flow"}, nil, ""},
		{"PA validation", "DASH: the outer source is one that may send", []string{"outer/from an unknown host", "overlay/in, sender is of another host"}, nil, ""},
		{"CA-PA", "DASH: addresses of guests lead to hosts", []string{"overlay/out to a third host", "overlay/out inside a subnet"}, nil, ""},
		{"bidirectional UDP", "DASH: datagrams both ways", []string{"flow/udp"}, nil, ""},
		{"scale ladder", "DASH: from one address to all", nil, []string{"pkg/api.TestLimits", "pkg/dataplane/flowtable.TestLoadOfSevenTenths"}, "rows are of a few packets"},
		{"fragment rules", "DASH: fragments by their first", []string{"fragment/middle without the first", "fragment/the receiver denies the first"}, nil, ""},
		{"resimulation", "DASH: live flows by changed rules", []string{"revision/no rule any more", "revision/blocked and revived", "mode/keep: no rule any more", "mode/cut: no rule any more"}, nil, ""},
	}
}
