// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/eniplane/eniplane/pkg/api"
)

// here marks the line of the expected error in the text of a case.
const here = "#HERE"

// edit replaces a text that occurs once in testdata/base.yaml.
type edit struct {
	name     string
	old, new string
	want     string // the error behind "base.yaml:LINE: "; "" = the edited revision is valid
}

func readBase(t testing.TB) string {
	t.Helper()
	data, err := os.ReadFile("testdata/base.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func (e edit) apply(t *testing.T, base string) string {
	t.Helper()
	if n := strings.Count(base, e.old); n != 1 {
		t.Fatalf("%q occurs %d times in base.yaml, want once", e.old, n)
	}
	return strings.Replace(base, e.old, e.new, 1)
}

// with appends an object to base.yaml. The lines of its spec are indented already.
func with(name, kind, object, spec, want string) edit {
	last := "spec: {address: 203.0.113.11}\n"
	text := fmt.Sprintf("%s---\napiVersion: eniplane.io/v1alpha1\nkind: %s\nmetadata: {name: %s}\nspec:\n%s\n", last, kind, object, spec)
	return edit{name, last, text, want}
}

func runEdits(t *testing.T, edits []edit) {
	base := readBase(t)
	for _, e := range edits {
		t.Run(e.name, func(t *testing.T) {
			text := e.apply(t, base)
			_, errs := api.Decode([]api.File{{Name: "base.yaml", Data: []byte(text)}})
			got := make([]string, len(errs))
			for i, err := range errs {
				got[i] = err.Error()
			}
			var want []string
			if e.want != "" {
				want = []string{fmt.Sprintf("base.yaml:%d: %s", lineOf(t, text), e.want)}
			}
			if strings.Join(got, "\n") != strings.Join(want, "\n") {
				t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}

func lineOf(t *testing.T, text string) int {
	t.Helper()
	for i, line := range strings.Split(text, "\n") {
		if strings.Contains(line, here) {
			return i + 1
		}
	}
	t.Fatalf("no line is marked %s", here)
	return 0
}

func TestBaseIsValid(t *testing.T) {
	if _, errs := api.Decode([]api.File{{Name: "base.yaml", Data: []byte(readBase(t))}}); errs != nil {
		t.Fatal(api.Errors(errs))
	}
}

func TestDocument(t *testing.T) {
	vm2 := "metadata: {name: vm2}\nspec: {host: host-a, type: small}"
	runEdits(t, []edit{
		{"unknown field", "  maxENIs: 2\n", "  maxENIs: 2\n  nics: 2 #HERE\n",
			"InstanceType/small: spec.nics: is not a field of this kind (remove it)"},
		{"field in wrong case", "  maxENIs: 2\n", "  maxENIs: 2\n  maxIpsPerENI: 2 #HERE\n",
			"InstanceType/small: spec.maxIpsPerENI: is not a field of this kind (did you mean maxIPsPerENI?)"},
		{"unknown field at the top", vm2, vm2 + "\nextra: 1 #HERE",
			"Instance/vm2: extra: is not a field of this kind (remove it)"},
		{"unknown field of metadata", "{name: vm2}", "{name: vm2, owner: x} #HERE",
			"Instance/vm2: metadata.owner: is not a field of metadata (remove it)"},
		{"Kubernetes' own metadata", "{name: vm2}",
			"{name: vm2, creationTimestamp: null, resourceVersion: \"1\", managedFields: [{a: b}], generation: 2}", ""},
		{"status is ignored", vm2, vm2 + "\nstatus: {what: [ever]}", ""},
		{"duplicate key", "  maxENIs: 2\n", "  maxENIs: 2\n  maxENIs: 1 #HERE\n",
			"InstanceType/small: spec.maxENIs: is given twice (keep one; the first is at line 30)"},
		{"missing field", "metadata: {name: small}\nspec:\n  maxENIs: 2\n", "metadata: {name: small}\nspec: #HERE\n",
			"InstanceType/small: spec.maxENIs: is missing (add it)"},
		{"no value", "  maxENIs: 2\n", "  maxENIs: #HERE\n",
			"InstanceType/small: spec.maxENIs: has no value (give one or remove the field)"},
		{"missing spec", "apiVersion: eniplane.io/v1alpha1\nkind: Instance\n" + vm2,
			"apiVersion: eniplane.io/v1alpha1 #HERE\nkind: Instance\nmetadata: {name: vm2}",
			"Instance/vm2: spec: is missing (add it)"},
		{"alias", "  maxENIs: 2\n  maxIPsPerENI: 3", "  maxENIs: &n 2\n  maxIPsPerENI: *n #HERE",
			"InstanceType/small: spec.maxIPsPerENI: is a YAML alias, which the feed does not allow (write the value out)"},
		{"merge key", "  maxENIs: 2\n", "  maxENIs: 2\n  <<: {a: 1} #HERE\n",
			"InstanceType/small: spec: has a !!merge as the name of a field (write a plain name)"},
		{"a list for a mapping", vm2, "metadata: {name: vm2}\nspec: [a] #HERE",
			"Instance/vm2: spec: is a list, not a mapping (write its fields as `name: value`)"},
		{"a mapping for a list", "entries: [192.0.2.0/28, \"2001:db8::/32\"]", "entries: {a: b} #HERE",
			"PrefixList/office: spec.entries: is a mapping, not a list (write [a, b] or lines with -)"},
		{"wrong apiVersion", "apiVersion: eniplane.io/v1alpha1\nkind: InstanceType", "apiVersion: v1 #HERE\nkind: InstanceType",
			`InstanceType/small: apiVersion: "v1" is not known (use eniplane.io/v1alpha1)`},
		{"wrong kind", "kind: InstanceType", "kind: Instancetype #HERE",
			`kind: "Instancetype" is not known (did you mean InstanceType?)`},
		{"kind of a later version", "kind: Region\nmetadata: {name: here}\nspec:\n  gatewayMAC: \"02:00:5e:00:00:01\"\n  mtu: 1500\n  infraCIDRs: [192.168.0.0/16]",
			"kind: VIP #HERE\nmetadata: {name: v}\nspec: {subnet: red-a, address: 10.0.1.99, members: []}",
			"VIP/v: kind: is not supported by this version (remove the object)"},
		{"bad name", "{name: vm2}", "{name: Vm_2} #HERE",
			`Instance: metadata.name: "Vm_2" is not a name: it has the character 'V' (use up to 63 of a-z, 0-9 and -)`},
		{"name of 64 characters", "{name: vm2}", "{name: " + strings.Repeat("a", 64) + "} #HERE",
			`Instance: metadata.name: "` + strings.Repeat("a", 64) + `" is not a name: it has 64 characters (use up to 63 of a-z, 0-9 and -)`},
		{"name that is a number", "{name: vm2}", "{name: 12} #HERE",
			"Instance/12: metadata.name: is a number, not text (write it in quotes)"},
		{"name in quotes", "{name: vm2}", `{name: "12"}`, ""},
		{"duplicate name", "{name: vm2}", "{name: vm} #HERE",
			"Instance/vm: metadata.name: is used twice (give one another name; the first is at base.yaml:35)"},
		{"same name in another kind", "{name: vm2}", "{name: host-a}", ""},
		{"second region", "kind: Instance\nmetadata: {name: vm2}\nspec: {host: host-a, type: small}",
			"kind: Region #HERE\nmetadata: {name: r2}\nspec: {}",
			"Region/r2: kind: there is a Region already (at most one; the first is at base.yaml:6)"},
		{"two objects of one uid", "{name: vm2}", "{name: vm2, uid: vm} #HERE",
			`Instance/vm2: metadata.uid: "vm" is the identity of Instance/vm too (give each its own)`},
		{"NUL in text", "  zone: az-1\n", `  zone: "a\0b" #HERE` + "\n",
			`Host/host-a: spec.zone: has the unprintable character '\x00' (remove it)`},
		{"NUL in a label", "labels: {app: web}", `labels: {app: "\0"} #HERE`,
			`ENI/web-0: metadata.labels.app: has a NUL byte (remove it)`},
		{"label that is a number", "labels: {app: web}", `labels: {app: 1} #HERE`,
			`ENI/web-0: metadata.labels.app: is a number, not text (write it in quotes)`},
		{"empty documents", "---\napiVersion: eniplane.io/v1alpha1\nkind: VPC\nmetadata: {name: red}",
			"---\n---\n# nothing\n---\napiVersion: eniplane.io/v1alpha1\nkind: VPC\nmetadata: {name: red}", ""},
		{"text for a document", "---\napiVersion: eniplane.io/v1alpha1\nkind: VPC\nmetadata: {name: red}",
			"---\nhello #HERE\n---\napiVersion: eniplane.io/v1alpha1\nkind: VPC\nmetadata: {name: red}",
			"is text, not a mapping (write its fields as `name: value`)"},
	})
}

// Where there are ranges, every EIP lies in one.
func TestEIPInNoRange(t *testing.T) {
	text := strings.Replace(readBase(t), "mtu: 1500", "mtu: 1500\n  eipRanges: [{cidr: 203.0.113.10/32}, {cidr: 203.0.113.12/30}]", 1)
	_, errs := api.Decode([]api.File{{Name: "base.yaml", Data: []byte(text)}})
	const want = "EIP/reserved: spec.address: 203.0.113.11 lies in none of the region's eipRanges (choose one of theirs or add a range)"
	if len(errs) != 1 || !strings.HasSuffix(errs[0].Error(), want) {
		t.Errorf("errors %v, want one that ends with %s", api.Errors(errs), want)
	}
}

// Each EIP has a gateway of its own, evenly, and keeps it as long as it is there.
func TestGatewaysOf(t *testing.T) {
	in := netip.MustParsePrefix("203.0.112.0/22")
	of := func(hosts ...string) map[netip.Addr]string {
		o := api.NewObjects()
		o.Region.EIPRanges = []api.EIPRange{{CIDR: in, Gateways: hosts}}
		first := map[netip.Addr]string{}
		for a := in.Addr(); in.Contains(a); a = a.Next() {
			all := o.GatewaysOf(a)
			if len(all) != len(hosts) {
				t.Fatalf("%s has gateways %v of %v", a, all, hosts)
			}
			first[a] = all[0]
		}
		return first
	}
	three, two := of("gw-a", "gw-b", "gw-c"), of("gw-c", "gw-a")
	share := map[string]int{}
	for a, host := range three {
		share[host]++
		if host != "gw-b" && two[a] != host {
			t.Errorf("%s left %s for %s although %s stays", a, host, two[a], host)
		}
	}
	for host, n := range share {
		if n < len(three)/4 || n > len(three)/2 {
			t.Errorf("%s has %d of %d EIPs", host, n, len(three))
		}
	}
	if got := api.NewObjects().GatewaysOf(in.Addr()); got != nil {
		t.Errorf("gateways %v without ranges", got)
	}
}

func TestRegionAndHost(t *testing.T) {
	runEdits(t, []edit{
		{"gateway MAC is a group's", `gatewayMAC: "02:00:5e:00:00:01"`, `gatewayMAC: "03:00:5e:00:00:01" #HERE`,
			"Region/here: spec.gatewayMAC: 03:00:5e:00:00:01 is a group address (give a unicast MAC: the first byte is even)"},
		{"mtu too small", "mtu: 1500", "mtu: 1300 #HERE", `Region/here: spec.mtu: "1300" is not a number of 1330 to 65535`},
		{"infra with host bits", "[192.168.0.0/16]", "[192.168.1.0/16] #HERE",
			`Region/here: spec.infraCIDRs[0]: "192.168.1.0/16" has host bits (write 192.168.0.0/16)`},
		{"eipRanges, empty", "mtu: 1500", "mtu: 1500\n  eipRanges: []", ""},
		{"eipRanges", "mtu: 1500", "mtu: 1500\n  eipRanges: [{cidr: 203.0.113.0/24, gateways: [host-b, host-a]}]", ""},
		{"eipRanges without gateways", "mtu: 1500", "mtu: 1500\n  eipRanges: [{cidr: 203.0.113.0/24}]", ""},
		{"a gateway that is no host", "mtu: 1500", "mtu: 1500\n  eipRanges: [{cidr: 203.0.113.0/24, gateways: [host-a, nix]}] #HERE",
			`Region/here: spec.eipRanges[0].gateways[1]: Host "nix" does not exist (add it or correct the name)`},
		{"a gateway twice", "mtu: 1500", "mtu: 1500\n  eipRanges: [{cidr: 203.0.113.0/24, gateways: [host-a, host-a]}] #HERE",
			`Region/here: spec.eipRanges[0].gateways[1]: host-a is listed twice (keep one)`},
		{"a range without cidr", "mtu: 1500", "mtu: 1500\n  eipRanges: [{gateways: [host-a]}] #HERE",
			`Region/here: spec.eipRanges[0].cidr: is missing (add it)`},
		{"a range with host bits", "mtu: 1500", "mtu: 1500\n  eipRanges: [{cidr: 203.0.113.1/24}] #HERE",
			`Region/here: spec.eipRanges[0].cidr: "203.0.113.1/24" has host bits (write 203.0.113.0/24)`},
		{"a range of multicast", "mtu: 1500", "mtu: 1500\n  eipRanges: [{cidr: 203.0.113.0/24}, {cidr: 224.0.0.0/24}] #HERE",
			`Region/here: spec.eipRanges[1].cidr: 224.0.0.0/24 holds addresses of 224.0.0.0/4, which no ENI can have (choose another range)`},
		{"ranges overlap", "mtu: 1500", "mtu: 1500\n  eipRanges:\n  - {cidr: 203.0.113.0/24}\n  - {cidr: 203.0.113.128/25} #HERE",
			`Region/here: spec.eipRanges[1].cidr: 203.0.113.128/25 overlaps 203.0.113.0/24, another range (make them disjoint)`},
		{"a range in a VPC", "mtu: 1500", "mtu: 1500\n  eipRanges:\n  - {cidr: 203.0.113.0/24}\n  - {cidr: 10.0.9.0/24} #HERE",
			`Region/here: spec.eipRanges[1].cidr: 10.0.9.0/24 overlaps 10.0.0.0/16 of VPC/red (choose public addresses)`},
		{"a range around a VTEP", "mtu: 1500", "mtu: 1500\n  eipRanges:\n  - {cidr: 203.0.113.0/24}\n  - {cidr: 172.16.0.0/24} #HERE",
			`Region/here: spec.eipRanges[1].cidr: 172.16.0.0/24 overlaps 172.16.0.1/32 of Host/host-a, which is infrastructure (choose other addresses)`},
		{"a range, unknown field", "mtu: 1500", "mtu: 1500\n  eipRanges: [{cidr: 203.0.113.0/24, gateway: [host-a]}] #HERE",
			`Region/here: spec.eipRanges[0].gateway: is not a field of spec.eipRanges[0] (did you mean gateways?)`},
		{"vtep IPv6", "vtep: 172.16.0.1\n", "vtep: \"fd00::1\" #HERE\n",
			"Host/host-a: spec.vtep: fd00::1 is IPv6, which a VTEP cannot be in eniplane.io/v1alpha1 (give an IPv4 address)"},
		{"vtep multicast", "vtep: 172.16.0.1\n", "vtep: 224.0.0.1 #HERE\n",
			"Host/host-a: spec.vtep: 224.0.0.1 does not name one host (give its address in the underlay)"},
		{"duplicate vtep", "spec: {zone: az-2, vtep: 172.16.0.2,", "spec:\n  {zone: az-2,\n   vtep: 172.16.0.1, #HERE\n  ",
			"Host/host-b: spec.vtep: 172.16.0.1 is the VTEP of Host/host-a too (give each host its own)"},
		{"duplicate peer", "uplinks: [up0]}", "uplinks: [up0],\n  peer: \"172.16.0.1:9967\"} #HERE",
			"Host/host-b: spec.peer: 172.16.0.1:9967 is the peer of Host/host-a too (give each agent its own)"},
		{"peer without port", "peer: 172.16.0.1:9967", "peer: 172.16.0.1 #HERE",
			`Host/host-a: spec.peer: "172.16.0.1" is not ADDR:PORT (write it as 192.0.2.1:9967 or [2001:db8::1]:9967)`},
		{"peer port 0", "peer: 172.16.0.1:9967", "peer: 172.16.0.1:0 #HERE",
			`Host/host-a: spec.peer: "172.16.0.1:0" has port 0 (give the port of the agent)`},
		{"uplink too long", "uplinks: [up0]\n  peer", "uplinks: [a234567890123456] #HERE\n  peer",
			`Host/host-a: spec.uplinks[0]: "a234567890123456" has 16 bytes (a device's name has at most 15)`},
		{"uplink of 15 bytes", "uplinks: [up0]\n  peer", "uplinks: [a23456789012345]\n  peer", ""},
		{"uplink twice", "uplinks: [up0]\n  peer", "uplinks: [up0, up0] #HERE\n  peer",
			"Host/host-a: spec.uplinks[1]: up0 is listed twice (keep one)"},
		{"uplink with slash", "uplinks: [up0]\n  peer", "uplinks: [up/0] #HERE\n  peer",
			`Host/host-a: spec.uplinks[0]: "up/0" is not a name of a device (use letters, digits, - and .)`},
		{"uplink is a directory of sysctls", "uplinks: [up0]\n  peer", "uplinks: [all] #HERE\n  peer",
			`Host/host-a: spec.uplinks[0]: "all" is a reserved name (give the device another one)`},
		{"zone missing", "{name: host-a}\nspec:\n  zone: az-1\n", "{name: host-a}\nspec: #HERE\n",
			"Host/host-a: spec.zone: is missing (add it)"},
	})
}
