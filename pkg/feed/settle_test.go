// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/feed/etcd"
)

// documents makes documents of lines KIND NAME SPEC.
func documents(t *testing.T, lines ...string) etcd.Documents {
	t.Helper()
	out := etcd.Documents{}
	for _, line := range lines {
		words := strings.SplitN(line, " ", 3)
		text := fmt.Sprintf("{apiVersion: eniplane.io/v1alpha1, kind: %s, metadata: {name: %s}, spec: %s}", words[0], words[1], words[2])
		out[api.Reference{Kind: words[0], Name: words[1]}] = etcd.Document{Text: []byte(text), UID: "uid-" + words[1]}
	}
	return out
}

// base is a small valid feed.
var base = []string{
	"VPC v {vni: 1, cidrs: [10.0.0.0/16]}",
	"VPC w {vni: 2, cidrs: [10.0.0.0/16]}",
	"Subnet s {vpc: v, cidrs: [10.0.1.0/24]}",
	"SecurityGroup g {vpc: v}",
	"SecurityGroup h {vpc: v}",
	"PrefixList p {entries: [192.0.2.0/24]}",
	"Host a {zone: z, vtep: 172.16.0.1, uplinks: [up]}",
	"InstanceType t {maxENIs: 2, maxIPsPerENI: 2}",
	"Instance i {host: a, type: t}",
	`ENI e {subnet: s, mac: "02:00:00:00:00:01", ips: [10.0.1.10], securityGroups: [g], attachment: {instance: i, index: 0, device: e}}`,
	`ENI f {subnet: s, mac: "02:00:00:00:00:02", ips: [10.0.1.11], securityGroups: [h]}`,
}

// edited replaces, adds or (with an empty spec) removes lines of base.
func edited(t *testing.T, lines ...string) etcd.Documents {
	t.Helper()
	docs := documents(t, base...)
	for _, line := range lines {
		words := strings.Fields(line)
		ref := api.Reference{Kind: words[0], Name: words[1]}
		delete(docs, ref)
		if len(words) > 2 {
			maps.Copy(docs, documents(t, line))
		}
	}
	return docs
}

func TestSettle(t *testing.T) {
	for _, tt := range []struct {
		name  string
		edits []string
		held  []string
		kept  []string // what is not as the feed says
		fresh []string // what is
	}{
		{name: "valid", edits: []string{"PrefixList p {entries: [192.0.2.1/32]}"}, fresh: []string{"PrefixList/p"}},
		{
			name:  "an invalid group keeps its members, too",
			edits: []string{"SecurityGroup g {vpc: v, colour: red}", `ENI e {subnet: s, mac: "02:00:00:00:00:01", ips: [10.0.1.12], securityGroups: [g]}`, `ENI f {subnet: s, mac: "02:00:00:00:00:02", ips: [10.0.1.13], securityGroups: [h]}`},
			kept:  []string{"ENI/e", "SecurityGroup/g"}, fresh: []string{"ENI/f"},
		},
		{
			name:  "a new one that is invalid is left out, with what refers to it",
			edits: []string{"SecurityGroup n {vpc: v, colour: red}", `ENI n {subnet: s, mac: "02:00:00:00:00:09", ips: [10.0.1.19], securityGroups: [n]}`, "PrefixList p {entries: []}"},
			kept:  []string{"ENI/n", "SecurityGroup/n"}, fresh: []string{"PrefixList/p"},
		},
		{
			name:  "what does not parse",
			edits: []string{"Subnet s {vpc: [v", "VPC w {vni: 3, cidrs: [10.0.0.0/16]}"},
			kept:  []string{"Subnet/s"}, fresh: []string{"VPC/w"},
		},
		{
			name:  "of two with one address, the new one waits",
			edits: []string{`ENI n {subnet: s, mac: "02:00:00:00:00:09", ips: [10.0.1.11], securityGroups: [g]}`},
			kept:  []string{"ENI/n"},
		},
		{
			name:  "the address of one that is held",
			edits: []string{"ENI e", `ENI n {subnet: s, mac: "02:00:00:00:00:09", ips: [10.0.1.10], securityGroups: [g]}`},
			held:  []string{"ENI/e"}, kept: []string{"ENI/e", "ENI/n"},
		},
		{
			name:  "one that is held keeps what it needs",
			edits: []string{"ENI e", "Instance i", "SecurityGroup g", "PrefixList p {entries: []}"},
			held:  []string{"ENI/e"}, kept: []string{"ENI/e", "Instance/i", "SecurityGroup/g"}, fresh: []string{"PrefixList/p"},
		},
		{
			name:  "a dangling name",
			edits: []string{"SecurityGroup h", "PrefixList p {entries: []}"},
			kept:  []string{"SecurityGroup/h"}, fresh: []string{"PrefixList/p"},
		},
		{
			name:  "a subnet that moves to another VPC under an ENI",
			edits: []string{"Subnet s {vpc: w, cidrs: [10.0.1.0/24]}", "PrefixList p {entries: []}"},
			kept:  []string{"Subnet/s"}, fresh: []string{"PrefixList/p"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			good, fresh := documents(t, base...), edited(t, tt.edits...)
			held := map[api.Reference]string{}
			for _, name := range tt.held {
				held[referenceOf(name)] = "held"
			}
			s, err := settle(&api.Decoder{}, fresh, good, held)
			if err != nil {
				t.Fatal(err)
			}
			var kept []string
			for ref, why := range s.kept {
				if why == "" {
					t.Errorf("%s is kept and nobody says why", ref)
				}
				kept = append(kept, ref.String())
			}
			slices.Sort(kept)
			if diff := cmp.Diff(tt.kept, kept); diff != "" {
				t.Errorf("kept: %s\n%v", diff, s.kept)
			}
			for _, name := range tt.kept {
				ref := referenceOf(name)
				was, had := good[ref]
				if now, ok := s.documents[ref]; ok != had || string(now.Text) != string(was.Text) {
					t.Errorf("%s is not as it was: %s", name, now.Text)
				}
			}
			for _, name := range tt.fresh {
				if ref := referenceOf(name); string(s.documents[ref].Text) != string(fresh[ref].Text) {
					t.Errorf("%s is not as the feed says", name)
				}
			}
			if s.objects.ENIs["f"] != nil && s.objects.ENIs["f"].UID != "uid-f" {
				t.Error("an object lost its identity")
			}
		})
	}
}

// TestSettleAlways: whatever a feed says, what comes into force is valid; what is good alone comes back whole.
func TestSettleAlways(t *testing.T) {
	good := documents(t, base...)
	specs := []string{
		"VPC v {vni: 2, cidrs: [10.0.0.0/16]}", "VPC v", "VPC v {vni: 1, cidrs: [10.1.0.0/16]}", "VPC w {vni: 1, cidrs: [10.0.0.0/16]}",
		"Subnet s", "Subnet s {vpc: w, cidrs: [10.0.1.0/24]}", "Subnet s {vpc: v, cidrs: [10.0.2.0/24]}", "SecurityGroup g", "SecurityGroup g {vpc: w}",
		"SecurityGroup h {vpc: v, ingress: [{protocol: tcp, from: [sg/g, pl/p]}]}", "SecurityGroup h {nothing: 1}", "PrefixList p", "PrefixList p {entries: [x]}",
		"Host a", "Host a {zone: z, vtep: 172.16.0.2, uplinks: [e]}", "InstanceType t {maxENIs: 1, maxIPsPerENI: 1}", "Instance i", "Instance i {host: b, type: t}",
		"ENI e", `ENI e {subnet: s, mac: "02:00:00:00:00:02", ips: [10.0.1.11], securityGroups: [g, h]}`, "ENI f", `ENI f {subnet: s, mac: "02:00:00:00:00:01", ips: [10.0.1.10], securityGroups: [g]}`,
		`ENI n {subnet: s, mac: "02:00:00:00:00:03", ips: [10.0.1.10, 10.0.1.12], securityGroups: [g], attachment: {instance: i, index: 0, device: e}}`,
		"EIP x {address: 198.51.100.1, eni: e}", "EIP x {address: 10.0.1.1, eni: f}", "EIP y {address: 198.51.100.1}",
	}
	random := rand.New(rand.NewPCG(1, 2))
	whole, decoder := 0, &api.Decoder{}
	for range 400 {
		var edits []string
		for range 1 + random.IntN(6) {
			edits = append(edits, specs[random.IntN(len(specs))])
		}
		held := map[api.Reference]string{}
		if random.IntN(3) == 0 {
			held[api.Reference{Kind: "ENI", Name: "e"}] = "held"
		}
		s, err := settle(decoder, edited(t, edits...), good, held)
		if err != nil {
			t.Fatalf("%q: %v", edits, err)
		}
		if _, errs := api.Decode(s.documents.Files()); errs != nil {
			t.Fatalf("%q: %v", edits, errs)
		}
		if len(held) > 0 && s.objects.ENIs["e"].IPs[0].String() != "10.0.1.10" {
			t.Fatalf("%q: what is held has changed", edits)
		}
		if len(s.kept) == 0 {
			whole++
		}
	}
	if whole == 0 || whole == 400 {
		t.Errorf("%d of 400 feeds were valid as they came: the test tests little", whole)
	}
}
