// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/eniplane/eniplane/pkg/api"
)

// gatewayed is the example of gateways, with gw-1 for IPv4 alone and gw-2 for IPv6.
func gatewayed(t *testing.T) *api.Objects {
	t.Helper()
	text, err := os.ReadFile("../../examples/gateways.yaml")
	if err != nil {
		t.Fatal(err)
	}
	obj := decode(t, string(text))
	for i := range obj.Region.EIPRanges {
		r := &obj.Region.EIPRanges[i]
		switch {
		case len(r.Gateways) == 0:
		case r.CIDR.Addr().Is4():
			r.Gateways = []string{"gw-1"}
		default:
			r.Gateways = []string{"gw-2"}
		}
	}
	return obj
}

// publicLines returns what a state says of EIPs and gateways as text.
func publicLines(st *State) string {
	var out []string
	add := func(format string, args ...any) { out = append(out, strings.TrimSpace(fmt.Sprintf(format, args...))) }
	ways := map[uint32]string{NextHopInternet: "internet"}
	for _, n := range st.NextHops {
		ways[n.Index] = n.ENI
		where := n.VTEP.String()
		switch {
		case n.Local != 0:
			where = "here"
		case !n.VTEP.IsValid():
			where = "nowhere"
		}
		add("hop %s: %s, vni %d, %v%s", n.ENI, where, n.VNI, api.MAC(n.MAC), map[bool]string{true: ", gateway"}[n.Gateway])
	}
	for _, v := range st.VTEPs {
		add("vtep %d/%v: %s", v.VNI, v.Addr, [...]string{RoleENIs: "enis", RoleGateway: "gateway", RoleBehind: "behind"}[v.Role])
	}
	for _, e := range st.EIPs {
		flag := func(set bool, name string) string { return map[bool]string{true: " " + name}[set] }
		eni := "behind"
		if e.ENI != 0 {
			eni = st.Names.ENIs[e.ENI]
		}
		add("eip %v: %s %d/%v by %s%s%s%s", e.Addr, eni, e.VNI, e.Private, ways[e.NextHop],
			flag(e.Uplink, "uplink"), flag(e.Announce, "announced"), flag(e.Gatewayed, "gatewayed"))
	}
	for _, r := range st.Routes {
		if r.Table == st.Host.Gatewayed {
			add("range %v: kind %d", r.Prefix, r.Kind)
		}
	}
	return strings.Join(out, "\n")
}

func publicOf(t *testing.T, obj *api.Objects, host string) string {
	t.Helper()
	return publicLines(mustCompile(t, Input{Objects: obj, Host: host, Revision: 1}).State)
}

func wantPublic(t *testing.T, obj *api.Objects, host, want string) {
	t.Helper()
	if diff := cmp.Diff(strings.TrimSpace(want), publicOf(t, obj, host)); diff != "" {
		t.Errorf("%s: -want +got\n%s", host, diff)
	}
}

// TestGateways: what the hosts of ENIs and the gateways know of EIPs.
func TestGateways(t *testing.T) {
	obj := gatewayed(t)
	wantPublic(t, obj, "host-b", `
hop a1: 192.168.100.3, vni 1001, 02:00:00:00:01:10
hop a2: 192.168.100.3, vni 1001, 02:00:00:00:01:11
hop b1: here, vni 1001, 02:00:00:00:01:20
hop b2: here, vni 1001, 02:00:00:00:01:21
hop gateway/gw-1/red: 192.168.100.1, vni 1001, 02:00:5e:00:00:01, gateway
hop gateway/gw-2/red: 192.168.100.2, vni 1001, 02:00:5e:00:00:01, gateway
vtep 1001/192.168.100.3: enis
vtep 1001/192.168.100.1: gateway
vtep 1001/192.168.100.2: gateway
eip 203.0.113.20: b1 1001/10.0.1.20 by gateway/gw-1/red gatewayed
eip 203.0.113.140: b2 1001/10.0.1.21 by internet uplink announced
eip 2001:db8:113::20: b1 1001/fd00:1:0:1::20 by gateway/gw-2/red gatewayed
eip 2001:db8:113:0:8000::40: b2 1001/fd00:1:0:1::21 by internet uplink announced
`)
	wantPublic(t, obj, "gw-1", `
hop a1: 192.168.100.3, vni 1001, 02:00:00:00:01:10
hop a2: 192.168.100.3, vni 1001, 02:00:00:00:01:11
hop b1: 192.168.100.4, vni 1001, 02:00:00:00:01:20
vtep 1001/192.168.100.3: behind
vtep 1001/192.168.100.4: behind
eip 203.0.113.10: behind 1001/10.0.1.10 by a1 uplink announced gatewayed
eip 203.0.113.11: behind 1001/10.0.1.11 by a2 uplink announced gatewayed
eip 203.0.113.20: behind 1001/10.0.1.20 by b1 uplink announced gatewayed
range 203.0.113.0/25: kind 8
`)
	obj.Region.EIPRanges = nil
	wantPublic(t, obj, "gw-1", "")
}

// TestGatewayHasENI: a gateway that has the ENI itself needs no other, and knows the VPC anyway.
func TestGatewayHasENI(t *testing.T) {
	obj := gatewayed(t)
	obj.Instances["vm-a1"].Host = "gw-1"
	obj.ENIs["b1"].Attachment = nil
	wantPublic(t, obj, "gw-1", `
hop a1: here, vni 1001, 02:00:00:00:01:10
hop a2: 192.168.100.3, vni 1001, 02:00:00:00:01:11
hop b1: nowhere, vni 1001, 02:00:00:00:01:20
hop b2: 192.168.100.4, vni 1001, 02:00:00:00:01:21
hop gateway/gw-2/red: 192.168.100.2, vni 1001, 02:00:5e:00:00:01, gateway
vtep 1001/192.168.100.3: enis
vtep 1001/192.168.100.4: enis
vtep 1001/192.168.100.2: gateway
vtep 1001/192.168.100.3: behind
eip 203.0.113.10: a1 1001/10.0.1.10 by internet uplink announced gatewayed
eip 203.0.113.11: behind 1001/10.0.1.11 by a2 uplink announced gatewayed
eip 203.0.113.20: behind 1001/10.0.1.20 by b1 uplink gatewayed
eip 2001:db8:113::10: a1 1001/fd00:1:0:1::10 by gateway/gw-2/red gatewayed
range 203.0.113.0/25: kind 8
`)
}

// TestGatewayPreferred: of several gateways one announces an EIP, and by that one its ENI's host sends.
func TestGatewayPreferred(t *testing.T) {
	obj := gatewayed(t)
	for i := range obj.Region.EIPRanges {
		if r := &obj.Region.EIPRanges[i]; len(r.Gateways) > 0 {
			r.Gateways = []string{"gw-1", "gw-2"}
		}
	}
	announces := map[netip.Addr][]string{}
	for _, host := range []string{"gw-1", "gw-2"} {
		st := mustCompile(t, Input{Objects: obj, Host: host, Revision: 1}).State
		if len(st.EIPs) != 6 {
			t.Errorf("%s knows %d EIPs, want 6", host, len(st.EIPs))
		}
		for _, e := range st.EIPs {
			if !e.Uplink {
				t.Errorf("%s does not take %v", host, e.Addr)
			}
			if e.Announce {
				announces[e.Addr] = append(announces[e.Addr], host)
			}
		}
	}
	st := mustCompile(t, Input{Objects: obj, Host: "host-a", Revision: 1}).State
	for _, e := range st.EIPs {
		if got := announces[e.Addr]; len(got) != 1 || hopOf(st, GatewayHop(got[0], "red")) == nil || hopOf(st, GatewayHop(got[0], "red")).Index != e.NextHop {
			t.Errorf("%v is announced by %v, and its ENI sends by next hop %d of %+v", e.Addr, got, e.NextHop, st.NextHops)
		}
	}
	brings := slices.DeleteFunc(slices.Clone(st.VTEPs), func(v VTEP) bool { return v.Role != RoleGateway })
	if len(brings) != 2 {
		t.Errorf("%v may bring what the internet sends, want both gateways", brings)
	}
}

// TestGatewayChanges: flows are judged again where the way out is another one. Where a gateway is does not matter to them,
// who it is does.
func TestGatewayChanges(t *testing.T) {
	const hop = "gateway/gw-1/red"
	compiled := func(change func(*api.Objects)) (before, now *State) {
		first := mustCompile(t, Input{Objects: gatewayed(t), Host: "host-a", Revision: 1})
		obj := gatewayed(t)
		change(obj)
		return first.State, after(t, first, obj).State
	}
	before, now := compiled(func(o *api.Objects) {
		o.Region.EIPRanges[0].Gateways = []string{"gw-2"}
		o.EIPs["a2"].Address = netip.MustParseAddr("203.0.113.150") // of no gateway
		o.EIPs["a2-v6"].Address = netip.MustParseAddr("2001:db8:113:0:8000::50")
	})
	for _, name := range []string{"a1", "a2"} {
		was, is := eniOf(before, name), eniOf(now, name)
		if is.Generation == was.Generation || is.Incarnation != was.Incarnation {
			t.Errorf("%s sends by another gateway, and is %d/%d, was %d/%d", name, is.Incarnation, is.Generation, was.Incarnation, was.Generation)
		}
	}
	if hopOf(now, hop) != nil {
		t.Errorf("%s is there, and nobody uses it", hop)
	}
	before, now = compiled(func(o *api.Objects) { o.Hosts["gw-1"].VTEP = netip.MustParseAddr("192.168.100.9") })
	if was, is := hopOf(before, hop), hopOf(now, hop); is.Generation != was.Generation || is.Since != was.Since || is.VTEP == was.VTEP {
		t.Errorf("gw-1 has another VTEP, and its hop is %+v, was %+v", is, was)
	}
	before, now = compiled(func(o *api.Objects) { o.Hosts["gw-1"].UID = "another" })
	if was, is := hopOf(before, hop), hopOf(now, hop); is.Generation == was.Generation || is.Since == was.Since {
		t.Errorf("gw-1 is another host, and its hop is %+v, was %+v", is, was)
	}
}
