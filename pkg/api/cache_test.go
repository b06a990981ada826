// SPDX-License-Identifier: Apache-2.0

package api

import (
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// TestDecoder: whatever revisions come one after the other, a Decoder says of each what Decode says, and changes none that it
// gave before.
func TestDecoder(t *testing.T) {
	example, err := os.ReadFile("../../examples/two-hosts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	objects, errs := Decode([]File{{Name: "example", Data: example}})
	if errs != nil {
		t.Fatal(Errors(errs))
	}
	var files []File
	all := objects.All()[1:] // the region is the default
	for len(all) > 0 {
		n := min(len(files)%3+1, len(all))
		files = append(files, fileOf(t, len(files), all[:n]))
		all = all[n:]
	}
	random := rand.New(rand.NewPCG(5, 6))
	edits := [][2]string{
		{"10.0.1.10", "10.0.1.19"}, {"vni\":1001", "vni\":1002"}, {`"tcp"`, `"udp"`}, {`"kind":"ENI"`, `"kind":"EIP"`}, {`{`, `[`}, {`"spec"`, `"spek"`}, {`"name":"web`, `"name":"db`},
	}
	var decoder Decoder
	if decoder.Decode(files); len(decoder.known) != len(files) {
		t.Errorf("of %d files %d are remembered", len(files), len(decoder.known))
	}
	var given []*Objects
	var as []*Objects
	valid := 0
	for range 120 {
		now := slices.Clone(files)
		for range random.IntN(3) {
			i, e := random.IntN(len(now)), edits[random.IntN(len(edits))]
			now[i].Data = []byte(strings.Replace(string(now[i].Data), e[0], e[1], 1))
		}
		if random.IntN(4) == 0 {
			i := random.IntN(len(now))
			now = slices.Delete(now, i, i+1)
		}
		want, wantErrs := Decode(now)
		got, gotErrs := decoder.Decode(now)
		if diff := cmp.Diff(wantErrs, gotErrs); diff != "" {
			t.Fatalf("other errors: %s", diff)
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}, netip.AddrPort{})); diff != "" {
			t.Fatalf("other objects: %s", diff)
		}
		if got != nil {
			valid++
			given, as = append(given, got), append(as, want)
		}
	}
	if diff := cmp.Diff(as, given, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}, netip.AddrPort{})); diff != "" {
		t.Errorf("a revision changed later: %s", diff)
	}
	if valid < 15 || valid > 110 {
		t.Errorf("%d of 120 revisions are valid: the test tests little", valid)
	}
}

// fileOf writes objects in one of the ways that there are.
func fileOf(t *testing.T, way int, objects []Object) File {
	t.Helper()
	var texts []string
	for _, o := range objects {
		text, err := MarshalJSON(o)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, strings.Replace(string(text), `,"privateIP":"10.0.1.10"`, "", 1))
	}
	data := "# YAML\n" + strings.Join(texts, "\n---\n") + "\n---\n# and nothing\n"
	switch {
	case way%2 == 0 && len(texts) == 1:
		data = texts[0]
	case way%2 == 0:
		data = `{"apiVersion":"v1","kind":"List","items":[` + strings.Join(texts, ",\n") + `]}`
	}
	return File{Name: ReferenceTo(objects[0]).String(), Data: []byte(data)}
}

func BenchmarkDecoder(b *testing.B) {
	big := bigFiles(b)
	b.Run("all", func(b *testing.B) {
		for b.Loop() {
			if _, errs := Decode(big); errs != nil {
				b.Fatal(Errors(errs))
			}
		}
	})
	b.Run("again", func(b *testing.B) {
		var decoder Decoder
		for b.Loop() {
			if _, errs := decoder.Decode(big); errs != nil {
				b.Fatal(Errors(errs))
			}
		}
	})
}

// bigFiles is a host with 990 ENIs as a feed in etcd has them.
func bigFiles(b *testing.B) (files []File) {
	add := func(kind, name, spec string) {
		files = append(files, File{Name: kind + "/" + name, Data: []byte(`{"apiVersion":"eniplane.io/v1alpha1","kind":"` + kind + `","metadata":{"name":"` + name + `"},"spec":` + spec + `}`)})
	}
	add("Host", "h", `{"zone":"z","vtep":"172.16.0.1","uplinks":["up"]}`)
	add("InstanceType", "t", `{"maxENIs":8,"maxIPsPerENI":21}`)
	add("VPC", "v", `{"vni":1,"cidrs":["10.0.0.0/8"]}`)
	add("Subnet", "s", `{"vpc":"v","cidrs":["10.0.0.0/8"]}`)
	add("SecurityGroup", "g", `{"vpc":"v"}`)
	ip, mac := netip.MustParseAddr("10.0.0.9"), MAC{2}
	for i := range 990 {
		name := "e" + strings.ReplaceAll(ip.String(), ".", "-")
		mac[4], mac[5] = byte(i>>8), byte(i)
		add("Instance", name, `{"host":"h","type":"t"}`)
		add("ENI", name, `{"subnet":"s","mac":"`+mac.String()+`","ips":["`+ip.String()+`"],"securityGroups":["g"],"attachment":{"instance":"`+name+`","index":0,"device":"d`+name[len(name)-8:]+`"}}`)
		ip = ip.Next()
	}
	return files
}

// TestDecoderOfEIPs: the private IP that the whole revision fills in is of that revision.
func TestDecoderOfEIPs(t *testing.T) {
	eip := File{Name: "EIP/x", Data: []byte(`{"apiVersion":"eniplane.io/v1alpha1","kind":"EIP","metadata":{"name":"x"},"spec":{"address":"198.51.100.1","eni":"e"}}`)}
	files := func(ip string) []File {
		text := `{apiVersion: eniplane.io/v1alpha1, kind: VPC, metadata: {name: v}, spec: {vni: 1, cidrs: [10.0.0.0/8]}}
---
{apiVersion: eniplane.io/v1alpha1, kind: Subnet, metadata: {name: s}, spec: {vpc: v, cidrs: [10.0.0.0/8]}}
---
{apiVersion: eniplane.io/v1alpha1, kind: SecurityGroup, metadata: {name: g}, spec: {vpc: v}}
---
{apiVersion: eniplane.io/v1alpha1, kind: ENI, metadata: {name: e}, spec: {subnet: s, mac: "02:00:00:00:00:01", ips: [` + ip + `], securityGroups: [g]}}
`
		return []File{eip, {Name: "rest", Data: []byte(text)}}
	}
	var decoder Decoder
	var given []*Objects
	for _, ip := range []string{"10.0.0.9", "10.0.0.10", "10.0.0.11"} {
		o, errs := decoder.Decode(files(ip))
		if errs != nil {
			t.Fatal(Errors(errs))
		}
		given = append(given, o)
	}
	for i, want := range []string{"10.0.0.9", "10.0.0.10", "10.0.0.11"} {
		if got := given[i].EIPs["x"].PrivateIP.String(); got != want {
			t.Errorf("revision %d has %s, want %s", i, got, want)
		}
	}
}
