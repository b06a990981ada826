// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"strings"
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

func decodeText(text string) (*api.Objects, []*api.Error) {
	return api.Decode([]api.File{{Name: "base.yaml", Data: []byte(text)}})
}

func messages(errs []*api.Error) []string {
	var list []string
	for _, err := range errs {
		list = append(list, err.Error())
	}
	return list
}

func TestAllErrorsAtOnceInOrder(t *testing.T) {
	host := func(name, vtep string) string {
		return "apiVersion: eniplane.io/v1alpha1\nkind: Host\nmetadata: {name: " + name + "}\nspec: {zone: z, vtep: " + vtep + "}\n---\n"
	}
	_, errs := api.Decode([]api.File{
		{Name: "b.yaml", Data: []byte(host("b1", "10.0.0.1") + host("b2", "x") + host("b3", "10.0.0.1"))},
		{Name: "a.yaml", Data: []byte(host("a1", "1.2.3") + host("b1", "10.0.0.9"))},
	})
	want := []string{
		`a.yaml:4: Host/a1: spec.vtep: "1.2.3" is not an IP address (write one without prefix length)`,
		`a.yaml:8: Host/b1: metadata.name: is used twice (give one another name; the first is at b.yaml:3)`,
		`b.yaml:9: Host/b2: spec.vtep: "x" is not an IP address (write one without prefix length)`,
		`b.yaml:14: Host/b3: spec.vtep: 10.0.0.1 is the VTEP of Host/b1 too (give each host its own)`,
	}
	if diff := cmp.Diff(want, messages(errs)); diff != "" {
		t.Error(diff)
	}
}

// A name that may stand in a text that could not be read is not reported as dangling.
func TestUnreadableTextHidesNoName(t *testing.T) {
	_, errs := api.Decode([]api.File{
		{Name: "a.yaml", Data: []byte("apiVersion: eniplane.io/v1alpha1\nkind: Instance\nmetadata: {name: i}\nspec: {host: h, type: t}\n")},
		{Name: "b.yaml", Data: []byte("kind: [\n")},
	})
	want := []string{"b.yaml:2: is not valid YAML or JSON: did not find expected node content (correct the text)"}
	if diff := cmp.Diff(want, messages(errs)); diff != "" {
		t.Error(diff)
	}
}

func TestSyntaxErrors(t *testing.T) {
	for text, want := range map[string]string{
		"a: b\nc: d\n\te: f\n":              "base.yaml:2: is not valid YAML or JSON: found a tab character that violates indentation (correct the text)",
		"a: b\n c: d\n":                     "base.yaml:2: is not valid YAML or JSON: mapping values are not allowed in this context (correct the text)",
		"a: b\nc: d\ne: [1, 2\nf: g\n":      "base.yaml:3: is not valid YAML or JSON: did not find expected ',' or ']' (correct the text)",
		"{\"a\": 1,\n \"b\": 2\n \"c\": 3}": "base.yaml:3: is not valid YAML or JSON: did not find expected ',' or '}' (correct the text)",
		"a: b\n- c\n":                       "base.yaml:2: is not valid YAML or JSON: did not find expected key (correct the text)",
		`a: "\q"`:                           "base.yaml:1: is not valid YAML or JSON: found unknown escape character (correct the text)",
		"a: *x":                             "base.yaml: is not valid YAML or JSON: unknown anchor 'x' referenced (correct the text)",
		"# a half-written file\n\nkind: VPC\nmeta": "base.yaml:4: is not valid YAML or JSON: could not find expected ':' (correct the text)",
	} {
		_, errs := decodeText(text)
		if diff := cmp.Diff([]string{want}, messages(errs)); diff != "" {
			t.Errorf("%q: %s", text, diff)
		}
	}
}

func TestNoObjectsIsValid(t *testing.T) {
	got, errs := api.Decode(nil)
	if errs != nil {
		t.Fatal(api.Errors(errs))
	}
	if got.Region == nil || got.Region.GatewayMAC != api.DefaultGatewayMAC() {
		t.Errorf("region is %+v, want the defaults", got.Region)
	}
}

func TestDefaults(t *testing.T) {
	got, errs := decodeText(readBase(t))
	if errs != nil {
		t.Fatal(api.Errors(errs))
	}
	blue := got.ENIs["blue-0"]
	if blue.UID != "blue-0" || !blue.SourceDestCheck || blue.OnPolicyChange != api.Reevaluate || blue.Attachment != nil {
		t.Errorf("blue-0 is %+v", blue)
	}
	if got.ENIs["web-0"].UID != "6f6b" || got.ENIs["web-0"].Attachment.Epoch != 3 {
		t.Errorf("web-0 is %+v", got.ENIs["web-0"])
	}
	if got.EIPs["reserved"].PrivateIP.IsValid() {
		t.Errorf("the reserved EIP is bound to %s", got.EIPs["reserved"].PrivateIP)
	}
	text := strings.Replace(readBase(t), "  privateIP: 10.0.1.10\n", "", 1)
	if got, errs = decodeText(text); errs != nil || got.EIPs["public"].PrivateIP != netip.MustParseAddr("10.0.1.10") {
		t.Errorf("EIP/public stands for %s (%v), want the primary", got.EIPs["public"].PrivateIP, api.Errors(errs))
	}
}

func TestNumbersAndNamesOfProtocolsAreEqual(t *testing.T) {
	text := strings.Replace(readBase(t), "protocol: tcp\n    ports: [80]", "protocol: 6\n    ports: [80]", 1)
	want, _ := decodeText(readBase(t))
	got, errs := decodeText(text)
	if errs != nil {
		t.Fatal(api.Errors(errs))
	}
	if diff := cmp.Diff(want, got, sameAddrs); diff != "" {
		t.Error(diff)
	}
}

func TestNetworkACLIsInOrderOfNumbers(t *testing.T) {
	text := strings.Replace(readBase(t), "number: 200", "number: 7", 1)
	got, errs := decodeText(text)
	if errs != nil {
		t.Fatal(api.Errors(errs))
	}
	if in := got.NetworkACLs["red"].Ingress; in[0].Number != 7 || in[0].Allow || in[1].Number != 100 || !in[1].Allow {
		t.Errorf("ingress is %+v", in)
	}
}

func TestJSON(t *testing.T) {
	want, errs := decodeText(readBase(t))
	if errs != nil {
		t.Fatal(api.Errors(errs))
	}
	var files []api.File
	for _, o := range want.All() {
		text, err := api.MarshalJSON(o)
		if err != nil {
			t.Fatal(err)
		}
		var pretty bytes.Buffer
		if err := json.Indent(&pretty, text, "", "\t"); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		files = append(files, api.File{Name: o.Meta().Name + ".json", Data: pretty.Bytes()})
	}
	got, errs := api.Decode(files)
	if errs != nil {
		t.Fatal(api.Errors(errs))
	}
	if diff := cmp.Diff(want, got, sameAddrs); diff != "" {
		t.Error(diff)
	}
}

// TestList: a List of all objects says the same as the objects.
func TestList(t *testing.T) {
	want, errs := decodeText(readBase(t))
	if errs != nil {
		t.Fatal(api.Errors(errs))
	}
	var items []any
	for _, o := range want.All() {
		item, err := api.MarshalJSON(o)
		if err != nil {
			t.Fatal(err)
		}
		items = append(items, json.RawMessage(item))
	}
	text, err := json.MarshalIndent(api.NewList(items), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got, errs := api.Decode([]api.File{{Name: "all.json", Data: text}})
	if errs != nil {
		t.Fatal(api.Errors(errs))
	}
	if diff := cmp.Diff(want, got, sameAddrs); diff != "" {
		t.Error(diff)
	}
}

func TestListErrors(t *testing.T) {
	vpc := "{apiVersion: eniplane.io/v1alpha1, kind: VPC, metadata: {name: a}, spec: {vni: 0, cidrs: [10.0.0.0/16]}}"
	for _, tt := range []struct{ name, text, want string }{
		{"empty", "{apiVersion: v1, kind: List, metadata: {resourceVersion: ''}, items: []}", ""},
		{"in an item", "apiVersion: v1\nkind: List\nitems:\n- " + vpc, `base.yaml:4: VPC/a: spec.vni: "0" is not a number of 1 to 16777215`},
		{"no items", "{apiVersion: v1, kind: List}", "base.yaml:1: List: items: is missing (add it)"},
		{"unknown field", "{apiVersion: v1, kind: List, items: [], spec: {}}", "base.yaml:1: List: spec: is not a field of this kind (remove it)"},
		{"of another version", "{apiVersion: v2, kind: List, items: []}", `base.yaml:1: List: apiVersion: "v2" is not known (use v1)`},
		{"nothing as an item", "apiVersion: v1\nkind: List\nitems:\n-\n", "base.yaml:4: is nothing, not a mapping (write its fields as `name: value`)"},
		{"a List in a List", "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: List, items: []}",
			`base.yaml:4: List: apiVersion: "v1" is not known (use eniplane.io/v1alpha1)`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, errs := decodeText(tt.text)
			if got := strings.Join(messages(errs), "\n"); got != tt.want {
				t.Errorf("got:\n%s\nwant:\n%s", got, tt.want)
			}
		})
	}
}

// TestHostileText gives the parser what it must survive in bounded time and memory.
func TestHostileText(t *testing.T) {
	var bomb strings.Builder
	bomb.WriteString("a0: &a0 [x, x]\n")
	for i := 1; i < 60; i++ {
		fmt.Fprintf(&bomb, "a%d: &a%d [*a%d, *a%d]\n", i, i, i-1, i-1)
	}
	for name, text := range map[string]string{
		"alias bomb":         bomb.String(),
		"alias of itself":    "&a [*a]",
		"alias bomb in spec": "apiVersion: eniplane.io/v1alpha1\nkind: PrefixList\nmetadata: {name: x}\nspec: {entries: &a [*a, *a]}",
		"deep lists":         strings.Repeat("[", 100000),
		"deep mappings":      strings.Repeat("{a: ", 100000),
		"deep block":         strings.Repeat("- ", 20000),
		"NUL":                "kind: \x00",
		"not UTF-8":          "kind: \xff\xfe",
		"UTF-16":             "\xff\xfek\x00i\x00",
		"tag":                "!!binary aGVsbG8=",
		"own tag":            "!x {a: b}",
		"complex key":        "? [a]\n: b\n? {c: d}\n: e",
		"too big":            strings.Repeat("#", api.MaxFileSize+1),
		"directive":          "%YAML 9.9\n---\na: b",
		"carriage returns":   "a: b\r\rc: {\r",
	} {
		t.Run(name, func(t *testing.T) {
			if _, errs := decodeText(text); len(errs) == 0 {
				t.Error("accepted")
			}
		})
	}
}

func TestErrorsAreBounded(t *testing.T) {
	text := "apiVersion: eniplane.io/v1alpha1\nkind: PrefixList\nmetadata: {name: x}\nspec:\n  entries:\n" + strings.Repeat("  - x\n", 5000)
	_, errs := decodeText(text)
	if len(errs) != 1001 || errs[1000].Msg != "4000 more errors are not shown (correct these first)" {
		t.Errorf("%d errors, the last is %q", len(errs), errs[len(errs)-1].Msg)
	}
}

// FuzzDecode is best run with -fuzzminimizetime 1x: the seeds are long to minimise.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(readBase(f)))
	f.Add(readExample(f).Data)
	f.Add([]byte(`{"apiVersion":"eniplane.io/v1alpha1","kind":"EIP","metadata":{"name":"a"},"spec":{"address":"203.0.113.1"}}`))
	f.Add([]byte("apiVersion: eniplane.io/v1alpha1\nkind: VPC\nspec: {\"a\\nb\": 1, \"\\0\": 2}\n"))
	f.Add([]byte("a: &a [*a]\n---\n? {b: c}\n: !!binary d\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, errs := api.Decode([]api.File{{Name: "f", Data: data}})
		if (got == nil) != (len(errs) > 0) {
			t.Fatalf("objects %v with errors %v", got, errs)
		}
		for _, err := range errs {
			if strings.ContainsAny(err.Error(), "\n\x00") {
				t.Errorf("%q is not one clear line", err.Error())
			}
		}
		if got == nil {
			return
		}
		text, err := api.MarshalYAML(got.All()...)
		if err != nil {
			t.Fatal(err)
		}
		again, errs := api.Decode([]api.File{{Name: "again", Data: text}})
		if errs != nil {
			t.Fatalf("%v\nin\n%s", api.Errors(errs), text)
		}
		if diff := cmp.Diff(got, again, sameAddrs); diff != "" {
			t.Error(diff)
		}
	})
}
