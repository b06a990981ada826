// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"net/netip"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/eniplane/eniplane/pkg/api"
)

var sameAddrs = cmp.Options{
	cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}, netip.AddrPort{}),
	cmpopts.EquateEmpty(),
}

func readExample(t testing.TB) api.File {
	t.Helper()
	data, err := os.ReadFile("../../examples/two-hosts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return api.File{Name: "two-hosts.yaml", Data: data}
}

func TestRoundTrip(t *testing.T) {
	want, errs := api.Decode([]api.File{readExample(t)})
	if errs != nil {
		t.Fatal(api.Errors(errs))
	}
	text, err := api.MarshalYAML(want.All()...)
	if err != nil {
		t.Fatal(err)
	}
	got, errs := api.Decode([]api.File{{Name: "again.yaml", Data: text}})
	if errs != nil {
		t.Fatalf("%v\nin\n%s", api.Errors(errs), text)
	}
	if diff := cmp.Diff(want, got, sameAddrs); diff != "" {
		t.Error(diff)
	}
}
