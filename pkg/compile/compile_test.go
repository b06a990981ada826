// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/eniplane/eniplane/pkg/api"
)

func example(t *testing.T) *api.Objects {
	t.Helper()
	text, err := os.ReadFile("../../examples/two-hosts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return decode(t, string(text))
}

// lines returns a state as text, a line an entry, ids where they matter.
func lines(st *State) []string {
	var out []string
	add := func(format string, args ...any) { out = append(out, strings.TrimSpace(fmt.Sprintf(format, args...))) }
	for _, e := range st.ENIs {
		add("eni %d %s on %s: inc %d gen %d, vni %d %s, hop %d, sg in %q out %q, nacl %v in %q out %q, table %q",
			e.Index, e.Name, e.Device, e.Incarnation, e.Generation, e.VNI, st.Names.Subnets[e.Subnet], e.NextHop,
			st.Names.Rulesets[e.SGIn], st.Names.Rulesets[e.SGOut], e.HasNACL,
			st.Names.Rulesets[e.NACLIn], st.Names.Rulesets[e.NACLOut], st.Names.Tables[e.Routes])
	}
	for _, n := range st.NextHops {
		where := "nowhere"
		switch {
		case n.Local != 0:
			where = fmt.Sprintf("eni %d", n.Local)
		case n.VTEP.IsValid():
			where = n.VTEP.String()
		}
		add("hop %d %s: %s, gen %d, vni %d, %v", n.Index, n.ENI, where, n.Generation, n.VNI, api.MAC(n.MAC))
	}
	for _, e := range st.Endpoints {
		add("endpoint %d/%v: hop %d, groups %v, gateway %v", e.VNI, e.Addr, e.NextHop, st.Names.GroupSets[e.GroupSet], e.Gateway)
	}
	for _, m := range st.MACs {
		add("mac %d/%v: hop %d, foreign %v", m.VNI, api.MAC(m.MAC), m.NextHop, m.Foreign)
	}
	for _, v := range st.VTEPs {
		add("vtep %d/%v", v.VNI, v.Addr)
	}
	for _, e := range st.EIPs {
		add("eip %v: eni %d %d/%v", e.Addr, e.ENI, e.VNI, e.Private)
	}
	for _, r := range st.Routes {
		kind := [...]string{RouteLocal: "local", RouteInternet: "internet", RouteBlackhole: "blackhole", RouteInfra: "infra"}[r.Kind]
		add("route %s %v: %s %s", st.Names.Tables[r.Table], r.Prefix, kind, st.Names.Subnets[r.Subnet])
	}
	for _, p := range st.PortNames {
		add("port %s", p)
	}
	return out
}

func TestExample(t *testing.T) {
	want := map[string]string{
		"host-a": `
eni 1 web-0 on eni-web-0: inc 1 gen 1, vni 1001 red-web, hop 3, sg in "sg web ingress" out "sg web egress", nacl true in "nacl red-web ingress" out "nacl red-web egress", table "red/red-public"
hop 2 db-0: 192.168.100.2, gen 1, vni 1001, 02:00:00:00:02:10
hop 3 web-0: eni 1, gen 2, vni 1001, 02:00:00:00:01:10
endpoint 1001/10.0.1.1: hop 0, groups [], gateway true
endpoint 1001/10.0.1.10: hop 3, groups [web], gateway false
endpoint 1001/10.0.1.11: hop 3, groups [web], gateway false
endpoint 1001/10.0.2.1: hop 0, groups [], gateway true
endpoint 1001/10.0.2.10: hop 2, groups [db], gateway false
endpoint 1001/fd00:1:0:1::1: hop 0, groups [], gateway true
endpoint 1001/fd00:1:0:1::10: hop 3, groups [web], gateway false
endpoint 1001/fd00:1:0:2::1: hop 0, groups [], gateway true
endpoint 1001/fd00:1:0:2::10: hop 2, groups [db], gateway false
mac 1001/02:00:00:00:01:10: hop 3, foreign false
mac 1001/02:00:00:00:02:10: hop 2, foreign false
vtep 1001/192.168.100.2
eip 203.0.113.10: eni 1 1001/10.0.1.10
route infra 192.168.100.1/32: infra
route infra 192.168.100.2/32: infra
route red/red-public 0.0.0.0/0: internet
route red/red-public 10.0.0.0/16: local
route red/red-public 10.0.1.0/24: local red-web
route red/red-public 10.0.2.0/24: local red-db
route red/red-public 198.18.0.0/15: blackhole
route red/red-public fd00:1::/56: local
route red/red-public fd00:1:0:1::/64: local red-web
route red/red-public fd00:1:0:2::/64: local red-db
port eni-web-0`,
		"host-b": `
eni 1 blue-0 on eni-blue-0: inc 1 gen 1, vni 1002 blue-all, hop 2, sg in "sg blue-open ingress" out "sg blue-open egress", nacl false in "" out "", table "blue/local"
eni 2 db-0 on eni-db-0: inc 2 gen 1, vni 1001 red-db, hop 3, sg in "sg db ingress" out "", nacl false in "" out "", table "red/local"
hop 2 blue-0: eni 1, gen 1, vni 1002, 02:00:00:00:03:10
hop 3 db-0: eni 2, gen 2, vni 1001, 02:00:00:00:02:10
hop 4 web-0: 192.168.100.1, gen 3, vni 1001, 02:00:00:00:01:10
endpoint 1001/10.0.1.1: hop 0, groups [], gateway true
endpoint 1001/10.0.1.10: hop 4, groups [web], gateway false
endpoint 1001/10.0.1.11: hop 4, groups [web], gateway false
endpoint 1001/10.0.2.1: hop 0, groups [], gateway true
endpoint 1001/10.0.2.10: hop 3, groups [db], gateway false
endpoint 1001/fd00:1:0:1::1: hop 0, groups [], gateway true
endpoint 1001/fd00:1:0:1::10: hop 4, groups [web], gateway false
endpoint 1001/fd00:1:0:2::1: hop 0, groups [], gateway true
endpoint 1001/fd00:1:0:2::10: hop 3, groups [db], gateway false
endpoint 1002/10.0.2.1: hop 0, groups [], gateway true
endpoint 1002/10.0.2.10: hop 2, groups [blue-open], gateway false
endpoint 1002/fd00:1:0:2::1: hop 0, groups [], gateway true
endpoint 1002/fd00:1:0:2::10: hop 2, groups [blue-open], gateway false
mac 1001/02:00:00:00:01:10: hop 4, foreign false
mac 1001/02:00:00:00:02:10: hop 3, foreign false
mac 1002/02:00:00:00:03:10: hop 2, foreign false
vtep 1001/192.168.100.1
route infra 192.168.100.1/32: infra
route infra 192.168.100.2/32: infra
route blue/local 10.0.0.0/16: local
route blue/local 10.0.2.0/24: local blue-all
route blue/local fd00:1::/56: local
route blue/local fd00:1:0:2::/64: local blue-all
route red/local 10.0.0.0/16: local
route red/local 10.0.1.0/24: local red-web
route red/local 10.0.2.0/24: local red-db
route red/local fd00:1::/56: local
route red/local fd00:1:0:1::/64: local red-web
route red/local fd00:1:0:2::/64: local red-db
port eni-blue-0
port eni-db-0`,
	}
	for host, text := range want {
		t.Run(host, func(t *testing.T) {
			res := mustCompile(t, Input{Objects: example(t), Host: host, Revision: 7})
			if len(res.Degraded) > 0 {
				t.Errorf("degraded: %v", res.Degraded)
			}
			if d := cmp.Diff(strings.Split(strings.TrimPrefix(text, "\n"), "\n"), lines(res.State)); d != "" {
				t.Errorf("state (-want +got):\n%s", d)
			}
			h := res.State.Host
			if res.State.Revision != 7 || h.Name != host || !slices.Equal(h.Uplinks, []string{"uplink0"}) || h.GatewayMAC != api.DefaultGatewayMAC() || h.MTU != 0 {
				t.Errorf("revision %d, host %+v", res.State.Revision, h)
			}
		})
	}
}

// TestExamplePolicies asks the compiled example what its author would ask.
func TestExamplePolicies(t *testing.T) {
	obj := example(t)
	a := mustCompile(t, Input{Objects: obj, Host: "host-a"}).State
	b := mustCompile(t, Input{Objects: obj, Host: "host-b"}).State
	web, db := a.ENIs[0], b.ENIs[1]
	ip := netip.MustParseAddr
	for _, tt := range []struct {
		name    string
		st      *State
		ruleset uint32
		p       packet
		want    decision
	}{
		{"https", a, web.SGIn, packet{peer: ip("198.51.100.1"), protocol: 6, port: 443}, decision{true, "web/https"}},
		{"a port of a range, IPv6", a, web.SGIn, packet{peer: ip("2001:db8::1"), protocol: 6, port: 8999}, decision{true, "web/https"}},
		{"beyond the range", a, web.SGIn, packet{peer: ip("198.51.100.1"), protocol: 6, port: 9000}, decision{}},
		{"https by UDP", a, web.SGIn, packet{peer: ip("198.51.100.1"), protocol: 17, port: 443}, decision{}},
		{"ssh from the office", a, web.SGIn, packet{peer: ip("192.0.2.15"), protocol: 6, port: 22}, decision{true, "web/ssh-from-office"}},
		{"ssh from beside the office", a, web.SGIn, packet{peer: ip("192.0.2.16"), protocol: 6, port: 22}, decision{}},
		{"ping", a, web.SGIn, packet{peer: ip("10.0.2.10"), protocol: 1, port: 8 << 8}, decision{true, "web/ping"}},
		{"echo reply without a request", a, web.SGIn, packet{peer: ip("10.0.2.10"), protocol: 1}, decision{}},
		{"telnet stops at the ACL", a, web.NACLIn, packet{peer: ip("10.0.2.10"), protocol: 6, port: 23}, decision{false, "red-web/50"}},
		{"telnet by IPv6 does not", a, web.NACLIn, packet{peer: ip("fd00:1:0:2::10"), protocol: 6, port: 23}, decision{true, "red-web/110"}},
		{"sql from web", b, db.SGIn, packet{peer: ip("10.0.1.11"), protocol: 6, port: 5432}, decision{true, "db/sql-from-web"}},
		{"sql from web's address on the internet", b, db.SGIn, packet{peer: ip("10.0.1.11"), internet: true, protocol: 6, port: 5432}, decision{}},
		{"sql from db itself", b, db.SGIn, packet{peer: ip("10.0.2.10"), protocol: 6, port: 5432}, decision{}},
		{"db may send nothing", b, db.SGOut, packet{peer: ip("10.0.1.10"), protocol: 6, port: 80}, decision{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := evaluate(t, tt.st, tt.ruleset, 1001, tt.p, true); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
	if got, want := rulesOf(a, web.SGIn), []string{"web/https", "web/ssh-from-office", "web/ping"}; !slices.Equal(got, want) {
		t.Errorf("rules of web: %v, want %v", got, want)
	}
}

// shuffled returns the same objects in maps that were filled in another order.
func shuffled(obj *api.Objects, r *rand.Rand) *api.Objects {
	out := *obj
	out.Hosts, out.Instances, out.InstanceTypes = mix(obj.Hosts, r), mix(obj.Instances, r), mix(obj.InstanceTypes, r)
	out.VPCs, out.Subnets, out.RouteTables = mix(obj.VPCs, r), mix(obj.Subnets, r), mix(obj.RouteTables, r)
	out.PrefixLists, out.SecurityGroups = mix(obj.PrefixLists, r), mix(obj.SecurityGroups, r)
	out.NetworkACLs, out.ENIs, out.EIPs = mix(obj.NetworkACLs, r), mix(obj.ENIs, r), mix(obj.EIPs, r)
	return &out
}

func mix[T any](m map[string]T, r *rand.Rand) map[string]T {
	names := slices.Sorted(maps.Keys(m))
	r.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	out := map[string]T{}
	for _, name := range names {
		out[name] = m[name]
	}
	return out
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestDeterminism: 100 times the same input gives the same bytes, and stays as it was.
func TestDeterminism(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	g := generator{rand.New(rand.NewPCG(5, 3))}
	obj, next := g.objects(), g.objects()
	first := mustCompile(t, Input{Objects: obj, Host: "host-a", Revision: 1})
	var want string
	for i := range 100 {
		in := Input{Objects: shuffled(next, r), Host: "host-a", Revision: 2, Previous: first.State, IDs: first.IDs}
		before := asJSON(t, in)
		res := mustCompile(t, in)
		got := asJSON(t, res.State) + asJSON(t, res.IDs)
		if i == 0 {
			want = got
		}
		if got != want {
			t.Fatalf("run %d differs (-first +this):\n%s", i, cmp.Diff(want, got))
		}
		if after := asJSON(t, in); after != before {
			t.Fatalf("Compile changed its input (-before +after):\n%s", cmp.Diff(before, after))
		}
	}
}

// TestStoredIDs: a restart reads IDs and State from disk and goes on as if nothing had been.
func TestStoredIDs(t *testing.T) {
	g := generator{rand.New(rand.NewPCG(6, 3))}
	obj := g.objects()
	first := mustCompile(t, Input{Objects: obj, Host: "host-a", Revision: 1})
	ids, st := &IDs{}, &State{}
	if err := json.Unmarshal([]byte(asJSON(t, first.IDs)), ids); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(asJSON(t, first.State)), st); err != nil {
		t.Fatal(err)
	}
	for name, in := range map[string]Input{
		"with the state":    {Objects: obj, Host: "host-a", Revision: 1, IDs: ids, Previous: st},
		"without the state": {Objects: obj, Host: "host-a", Revision: 1, IDs: ids},
	} {
		if d := cmp.Diff(asJSON(t, first), asJSON(t, mustCompile(t, in))); d != "" {
			t.Errorf("%s (-before +after):\n%s", name, d)
		}
	}
}

func TestErrors(t *testing.T) {
	obj := example(t)
	for name, tt := range map[string]struct {
		in   Input
		want string
	}{
		"unknown host":          {Input{Objects: obj, Host: "host-x", Revision: 3}, `compile revision 3: the feed has no host "host-x"`},
		"index out of range":    {Input{Objects: obj, Host: "host-a", IDs: &IDs{ENIs: map[string]ENISlot{"web-0": {Index: 1024}}}}, `index 1024 of ENI "web-0"`},
		"index of the host":     {Input{Objects: obj, Host: "host-a", IDs: &IDs{ENIs: map[string]ENISlot{"web-0": {}}}}, `index 0 of ENI "web-0"`},
		"index given twice":     {Input{Objects: obj, Host: "host-a", IDs: &IDs{NextHops: map[string]NextHopSlot{"a": {Index: 2}, "b": {Index: 2}}}}, `index 2 of next hop "b"`},
		"cooling and in use":    {Input{Objects: obj, Host: "host-a", IDs: &IDs{ENIs: map[string]ENISlot{"a": {Index: 2}}, CoolingENIs: []uint32{2}}}, "index 2 of ENI"},
		"numbers are used up":   {Input{Objects: obj, Host: "host-a", IDs: &IDs{Last: Last{Incarnation: 1<<32 - 1}}}, "number incarnations: all 2^32"},
		"rule sets are used up": {Input{Objects: obj, Host: "host-a", IDs: &IDs{Last: Last{Ruleset: 1<<32 - 2}}}, "number rule sets: all 2^32"},
	} {
		if _, err := Compile(tt.in); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want an error with %q", name, err, tt.want)
		}
	}
}
