// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/guest"
	"github.com/eniplane/eniplane/pkg/lab"
)

// commandWait is how long a command of the proofs may take on a busy machine.
const commandWait = 30 * time.Second

// execute runs a command in a node and returns its output and exit code.
func execute(t *testing.T, l *lab.Lab, node string, command ...string) (string, string, int) {
	t.Helper()
	if _, err := exec.LookPath(command[0]); err != nil {
		t.Fatalf("%v (deploy/install-deps.sh e2e installs it)", err)
	}
	var out, errOut bytes.Buffer
	ctx, cancel := context.WithTimeout(context.Background(), commandWait)
	defer cancel()
	err := l.Exec(ctx, node, command, nil, &out, &errOut)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%q in %s: %v", command, node, err)
	}
	code := 0
	if exit != nil {
		code = exit.ExitCode()
	}
	return out.String(), errOut.String(), code
}

// succeeds runs a command in a node that must end well, and returns its output.
func succeeds(t *testing.T, l *lab.Lab, node string, command ...string) string {
	t.Helper()
	out, errOut, code := execute(t, l, node, command...)
	if code != 0 {
		t.Fatalf("%q in %s: exit code %d\n%s%s", command, node, code, out, errOut)
	}
	return out
}

// TestServices: what people run, in a lab of its own.
func TestServices(t *testing.T) {
	l := upFrom(t, "testdata/services-lab.yaml", false)
	all := makeSites(t)
	startNginx(t, l, all)
	t.Run("sites", func(t *testing.T) { httpsSites(t, l, all) })
	t.Run("apart", func(t *testing.T) { apart(t, l, all) })
	t.Run("traces", func(t *testing.T) { traces(t, l) })
	t.Run("iperf3", func(t *testing.T) { bulkTraffic(t, l) })
	t.Run("overlay MTU", func(t *testing.T) { overlayMTU(t, l) })
	t.Run("port MTU", func(t *testing.T) { portMTU(t, l) })
	t.Run("guest", func(t *testing.T) { guestRoutes(t, l) })
	balanced(t, l)
}

// guestFile writes what `enictl guest describe` says of vm-site.
func guestFile(t *testing.T, l *lab.Lab) string {
	t.Helper()
	text, err := exec.Command(labs.binary(t, "enictl"), "guest", "describe", "vm-site", "--feed", "dir:"+l.FeedDir()).Output()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "guest.yaml")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// guestRoutes: an instance with three ENIs as DHCP leaves it answers by the wrong ones; `enictl guest` finds that and
// mends it.
func guestRoutes(t *testing.T, l *lab.Lab) {
	enictl, file := labs.binary(t, "enictl"), guestFile(t, l)
	succeeds(t, l, "vm-site", enictl, "guest", "check", "-f", file)

	if out := succeeds(t, l, "vm-site", enictl, "guest", "routes", "--remove"); !strings.Contains(out, "ip rule del") {
		t.Errorf("nothing of the lab's was ours: %s", out)
	}
	wrongENI(t, l, enictl, file)

	printed := succeeds(t, l, "vm-site", enictl, "guest", "routes", "-f", file)
	if _, _, code := execute(t, l, "vm-site", enictl, "guest", "check", "-f", file); code != 1 {
		t.Errorf("printing has changed something: %s", printed)
	}
	if did := succeeds(t, l, "vm-site", enictl, "guest", "routes", "-f", file, "--apply"); did != printed {
		t.Errorf("it did\n%sand had said\n%s", did, printed)
	}
	if again := succeeds(t, l, "vm-site", enictl, "guest", "routes", "-f", file, "--apply"); again != "# nothing to change\n" {
		t.Errorf("a second run does %s", again)
	}
	mended(t, l, enictl, file)

	// From nothing at all: without DHCP, and from a metadata service.
	for _, device := range []string{"eth0", "eth1", "eth2"} {
		succeeds(t, l, "vm-site", "ip", "address", "flush", "dev", device)
	}
	url := metadataService(t, l, file)
	succeeds(t, l, "vm-site", enictl, "guest", "routes", "--from", url, "--apply")
	mended(t, l, enictl, file)
	watched(t, l, enictl, file)
}

// watched: what somebody takes away comes back, more than once.
func watched(t *testing.T, l *lab.Lab, enictl, file string) {
	background(t, l, "vm-site", enictl, "guest", "routes", "-f", file, "--apply", "--watch", "1s")
	for range 2 {
		succeeds(t, l, "vm-site", "ip", "rule", "del", "from", "10.0.2.10", "lookup", "69001")
		for end := time.Now().Add(commandWait); ; time.Sleep(50 * time.Millisecond) {
			out, _, code := execute(t, l, "vm-site", enictl, "guest", "check", "-f", file)
			if code == 0 {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("nobody has mended it: %s", out)
			}
		}
	}
}

// wrongENI: replies leave by the ENI in whose subnet the peer is, or by the first.
func wrongENI(t *testing.T, l *lab.Lab, enictl, file string) {
	out, _, code := execute(t, l, "vm-site", enictl, "guest", "check", "-f", file, "-o", "json")
	var problems []guest.Problem
	if err := json.Unmarshal([]byte(out), &problems); err != nil || code != 1 {
		t.Fatalf("check ends with %d and %v: %s", code, err, out)
	}
	found := map[string]bool{}
	for _, p := range problems {
		found[fmt.Sprintf("%s>%s %s %s", p.Address, p.Peer, p.Want, p.Got)] = true
	}
	for _, want := range []string{"10.0.2.10>10.0.3.1 eth1 eth2", "fd00:1:0:2::10>fd00:1:0:3::1 eth1 eth2", "10.0.3.10>192.0.2.1 eth2 eth0"} {
		if !found[want] {
			t.Errorf("check does not find %s: %s", want, out)
		}
	}
	// IPv4 asks for the peer's MAC in the name of the reply's source, IPv6 in that of the device.
	for _, f := range []lab.Family{lab.IPv4, lab.IPv6} {
		denied(t, l, probe{from: "db", to: "site-mgmt", protocol: "tcp", port: 22, family: f}, "site-data", dataplane.Out, dataplane.ReasonWrongENI)
	}
	status, err := exec.Command(enictl, "status", "--host", "host-a", "--bpffs", l.AgentBPFFS(), "--state-dir", l.AgentStateDir()).CombinedOutput()
	if err != nil || !strings.Contains(string(status), "ENI site-data: ") || !strings.Contains(string(status), "(WRONG_ENI)") {
		t.Errorf("status does not name the ENI: %v\n%s", err, status)
	}
}

// mended: everybody reaches each ENI, wherever they are.
func mended(t *testing.T, l *lab.Lab, enictl, file string) {
	succeeds(t, l, "vm-site", enictl, "guest", "check", "-f", file)
	for _, f := range []lab.Family{lab.IPv4, lab.IPv6} {
		for _, ends := range [][2]string{{"db", "site-mgmt"}, {"db", "site-data"}, {"near", "site-data"}} {
			allowed(t, l, probe{from: ends[0], to: ends[1], protocol: "tcp", port: 22, family: f})
		}
		allowed(t, l, probe{from: internetNode, to: "site", protocol: "icmp", family: f})
		allowed(t, l, probe{from: "site", to: internetNode, protocol: "udp", port: 53, family: f})
	}
}

// metadataService serves a guest's file inside the guest as EC2's metadata service would, and returns its address.
func metadataService(t *testing.T, l *lab.Lab, file string) string {
	t.Helper()
	m, err := guest.ReadFile(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	const macs = "/latest/meta-data/network/interfaces/macs/"
	tree := map[string]string{}
	for _, e := range m.ENIs {
		tree[macs] += e.MAC + "/\n"
		tree[macs+e.MAC+"/device-number"] = fmt.Sprint(e.Index)
		for _, a := range e.Addrs {
			leaf, subnet := "/local-ipv4s", "/subnet-ipv4-cidr-block"
			if a.IP.Is6() {
				leaf, subnet = "/ipv6s", "/subnet-ipv6-cidr-blocks"
			}
			tree[macs+e.MAC+leaf] += a.IP.String() + "\n"
			tree[macs+e.MAC+subnet] = a.Subnet.String()
		}
	}
	ln, err := l.Listen(lab.Spot{Node: "vm-site", Local: netip.AddrFrom4([4]byte{127, 0, 0, 1})}, 8169)
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: ln, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, ok := tree[r.URL.Path]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
		}
		_, _ = io.WriteString(w, text)
	})}}
	server.Start()
	t.Cleanup(server.Close)
	return "http://127.0.0.1:8169"
}
