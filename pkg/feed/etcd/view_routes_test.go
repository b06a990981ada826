// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/compile"
)

// What a host is sent is enough for the routes of its ENIs: through ENIs of other hosts, and to peers.
func TestViewHasWhatRoutesNeed(t *testing.T) {
	text, err := os.ReadFile("../../../test/e2e/testdata/routing-objects.yaml")
	if err != nil {
		t.Fatal(err)
	}
	all, errs := api.Decode([]api.File{{Name: "all.yaml", Data: text}})
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	views, err := render(all)
	if err != nil {
		t.Fatal(err)
	}
	for host := range all.Hosts {
		names := []string{regionView, hostView(host)}
		for key := range views[hostView(host)] {
			if vpc, ok := strings.CutPrefix(key, presentKind+"/"); ok {
				names = append(names, vpcView(vpc))
			}
		}
		documents, records := map[string][]byte{}, map[string]*Records{}
		for _, name := range names {
			var pack packer
			for key, value := range views[name] {
				switch kind, object, _ := strings.Cut(key, "/"); kind {
				case presentKind:
				case recordKind:
					pack.add(object, string(value))
				default:
					documents[key] = value
				}
			}
			if vpc, ok := strings.CutPrefix(name, "vpcs/"); ok {
				records[vpc] = pack.done()
			}
		}
		var files []api.File
		for name, data := range documents {
			files = append(files, api.File{Name: name, Data: data})
		}
		sent, errs := api.Decode(files)
		if len(errs) > 0 {
			t.Fatalf("%s is sent what is not valid: %v", host, errs)
		}
		if errs := AddRecords(sent, records, nil); len(errs) > 0 {
			t.Fatal(errs)
		}
		var states [2]*compile.State
		for i, objects := range []*api.Objects{all, sent} {
			result, err := compile.Compile(compile.Input{Objects: objects, Host: host, Revision: 1})
			if err != nil {
				t.Fatal(err)
			}
			states[i] = result.State
		}
		if d := cmp.Diff(states[0].Routes, states[1].Routes, cmp.Comparer(func(a, b compile.Route) bool { return a == b })); d != "" {
			t.Errorf("routes of %s (-of all objects +of what it is sent):\n%s", host, d)
		}
		if len(states[0].MACs) != len(states[1].MACs) || len(states[0].NextHops) != len(states[1].NextHops) || len(states[0].VTEPs) != len(states[1].VTEPs) {
			t.Errorf("%s: %d, %d and %d MACs, next hops and VTEPs of all objects, %d, %d and %d of what it is sent", host,
				len(states[0].MACs), len(states[0].NextHops), len(states[0].VTEPs), len(states[1].MACs), len(states[1].NextHops), len(states[1].VTEPs))
		}
	}
}
