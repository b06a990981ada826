// SPDX-License-Identifier: Apache-2.0

package region_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/eniplane/eniplane/bench/region"
	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/compile"
)

// A region is one that a feed could hold: it is written, decoded with all checks, and compiled.
func TestBuild(t *testing.T) {
	cases := []region.Case{
		{Name: "small", Locals: 2, EIPs: true, Endpoints: 1},
		{Name: "big", Locals: 9, EIPs: true, Hosts: 3, Endpoints: 70, Groups: 5, Rules: 1000, Prefixes: 100000, Routes: 100},
		{Name: "closed", Locals: 1, Endpoints: 3, Closed: true},
	}
	o := region.Build(cases)
	var all []api.Object
	for _, kind := range []map[string]api.Object{
		asObjects(o.Hosts), asObjects(o.InstanceTypes), asObjects(o.Instances), asObjects(o.VPCs), asObjects(o.Subnets),
		asObjects(o.RouteTables), asObjects(o.PrefixLists), asObjects(o.SecurityGroups), asObjects(o.ENIs), asObjects(o.EIPs),
	} {
		for _, name := range slices.Sorted(maps.Keys(kind)) {
			all = append(all, kind[name])
		}
	}
	text, err := api.MarshalYAML(all...)
	if err != nil {
		t.Fatal(err)
	}
	decoded, problems := api.Decode([]api.File{{Name: "region.yaml", Data: text}})
	for _, p := range problems[:min(len(problems), 5)] {
		t.Error(p)
	}
	if t.Failed() {
		t.FailNow()
	}
	result, err := compile.Compile(compile.Input{Objects: decoded, Host: region.Host, Revision: 1})
	if err != nil {
		t.Fatal(err)
	}
	if len(result.Degraded) > 0 {
		t.Fatalf("degraded: %v", result.Degraded)
	}
	got := fmt.Sprintln(len(result.State.ENIs), len(result.State.EIPs), len(region.Devices(cases)))
	if want := fmt.Sprintln(12, 22, 12); got != want {
		t.Errorf("ENIs, EIPs and devices: %swant %s", got, want)
	}
	endpoints := 0
	for _, e := range result.State.Endpoints {
		if !e.Gateway && e.VNI == region.VNI(1) {
			endpoints++
		}
	}
	if want := 2 * (9 + 70); endpoints != want {
		t.Errorf("%d endpoints of the second case, want %d", endpoints, want)
	}
}

func asObjects[T api.Object](m map[string]T) map[string]api.Object {
	out := map[string]api.Object{}
	for name, o := range m {
		out[name] = o
	}
	return out
}
