// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/eniplane/eniplane/pkg/compile"
)

// fullState has every kind of entry in both families.
func fullState() *compile.State {
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	mac := [6]byte{2, 0, 0, 0, 1, 0x10}
	return &compile.State{
		Revision: 9,
		Host:     compile.HostConf{Name: "host-a", VTEP: addr("192.0.2.1"), GatewayMAC: [6]byte{2, 0, 0x5e, 0, 0, 1}, Infra: 1},
		ENIs: []compile.ENI{{
			Name: "web-0", Index: 1, Incarnation: 11, Generation: 12,
			Flows: 13, MaxFlows: 300, NewFlows: 21, Packets: 22, Keep: true, Idle: compile.Idle{TCPEstablished: 61, UDP: 31, UDPStream: 62},
			VNI: 7, Subnet: 3, NextHop: 5, MAC: mac,
			SGIn: 21, SGOut: 22, HasNACL: true, NACLIn: 23, NACLOut: 0, Routes: 31, Allowed: 24, PolicyFrom: 25, PolicyTo: 26, NoSource: true,
		}},
		NextHops: []compile.NextHop{
			{Index: 5, ENI: "web-0", Local: 1, Generation: 2, VNI: 7, MAC: mac},
			{Index: 6, ENI: "db-0", VTEP: addr("192.0.2.2"), Generation: 3, Since: 2, VNI: 7, Subnet: 3, MAC: [6]byte{2, 0, 0, 0, 2, 0x10}},
			{Index: 7, ENI: "lost-0", Generation: 4, VNI: 7, MAC: [6]byte{2, 0, 0, 0, 3, 0x10}},
		},
		Endpoints: []compile.Endpoint{
			{VNI: 7, Addr: addr("10.0.1.10"), NextHop: 5, GroupSet: 41},
			{VNI: 7, Addr: addr("10.0.1.1"), Gateway: true},
			{VNI: 7, Addr: addr("fd00::10"), NextHop: 5, GroupSet: 41},
		},
		MACs:  []compile.MAC{{VNI: 7, MAC: mac, NextHop: 5, Foreign: true}},
		VTEPs: []compile.VTEP{{VNI: 7, Addr: addr("192.0.2.2")}},
		EIPs: []compile.EIP{
			{Addr: addr("203.0.113.10"), ENI: 1, VNI: 7, Private: addr("10.0.1.10")},
			{Addr: addr("2001:db8::10"), ENI: 1, VNI: 7, Private: addr("fd00::10")},
		},
		Routes: []compile.Route{
			{Table: 1, Prefix: prefix("192.0.2.0/24"), Kind: compile.RouteInfra},
			{Table: 31, Prefix: prefix("10.0.0.0/16"), Kind: compile.RouteLocal, Subnet: 3},
			{Table: 31, Prefix: prefix("10.0.1.0/24"), Kind: compile.RouteENI, Arg: 6, Subnet: 3},
			{Table: 31, Prefix: prefix("10.1.0.0/16"), Kind: compile.RouteVPC, Arg: 7},
			{Table: 31, Prefix: prefix("10.2.0.0/16"), Kind: compile.RouteNotPeered},
			{Table: 31, Prefix: prefix("0.0.0.0/0"), Kind: compile.RouteInternet},
			{Table: 31, Prefix: prefix("::/0"), Kind: compile.RouteBlackhole},
		},
		Policies: []compile.PolicyRoute{
			{Policy: 24, Bit: 1, Kind: compile.RouteENI, Arg: 5},
			{Policy: 24, Bit: 8, Kind: compile.RouteInternet},
		},
		Rulesets: []compile.Ruleset{{
			ID: 21, Addrs: 61, Groups: 62, Services: 63,
			Verdicts: []compile.Verdict{{Peer: 1, Service: 1, Allow: true, Rule: 1}, {Kind: compile.OfGroup, Peer: 2, Service: 3, Rule: 2}},
			Rules:    []compile.Rule{{ID: 51, Name: "web/https"}, {ID: 52, Name: "web/ingress[1]"}},
		}, {
			ID: 22, Lists: 64, Services: 65,
			ClassRules: [compile.ClassKinds][]compile.RuleSet{compile.OfList: {{2}}, compile.OfService: {{3, 1 << 63}, {}, {}, {}, {}, {}, {}, {4}}},
			Verdicts:   []compile.Verdict{{Service: 1, Allow: true, Rule: 1}, {Service: 2, Rule: 2}},
			Rules:      []compile.Rule{{ID: 51, Name: "web/https"}, {ID: 52, Name: "web/ingress[1]"}},
		}, {ID: 23}},
		Addrs: []compile.AddrTable{
			{ID: 61, Prefixes: []compile.PeerClass{{Prefix: prefix("192.0.2.0/28"), Class: 1}, {Prefix: prefix("fd00::/64"), Class: 2}}},
			{ID: 64, Prefixes: []compile.PeerClass{{Prefix: prefix("10.7.0.0/16"), Class: 1}}},
		},
		Groups: []compile.GroupTable{{ID: 62, Groups: []compile.GroupClass{{GroupSet: 41, Class: 3}}}},
		Services: []compile.ServiceTable{{ID: 63, Prefixes: []compile.ServiceClass{
			{Class: 1},
			{Protocol: 17, Bits: 8, Class: 2},
			{Protocol: 6, Port: 8000, Bits: 22, Class: 3},
			{Protocol: 6, Port: 443, Bits: 24, Class: 4},
			{Protocol: 1, Port: 8 << 8, Bits: 24, Class: 5},
			{Protocol: 1, Port: 3 << 8, Bits: 16, Class: 6},
		}}, {
			ID: 65, Prefixes: []compile.ServiceClass{{Protocol: 6, Port: 256, Bits: 16}},
			Blocks: []compile.ServiceBlock{{Protocol: 6, High: 1, Classes: [256]uint32{187: 1, 188: 1, 255: 8}}},
		}},
	}
}

var fullNames = compile.Names{
	ENIs:      map[uint32]string{1: "web-0"},
	NextHops:  map[uint32]string{5: "web-0", 6: "db-0"},
	VPCs:      map[uint32]string{7: "red"},
	Subnets:   map[uint32]string{3: "red-web"},
	GroupSets: map[uint32][]string{41: {"db", "web"}},
	Tables:    map[uint32]string{1: "infra", 31: "red-public"},
	Rulesets: map[uint32]string{
		21: "sg web,ssh ingress", 61: "sg web,ssh ingress", 62: "sg web,ssh ingress", 63: "sg web,ssh ingress",
		23: "nacl red-web ingress", 22: "sg wide egress", 64: "sg wide egress", 65: "sg wide egress",
	},
	Rules: map[uint32]compile.RuleName{51: {Key: "sg/web@web ingress name https", Direction: "ingress", Name: "web/https"}},
	Hosts: map[string]string{"192.0.2.2": "host-b"},
}

// decodeAll turns tables into rows as Dump does.
func decodeAll(t *testing.T, tables *Tables) map[string][]any {
	t.Helper()
	all := map[string][]any{}
	contents, err := tables.All()
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range contents {
		var keys []string
		for key := range content {
			keys = append(keys, key)
		}
		slices.SortFunc(keys, func(a, b string) int { return strings.Compare(sortable([]byte(a)), sortable([]byte(b))) })
		for _, key := range keys {
			value := content[key]
			if TableKinds()[name] == Slotted {
				value = slices.Concat(value, value)
			}
			row, err := decoders()[name](namer{fullNames}, []byte(key), value)
			if err != nil {
				t.Fatal(err)
			}
			all[name] = append(all[name], row)
		}
	}
	return all
}

func TestEncodeDecode(t *testing.T) {
	tables, err := Encode(fullState(), HostFacts{VXLANIfindex: 4, OverlayMTU: 1450, MaxFlows: 1000, HalfOpen: 16})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]any{
		"host_conf": {HostRow{VTEP: "192.0.2.1", VXLANIfindex: 4, OverlayMTU: 1450, GatewayMAC: "02:00:5e:00:00:01", FlowShare: 500, FlowPool: 700, Infra: "infra"}},
		"enis": {ENIRow{
			Index: 1, ENI: "web-0", VPC: "red", Subnet: "red-web", MAC: "02:00:00:00:01:10", Incarnation: 11, Generation: 12,
			NextHop: 5, SGIn: "sg web,ssh ingress", SGOut: "sg wide egress", NACLIn: "nacl red-web ingress", NACLOut: "0", Routes: "red-public", Allowed: "24", Policy: "26",
			Flows: 13, Keep: true, Timeouts: "tcp 61s, udp 31s/62s", MaxFlows: 300, HalfOpen: 16, NewFlows: 21, Packets: 22,
		}},
		"nexthops": {
			NextHopRow{Index: 1, ENI: "internet", Kind: "internet"},
			NextHopRow{Index: 5, ENI: "web-0", Kind: "local", Where: "web-0", VPC: "red", MAC: "02:00:00:00:01:10", Generation: 2},
			NextHopRow{Index: 6, ENI: "db-0", Kind: "vtep", Where: "host-b", VPC: "red", Subnet: "red-web", MAC: "02:00:00:00:02:10", Generation: 3},
			NextHopRow{Index: 7, ENI: "7", Kind: "none", VPC: "red", MAC: "02:00:00:00:03:10", Generation: 4},
		},
		"endpoints4": {
			EndpointRow{VPC: "red", Address: "10.0.1.1", Gateway: true},
			EndpointRow{VPC: "red", Address: "10.0.1.10", NextHop: "web-0", Groups: "db,web"},
		},
		"endpoints6": {EndpointRow{VPC: "red", Address: "fd00::10", NextHop: "web-0", Groups: "db,web"}},
		"macs":       {MACRow{VPC: "red", MAC: "02:00:00:00:01:10", NextHop: "web-0", Foreign: true}},
		"vteps":      {VTEPRow{VPC: "red", VTEP: "192.0.2.2", Role: "enis", Host: "host-b"}},
		"eip_in4":    {EIPInRow{EIP: "203.0.113.10", ENI: "web-0", Private: "10.0.1.10"}},
		"eip_in6":    {EIPInRow{EIP: "2001:db8::10", ENI: "web-0", Private: "fd00::10"}},
		"eip_out4":   {EIPOutRow{VPC: "red", Private: "10.0.1.10", EIP: "203.0.113.10"}},
		"eip_out6":   {EIPOutRow{VPC: "red", Private: "fd00::10", EIP: "2001:db8::10"}},
		"routes4": {
			RouteRow{Table: "red-public", Prefix: "0.0.0.0/0", Kind: "internet"},
			RouteRow{Table: "red-public", Prefix: "10.0.0.0/16", Kind: "local", Subnet: "red-web"},
			RouteRow{Table: "red-public", Prefix: "10.1.0.0/16", Kind: "vpc", Target: "red"},
			RouteRow{Table: "red-public", Prefix: "10.2.0.0/16", Kind: "not peered"},
			RouteRow{Table: "infra", Prefix: "192.0.2.0/24", Kind: "infrastructure"},
			RouteRow{Table: "red-public", Prefix: "10.0.1.0/24", Kind: "eni", Target: "db-0", Subnet: "red-web"},
		},
		"policies": {
			PolicyRow{Policy: "24", Route: 1, Kind: "eni", Target: "web-0"},
			PolicyRow{Policy: "24", Route: 4, Kind: "internet"},
		},
		"routes6": {RouteRow{Table: "red-public", Prefix: "::/0", Kind: "blackhole"}},
		"addrs4":  {PeerRow{Ruleset: "sg wide egress", Prefix: "10.7.0.0/16", Class: 1}, PeerRow{Ruleset: "sg web,ssh ingress", Prefix: "192.0.2.0/28", Class: 1}},
		"addrs6":  {PeerRow{Ruleset: "sg web,ssh ingress", Prefix: "fd00::/64", Class: 2}},
		"groups":  {GroupRow{Ruleset: "sg web,ssh ingress", Groups: "db,web", Class: 3}},
		"services": {
			ServiceRow{Ruleset: "sg web,ssh ingress", Protocol: "all", Port: "any", Class: 1},
			ServiceRow{Ruleset: "sg web,ssh ingress", Protocol: "udp", Port: "any", Class: 2},
			ServiceRow{Ruleset: "sg web,ssh ingress", Protocol: "icmp", Port: "type 3", Class: 6},
			ServiceRow{Ruleset: "sg wide egress", Protocol: "tcp", Port: "256-511"},
			ServiceRow{Ruleset: "sg web,ssh ingress", Protocol: "tcp", Port: "8000-8003", Class: 3},
			ServiceRow{Ruleset: "sg web,ssh ingress", Protocol: "icmp", Port: "type 8 code 0", Class: 5},
			ServiceRow{Ruleset: "sg web,ssh ingress", Protocol: "tcp", Port: "443", Class: 4},
		},
		"verdicts": {
			VerdictRow{Ruleset: "sg web,ssh ingress", Kind: "address", Peer: 1, Service: 1, Order: 1, Allow: true, Rule: "web/https"},
			VerdictRow{Ruleset: "sg web,ssh ingress", Kind: "groups", Peer: 2, Service: 3, Order: 2, Rule: "52"},
			VerdictRow{Ruleset: "sg wide egress", Service: 1, Order: 1, Allow: true, Rule: "web/https"},
			VerdictRow{Ruleset: "sg wide egress", Service: 2, Order: 2, Rule: "52"},
		},
		"service_blocks": {ServiceBlockRow{Ruleset: "sg wide egress", Protocol: "tcp", Port: "256-511", Classes: "0*187,1*2,0*66,8*1"}},
		"class_rules": {
			ClassRulesRow{Ruleset: "sg wide egress", Kind: "prefix list", Class: 0, Rules: "; 2; ; ; ; ; ; "},
			ClassRulesRow{Ruleset: "sg wide egress", Kind: "service", Class: 0, Rules: "; 1,2,128; ; ; ; ; ; "},
			ClassRulesRow{Ruleset: "sg wide egress", Kind: "service", Class: 8, Rules: "3; ; ; ; ; ; ; "},
		},
	}
	if diff := cmp.Diff(want, decodeAll(t, tables)); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
	for name, rows := range want {
		keys := map[string]bool{}
		for _, row := range rows {
			keys[KeyOf(row)] = true
		}
		if len(keys) != len(rows) {
			t.Errorf("%s: the keys %v are those of several of %d rows", name, keys, len(rows))
		}
	}
}

// The bytes of a few entries, by hand from bpf/types.h: encode and decode may not agree on a mistake.
func TestEncodeBytes(t *testing.T) {
	tables, err := Encode(fullState(), HostFacts{})
	if err != nil {
		t.Fatal(err)
	}
	contents, err := tables.All()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct{ table, key, value string }{
		{"endpoints4", "\x07\x00\x00\x00\x0a\x00\x01\x0a", "\x01\x00\x00\x00\x05\x00\x00\x00\x29\x00\x00\x00"},
		{"services", "\x38\x00\x00\x00\x3f\x00\x00\x00\x06\x01\xbb\x00", "\x04\x00\x00\x00"},
		{"nexthops", "\x06\x00\x00\x00", "\x02\x00\x00\x00\xc0\x00\x02\x02\x03\x00\x00\x00\x07\x00\x00\x00\x03\x00\x00\x00\x02\x00\x00\x00\x02\x10\x00\x00\x02\x00\x00\x00"},
		{"verdicts", "\x15\x00\x00\x00\x02\x00\x00\x20\x03\x00\x00\x00", "\x04\x00\x00\x00\x34\x00\x00\x00"},
		{"class_rules", "\x16\x00\x00\x80\x00\x00\x00\x02", strings.Repeat("\x00", 128) + "\x02" + strings.Repeat("\x00", 895)},
		{"service_blocks", "\x41\x00\x00\x00\x06\x01\x00\x00", strings.Repeat("\x00", 748) + "\x01\x00\x00\x00\x01" + strings.Repeat("\x00", 267) + "\x08\x00\x00\x00"},
		{"routes4", "\x30\x00\x00\x00\x1f\x00\x00\x00\x0a\x00\x00\x00", "\x01\x00\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00"},
		{"policies", "\x18\x00\x00\x00\x08\x00\x00\x00", "\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"},
	} {
		if got := string(contents[want.table][want.key]); got != want.value {
			t.Errorf("table %s key %x: %x, want %x", want.table, want.key, got, want.value)
		}
	}
}

func TestEncodeRefuses(t *testing.T) {
	for name, spoil := range map[string]func(*compile.State){
		"two endpoints with one address": func(st *compile.State) { st.Endpoints = append(st.Endpoints, st.Endpoints[0]) },
		"the host's own index":           func(st *compile.State) { st.ENIs[0].Index = 0 },
		"an index too large":             func(st *compile.State) { st.ENIs[0].Index = cMaxENIs },
		"the internet's next hop":        func(st *compile.State) { st.NextHops[0].Index = cNexthopInternet },
		"an IPv6 VTEP":                   func(st *compile.State) { st.VTEPs[0].Addr = netip.MustParseAddr("fd00::1") },
		"no VTEP of the host":            func(st *compile.State) { st.Host.VTEP = netip.Addr{} },
		"two rule sets with one id":      func(st *compile.State) { st.Rulesets = append(st.Rulesets, st.Rulesets[0]) },
		"two tables with one id":         func(st *compile.State) { st.Addrs = append(st.Addrs, st.Addrs[0]) },
		"a rule set that is not there":   func(st *compile.State) { st.Rulesets = st.Rulesets[1:] },
		"two runs of a route table":      func(st *compile.State) { st.Routes = append(st.Routes, st.Routes[0]) },
		"an EIP across families":         func(st *compile.State) { st.EIPs[0].Private = st.EIPs[1].Private },
	} {
		st := fullState()
		spoil(st)
		if _, err := Encode(st, HostFacts{}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// What only the sets can get wrong is said when they are laid out.
func TestLayOutRefuses(t *testing.T) {
	for name, spoil := range map[string]func(*compile.State){
		"a verdict of no rule":   func(st *compile.State) { st.Rulesets[0].Verdicts[0].Rule = 0 },
		"a verdict beyond rules": func(st *compile.State) { st.Rulesets[0].Verdicts[0].Rule = 3 },
		"two prefixes alike":     func(st *compile.State) { st.Addrs[0].Prefixes = append(st.Addrs[0].Prefixes, st.Addrs[0].Prefixes[0]) },
	} {
		st := fullState()
		spoil(st)
		tables, err := Encode(st, HostFacts{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if _, err := tables.All(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestCompareNextHops(t *testing.T) {
	base := bpfNexthop{Kind: cNhLocal, Eni: 1, Generation: 1, Vni: 7, Mac: [6]uint8{2}}
	for _, c := range []struct {
		name string
		edit func(*bpfNexthop)
		want NextHopChange
	}{
		{"moved", func(n *bpfNexthop) { n.Kind, n.Eni, n.Vtep = cNhVTEP, 0, [4]uint8{192, 0, 2, 2} }, NextHopMoved},
		{"judged again", func(n *bpfNexthop) { n.Generation = 2 }, NextHopJudge},
		{"in another subnet", func(n *bpfNexthop) { n.Subnet = 9 }, NextHopJudge},
		{"another MAC", func(n *bpfNexthop) { n.Mac[5] = 9 }, NextHopReused},
		{"another VPC", func(n *bpfNexthop) { n.Vni, n.Generation = 8, 2 }, NextHopReused},
	} {
		to := base
		c.edit(&to)
		if got, err := CompareNextHops(bytesOf(&base), bytesOf(&to)); err != nil || got != c.want {
			t.Errorf("%s: %v, %v, want %v", c.name, got, err, c.want)
		}
	}
}

func TestNames(t *testing.T) {
	dir := t.TempDir()
	if got, err := LoadNames(dir); err != nil || !cmp.Equal(got, compile.Names{}) {
		t.Errorf("no file: %+v, %v", got, err)
	}
	if err := SaveNames(dir, fullNames); err != nil {
		t.Fatal(err)
	}
	got, err := LoadNames(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(fullNames, got); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}

func TestKeyOf(t *testing.T) {
	for want, row := range map[string]any{
		"red/192.0.2.2/enis": VTEPRow{VPC: "red", VTEP: "192.0.2.2", Role: "enis", Host: "host-b"}, "7": PortRow{Ifindex: 7}, "": ActiveRow{Revision: 1},
	} {
		if got := KeyOf(row); got != want {
			t.Errorf("%T: got %q, want %q", row, got, want)
		}
	}
}

func TestColumns(t *testing.T) {
	names, values := Columns(VTEPRow{VPC: "red", VTEP: "192.0.2.2", Role: "enis", Host: "host-b"})
	if diff := cmp.Diff([]string{"vpc", "vtep", "role", "host"}, names); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"red", "192.0.2.2", "enis", "host-b"}, values); diff != "" {
		t.Error(diff)
	}
}
