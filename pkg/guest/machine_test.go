// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/eniplane/eniplane/pkg/api"
)

var byText = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

var prefixByText = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })

const twoENIs = `
apiVersion: eniplane.io/v1alpha1
kind: Guest
metadata: {name: vm}
spec:
  enis:
  - name: data
    index: 1
    mac: "02:00:00:00:00:0B"
    ips: [10.0.2.10, "fd00:2::10"]
    subnets: [10.0.2.0/24, "fd00:2::/64"]
    gateways: [10.0.2.254, "fe80::1"]
  - name: web
    index: 0
    mac: "02:00:00:00:00:0a"
    ips: [10.0.1.10, 10.0.1.11, "fd00:1::10", "fd00:1::11"]
    subnets: [10.0.1.0/24, "fd00:1::/64"]
`

func addr(ip, subnet, gateway string) Addr {
	return Addr{IP: netip.MustParseAddr(ip), Subnet: netip.MustParsePrefix(subnet), Gateway: netip.MustParseAddr(gateway)}
}

func twoENIsDecoded() *Machine {
	return &Machine{Name: "vm", ENIs: []ENI{
		{Name: "web", Index: 0, MAC: "02:00:00:00:00:0a", Addrs: []Addr{
			addr("10.0.1.10", "10.0.1.0/24", "10.0.1.1"), addr("10.0.1.11", "10.0.1.0/24", "10.0.1.1"),
			addr("fd00:1::10", "fd00:1::/64", "fd00:1::1"), addr("fd00:1::11", "fd00:1::/64", "fd00:1::1"),
		}},
		{Name: "data", Index: 1, MAC: "02:00:00:00:00:0b", Addrs: []Addr{
			addr("10.0.2.10", "10.0.2.0/24", "10.0.2.254"), addr("fd00:2::10", "fd00:2::/64", "fe80::1"),
		}},
	}}
}

func decode(t *testing.T, text string) *Machine {
	t.Helper()
	m, err := Decode([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestDecode(t *testing.T) {
	m := decode(t, twoENIs)
	if diff := cmp.Diff(twoENIsDecoded(), m, byText, prefixByText); diff != "" {
		t.Errorf("want -, got +: %s", diff)
	}
	text, err := json.Marshal(m.File())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(m, decode(t, string(text)), byText, prefixByText); diff != "" {
		t.Errorf("what is written is read back differently: %s\n%s", diff, text)
	}
}

// TestExample: the example is a file of the kind that it describes.
func TestExample(t *testing.T) {
	m, err := ReadFile("../../examples/guest.yaml", nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(m.ENIs) != 2 || len(m.ENIs[0].Addrs) != 3 {
		t.Errorf("the example has %+v", m.ENIs)
	}
}

func TestDecodeRefuses(t *testing.T) {
	for _, tt := range []struct{ name, old, new, want string }{
		{"empty", twoENIs, "", "the file is empty"},
		{"another kind", "kind: Guest", "kind: Lab", "this is Lab of"},
		{"unknown field", "index: 1", "index: 1\n    speed: 3", "field speed not found"},
		{"no index", "    index: 1\n", "", "index is missing"},
		{"index too high", "index: 1", "index: 8", "want 0 to 7"},
		{"index twice", "index: 1", "index: 0", "both have index 0"},
		{"MAC", "02:00:00:00:00:0B", "02:00", "is not a MAC"},
		{"MAC twice", "02:00:00:00:00:0B", "02:00:00:00:00:0a", "both have the MAC"},
		{"IP twice", "ips: [10.0.2.10,", "ips: [10.0.2.10, 10.0.2.10,", "10.0.2.10 is a private IP of data and of data"},
		{"IP outside", "ips: [10.0.2.10,", "ips: [10.0.3.10,", "10.0.3.10 is in none of its subnets"},
		{"no IP", `ips: [10.0.2.10, "fd00:2::10"]`, "ips: []", "data has no private IP"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if strings.Count(twoENIs, tt.old) != 1 {
				t.Fatalf("%q is not once in the text", tt.old)
			}
			_, err := Decode([]byte(strings.Replace(twoENIs, tt.old, tt.new, 1)))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

func TestDescribe(t *testing.T) {
	files, err := api.ReadPaths("../../examples/two-hosts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	objects, wrong := api.Decode(files)
	if len(wrong) > 0 {
		t.Fatal(wrong)
	}
	got, err := Describe(objects, "web-vm")
	if err != nil {
		t.Fatal(err)
	}
	want := &Machine{Name: "web-vm", ENIs: []ENI{{Name: "web-0", MAC: "02:00:00:00:01:10", Addrs: []Addr{
		addr("10.0.1.10", "10.0.1.0/24", "10.0.1.1"), addr("10.0.1.11", "10.0.1.0/24", "10.0.1.1"),
		addr("fd00:1:0:1::10", "fd00:1:0:1::/64", "fd00:1:0:1::1"),
	}}}}
	if diff := cmp.Diff(want, got, byText, prefixByText); diff != "" {
		t.Errorf("want -, got +: %s", diff)
	}
	if _, err := Describe(objects, "nobody"); err == nil || !strings.Contains(err.Error(), `no Instance "nobody"`) {
		t.Errorf("an instance that is not there: %v", err)
	}
	if _, err := Describe(objects, "standby-vm"); err == nil || !strings.Contains(err.Error(), "has no ENI") {
		t.Errorf("an instance without ENIs: %v", err)
	}
}

// fakeService serves a tree as EC2's metadata service does, with tokens if it is asked to.
func fakeService(t *testing.T, tree map[string]string, token string) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut && r.URL.Path == tokenPath && token != "" && r.Header.Get(tokenTTL) != "" {
			_, _ = w.Write([]byte(token))
			return
		}
		text, ok := tree[r.URL.Path]
		switch {
		case token != "" && r.Header.Get(tokenField) != token:
			w.WriteHeader(http.StatusUnauthorized)
		case r.Method != http.MethodGet:
			w.WriteHeader(http.StatusMethodNotAllowed)
		case !ok:
			w.WriteHeader(http.StatusNotFound)
		default:
			_, _ = w.Write([]byte(text))
		}
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func serviceTree() map[string]string {
	web, data := macsPath+"02:00:00:00:00:0a/", macsPath+"02:00:00:00:00:0b/"
	return map[string]string{
		namePath: "vm",
		macsPath: "02:00:00:00:00:0a/\n02:00:00:00:00:0b/",

		web + "interface-id": "web", web + "device-number": "0",
		web + "local-ipv4s": "10.0.1.10\n10.0.1.11", web + "ipv6s": "fd00:1::10\nfd00:1::11",
		web + "subnet-ipv4-cidr-block": "10.0.1.0/24", web + "subnet-ipv6-cidr-blocks": "fd00:1::/64",

		data + "interface-id": "data", data + "device-number": "1",
		data + "local-ipv4s": "10.0.2.10", data + "subnet-ipv4-cidr-block": "10.0.2.0/24",
	}
}

func TestReadService(t *testing.T) {
	want := twoENIsDecoded()
	want.ENIs[1].Addrs = []Addr{addr("10.0.2.10", "10.0.2.0/24", "10.0.2.1")}
	for _, token := range []string{"", "secret"} {
		got, err := ReadService(t.Context(), fakeService(t, serviceTree(), token)+"/")
		if err != nil {
			t.Fatalf("token %q: %v", token, err)
		}
		if diff := cmp.Diff(want, got, byText, prefixByText); diff != "" {
			t.Errorf("token %q: want -, got +: %s", token, diff)
		}
	}
	for _, tt := range []struct{ path, text, want string }{
		{macsPath + "02:00:00:00:00:0a/device-number", "first", "is not a number"},
		{macsPath + "02:00:00:00:00:0a/local-ipv4s", "10.0.1", "local-ipv4s"},
		{macsPath + "02:00:00:00:00:0b/subnet-ipv4-cidr-block", "10.9.0.0/24", "is in none of its subnets"},
		{macsPath, "eth0/", "is not a MAC"},
		{macsPath, "", "has no ENI"},
	} {
		tree := serviceTree()
		tree[tt.path] = tt.text
		if _, err := ReadService(t.Context(), fakeService(t, tree, "")); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s = %q: error %v, want %q", tt.path, tt.text, err, tt.want)
		}
	}
}
