// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTopologyErrors(t *testing.T) {
	good, err := os.ReadFile("testdata/lab.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parseTopology(good); err != nil {
		t.Fatalf("the example: %v", err)
	}
	rows := []struct{ old, new, want string }{
		{"kind: Lab", "kind: Host", `kind: "Host", want Lab`},
		{"uplinkOffload:", "uplinkOfload:", "unknown field uplinkOfload"},
		{"uplinkOffload: false", "uplinkOffload: maybe", "line 23"},
		{"name: two-hosts ", "name: Two_Hosts ", "metadata.name"},
		{"feed: objects.yaml", "feed: \"\"", "spec.feed"},
		{"mtu: 1500", "mtu: 1200", "spec.underlay.mtu: 1200 is not in 1330-65535"},
		{"192.168.100.0/24,", "192.168.100.1/24,", "has host bits, write 192.168.100.0/24"},
		{"192.168.100.0/24,", "", "an IPv4 prefix is missing"},
		{"- 192.168.100.254/24", "- 192.168.200.254/24", "none is in the underlay 192.168.100.0/24"},
		{"{kind: namespace", "{kind: vm", "spec.instances.web-vm.kind: vm is not supported by this version"},
		{"flags: []", "flags: [--host=x]", "--host=x is set by the lab"},
		{"apiVersion: ", "---\na: b\n---\napiVersion: ", "line 7: unknown field a"},
	}
	for _, r := range rows {
		text := strings.Replace(string(good), r.old, r.new, 1)
		if text == string(good) {
			t.Fatalf("the example does not hold %q", r.old)
		}
		_, err := parseTopology([]byte(text))
		if err == nil || !strings.Contains(err.Error(), r.want) {
			t.Errorf("%q in place of %q: error %v, want %q", r.new, r.old, err, r.want)
		}
	}
	if _, err := parseTopology(append(good, "---\nkind: Host\n"...)); err == nil || !strings.Contains(err.Error(), "one document") {
		t.Errorf("two documents: error %v", err)
	}
	if _, err := parseTopology(nil); err == nil {
		t.Error("an empty file is accepted")
	}
}

func TestPlan(t *testing.T) {
	topology, err := ReadTopology("testdata/lab.yaml")
	if err != nil {
		t.Fatal(err)
	}
	objects, err := readObjects(topology.Feed)
	if err != nil {
		t.Fatal(err)
	}
	p, err := MakePlan(topology, objects)
	if err != nil {
		t.Fatal(err)
	}
	wantNodes := "underlay internet host-a host-b blue-vm db-vm standby-vm web-vm wire-web-vm"
	if got := strings.Join(p.Nodes(), " "); got != wantNodes {
		t.Errorf("nodes %q, want %q", got, wantNodes)
	}
	_, port := p.Port("web-0")
	if port == nil || port.Guest != "eth0" || port.Device != "eni-web-0" || len(port.Addrs) != 3 || len(port.Gateways) != 2 {
		t.Errorf("port of web-0: %+v", port)
	}
	if got := p.Hosts[0].Addrs[1].String(); got != "fd00:100::c0a8:6401/64" {
		t.Errorf("IPv6 address of host-a: %s", got)
	}
	topology.Wiring["nobody"] = Wiring{}
	if _, err := MakePlan(topology, objects); err == nil || !strings.Contains(err.Error(), "no such instance") {
		t.Errorf("wiring of an unknown instance: error %v", err)
	}
	delete(topology.Wiring, "nobody")
	objects.ENIs["db-0"].Attachment.Device = "eni-web-0"
	if _, err := MakePlan(topology, objects); err == nil || !strings.Contains(err.Error(), "meet on host host-b") {
		t.Errorf("a device that meets the leg of a migrating one: error %v", err)
	}
}

// Each example of a lab can be brought up, by what can be said without bringing it up.
func TestExamples(t *testing.T) {
	labs, err := filepath.Glob("../../examples/*-lab.yaml")
	if err != nil || len(labs) < 2 {
		t.Fatalf("examples %q (%v)", labs, err)
	}
	for _, path := range labs {
		topology, err := ReadTopology(path)
		if err != nil {
			t.Error(err)
			continue
		}
		objects, err := readObjects(topology.Feed)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if _, err := MakePlan(topology, objects); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestEditFeed(t *testing.T) {
	dir := t.TempDir()
	l := &Lab{dir: dir}
	if err := os.Mkdir(l.FeedDir(), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := copyFeed("testdata/objects.yaml", l.FeedDir()); err != nil {
		t.Fatal(err)
	}
	for want := uint64(2); want < 4; want++ {
		got, err := l.EditFeed(Edit{Kind: "ENI", Name: "web-0", Change: nextEpoch})
		if err != nil || got != want {
			t.Fatalf("revision %d, %v, want %d", got, err, want)
		}
	}
	objects, err := readObjects(l.FeedDir())
	if err != nil {
		t.Fatal(err)
	}
	if got := objects.ENIs["web-0"].Attachment.Epoch; got != 2 {
		t.Errorf("epoch %d, want 2", got)
	}
	if _, err := l.EditFeed(Edit{Kind: "ENI", Name: "nobody", Change: nextEpoch}); err == nil {
		t.Error("an edit of an unknown ENI is accepted")
	}
	if got, err := l.Revision(); err != nil || got != 3 {
		t.Errorf("after a failed edit: revision %d, %v, want 3", got, err)
	}
}
