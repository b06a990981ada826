// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"bytes"
	"io"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/eniplane/eniplane/pkg/dataplane"
)

// sample is a flow of each kind: IPv4 with a peer, IPv6 with the internet by an EIP.
func sample() []Flow {
	return []Flow{
		{
			MovedFlow: dataplane.MovedFlow{
				Class: 0, Local: netip.MustParseAddr("10.0.1.10"), Remote: netip.MustParseAddr("10.0.2.20"), LocalPort: 443, RemotePort: 40000,
				State: 2, Flags: 3, Remaining: 100, Age: 7, Seq: [2]uint16{1, 65535}, Packets: [2]uint64{1, 1 << 40}, Bytes: [2]uint64{60, 1 << 50},
			},
			Peer: Peer{ENI: "web-1", UID: "u-1"}, Rule: "SecurityGroup/web ingress http",
		},
		{
			MovedFlow: dataplane.MovedFlow{
				Class: 1 | 1<<3, Local: netip.MustParseAddr("fd00::1"), Remote: netip.MustParseAddr("2001:db8::9"), LocalPort: 53, RemotePort: 1,
				NAT: netip.MustParseAddr("2001:db8:e::1"), State: 1, Reason: 5, Remaining: 1,
			},
			Peer: Peer{Internet: true},
		},
	}
}

var sameAddr = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

func TestFlowsRoundTrip(t *testing.T) {
	got, err := decodeFlows(encodeFlows(sample()))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(sample(), got, sameAddr); d != "" {
		t.Errorf("(-sent +received):\n%s", d)
	}
}

// Whatever a peer sends is refused as a whole, or read as it is meant.
func TestDecodeFlowsRefuses(t *testing.T) {
	good := encodeFlows(sample())
	for n := range good {
		if _, err := decodeFlows(good[:n]); err == nil {
			t.Errorf("the first %d of %d bytes are taken", n, len(good))
		}
	}
	if _, err := decodeFlows(append(bytes.Clone(good), 0)); err == nil {
		t.Error("a byte behind the flows is taken")
	}
	for name, spoil := range map[string]func(*Flow){
		"a state that no flow has":          func(f *Flow) { f.State = 9 },
		"no state":                          func(f *Flow) { f.State = 0 },
		"a class that no flow has":          func(f *Flow) { f.Class = 1 << 6 },
		"a protocol that no class has":      func(f *Flow) { f.Class = 5 },
		"internet and transit":              func(f *Flow) { f.Class = 1<<3 | 1<<4 },
		"a life of months":                  func(f *Flow) { f.Remaining = 1 << 30 },
		"an IPv4 address in an IPv6 one":    func(f *Flow) { f.Local = netip.MustParseAddr("::ffff:10.0.0.1"); f.Remote = f.Local },
		"an EIP of the family of the other": func(f *Flow) { f.NAT = netip.MustParseAddr("2001:db8::1") },
	} {
		flows := sample()[:1]
		spoil(&flows[0])
		if err := flows[0].Check(); err == nil {
			t.Errorf("%s: the check takes it", name)
		}
	}
}

func TestFrames(t *testing.T) {
	var b bytes.Buffer
	if err := writeJSON(&b, frameHello, hello{Version: version, ENI: "web-0"}); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	var h hello
	if err := readJSON(strings.NewReader(text), frameHello, &h); err != nil || h.ENI != "web-0" {
		t.Errorf("got %+v, %v", h, err)
	}
	if err := readJSON(strings.NewReader(text), frameDone, &h); err == nil {
		t.Error("a frame of another type is taken")
	}
	if _, _, err := readFrame(strings.NewReader(text[:len(text)-1])); err == nil || err == io.EOF {
		t.Errorf("a frame that ends early: %v", err)
	}
	if _, _, err := readFrame(strings.NewReader("\x7f\xff\xff\xff\x01")); err == nil {
		t.Error("a frame of 2 GB is taken")
	}
	if _, _, err := readFrame(strings.NewReader("")); err != io.EOF {
		t.Errorf("the end: %v, want io.EOF", err)
	}
}

func FuzzDecodeFlows(f *testing.F) {
	f.Add(encodeFlows(sample()))
	f.Add([]byte{0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		flows, err := decodeFlows(b)
		if err != nil {
			return
		}
		again, err := decodeFlows(encodeFlows(flows))
		if err != nil {
			t.Fatalf("what was taken is refused when it is sent on: %v", err)
		}
		if d := cmp.Diff(flows, again, sameAddr); d != "" {
			t.Errorf("(-first +second):\n%s", d)
		}
	})
}
