// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"net/netip"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/dataplane/flowtable"
)

// counting counts the entries of a table that are written and removed.
type counting struct {
	table
	n *int
}

func (c counting) write(entries []dataplane.Entry) error {
	*c.n += len(entries)
	return c.table.write(entries)
}

func (c counting) remove(keys [][]byte) error {
	*c.n += len(keys)
	return c.table.remove(keys)
}

// threeHosts: vm-x with an ENI of 21 addresses moves from host-b to host-c; host-a has another ENI of the VPC.
const threeHosts = `
apiVersion: eniplane.io/v1alpha1
kind: Host
metadata: {name: host-a}
spec: {zone: z, vtep: 192.0.2.1, uplinks: [uplink0]}
---
apiVersion: eniplane.io/v1alpha1
kind: Host
metadata: {name: host-b}
spec: {zone: z, vtep: 192.0.2.2, uplinks: [uplink0]}
---
apiVersion: eniplane.io/v1alpha1
kind: Host
metadata: {name: host-c}
spec: {zone: z, vtep: 192.0.2.3, uplinks: [uplink0]}
---
apiVersion: eniplane.io/v1alpha1
kind: InstanceType
metadata: {name: t}
spec: {maxENIs: 8, maxIPsPerENI: 21}
---
apiVersion: eniplane.io/v1alpha1
kind: Instance
metadata: {name: vm-a}
spec: {host: host-a, type: t}
---
apiVersion: eniplane.io/v1alpha1
kind: Instance
metadata: {name: vm-x}
spec: {host: host-b, type: t}
---
apiVersion: eniplane.io/v1alpha1
kind: VPC
metadata: {name: v}
spec: {vni: 7, cidrs: [10.0.0.0/16, "fd00::/56"]}
---
apiVersion: eniplane.io/v1alpha1
kind: Subnet
metadata: {name: s}
spec: {vpc: v, cidrs: [10.0.0.0/24, "fd00::/64"]}
---
apiVersion: eniplane.io/v1alpha1
kind: SecurityGroup
metadata: {name: g}
spec:
  vpc: v
  ingress: [{protocol: all, from: [sg/g]}]
  egress: [{protocol: all, to: [0.0.0.0/0, "::/0"]}]
---
apiVersion: eniplane.io/v1alpha1
kind: ENI
metadata: {name: here}
spec:
  subnet: s
  mac: "02:00:00:00:00:01"
  ips: [10.0.0.4, "fd00::4"]
  securityGroups: [g]
  attachment: {instance: vm-a, index: 0, device: port1}
---
apiVersion: eniplane.io/v1alpha1
kind: ENI
metadata: {name: far}
spec:
  subnet: s
  mac: "02:00:00:00:00:02"
  ips: [10.0.0.10, 10.0.0.11, 10.0.0.12, 10.0.0.13, 10.0.0.14, 10.0.0.15, 10.0.0.16, 10.0.0.17, "fd00::10", "fd00::11"]
  securityGroups: [g]
  attachment: {instance: vm-x, index: 0, device: port1}
`

// TestMigrationOfOthers: on a host that has nothing to do with it, a migration changes one value of a next hop, whatever
// addresses the ENI has, and no flow: those that lead to it go on as they are.
func TestMigrationOfOthers(t *testing.T) {
	w := newWorld(t)
	w.veth("port1")
	l := w.open()
	writes := map[string]*int{}
	for name, table := range l.tables {
		writes[name] = new(int)
		l.tables[name] = counting{table, writes[name]}
	}
	var last *compile.Result
	step := func(change func(*api.Instance)) map[string]int {
		t.Helper()
		objects, wrong := api.Decode([]api.File{{Name: "three.yaml", Data: []byte(threeHosts)}})
		if len(wrong) > 0 {
			t.Fatal(api.Errors(wrong))
		}
		change(objects.Instances["vm-x"])
		in := compile.Input{Objects: objects, Host: "host-a", Revision: 1}
		if last != nil {
			in.Revision, in.Previous, in.IDs = last.State.Revision+1, last.State, last.IDs
		}
		res, err := compile.Compile(in)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range writes {
			*n = 0
		}
		w.apply(l, res.State)
		last = res
		done := map[string]int{}
		for name, n := range writes {
			if *n > 0 {
				done[name] = *n
			}
		}
		return done
	}
	if first := step(func(*api.Instance) {}); first["endpoints4"] < 9 || first[dataplane.MapNextHops] < 2 {
		t.Fatalf("the first revision wrote %v: that is not counted right", first)
	}
	step(func(*api.Instance) {}) // both halves of all slots
	far := last.State.NextHops[0]
	if far.ENI != "far" {
		far = last.State.NextHops[1]
	}
	for port := range uint16(100) {
		flow := importOf("10.0.0.10", 1000+port)
		flow.ENI, flow.Incarnation, flow.VNI, flow.NextHop = last.State.ENIs[0].Index, last.State.ENIs[0].Incarnation, 7, far.Index
		flow.Local = netip.MustParseAddr("10.0.0.4")
		if got := imports(t, l, flow); got[0] != dataplane.ReasonContinue {
			t.Fatal(got)
		}
	}
	before := flows(t, l, flowtable.IPv4)
	t.Logf("prepared: %v", step(func(i *api.Instance) { i.Migration = &api.Migration{To: "host-c"} }))
	moved := step(func(i *api.Instance) { i.Host, i.Migration = "host-c", &api.Migration{To: "host-c", From: "host-b"} })
	if d := cmp.Diff(map[string]int{dataplane.MapNextHops: 1}, moved); d != "" {
		t.Errorf("entries written by the move (-want +got):\n%s", d)
	}
	t.Logf("over: %v", step(func(i *api.Instance) { i.Host = "host-c" }))
	if after := flows(t, l, flowtable.IPv4); !reflect.DeepEqual(before, after) || len(before) != 100 {
		t.Errorf("%d flows became %d others", len(before), len(after))
	}
}
