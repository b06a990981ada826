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

// What a host is sent is enough for the routes of its ENIs, through ENIs of other hosts and to peers, and for the EIPs of
// its ENIs and those behind it as a gateway.
func TestViewHasWhatRoutesNeed(t *testing.T) {
	for name, file := range map[string]string{
		"routing": "../../../test/e2e/testdata/routing-objects.yaml", "gateways": "../../../examples/gateways.yaml",
	} {
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(file)
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
				compareStates(t, host, all, sentTo(t, views, host))
			}
		})
	}
}

// sentTo is what a host makes of what it is sent.
func sentTo(t *testing.T, views rendered, host string) *api.Objects {
	t.Helper()
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
	return sent
}

func compareStates(t *testing.T, host string, all, sent *api.Objects) {
	t.Helper()
	var states [2]*compile.State
	for i, objects := range []*api.Objects{all, sent} {
		result, err := compile.Compile(compile.Input{Objects: objects, Host: host, Revision: 1})
		if err != nil {
			t.Fatal(err)
		}
		states[i] = result.State
	}
	const what = "%s of %s (-of all objects +of what it is sent):\n%s"
	if d := cmp.Diff(states[0].Routes, states[1].Routes, cmp.Comparer(func(a, b compile.Route) bool { return a == b })); d != "" {
		t.Errorf(what, "routes", host, d)
	}
	if d := cmp.Diff(states[0].EIPs, states[1].EIPs, cmp.Comparer(func(a, b compile.EIP) bool { return a == b })); d != "" {
		t.Errorf(what, "EIPs", host, d)
	}
	if d := cmp.Diff(states[0].VTEPs, states[1].VTEPs, cmp.Comparer(func(a, b compile.VTEP) bool { return a == b })); d != "" {
		t.Errorf(what, "VTEPs", host, d)
	}
	if len(states[0].MACs) != len(states[1].MACs) || len(states[0].NextHops) != len(states[1].NextHops) {
		t.Errorf("%s: %d MACs and %d next hops of all objects, %d and %d of what it is sent", host,
			len(states[0].MACs), len(states[0].NextHops), len(states[1].MACs), len(states[1].NextHops))
	}
}
