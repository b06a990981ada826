// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/eniplane/eniplane/pkg/api"
)

// bigRevision is a full host: 1000 ENIs, each with its own set of five groups, of which all rules
// together name 100,000 prefixes; every IP has an EIP.
func bigRevision() api.File {
	var b strings.Builder
	object := func(kind, name, spec string, args ...any) {
		fmt.Fprintf(&b, "---\napiVersion: eniplane.io/v1alpha1\nkind: %s\nmetadata: {name: %s}\nspec: ", kind, name)
		fmt.Fprintf(&b, spec+"\n", args...)
	}
	object("Host", "h", "{zone: z, vtep: 172.16.0.1, uplinks: [up]}")
	object("InstanceType", "t", "{maxENIs: 8, maxIPsPerENI: 21}")
	object("VPC", "v", "{vni: 1, cidrs: [10.0.0.0/8]}")
	object("Subnet", "s", "{vpc: v, cidrs: [10.0.0.0/8], routeTable: r}")
	b.WriteString("---\napiVersion: eniplane.io/v1alpha1\nkind: PrefixList\nmetadata: {name: p}\nspec:\n  entries:\n")
	for i := range 100000 {
		fmt.Fprintf(&b, "  - 2001:db8:%x:%x::/64\n", i>>16, i&0xffff)
	}
	b.WriteString("---\napiVersion: eniplane.io/v1alpha1\nkind: RouteTable\nmetadata: {name: r}\nspec:\n  vpc: v\n  routes:\n")
	for i := range 20000 {
		fmt.Fprintf(&b, "  - {destination: \"2001:db8:%x::/48\", target: blackhole}\n", i)
	}
	for i := range 1000 {
		object("SecurityGroup", fmt.Sprintf("g%d", i), "{vpc: v, ingress: [{protocol: tcp, from: [pl/p, sg/g%d]}]}", (i+1)%1000)
		object("Instance", fmt.Sprintf("i%d", i), "{host: h, type: t}")
		object("ENI", fmt.Sprintf("e%d", i), "{subnet: s, mac: \"02:00:00:00:%02x:%02x\", ips: [10.1.%d.%d, 10.2.%d.%d], securityGroups: [g%d, g%d, g%d, g%d, g%d], attachment: {instance: i%d, index: 0, device: p%d}}",
			i>>8, i&255, i>>8, i&255, i>>8, i&255, i, (i+1)%1000, (i+2)%1000, (i+3)%1000, (i+4)%1000, i, i)
		object("EIP", fmt.Sprintf("x%d", i), "{address: 198.18.%d.%d, eni: e%d}", i>>8, i&255, i)
	}
	return api.File{Name: "big.yaml", Data: []byte(b.String())}
}

func TestLimits(t *testing.T) {
	big := bigRevision()
	if _, errs := api.Decode([]api.File{big}); errs != nil {
		t.Fatal(api.Errors(errs))
	}
	more := func(kind, name, spec string) string {
		return fmt.Sprintf("---\napiVersion: eniplane.io/v1alpha1\nkind: %s\nmetadata: {name: %s}\nspec: %s\n", kind, name, spec)
	}
	rules := func(n int) string {
		return "{vpc: v, egress: [" + strings.TrimSuffix(strings.Repeat("{protocol: tcp, to: [0.0.0.0/0]}, ", n), ", ") + "]}"
	}
	eni := func(groups, attachment string) string {
		return "{subnet: s, mac: \"02:00:00:00:ff:ff\", ips: [10.9.9.9], securityGroups: [" + groups + "]" + attachment + "}"
	}
	cases := []struct{ name, text, want string }{
		{"1001 ENIs on a host", more("Instance", "i", "{host: h, type: t}") + more("ENI", "e", eni("g1", ", attachment: {instance: i, index: 0, device: p}")),
			"Host/h: has 1001 ENIs (at most 1000: place instances on other hosts)"},
		{"1001 rules", more("SecurityGroup", "a", rules(600)) + more("SecurityGroup", "b", rules(401)) + more("ENI", "e", eni("a, b", "")),
			"ENI/e: spec.securityGroups: have 1001 egress rules together (at most 1000: use fewer or shorter groups)"},
		{"1000 rules", more("SecurityGroup", "a", rules(600)) + more("SecurityGroup", "b", rules(400)) + more("ENI", "e", eni("a, b", "")), ""},
		{"100001 prefixes", more("SecurityGroup", "a", "{vpc: v, ingress: [{protocol: all, from: [10.0.0.0/8]}]}") + more("ENI", "e", eni("a, g1", "")),
			"ENI/e: spec.securityGroups: name 100001 prefixes together in their ingress rules (at most 100000: use shorter prefix lists)"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, errs := api.Decode([]api.File{big, {Name: "more.yaml", Data: []byte(c.text)}})
			var got []string
			for _, err := range errs {
				_, text, _ := strings.Cut(err.Error(), ": ")
				got = append(got, text)
			}
			if strings.Join(got, "\n") != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// A gateway knows a bounded number of EIPs of each family; those of a range without gateways do not count for it.
func TestTooManyEIPs(t *testing.T) {
	var b, eips strings.Builder // a file each, since one has a limit
	object := func(kind, name, spec string, args ...any) {
		to := &b
		if kind == "EIP" {
			to = &eips
		}
		fmt.Fprintf(to, "---\napiVersion: eniplane.io/v1alpha1\nkind: %s\nmetadata: {name: %s}\nspec: ", kind, name)
		fmt.Fprintf(to, spec+"\n", args...)
	}
	object("Region", "here", "{eipRanges: [{cidr: 198.18.0.0/16, gateways: [h, g]}, {cidr: 198.19.0.0/16, gateways: [g]}, {cidr: 198.51.100.0/24}]}")
	object("Host", "g", "{zone: z, vtep: 172.16.0.2, uplinks: [up]}")
	object("Host", "h", "{zone: z, vtep: 172.16.0.1, uplinks: [up]}")
	object("InstanceType", "t", "{maxENIs: 8, maxIPsPerENI: 21}")
	object("Instance", "i", "{host: g, type: t}")
	object("VPC", "v", "{vni: 1, cidrs: [10.0.0.0/8]}")
	object("Subnet", "s", "{vpc: v, cidrs: [10.0.0.0/8]}")
	object("SecurityGroup", "g", "{vpc: v}")
	for i := range api.MaxEIPsPerHost + 2 { // the last one is in the range without gateways
		private := fmt.Sprintf("10.%d.%d.%d", 1+i>>16, i>>8&255, i&255)
		public := fmt.Sprintf("198.%d.%d.%d", 18+i>>16, i>>8&255, i&255)
		attachment := ""
		if i > api.MaxEIPsPerHost {
			public, attachment = "198.51.100.1", ", attachment: {instance: i, index: 0, device: p}"
		}
		object("ENI", fmt.Sprintf("e%d", i), "{subnet: s, mac: \"02:00:00:%02x:%02x:%02x\", ips: [%s], securityGroups: [g]%s}", i>>16, i>>8&255, i&255, private, attachment)
		object("EIP", fmt.Sprintf("x%d", i), "{address: %s, eni: e%d}", public, i)
	}
	_, errs := api.Decode([]api.File{{Name: "many.yaml", Data: []byte(b.String())}, {Name: "eips.yaml", Data: []byte(eips.String())}})
	const want = "Host/g: has to know 65538 EIPs of IPv4, those behind it as a gateway included (at most 65536: make smaller ranges with other gateways)"
	if len(errs) != 1 || !strings.HasSuffix(errs[0].Error(), want) {
		t.Errorf("errors %v, want one that ends with %s", api.Errors(errs), want)
	}
}

func BenchmarkDecode(b *testing.B) {
	big := bigRevision()
	b.SetBytes(int64(len(big.Data)))
	for b.Loop() {
		if _, errs := api.Decode([]api.File{big}); errs != nil {
			b.Fatal(api.Errors(errs))
		}
	}
}
