// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/eniplane/eniplane/pkg/api"
)

// region has three ENIs on host-a, of which db's rules name web and ops' name a prefix list, and
// three elsewhere.
const region = `
{apiVersion: eniplane.io/v1alpha1, kind: Host, metadata: {name: host-a}, spec: {zone: az-1, vtep: 192.0.2.1, uplinks: [up0]}}
---
{apiVersion: eniplane.io/v1alpha1, kind: Host, metadata: {name: host-b}, spec: {zone: az-1, vtep: 192.0.2.2, uplinks: [up0]}}
---
{apiVersion: eniplane.io/v1alpha1, kind: Host, metadata: {name: host-c}, spec: {zone: az-1, vtep: 192.0.2.3, uplinks: [up0]}}
---
{apiVersion: eniplane.io/v1alpha1, kind: InstanceType, metadata: {name: large}, spec: {maxENIs: 8, maxIPsPerENI: 21}}
---
{apiVersion: eniplane.io/v1alpha1, kind: Instance, metadata: {name: vm-a}, spec: {host: host-a, type: large}}
---
{apiVersion: eniplane.io/v1alpha1, kind: Instance, metadata: {name: vm-b}, spec: {host: host-b, type: large}}
---
{apiVersion: eniplane.io/v1alpha1, kind: VPC, metadata: {name: red}, spec: {vni: 7, cidrs: [10.0.0.0/16]}}
---
{apiVersion: eniplane.io/v1alpha1, kind: RouteTable, metadata: {name: public}, spec: {vpc: red, routes: [{destination: 0.0.0.0/0, target: internet}]}}
---
{apiVersion: eniplane.io/v1alpha1, kind: RouteTable, metadata: {name: same}, spec: {vpc: red, routes: [{destination: 0.0.0.0/0, target: internet}]}}
---
{apiVersion: eniplane.io/v1alpha1, kind: PrefixList, metadata: {name: office}, spec: {entries: [198.51.100.0/24]}}
---
apiVersion: eniplane.io/v1alpha1
kind: NetworkACL
metadata: {name: acl}
spec: {vpc: red, ingress: [{number: 1, action: allow, protocol: all, cidr: 0.0.0.0/0}]}
---
{apiVersion: eniplane.io/v1alpha1, kind: Subnet, metadata: {name: front}, spec: {vpc: red, cidrs: [10.0.1.0/24], routeTable: public, networkACL: acl}}
---
{apiVersion: eniplane.io/v1alpha1, kind: Subnet, metadata: {name: back}, spec: {vpc: red, cidrs: [10.0.2.0/24], routeTable: same}}
---
{apiVersion: eniplane.io/v1alpha1, kind: Subnet, metadata: {name: ops}, spec: {vpc: red, cidrs: [10.0.3.0/24]}}
---
apiVersion: eniplane.io/v1alpha1
kind: SecurityGroup
metadata: {name: web}
spec: {vpc: red, ingress: [{name: http, protocol: tcp, ports: [80], from: [0.0.0.0/0]}], egress: [{protocol: all, to: [0.0.0.0/0]}]}
---
apiVersion: eniplane.io/v1alpha1
kind: SecurityGroup
metadata: {name: db}
spec: {vpc: red, ingress: [{name: sql, protocol: tcp, ports: [5432], from: [sg/web]}]}
---
apiVersion: eniplane.io/v1alpha1
kind: SecurityGroup
metadata: {name: ops}
spec: {vpc: red, ingress: [{name: ssh, protocol: tcp, ports: [22], from: [pl/office]}]}
---
apiVersion: eniplane.io/v1alpha1
kind: ENI
metadata: {name: web-0}
spec: {subnet: front, mac: "02:00:00:00:00:01", ips: [10.0.1.10, 10.0.1.20], securityGroups: [web], attachment: {instance: vm-a, index: 0, device: tap0}}
---
apiVersion: eniplane.io/v1alpha1
kind: ENI
metadata: {name: db-0}
spec: {subnet: back, mac: "02:00:00:00:00:02", ips: [10.0.2.10], securityGroups: [db], attachment: {instance: vm-a, index: 1, device: tap1}}
---
apiVersion: eniplane.io/v1alpha1
kind: ENI
metadata: {name: ops-0}
spec: {subnet: ops, mac: "02:00:00:00:00:03", ips: [10.0.3.10], securityGroups: [ops, db], attachment: {instance: vm-a, index: 2, device: tap2}}
---
apiVersion: eniplane.io/v1alpha1
kind: ENI
metadata: {name: web-1}
spec: {subnet: front, mac: "02:00:00:00:00:04", ips: [10.0.1.11], securityGroups: [web], attachment: {instance: vm-b, index: 0, device: tap0}}
---
apiVersion: eniplane.io/v1alpha1
kind: ENI
metadata: {name: ops-1}
spec: {subnet: ops, mac: "02:00:00:00:00:05", ips: [10.0.3.11], securityGroups: [ops], attachment: {instance: vm-b, index: 1, device: tap1}}
---
apiVersion: eniplane.io/v1alpha1
kind: ENI
metadata: {name: spare}
spec: {subnet: ops, mac: "02:00:00:00:00:06", ips: [10.0.3.12], securityGroups: [ops]}
---
{apiVersion: eniplane.io/v1alpha1, kind: EIP, metadata: {name: public}, spec: {address: 203.0.113.1, eni: web-0}}
`

// after compiles what changed in the objects on top of an earlier result.
func after(t *testing.T, before *Result, obj *api.Objects) *Result {
	t.Helper()
	return mustCompile(t, Input{
		Objects: obj, Host: "host-a", Revision: before.State.Revision + 1, Previous: before.State, IDs: before.IDs,
	})
}

func eniOf(st *State, name string) *ENI {
	for i := range st.ENIs {
		if st.ENIs[i].Name == name {
			return &st.ENIs[i]
		}
	}
	return nil
}

func hopOf(st *State, name string) *NextHop {
	for i := range st.NextHops {
		if st.NextHops[i].ENI == name {
			return &st.NextHops[i]
		}
	}
	return nil
}

// TestGenerations: flows are judged again exactly where a verdict may have changed.
func TestGenerations(t *testing.T) {
	ip, cidr := netip.MustParseAddr, netip.MustParsePrefix
	all := []string{"db-0", "ops-0", "web-0"}
	tests := []struct {
		name   string
		change func(*api.Objects)
		enis   []string // whose generation grows
		hops   []string // whose generation grows
	}{
		{"nothing", func(*api.Objects) {}, nil, nil},
		{"a rule of web", func(o *api.Objects) { o.SecurityGroups["web"].Ingress[0].Ports[0].To = 81 }, []string{"web-0"}, nil},
		{"a rule of a group that two have", func(o *api.Objects) { o.SecurityGroups["db"].Ingress[0].Ports[0].To = 5433 }, []string{"db-0", "ops-0"}, nil},
		{"the name of a rule", func(o *api.Objects) { o.SecurityGroups["web"].Ingress[0].Name = "www" }, []string{"web-0"}, nil},
		{"an entry of a prefix list", func(o *api.Objects) { o.PrefixLists["office"].Entries[0] = cidr("198.51.100.0/25") }, []string{"ops-0"}, nil},
		{"an entry of the ACL", func(o *api.Objects) { o.NetworkACLs["acl"].Ingress[0].Allow = false }, []string{"web-0"}, nil},
		{"no ACL any more", func(o *api.Objects) { o.Subnets["front"].NetworkACL = "" }, []string{"web-0"}, nil},
		{"a route", func(o *api.Objects) { o.RouteTables["public"].Routes[0].Target.Kind = api.TargetBlackhole }, []string{"web-0"}, nil},
		{"a route of the first ENI", func(o *api.Objects) { o.RouteTables["same"].Routes[0].Target.Kind = api.TargetBlackhole }, []string{"db-0"}, nil},
		{"another table with the same routes", func(o *api.Objects) { o.Subnets["front"].RouteTable = "same" }, nil, nil},
		{"a new subnet", func(o *api.Objects) {
			o.Subnets["new"] = &api.Subnet{Metadata: api.Metadata{Name: "new"}, VPC: "red", CIDRs: []netip.Prefix{cidr("10.0.9.0/24")}}
		}, all, nil},
		{"a peer joins web", func(o *api.Objects) { o.ENIs["ops-1"].SecurityGroups = []string{"ops", "web"} }, []string{"db-0", "ops-0"}, nil},
		{"a peer leaves web", func(o *api.Objects) { o.ENIs["web-1"].SecurityGroups = []string{"ops"} }, []string{"db-0", "ops-0"}, nil},
		{"a peer joins a group that nobody names", func(o *api.Objects) { o.ENIs["ops-1"].SecurityGroups = []string{"db", "ops"} }, nil, nil},
		{"another address of a peer in web", func(o *api.Objects) { o.ENIs["web-1"].IPs[0] = ip("10.0.1.99") }, []string{"db-0", "ops-0"}, []string{"web-1"}},
		{"another address of a peer in ops", func(o *api.Objects) { o.ENIs["ops-1"].IPs[0] = ip("10.0.3.99") }, nil, []string{"ops-1"}},
		{"the own address", func(o *api.Objects) { o.ENIs["db-0"].IPs[0] = ip("10.0.2.99") }, []string{"db-0"}, []string{"db-0"}},
		{"the number of the VPC", func(o *api.Objects) { o.VPCs["red"].VNI = 8 }, all, []string{"db-0", "ops-0", "ops-1", "spare", "web-0", "web-1"}},
		{"a subnet is made again", func(o *api.Objects) { o.Subnets["ops"].UID = "2" }, all, nil},
		{"the own MAC", func(o *api.Objects) { o.ENIs["db-0"].MAC[5] = 0x99 }, []string{"db-0"}, nil},
		{"the own groups, by one without rules", func(o *api.Objects) {
			o.SecurityGroups["none"] = &api.SecurityGroup{Metadata: api.Metadata{Name: "none"}, VPC: "red"}
			o.ENIs["db-0"].SecurityGroups = []string{"none", "db"}
		}, []string{"db-0"}, nil},
		{"an EIP moves to another private IP", func(o *api.Objects) { o.EIPs["public"].PrivateIP = ip("10.0.1.20") }, []string{"web-0"}, nil},
		{"the order of addresses and groups", func(o *api.Objects) {
			slices.Reverse(o.ENIs["web-0"].IPs)
			slices.Reverse(o.ENIs["ops-0"].SecurityGroups)
		}, nil, nil},
		{"the MAC of a peer", func(o *api.Objects) { o.ENIs["web-1"].MAC[5] = 0x99 }, nil, nil},
		{"allowed addresses", func(o *api.Objects) { o.ENIs["ops-0"].AllowedAddresses = []netip.Prefix{cidr("10.0.8.0/24")} }, []string{"ops-0"}, nil},
		{"no source check", func(o *api.Objects) { o.ENIs["ops-0"].SourceDestCheck = false }, []string{"ops-0"}, nil},
		{"allowed addresses of a peer", func(o *api.Objects) { o.ENIs["web-1"].AllowedAddresses = []netip.Prefix{cidr("10.0.8.0/24")} }, nil, nil},
		{"an EIP is bound", func(o *api.Objects) {
			o.EIPs["new"] = &api.EIP{Metadata: api.Metadata{Name: "new"}, Address: ip("203.0.113.2"), ENI: "db-0", PrivateIP: ip("10.0.2.10")}
		}, []string{"db-0"}, nil},
		{"an EIP is unbound", func(o *api.Objects) { o.EIPs["public"].ENI, o.EIPs["public"].PrivateIP = "", netip.Addr{} }, []string{"web-0"}, nil},
		{"an EIP of somebody else", func(o *api.Objects) {
			o.EIPs["new"] = &api.EIP{Metadata: api.Metadata{Name: "new"}, Address: ip("203.0.113.2"), ENI: "web-1", PrivateIP: ip("10.0.1.11")}
		}, nil, nil},
		{"a new host, which an EIP's owner could have reached", func(o *api.Objects) {
			o.Hosts["host-d"] = &api.Host{Metadata: api.Metadata{Name: "host-d"}, VTEP: ip("192.0.2.4")}
		}, []string{"web-0"}, nil},
		{"infrastructure inside the VPC", func(o *api.Objects) { o.Region.InfraCIDRs = []netip.Prefix{cidr("10.0.200.0/24")} }, all, nil},
		{"a peer migrates", func(o *api.Objects) { o.Instances["vm-b"].Host = "host-c" }, nil, nil},
		{"a peer migrates with a new epoch", func(o *api.Objects) {
			o.Instances["vm-b"].Host = "host-c"
			o.ENIs["web-1"].Attachment.Epoch = 5
		}, nil, nil},
		{"a peer becomes another of the same name", func(o *api.Objects) { o.ENIs["ops-1"].UID = "new" }, nil, []string{"ops-1"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			obj := decode(t, region)
			before := mustCompile(t, Input{Objects: decode(t, region), Host: "host-a", Revision: 1})
			tt.change(obj)
			res := after(t, before, obj)
			if len(res.Degraded) > 0 {
				t.Errorf("degraded: %v", res.Degraded)
			}
			ascending(t, "routes", res.State.Routes, compareRoutes)
			var enis, hops []string
			for _, e := range before.State.ENIs {
				now := eniOf(res.State, e.Name)
				if now.Index != e.Index || now.Incarnation != e.Incarnation {
					t.Errorf("%s: index %d and incarnation %d became %d and %d", e.Name, e.Index, e.Incarnation, now.Index, now.Incarnation)
				}
				if now.Generation != e.Generation {
					enis = append(enis, e.Name)
				}
				if grows := now.Generation == e.Generation+1; grows != (now.Content != e.Content) {
					t.Errorf("%s: generation %d became %d, content changed: %v", e.Name, e.Generation, now.Generation, now.Content != e.Content)
				}
			}
			for _, h := range before.State.NextHops {
				now := hopOf(res.State, h.ENI)
				if now.Index != h.Index || now.Generation < h.Generation {
					t.Errorf("%s: next hop %d, generation %d became %d, %d", h.ENI, h.Index, h.Generation, now.Index, now.Generation)
				}
				if now.Generation != h.Generation {
					hops = append(hops, h.ENI)
				}
			}
			slices.Sort(enis)
			if !slices.Equal(enis, tt.enis) || !slices.Equal(hops, tt.hops) {
				t.Errorf("judged again: flows of %v and to %v, want of %v and to %v", enis, hops, tt.enis, tt.hops)
			}
			if d := cmp.Diff(asJSON(t, res.State.ENIs), asJSON(t, after(t, res, obj).State.ENIs)); d != "" {
				t.Errorf("the same once more changed ENIs (-before +after):\n%s", d)
			}
		})
	}
}

// TestMigration: on a third host a migration changes where one next hop leads, and nothing else.
func TestMigration(t *testing.T) {
	before := mustCompile(t, Input{Objects: decode(t, region), Host: "host-a", Revision: 1})
	obj := decode(t, region)
	obj.Instances["vm-b"].Host = "host-c"
	res := after(t, before, obj)
	for _, name := range []string{"web-1", "ops-1"} {
		want := *hopOf(before.State, name)
		want.VTEP = netip.MustParseAddr("192.0.2.3")
		if got := *hopOf(res.State, name); got != want {
			t.Errorf("next hop of %s: got %+v, want %+v", name, got, want)
		}
	}
	want, got := *before.State, *res.State
	want.Revision, want.NextHops, want.VTEPs = 2, nil, nil
	got.NextHops, got.VTEPs = nil, nil
	if d := cmp.Diff(asJSON(t, want), asJSON(t, got)); d != "" {
		t.Errorf("besides next hops and VTEPs (-before +after):\n%s", d)
	}
}

// TestNewIdentity: the same name with another UID or epoch is another ENI, with nothing of the old.
func TestNewIdentity(t *testing.T) {
	for _, tt := range []struct {
		name    string
		change  func(*api.ENI)
		hopGrow bool
	}{
		{"made again", func(e *api.ENI) { e.UID = "2" }, true},
		{"attached again", func(e *api.ENI) { e.Attachment.Epoch = 1 }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := mustCompile(t, Input{Objects: decode(t, region), Host: "host-a", Revision: 1})
			obj := decode(t, region)
			tt.change(obj.ENIs["db-0"])
			res := after(t, before, obj)
			old, now := eniOf(before.State, "db-0"), eniOf(res.State, "db-0")
			if now.Incarnation <= before.IDs.Last.Incarnation || now.Index == old.Index || now.Generation != 1 {
				t.Errorf("got index %d, incarnation %d, generation %d after %d, %d, %d", now.Index, now.Incarnation, now.Generation, old.Index, old.Incarnation, old.Generation)
			}
			oldHop, hop := hopOf(before.State, "db-0"), hopOf(res.State, "db-0")
			if hop.Index != oldHop.Index || hop.Local != now.Index || (hop.Generation > oldHop.Generation) != tt.hopGrow {
				t.Errorf("next hop: got %+v after %+v", hop, oldHop)
			}
		})
	}
}

// TestComesBack: without UIDs, who was gone for a revision is somebody else when it comes back.
func TestComesBack(t *testing.T) {
	first := mustCompile(t, Input{Objects: decode(t, region), Host: "host-a", Revision: 1})
	without := decode(t, region)
	delete(without.ENIs, "ops-0")
	third := after(t, after(t, first, without), decode(t, region))
	old, now := eniOf(first.State, "ops-0"), eniOf(third.State, "ops-0")
	if now.Incarnation <= first.IDs.Last.Incarnation || now.Index != old.Index {
		t.Errorf("got index %d, incarnation %d after %d, %d", now.Index, now.Incarnation, old.Index, old.Incarnation)
	}
	oldHop, hop := hopOf(first.State, "ops-0"), hopOf(third.State, "ops-0")
	if hop.Index != oldHop.Index || hop.Generation <= oldHop.Generation {
		t.Errorf("next hop: got %+v after %+v, want a reused index with a higher generation", hop, oldHop)
	}
}

// TestQuarantine: an index is given to somebody else only after a revision in which it was free.
func TestQuarantine(t *testing.T) {
	first := mustCompile(t, Input{Objects: decode(t, region), Host: "host-a", Revision: 1})
	freed, freedHop := eniOf(first.State, "db-0").Index, hopOf(first.State, "db-0").Index

	swapped := decode(t, region)
	twin := *swapped.ENIs["db-0"]
	twin.Name, twin.UID = "db-9", "db-9"
	delete(swapped.ENIs, "db-0")
	swapped.ENIs["db-9"] = &twin
	second := after(t, first, swapped)
	if got := eniOf(second.State, "db-9"); got.Index == freed || got.NextHop == freedHop {
		t.Errorf("db-9 got index %d and next hop %d, which db-0 had in the revision before", got.Index, got.NextHop)
	}

	more := decode(t, region)
	more.ENIs["db-9"] = &twin
	extra := *more.ENIs["db-0"]
	extra.Name, extra.UID = "db-a", "db-a"
	more.ENIs["db-a"] = &extra
	delete(more.ENIs, "db-0")
	in := Input{Objects: more, Host: "host-a", Revision: 3, IDs: second.IDs}
	for _, tt := range []struct {
		name     string
		previous *State
		reused   bool
	}{
		{"settled", second.State, true},
		{"the second revision never came into force", first.State, false},
		{"restarted, nothing known of what is in force", nil, false},
	} {
		in.Previous = tt.previous
		got := eniOf(mustCompile(t, in).State, "db-a")
		if (got.Index == freed) != tt.reused || (got.NextHop == freedHop) != tt.reused {
			t.Errorf("%s: db-a got index %d (freed: %d) and next hop %d (freed: %d), want reused: %v", tt.name, got.Index, freed, got.NextHop, freedHop, tt.reused)
		}
	}
	// Twice restarted, still nothing known: it stays in quarantine.
	in.Previous = nil
	again := mustCompile(t, in)
	in.IDs, in.Revision = again.IDs, 4
	last := extra
	last.Name, last.UID = "db-b", "db-b"
	more.ENIs["db-b"] = &last
	if got := eniOf(mustCompile(t, in).State, "db-b"); got.Index == freed || got.NextHop == freedHop {
		t.Errorf("db-b got index %d and next hop %d, which may still be in the maps", got.Index, got.NextHop)
	}
}

// TestLostIDs: with the state in force but no IDs, no number that it uses is given out again.
func TestLostIDs(t *testing.T) {
	first := mustCompile(t, Input{Objects: decode(t, region), Host: "host-a", Revision: 1})
	used := first.IDs.Last
	// Rules that were kept may name a group set that nobody has any more.
	used.GroupSet, used.Ruleset = 900, 800
	first.State.Groups = append(first.State.Groups, GroupTable{ID: used.Ruleset, Groups: []GroupClass{{GroupSet: used.GroupSet, Class: 1}}})
	res := mustCompile(t, Input{Objects: decode(t, region), Host: "host-a", Revision: 2, Previous: first.State})
	for _, e := range res.State.ENIs {
		old := eniOf(first.State, e.Name)
		if e.Incarnation <= used.Incarnation || e.SGIn <= used.Ruleset || e.Routes <= used.Table || e.Subnet <= used.Subnet || slices.ContainsFunc(first.State.ENIs, func(o ENI) bool { return o.Index == e.Index }) {
			t.Errorf("%s reuses a number of %+v: %+v", e.Name, old, e)
		}
	}
	for _, h := range res.State.NextHops {
		if h.Generation <= used.NextHopGeneration || slices.ContainsFunc(first.State.NextHops, func(o NextHop) bool { return o.Index == h.Index }) {
			t.Errorf("next hop %+v reuses a number", h)
		}
	}
	for id := range res.State.Names.GroupSets {
		if id <= used.GroupSet {
			t.Errorf("group set %d is used again", id)
		}
	}
}

// TestInfrastructure: a host that comes or goes makes another table of what no ENI may reach. Under the number of the one
// before, a loader would take it for that.
func TestInfrastructure(t *testing.T) {
	obj := decode(t, region)
	first := mustCompile(t, Input{Objects: obj, Host: "host-a", Revision: 1})
	if same := after(t, first, obj); same.State.Host.Infra != first.State.Host.Infra {
		t.Errorf("the table of infrastructure was %d and is %d, with nothing changed", first.State.Host.Infra, same.State.Host.Infra)
	}
	host := *obj.Hosts["host-b"]
	host.Name, host.VTEP = "host-z", netip.MustParseAddr("192.168.100.99")
	obj.Hosts["host-z"] = &host
	second := after(t, first, obj)
	if second.State.Host.Infra == first.State.Host.Infra {
		t.Errorf("table %d of infrastructure has another content and the same number", first.State.Host.Infra)
	}
	want := Route{Table: second.State.Host.Infra, Prefix: netip.MustParsePrefix("192.168.100.99/32"), Kind: RouteInfra}
	if !slices.Contains(second.State.Routes, want) {
		t.Errorf("%+v is not in %+v", want, second.State.Routes)
	}
}

// TestContentIDs: equal content has one id, for as long as it is in use; another has another.
func TestContentIDs(t *testing.T) {
	obj := decode(t, region)
	obj.ENIs["db-0"].SecurityGroups = []string{"db", "ops"} // ops-0 has the same in the other order
	obj.Subnets["back"].NetworkACL, obj.Subnets["ops"].RouteTable = "acl", "public"
	first := mustCompile(t, Input{Objects: obj, Host: "host-a", Revision: 1})
	web, db, ops := eniOf(first.State, "web-0"), eniOf(first.State, "db-0"), eniOf(first.State, "ops-0")
	if db.SGIn != ops.SGIn || db.SGIn == 0 || web.NACLIn != db.NACLIn || web.NACLIn == web.NACLOut || web.Routes != db.Routes || db.Routes != ops.Routes {
		t.Errorf("not shared: web-0 %+v\ndb-0 %+v\nops-0 %+v", web, db, ops)
	}
	if db.SGOut != 0 || ops.HasNACL || ops.NACLIn != 0 {
		t.Errorf("groups without egress rules or no ACL got a rule set: %+v %+v", db, ops)
	}
	if name := first.State.Names.Tables[web.Routes]; name != "red/same" {
		t.Errorf("the table that all three share is called %q, want that of the first ENI, red/same", name)
	}
	same := after(t, first, obj)
	if &first.State.Rulesets[0].Verdicts[0] != &same.State.Rulesets[0].Verdicts[0] {
		t.Error("rules that stayed were compiled again")
	}
	want := *first.State
	want.Revision = 2
	if d := cmp.Diff(asJSON(t, &want), asJSON(t, same.State)); d != "" {
		t.Errorf("the same objects again (-first +second):\n%s", d)
	}
	obj.SecurityGroups["db"].Ingress[0].Ports[0].To = 9999
	changed := after(t, same, obj)
	if got := eniOf(changed.State, "db-0").SGIn; got <= first.IDs.Last.Ruleset {
		t.Errorf("changed rules got id %d, which was given out before (up to %d)", got, first.IDs.Last.Ruleset)
	}
	if slices.ContainsFunc(changed.State.Rulesets, func(r Ruleset) bool { return r.ID == db.SGIn }) {
		t.Errorf("rule set %d is still there, but nobody uses it", db.SGIn)
	}
	obj.SecurityGroups["db"].Ingress[0].Ports[0].To = 5432
	if got := eniOf(after(t, changed, obj).State, "db-0").SGIn; got <= changed.IDs.Last.Ruleset {
		t.Errorf("rules that came back got id %d, which was given out before", got)
	}
}

// TestEmptyACL: an ACL without entries denies, an absent one does not.
func TestEmptyACL(t *testing.T) {
	res := mustCompile(t, Input{Objects: decode(t, region), Host: "host-a", Revision: 1})
	web := eniOf(res.State, "web-0")
	p := packet{peer: netip.MustParseAddr("10.0.9.1"), protocol: 6, port: 80}
	if !web.HasNACL || web.NACLOut == 0 || evaluate(t, res.State, web.NACLOut, 7, p, false).allow {
		t.Errorf("an ACL without egress entries allows: %+v", web)
	}
}

func TestAllowedAddresses(t *testing.T) {
	obj := decode(t, region)
	e := obj.ENIs["ops-0"]
	e.AllowedAddresses = []netip.Prefix{netip.MustParsePrefix("10.0.8.4/32"), netip.MustParsePrefix("10.0.8.0/24"), netip.MustParsePrefix("10.0.8.0/24")}
	obj.ENIs["spare"].SourceDestCheck = false
	res := mustCompile(t, Input{Objects: obj, Host: "host-a", Revision: 1})
	id := eniOf(res.State, "ops-0").Allowed
	tables, _ := tablesOf(res.State)
	if d := cmp.Diff([]string{"10.0.8.0/24=1"}, peersOf(tables.addrs[id])); d != "" {
		t.Errorf("table (-want +got):\n%s", d)
	}
	for _, m := range res.State.MACs {
		if foreign := m.MAC == [6]byte(e.MAC) || m.MAC == [6]byte(obj.ENIs["spare"].MAC); m.Foreign != foreign {
			t.Errorf("MAC %v: foreign is %v", api.MAC(m.MAC), m.Foreign)
		}
	}
	if ep := slices.IndexFunc(res.State.Endpoints, func(e Endpoint) bool { return e.Addr == netip.MustParseAddr("10.0.8.4") }); ep >= 0 {
		t.Error("an allowed address became an endpoint")
	}
}

// TestDegraded: what cannot be compiled keeps what it had, alone; it comes right by itself.
func TestDegraded(t *testing.T) {
	first := mustCompile(t, Input{Objects: decode(t, region), Host: "host-a", Revision: 1})
	obj := decode(t, region)
	good := obj.SecurityGroups["db"].Ingress
	obj.SecurityGroups["db"].Ingress = slices.Repeat(good, maxRules+1)
	obj.SecurityGroups["web"].Ingress[0].Ports[0].To = 81
	obj.ENIs["db-0"].SourceDestCheck = false
	obj.ENIs["db-0"].AllowedAddresses = []netip.Prefix{netip.MustParsePrefix("10.0.8.0/24")}
	obj.Subnets["back"].NetworkACL = "acl"
	twin := *obj.ENIs["db-0"]
	twin.Name, twin.UID, twin.IPs, twin.MAC = "db-1", "db-1", []netip.Addr{netip.MustParseAddr("10.0.2.11")}, api.MAC{2, 0, 0, 0, 0, 9}
	twin.Attachment = &api.Attachment{Instance: "vm-a", Index: 4, Device: "tap4"}
	obj.ENIs["db-1"] = &twin

	second := after(t, first, obj)
	for _, name := range []string{"db-0", "db-1", "ops-0"} {
		if err := second.Degraded[name]; err == nil || !strings.Contains(err.Error(), "ingress: ") || !strings.Contains(err.Error(), "rules are more than the limit") {
			t.Errorf("%s: got %v, want which rules are too many", name, err)
		}
	}
	if len(second.Degraded) != 3 {
		t.Errorf("degraded: %v", second.Degraded)
	}
	want := *eniOf(first.State, "db-0")
	got := *eniOf(second.State, "db-0")
	if got.Generation != want.Generation+1 {
		t.Errorf("generation %d became %d: its flows must be judged again", want.Generation, got.Generation)
	}
	want.Generation, want.Content = got.Generation, got.Content
	if got != want {
		t.Errorf("db-0 got %+v, want it to keep %+v", got, want)
	}
	p := packet{peer: netip.MustParseAddr("10.0.1.11"), protocol: 6, port: 5432}
	if d := evaluate(t, second.State, got.SGIn, 7, p, true); d != (decision{true, "db/sql"}) {
		t.Errorf("its old rules say %+v", d)
	}
	if second.State.Names.Rulesets[got.SGIn] != "sg db ingress" || !slices.Equal(rulesOf(second.State, got.SGIn), []string{"db/sql"}) {
		t.Errorf("its old rules lost their names: %+v", second.State.Names)
	}
	if eniOf(second.State, "web-0").Generation != eniOf(first.State, "web-0").Generation+1 {
		t.Error("web-0 did not get its new rules")
	}
	if hop := hopOf(second.State, "db-1"); eniOf(second.State, "db-1") != nil || hop.Local != 0 || hop.VTEP.IsValid() {
		t.Errorf("db-1 never had rules, but is there: %+v", hop)
	}
	if !slices.Contains(second.State.PortNames, "tap4") {
		t.Errorf("the device of db-1 is not guarded: %v", second.State.PortNames)
	}

	third := after(t, second, obj)
	if eniOf(third.State, "db-0").Generation != got.Generation {
		t.Error("the same once more is not a change")
	}
	obj.SecurityGroups["db"].Ingress = good
	fourth := after(t, third, obj)
	if now := eniOf(fourth.State, "db-0"); len(fourth.Degraded) > 0 || now.Generation != got.Generation+1 || eniOf(fourth.State, "db-1") == nil {
		t.Errorf("did not come right: %v, %+v", fourth.Degraded, now)
	}
}

// TestKept: whoever keeps old rules is judged again when it gets the new ones, even if all that
// changed is that this version can compile them.
func TestKept(t *testing.T) {
	first := mustCompile(t, Input{Objects: decode(t, region), Host: "host-a", Revision: 1})
	alloc, err := newAllocator(1, first.IDs, first.State)
	if err != nil {
		t.Fatal(err)
	}
	c := newCompiler(Input{Previous: first.State}, alloc)
	one, two := *eniOf(first.State, "db-0"), *eniOf(first.State, "db-0")
	if !c.keep(&one) || !c.keep(&two) || one != two || one.Content == eniOf(first.State, "db-0").Content {
		t.Errorf("content %x must be a stable one of its own: %x, %x", eniOf(first.State, "db-0").Content, one.Content, two.Content)
	}
}

// TestDegradedIdentity: rules of an ENI that is gone are not kept for one of the same name.
func TestDegradedIdentity(t *testing.T) {
	first := mustCompile(t, Input{Objects: decode(t, region), Host: "host-a", Revision: 1})
	for name, change := range map[string]func(*api.Objects){
		"made again":     func(o *api.Objects) { o.ENIs["db-0"].UID = "new" },
		"attached again": func(o *api.Objects) { o.ENIs["db-0"].Attachment.Epoch = 1 },
		"in another VPC": func(o *api.Objects) { o.VPCs["red"].VNI = 8 },
		"only its rules": func(o *api.Objects) {},
	} {
		obj := decode(t, region)
		obj.SecurityGroups["db"].Ingress = slices.Repeat(obj.SecurityGroups["db"].Ingress, maxRules+1)
		change(obj)
		res := after(t, first, obj)
		if kept := eniOf(res.State, "db-0") != nil; kept != (name == "only its rules") || res.Degraded["db-0"] == nil {
			t.Errorf("%s: kept: %v, degraded: %v", name, kept, res.Degraded)
		}
	}
}

func TestDegradedRoutes(t *testing.T) {
	first := mustCompile(t, Input{Objects: decode(t, region), Host: "host-a", Revision: 1})
	obj := decode(t, region)
	for i := range maxRoutes {
		addr := netip.AddrFrom4([4]byte{20, byte(i >> 16), byte(i >> 8), byte(i)})
		obj.RouteTables["public"].Routes = append(obj.RouteTables["public"].Routes,
			api.Route{Destination: netip.PrefixFrom(addr, 32), Target: api.Target{Kind: api.TargetBlackhole}})
	}
	res := after(t, first, obj)
	if err := res.Degraded["web-0"]; len(res.Degraded) != 1 || err == nil || !strings.Contains(err.Error(), "route table red/public: 100001 routes are more than the limit of 100000") {
		t.Errorf("degraded: %v", res.Degraded)
	}
	if d := cmp.Diff(asJSON(t, first.State.Routes), asJSON(t, res.State.Routes)); d != "" {
		t.Errorf("the old table (-before +after):\n%s", d)
	}
}

// TestTooManyENIs: the host takes 1023; the last ones by name are left out, and stay closed.
func TestTooManyENIs(t *testing.T) {
	obj := decode(t, region)
	model := *obj.ENIs["ops-0"]
	for i := range MaxENIs - 3 {
		e := model
		e.Name = fmt.Sprintf("z-%04d", i)
		e.UID, e.MAC = e.Name, api.MAC{2, 1, 0, 0, byte(i >> 8), byte(i)}
		e.IPs = []netip.Addr{netip.AddrFrom4([4]byte{10, 0, byte(100 + i>>8), byte(i)})}
		e.Attachment = &api.Attachment{Instance: "vm-a", Device: "tap-" + e.Name}
		obj.ENIs[e.Name] = &e
	}
	res := mustCompile(t, Input{Objects: obj, Host: "host-a", Revision: 1})
	if len(res.State.ENIs) != 1023 || len(res.Degraded) != 1 {
		t.Fatalf("%d ENIs, degraded: %v", len(res.State.ENIs), res.Degraded)
	}
	if err := res.Degraded["z-1020"]; err == nil || !strings.Contains(err.Error(), "all 1023 ENIs of this host are in use") {
		t.Errorf("got %v", res.Degraded)
	}
	if len(res.State.PortNames) != 1024 {
		t.Errorf("%d devices are guarded, want all 1024", len(res.State.PortNames))
	}
}

func TestTooManyNextHops(t *testing.T) {
	ids := &IDs{}
	for i := uint32(firstNextHop); i < MaxNextHops-5; i++ {
		ids.CoolingNextHops = append(ids.CoolingNextHops, i)
	}
	res := mustCompile(t, Input{Objects: decode(t, region), Host: "host-a", Revision: 1, IDs: ids})
	if err := res.Degraded["web-1"]; len(res.Degraded) != 1 || err == nil || !strings.Contains(err.Error(), "all 1048574 next hops of this host are in use") {
		t.Errorf("degraded: %v", res.Degraded)
	}
	for _, e := range res.State.Endpoints {
		if e.Addr == netip.MustParseAddr("10.0.1.11") || !e.Gateway && e.NextHop == 0 {
			t.Errorf("endpoint without a next hop: %+v", e)
		}
	}
}

// TestUnattached: an ENI that is nowhere is known, and reached nowhere.
func TestUnattached(t *testing.T) {
	res := mustCompile(t, Input{Objects: decode(t, region), Host: "host-a", Revision: 1})
	hop := hopOf(res.State, "spare")
	if hop == nil || hop.Local != 0 || hop.VTEP.IsValid() || hop.Index == 0 {
		t.Errorf("next hop of spare: %+v", hop)
	}
	if len(res.State.VTEPs) != 1 || res.State.VTEPs[0].Addr != netip.MustParseAddr("192.0.2.2") {
		t.Errorf("VTEPs: %v, want only that of host-b, which has ENIs of red", res.State.VTEPs)
	}
	empty := mustCompile(t, Input{Objects: decode(t, region), Host: "host-c", Revision: 1}).State
	if len(empty.ENIs)+len(empty.NextHops)+len(empty.Endpoints)+len(empty.MACs)+len(empty.VTEPs)+len(empty.PortNames) > 0 || len(empty.Routes) != 3 {
		t.Errorf("a host without ENIs: %v", lines(empty))
	}
}

// TestRoom: rules that fill the host's maps degrade those who came last, not who was there before,
// and never the revision.
func TestRoom(t *testing.T) {
	obj := decode(t, region)
	var first *Result
	for i := range 129 {
		// Of each 256 ports so many that they are a block, other ones in each group.
		var some []api.PortRange
		for port := range 1 << 16 {
			if j := (port - i) & 0xff; port > 0 && j%2 == 0 && j <= 2*piecesPerBlock {
				some = append(some, api.PortRange{From: uint16(port), To: uint16(port)})
			}
		}
		group := &api.SecurityGroup{Metadata: api.Metadata{Name: fmt.Sprintf("big-%03d", i)}, VPC: "red"}
		peers := []api.Peer{{Prefix: netip.MustParsePrefix("10.0.0.0/8")}}
		group.Ingress = []api.Rule{{Protocol: proto(6), Ports: some, Peers: peers}, {Protocol: proto(17), Ports: some, Peers: peers}}
		group.Egress = group.Ingress // with the same tables, which count once
		obj.SecurityGroups[group.Name] = group
		e := *obj.ENIs["db-0"]
		e.Name, e.UID, e.MAC = group.Name, group.Name, api.MAC{2, 0, 0, 0, 1, byte(i)}
		e.IPs, e.SecurityGroups = []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 2, byte(100 + i)})}, []string{group.Name}
		e.AllowedAddresses = []netip.Prefix{netip.MustParsePrefix("10.0.8.0/24")} // all share one table
		if i == 0 {
			e.Name, e.UID = "zz-old", "zz-old"
		}
		obj.ENIs[e.Name] = &e
		if i == 0 {
			first = mustCompile(t, Input{Objects: obj, Host: "host-a", Revision: 1})
		}
	}
	res := after(t, first, obj)
	blocks := 0
	for _, table := range res.State.Services {
		blocks += len(table.Blocks)
	}
	if limit := MapCapacity().Blocks / 2; blocks > limit || blocks < limit-512 {
		t.Errorf("%d blocks, want up to %d", blocks, limit)
	}
	if err := res.Degraded["big-128"]; len(res.Degraded) != 1 || err == nil || !strings.Contains(err.Error(), "compile sg big-128 ingress: the host's map of blocks of ports in rules has no room for 512 more") {
		t.Errorf("degraded: %v", res.Degraded)
	}
	for _, name := range []string{"db-0", "ops-0", "web-0", "zz-old"} {
		if was, now := eniOf(first.State, name), eniOf(res.State, name); now == nil || now.SGIn != was.SGIn {
			t.Errorf("%s lost its rules: %+v", name, now)
		}
	}
}

// TestRoomOfEachMap: each of the shared maps is counted, and what does not fit takes nothing.
func TestRoomOfEachMap(t *testing.T) {
	for what, one := range map[string]Capacity{
		"addresses in rules": {Addrs: 1}, "combinations of groups in rules": {Groups: 1}, "ports in rules": {Services: 1},
		"blocks of ports in rules": {Blocks: 1}, "verdicts": {Verdicts: 1}, "classes in wide rule sets": {Classes: 1}, "routes": {Routes: 1},
	} {
		r := newRoom()
		full := Capacity{Addrs: 1 << 21 * one.Addrs, Groups: 1 << 19 * one.Groups, Services: 1 << 19 * one.Services, Verdicts: 1 << 21 * one.Verdicts, Routes: 1 << 21 * one.Routes,
			Blocks: 1 << 16 * one.Blocks, Classes: 1 << 16 * one.Classes}
		if err := r.take(full); err != nil {
			t.Errorf("%s: the first half of the map is refused: %v", what, err)
		}
		used := r.used
		if err := r.take(one); err == nil || !strings.Contains(err.Error(), "map of "+what) || r.used != used {
			t.Errorf("%s: got %v, %+v in use; want no room, and %+v", what, err, r.used, used)
		}
	}
}

// TestEmptyIsNone: a list without entries never means all.
func TestEmptyIsNone(t *testing.T) {
	all := func(peers ...api.Peer) []api.Rule {
		return []api.Rule{{Name: "r", Protocol: api.Protocol{Any: true}, Peers: peers}}
	}
	for name, change := range map[string]func(*api.Objects){
		"no rule":                func(o *api.Objects) { o.SecurityGroups["db"].Ingress = nil },
		"an empty list of rules": func(o *api.Objects) { o.SecurityGroups["db"].Ingress = []api.Rule{} },
		"an empty prefix list": func(o *api.Objects) {
			o.PrefixLists["none"] = &api.PrefixList{Metadata: api.Metadata{Name: "none"}}
			o.SecurityGroups["db"].Ingress = all(api.Peer{PrefixList: "none"})
		},
		"a group without members": func(o *api.Objects) {
			o.SecurityGroups["nobody"] = &api.SecurityGroup{Metadata: api.Metadata{Name: "nobody"}, VPC: "red"}
			o.SecurityGroups["db"].Ingress = all(api.Peer{Group: "nobody"})
		},
	} {
		for _, wide := range []bool{false, true} {
			obj := decode(t, region)
			change(obj)
			st := mustCompile(t, Input{Objects: obj, Host: "host-a", Revision: 1, WideRules: wide}).State
			db := eniOf(st, "db-0")
			for _, peer := range []string{"10.0.1.10", "10.0.2.10", "192.0.2.1", "2001:db8::1"} {
				p := packet{peer: netip.MustParseAddr(peer), protocol: 6, port: 5432}
				if got := evaluate(t, st, db.SGIn, db.VNI, p, true); got != (decision{}) {
					t.Errorf("%s, wide %v: %s is decided by %+v", name, wide, peer, got)
				}
			}
		}
	}
	obj := decode(t, region)
	obj.NetworkACLs["acl"].Ingress, obj.NetworkACLs["acl"].Egress = nil, []api.NACLEntry{}
	st := mustCompile(t, Input{Objects: obj, Host: "host-a", Revision: 1}).State
	web := eniOf(st, "web-0")
	if !web.HasNACL {
		t.Fatal("an ACL without entries is none")
	}
	for _, set := range []uint32{web.NACLIn, web.NACLOut} {
		p := packet{peer: netip.MustParseAddr("10.0.2.10"), protocol: 6, port: 80}
		if got := evaluate(t, st, set, web.VNI, p, false); got != (decision{}) {
			t.Errorf("an ACL without entries decides %+v", got)
		}
	}
}
