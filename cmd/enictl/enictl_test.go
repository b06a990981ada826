// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"
)

const example = "../../examples/two-hosts.yaml"

// nouns are command lines that only read. Each must work in every format.
var nouns = [][]string{
	{"get", "hosts", "--feed", "dir:FEED"},
	{"get", "eni", "web-0", "--feed", "dir:FEED"},
	{"get", "all", "--feed", "dir:FEED"},
	{"describe", "eni", "web-0", "--feed", "dir:FEED"},
	{"describe", "sg", "db", "--feed", "dir:FEED"},
	{"get", "sg", "--feed", "dir:FEED"},
	{"get", "nacl", "red-web", "--feed", "dir:FEED"},
	{"map", "list"},
	{"map", "dump", "endpoints4"},
	{"map", "dump", "eip_in4"},
	{"map", "get", "endpoints4", "vpc=red", "10.0.2.10"},
	{"flow", "list"},
	{"flow", "get", "tcp 10.0.1.10:40000 > 10.0.2.10:5432"},
	{"counters"},
	{"explain"},
	{"explain", "SG_DENIED", "NO_EIP"},
	{"trace", "--eni", "web-0", "--out", "tcp 10.0.1.10:40000 > 10.0.2.10:443"},
	{"status"},
	{"check"},
	{"version"},
	{"validate", "-f", example},
	{"guest", "describe", "web-vm", "--feed", "dir:FEED"},
	{"guest", "routes", "-f", "testdata/guest.yaml"},
}

func TestNounsInEveryFormat(t *testing.T) {
	for _, noun := range nouns {
		for _, format := range formats {
			t.Run(strings.Join(append(noun, format), " "), func(t *testing.T) {
				h := newHost(t)
				h.features = []feature{{Name: "BTF", State: featureOK, Needs: "CONFIG_DEBUG_INFO_BTF"}}
				line := append(noun, "-o", format)
				first, second := h.run(line...), h.run(line...)
				if first.code != exitDone {
					t.Fatalf("exit code %d: %s", first.code, first.err)
				}
				if diff := cmp.Diff(first, second, cmp.AllowUnexported(result{})); diff != "" {
					t.Errorf("two runs differ: %s", diff)
				}
				var v any
				switch format {
				case "json":
					if err := json.Unmarshal([]byte(first.out), &v); err != nil {
						t.Errorf("%v in %s", err, first.out)
					}
				case "yaml":
					if err := yaml.Unmarshal([]byte(first.out), &v); err != nil {
						t.Errorf("%v in %s", err, first.out)
					}
				}
			})
		}
	}
}

// TestHelp walks all commands: each explains itself, and no command line is too wide for a terminal.
func TestHelp(t *testing.T) {
	var walk func(path []string, c *cobra.Command)
	walk = func(path []string, c *cobra.Command) {
		t.Run(strings.Join(append([]string{"enictl"}, path...), " "), func(t *testing.T) {
			got := newHost(t).run(append(path, "-h")...)
			if got.code != exitDone || !strings.Contains(got.out, "Usage:") {
				t.Errorf("exit code %d, output %q %q", got.code, got.out, got.err)
			}
			if c.Short == "" {
				t.Error("no short description")
			}
		})
		for _, sub := range c.Commands() {
			walk(append(append([]string{}, path...), sub.Name()), sub)
		}
	}
	walk(nil, newRootCommand(&app{}))
}

func TestExitCodes(t *testing.T) {
	for _, tt := range []struct {
		line string
		code int
		want string // in the errors
	}{
		{"frobnicate", exitUsage, `unknown command "frobnicate"`},
		{"map frobnicate", exitUsage, `unknown command "frobnicate"`},
		{"map dump", exitUsage, "accepts 1 arg"},
		{"map dump nothing", exitUsage, "there are active, eip_in4, endpoints4"},
		{"map get endpoints4 vpc=green", exitError, "no entry of endpoints4 has vpc=green"},
		{"status --frobnicate", exitUsage, "unknown flag"},
		{"status extra", exitUsage, "unknown command"},
		{"status -o xml", exitUsage, "want one of table, wide, json, yaml, name"},
		{"status --color purple", exitUsage, "want auto, always or never"},
		{"status --host ../x", exitUsage, "is not a name"},
		{"status --host host-b", exitError, "no agent of host host-b has kept a status"},
		{"counters --eni nobody", exitError, `no ENI "nobody" on this host`},
		{"flow list --peer nobody", exitUsage, "neither an address nor a CIDR"},
		{"flow list --state dead", exitUsage, "want one of opening, answered, established, closing, refused, blocked"},
		{"flow get tcp 10.0.0.1:1", exitUsage, "want PROTOCOL ADDRESS:PORT > ADDRESS:PORT"},
		{"flow get tcp 10.0.0.1:1 10.0.0.2:2", exitError, "no flow"},
		{"flow flush", exitUsage, "say which flows"},
		{"flow flush --all --eni web-0", exitUsage, "say which flows"},
		{"guest routes --apply --remove", exitUsage, "--apply or --remove, not both"},
		{"guest routes --watch 5s", exitUsage, "--watch needs --apply"},
		{"guest check -f testdata/nothing.yaml", exitError, "enictl guest describe INSTANCE"},
		{"guest describe", exitUsage, "accepts 1 arg"},
		{"get thing", exitUsage, `no kind "thing"`},
		{"get", exitUsage, "say what to get: all, region, host"},
		{"flow list --protocol foo", exitUsage, `"foo" is not a protocol`},
		{"flow list --protocol 256", exitUsage, `"256" is not a protocol`},
		{"flow list --protocol 6 --state established", exitDone, ""},
		{"flow get 6 10.0.1.10 10.0.2.10", exitDone, ""},
		{"flow get foo 10.0.1.10 10.0.2.10", exitUsage, `"foo" is not a protocol`},
		{"--host A_b teardown --yes", exitUsage, "has the character 'A'"},
		{"get all web-0 --feed dir:FEED", exitUsage, "name the kind"},
		{"get eni none --feed dir:FEED", exitError, `no ENI "none"`},
		{"get eni --feed k8s:x", exitUsage, "not supported by this version"},
		{"get eni --feed etcd:http://x:1", exitUsage, "names no prefix"},
		{"apply -f x --feed dir:FEED", exitError, "no such file"},
		{"eni detach web-0 --feed dir:FEED --wait", exitUsage, "need a feed in etcd"},
		{"sync --feed dir:FEED", exitUsage, "no host tells its status"},
		{"eni detach web-0", exitUsage, "--feed is required"},
		{"eni attach web-0", exitUsage, "--instance and --device are required"},
		{"eip associate x", exitUsage, "--eni is required"},
		{"delete eni", exitUsage, "say what to delete"},
		{"diff", exitUsage, "-f is required"},
		{"describe eni nix --feed dir:FEED", exitError, `no ENI "nix"`},
		{"get eni", exitError, "no agent has applied a revision"},
		{"validate", exitUsage, "-f is required"},
		{"validate -f none.yaml", exitError, "none.yaml"},
	} {
		t.Run(tt.line, func(t *testing.T) {
			got := newHost(t).run(strings.Fields(tt.line)...)
			if got.code != tt.code || !strings.Contains(got.err, tt.want) {
				t.Errorf("exit code %d, want %d; errors %q, want %q", got.code, tt.code, got.err, tt.want)
			}
		})
	}
}

func TestOneHostNeedsNoName(t *testing.T) {
	h := newHost(t)
	if err := os.Mkdir(filepath.Join(h.state, "host-b"), 0o700); err != nil {
		t.Fatal(err)
	}
	if got := h.run("status"); got.code != exitUsage || !strings.Contains(got.err, "host-a, host-b") {
		t.Errorf("two hosts: exit code %d, %s", got.code, got.err)
	}
	if got := h.run("status", "--host", "host-a"); got.code != exitDone {
		t.Errorf("named: exit code %d, %s", got.code, got.err)
	}
	h = &host{bpffs: t.TempDir() + "/none", state: t.TempDir()}
	if got := h.run("status"); got.code != exitError || !strings.Contains(got.err, "start enid") {
		t.Errorf("no host: exit code %d, %s", got.code, got.err)
	}
}

// TestBrokenFilesHideNothing: names and states are a comfort; what can be shown without them is.
func TestBrokenFilesHideNothing(t *testing.T) {
	h := newHost(t)
	for _, name := range []string{"names.json", "status.json"} {
		if err := os.WriteFile(filepath.Join(h.state, "host-a", name), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for line, want := range map[string]string{
		"counters": "#1", "flow list": "#2", "map dump endpoints4": "10.0.1.10", "get eni --feed dir:FEED": "web-0",
	} {
		got := h.run(strings.Fields(line)...)
		if got.code != exitDone || !strings.Contains(got.out, want) || !strings.Contains(got.err, "unexpected end of JSON") {
			t.Errorf("%s: exit code %d, %s, %s", line, got.code, got.out, got.err)
		}
	}
}

func TestMissingPinsAreExplained(t *testing.T) {
	h := newHost(t)
	h.openErr = errors.New("no dataplane is loaded under /x: has enid run?")
	for _, line := range []string{"map list", "flow list", "counters"} {
		if got := h.run(strings.Fields(line)...); got.code != exitError || !strings.Contains(got.err, "has enid run?") {
			t.Errorf("%s: exit code %d, %s", line, got.code, got.err)
		}
	}
	h.openErr = &fs.PathError{Op: "open", Path: "/x", Err: unix.EPERM}
	if got := h.run("counters"); got.code != exitError || !strings.Contains(got.err, "(this needs root)") {
		t.Errorf("not root: exit code %d, %s", got.code, got.err)
	}
	h.openErr = errors.New("no dataplane is loaded under /x: has enid run?")
	// The status is worth reading without maps, and says what they hold before the agent has applied any.
	fresh := newHost(t)
	if err := os.WriteFile(filepath.Join(fresh.state, "host-a", "status.json"), []byte(`{"host": "host-a"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := fresh.run("status"); !strings.Contains(got.out, "revision  7 in the maps; this agent has applied none yet") {
		t.Errorf("status of a fresh agent: %s, %s", got.out, got.err)
	}
	if got := h.run("status"); got.code != exitDone || !strings.Contains(got.out, "has enid run?") {
		t.Errorf("status: exit code %d, %s", got.code, got.out)
	}
}

func TestStatus(t *testing.T) {
	got := newHost(t).run("status", "-o", "wide")
	want := `host      host-a
agent     not running; last heard of 2026-01-02T03:04:05Z. What is in force stays in force
revision  7 (0123456789ab), applied 2026-01-02T03:03:05Z
feed      dir:/feed, nothing usable for 1m0s: syntax
uplinks   uplink0
enis      1 Ready, 1 Waiting, 0 Degraded
flows     160 of 1000, 60 of 500 borrowed beyond what is guaranteed
limit     ENI web-0 has all 100 flows that it may have and opens no more (FLOW_QUOTA): raise its limits.flows
limit     ENI db-0 has 60 of the 65 flows that it may have
problem   uplink uplink0 is down
foreign   other (id 5) runs before ours at tcx ingress of uplink0
error     2026-01-02T03:04:05Z first line
          second line

ENI    STATE    DEVICE     REASON              INDEX  IFINDEX  FLOWS
db-0   Waiting  eni-db-0   no device eni-db-0  2      0        60/65
web-0  Ready    eni-web-0  -                   1      9        100/100

EIP           ENI    PRIVATE-IP  ANNOUNCED  GATEWAY
203.0.113.10  web-0  10.0.1.10   yes        no
`
	if diff := cmp.Diff(want, got.out); diff != "" {
		t.Error(diff)
	}
}

// TestFeedAgeOfDeadAgent: what a dead agent said of its feed grows old.
func TestFeedAgeOfDeadAgent(t *testing.T) {
	h := newHost(t)
	path := filepath.Join(h.state, "host-a", "status.json")
	text := `{"host": "host-a", "feed": {"source": "dir:/feed", "heard": "2026-01-02T02:00:00Z"}, "updated": "2026-01-02T03:00:00Z"}`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := h.run("status"); !strings.Contains(got.out, "dir:/feed, last change 2026-01-02T02:00:00Z; nobody has listened for 4m5s") {
		t.Error(got.out)
	}
	if got := h.run("status", "-o", "json"); !strings.Contains(got.out, `"feedAgeSeconds": 245`) {
		t.Error(got.out)
	}
}

func TestCounters(t *testing.T) {
	h := newHost(t)
	got := h.run("counters", "--eni", "web-0")
	want := `ENI    DIRECTION  REASON     PACKETS  BYTES
web-0  out        received   10       1000
web-0  out        DELIVERED  7        700
web-0  out        SG_DENIED  2        200
web-0  out        balance    1        -
`
	if diff := cmp.Diff(want, got.out); diff != "" {
		t.Error(diff)
	}
	if got := h.run("counters", "-o", "name"); got.out != "(host)/in\ndb-0/in\nweb-0/out\n" {
		t.Errorf("names %q", got.out)
	}
	var accounts []account
	if err := json.Unmarshal([]byte(h.run("counters", "-o", "json", "--eni", "db-0").out), &[]any{}); err != nil {
		t.Errorf("%v in %v", err, accounts)
	}
}

func TestFlowList(t *testing.T) {
	h := newHost(t)
	for _, tt := range []struct {
		filter string
		want   []string
	}{
		{"", []string{
			"tcp 10.0.1.10:40000 > 10.0.2.10:5432", // as db-0 sees it
			"tcp 192.0.2.1:55555 > 10.0.1.10:80",
			"tcp 10.0.1.10:40000 > 10.0.2.10:5432",
		}},
		{"--eni db-0", []string{"tcp 10.0.1.10:40000 > 10.0.2.10:5432"}},
		{"--peer 192.0.2.0/24", []string{"tcp 192.0.2.1:55555 > 10.0.1.10:80"}},
		{"--peer 10.0.2.10", []string{"tcp 10.0.1.10:40000 > 10.0.2.10:5432"}},
		{"--local 10.0.2.10", []string{"tcp 10.0.1.10:40000 > 10.0.2.10:5432"}},
		{"--state opening", []string{"tcp 192.0.2.1:55555 > 10.0.1.10:80"}},
		{"--state answered", []string{"tcp 192.0.2.1:55555 > 10.0.1.10:80"}},
		{"--state refused", nil},
		{"--protocol udp", nil},
		{"--origin internet", nil},
	} {
		got := h.run(append([]string{"flow", "list", "-o", "name"}, strings.Fields(tt.filter)...)...)
		want := strings.Join(append(tt.want, ""), "\n")
		if diff := cmp.Diff(want, got.out); diff != "" {
			t.Errorf("%q: %s", tt.filter, diff)
		}
	}
	if h.maps.closed == 0 {
		t.Error("the maps were not closed")
	}
}

func TestFlowTable(t *testing.T) {
	h := newHost(t)
	h.maps.flows = h.maps.flows[2:]
	h.maps.flows[0].EIP = netip.MustParseAddr("203.0.113.10")
	want := `ENI    PROTOCOL  LOCAL         REMOTE           OPENER  STATE     AGE  ORIGIN  RULE      EIP           EXPIRES  PACKETS-OUT  BYTES-OUT  PACKETS-IN  BYTES-IN
web-0  tcp       10.0.1.10:80  192.0.2.1:55555  peer    answered  3s   vpc     web/gone  203.0.113.10  30s      1            2          3           4
`
	if diff := cmp.Diff(want, h.run("flow", "list", "-o", "wide").out); diff != "" {
		t.Error(diff)
	}
}

func TestFlowFlush(t *testing.T) {
	h := newHost(t)
	h.stdin = "n\n"
	if got := h.run("flow", "flush", "--eni", "web-0"); got.code != exitError || len(h.maps.ended) != 0 ||
		!strings.Contains(got.out, "192.0.2.1:55555") {
		t.Errorf("refused: exit code %d, ended %v, named %q", got.code, h.maps.ended, got.out)
	}
	h.stdin = "y\n"
	if got := h.run("flow", "flush", "--eni", "web-0", "--state", "opening"); got.code != exitDone || len(h.maps.ended) != 1 {
		t.Errorf("confirmed: exit code %d, ended %v, %s", got.code, h.maps.ended, got.err)
	}
	h.maps.ended, h.stdin = nil, ""
	if got := h.run("flow", "flush", "--all", "--yes"); got.code != exitDone || len(h.maps.ended) != 3 {
		t.Errorf("all: exit code %d, ended %v, %s", got.code, h.maps.ended, got.err)
	}
}

func TestMapGet(t *testing.T) {
	h := newHost(t)
	got := h.run("map", "get", "endpoints4", "10.0.2.10", "VPC=blue", "-o", "json")
	var rows []map[string]any
	if err := json.Unmarshal([]byte(got.out), &rows); err != nil {
		t.Fatal(err)
	}
	if len(rows) != 1 || rows[0]["nextHop"] != "blue-0" {
		t.Errorf("rows %v", rows)
	}
	got = h.run("map", "dump", "endpoints4", "-o", "name")
	if want := "endpoints4/red/10.0.1.10\nendpoints4/red/10.0.2.10\nendpoints4/blue/10.0.2.10\n"; got.out != want {
		t.Errorf("names:\n%s", got.out)
	}
}

func TestValidate(t *testing.T) {
	h := newHost(t)
	if got := h.run("validate", "-f", example); got.code != exitDone || got.out != "" {
		t.Errorf("exit code %d, %q %q", got.code, got.out, got.err)
	}
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	text := "apiVersion: eniplane.io/v1alpha1\nkind: VPC\nmetadata: {name: v}\nspec: {vni: 0, cidrs: [10.0.0.1/8], colour: red}\n"
	if err := os.WriteFile(bad, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got := h.run("validate", "-f", bad)
	lines := strings.Split(strings.TrimSpace(got.err), "\n")
	if got.code != exitError || len(lines) != 3 {
		t.Errorf("exit code %d, want 3 lines: %s", got.code, got.err)
	}
	for _, l := range lines {
		if !strings.HasPrefix(l, bad+":4: VPC/v: spec.") {
			t.Errorf("line %q", l)
		}
	}
	var problems []problem
	if err := json.Unmarshal([]byte(h.run("validate", "-f", bad, "-o", "json").out), &problems); err != nil || len(problems) != 3 {
		t.Errorf("%v: %v", err, problems)
	}
}

// TestGetReadsBack: what `get` prints as YAML or JSON is a feed, state included: kind by kind and all
// at once.
func TestGetReadsBack(t *testing.T) {
	for _, format := range []string{"yaml", "json"} {
		for _, kinds := range []string{"region host instancetype instance vpc rtb pl nacl subnet sg enis eips", "all"} {
			h, dir := newHost(t), t.TempDir()
			for _, kind := range strings.Fields(kinds) {
				got := h.run("get", kind, "-o", format, "--feed", "dir:FEED")
				if got.code != exitDone {
					t.Fatalf("%s: %s", kind, got.err)
				}
				if err := os.WriteFile(filepath.Join(dir, kind+"."+format), []byte(got.out), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want := h.run("get", "all", "-o", "yaml", "--feed", "dir:FEED")
			got := h.run("get", "all", "-o", "yaml", "--feed", "dir:"+dir)
			if got.code != exitDone {
				t.Error(got.err)
			}
			if diff := cmp.Diff(want.out, got.out); diff != "" {
				t.Error(diff)
			}
		}
	}
	h := newHost(t)
	if got := h.run("get", "eni", "web-0", "-o", "json", "--feed", "dir:FEED"); !strings.Contains(got.out, `"state": "Ready"`) {
		t.Errorf("no state in %s", got.out)
	}
}

func TestCheck(t *testing.T) {
	h := newHost(t)
	h.features = []feature{
		{Name: "BTF", State: featureOK, Needs: "CONFIG_DEBUG_INFO_BTF"},
		{Name: "tcx links", State: featureMissing, Needs: "6.6", Detail: "not supported"},
	}
	got := h.run("check", "--color", "always")
	if got.code != exitError || !strings.Contains(got.err, "1 of 2") ||
		!strings.Contains(got.out, "tcx links  \x1b[31mmissing\x1b[0m  6.6") {
		t.Errorf("exit code %d, %q %q", got.code, got.out, got.err)
	}
}

func TestColour(t *testing.T) {
	for _, tt := range []struct {
		flag, noColor string
		terminal      bool
		want          bool
	}{
		{"auto", "", true, true},
		{"auto", "", false, false},
		{"auto", "1", true, false},
		{"always", "1", false, true},
		{"never", "", true, false},
	} {
		t.Run(fmt.Sprint(tt), func(t *testing.T) {
			h := newHost(t)
			h.terminal, h.env = tt.terminal, map[string]string{"NO_COLOR": tt.noColor}
			got := h.run("status", "--color", tt.flag)
			if strings.Contains(got.out, "\x1b[") != tt.want {
				t.Errorf("%q", got.out)
			}
		})
	}
}

func TestTeardown(t *testing.T) {
	h := newHost(t)
	h.stdin = "\n"
	if got := h.run("teardown"); got.code != exitError || len(h.tornDown) != 0 {
		t.Errorf("not confirmed: exit code %d, %v", got.code, h.tornDown)
	}
	if got := h.run("teardown", "--yes", "--host", "host-z"); got.code != exitDone || !strings.Contains(got.err, "nothing of this host is here") ||
		strings.Contains(got.err, "is clean") {
		t.Errorf("wrong name: exit code %d, %s", got.code, got.err)
	}
	if got := h.run("teardown", "--yes"); got.code != exitDone || len(h.tornDown) != 1 || h.tornDown[0].Host != "host-a" {
		t.Errorf("exit code %d, %v, %s", got.code, h.tornDown, got.err)
	}
	if _, err := os.Stat(filepath.Join(h.state, "host-a")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the state directory is still there: %v", err)
	}
}

func TestCompletion(t *testing.T) {
	for _, tt := range []struct {
		line []string
		want string
	}{
		{[]string{"get", ""}, "securitygroup\n"},
		{[]string{"--feed", "dir:FEED", "get", "eni", ""}, "blue-0\ndb-0\nweb-0\n"},
		{[]string{"map", "dump", ""}, "endpoints4\n"},
		{[]string{"status", "--host", ""}, "host-a\n"},
		{[]string{"counters", "--eni", ""}, "db-0\nweb-0\n"},
		{[]string{"flow", "list", "--eni", ""}, "db-0\nweb-0\n"},
		{[]string{"status", "-o", ""}, "wide\n"},
	} {
		got := newHost(t).run(append([]string{"__complete"}, tt.line...)...)
		if !strings.Contains(got.out, tt.want) {
			t.Errorf("%v: %q", tt.line, got.out)
		}
	}
}
