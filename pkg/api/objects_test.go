// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/eniplane/eniplane/pkg/api"
)

func TestQuestions(t *testing.T) {
	o, errs := decodeText(readBase(t))
	if errs != nil {
		t.Fatal(api.Errors(errs))
	}
	if got := o.HostOf(o.ENIs["web-0"]); got != "host-a" {
		t.Errorf("web-0 is on %q", got)
	}
	if got := o.HostOf(o.ENIs["blue-0"]); got != "" {
		t.Errorf("blue-0 is on %q, want nowhere", got)
	}
	if got := o.VPCOf(o.ENIs["web-1"]).Name; got != "red" {
		t.Errorf("web-1 is of VPC %q", got)
	}
	want := []netip.Prefix{
		netip.MustParsePrefix("172.16.0.1/32"), // VTEP and peer
		netip.MustParsePrefix("172.16.0.2/32"),
		netip.MustParsePrefix("192.168.0.0/16"),
	}
	if diff := cmp.Diff(want, o.InfraCIDRs(), sameAddrs); diff != "" {
		t.Error(diff)
	}
	if n := len(o.All()); n != 30 {
		t.Errorf("All has %d objects, want 30", n)
	}
}

func TestAddressesOfCIDR(t *testing.T) {
	for _, c := range []struct{ cidr, gateway, last string }{
		{"10.0.1.0/24", "10.0.1.1", "10.0.1.255"},
		{"10.0.0.0/8", "10.0.0.1", "10.255.255.255"},
		{"10.0.1.128/29", "10.0.1.129", "10.0.1.135"},
		{"fd00:1:0:1::/64", "fd00:1:0:1::1", "fd00:1:0:1:ffff:ffff:ffff:ffff"},
		{"fd00::80/126", "fd00::81", "fd00::83"},
	} {
		p := netip.MustParsePrefix(c.cidr)
		if got := api.Gateway(p).String(); got != c.gateway {
			t.Errorf("gateway of %s is %s, want %s", p, got, c.gateway)
		}
		if got := api.LastAddr(p).String(); got != c.last {
			t.Errorf("last address of %s is %s, want %s", p, got, c.last)
		}
	}
}

func TestReadPaths(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"b.yaml", "a.yml", "c.json", ".d.yaml", "e.yaml~", "f.txt"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	files, err := api.ReadPaths(filepath.Join(dir, "f.txt"), dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range files {
		got = append(got, string(f.Data))
	}
	// A file that is named is read whatever its name.
	if diff := cmp.Diff([]string{"f.txt", "a.yml", "b.yaml", "c.json"}, got); diff != "" {
		t.Error(diff)
	}
	if _, err := api.ReadPaths(filepath.Join(dir, "none")); err == nil {
		t.Error("a missing file is no error")
	}
}
