// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/eniplane/eniplane/pkg/lab"
)

// way is between two ends of the services lab.
type way struct{ name, from, to string }

// ways are those on which real software is run, all to vm-site.
var ways = []way{{"same host", "near", "site-mgmt"}, {"across hosts", "db", "site-data"}, {"EIP", internetNode, "site"}}

// traces: ping, traceroute and tracepath find the other end, which is one hop away: eniplane is none.
func traces(t *testing.T, l *lab.Lab) {
	for _, w := range ways {
		for _, f := range []lab.Family{lab.IPv4, lab.IPv6} {
			t.Run(w.name+"/"+f.String(), func(t *testing.T) {
				src, dst := spots(t, l, w.from, w.to, f)
				at := dst.Addr.String()
				if out := succeeds(t, l, src.Node, "ping", "-n", "-c", "3", "-i", "0.05", "-W", "10", "-I", src.Local.String(), at); !strings.Contains(out, "3 received") {
					t.Errorf("ping: %s", out)
				}
				trace := succeeds(t, l, src.Node, "traceroute", "-n", "-q", "1", "-m", "4", "-w", "10", "-s", src.Local.String(), at)
				if !hopIs(trace, 1, at) || strings.Contains(trace, "\n 2 ") {
					t.Errorf("traceroute: %s", trace)
				}
				path := succeeds(t, l, src.Node, "tracepath", "-n", "-m", "4", at)
				if !strings.Contains(path, " 1:  "+at) || !strings.Contains(path, "Resume: pmtu 1450 hops 1 back 1") {
					t.Errorf("tracepath: %s", path)
				}
			})
		}
	}
}

// hopIs says whether a line of traceroute's names an address as that hop.
func hopIs(trace string, hop int, addr string) bool {
	return slices.ContainsFunc(strings.Split(trace, "\n"), func(line string) bool {
		words := strings.Fields(line)
		return len(words) > 1 && words[0] == fmt.Sprint(hop) && words[1] == addr
	})
}

// bulkTraffic: iperf3 on each way, with the guests' offloads and without.
func bulkTraffic(t *testing.T, l *lab.Lab) {
	serveIperf(t, l, "site", "near", "db", internetNode)
	withAndWithoutOffloads(t, l, map[string][]string{"vm-site": {"eth0", "eth1", "eth2"}, "vm-near": {"eth0"}, "vm-db": {"eth0"}}, func(t *testing.T, f lab.Family) {
		for _, w := range ways {
			t.Run(w.name, func(t *testing.T) {
				for _, ends := range [][2]string{{w.from, w.to}, {w.to, w.from}} {
					src, dst := spots(t, l, ends[0], ends[1], f)
					iperf(t, l, src, dst)
				}
			})
		}
	})
}

// serveIperf starts servers that run until the end of the test.
func serveIperf(t *testing.T, l *lab.Lab, ends ...string) {
	t.Helper()
	for _, end := range ends {
		from, to := spots(t, l, end, end, lab.IPv4)
		from.Addr, to.Addr = from.Local, to.Local
		background(t, l, to.Node, "iperf3", "-s")
		waitListens(t, l, from, to, 5201)
	}
}

// withAndWithoutOffloads runs something for both families while devices of guests, by node, do all that they can, and
// while they do nothing.
func withAndWithoutOffloads(t *testing.T, l *lab.Lab, devices map[string][]string, do func(*testing.T, lab.Family)) {
	t.Helper()
	all := []lab.Offload{lab.OffloadRX, lab.OffloadTX, lab.OffloadSG, lab.OffloadTSO, lab.OffloadGSO, lab.OffloadGRO}
	offload := func(on bool) {
		for node, names := range devices {
			if err := l.In(node, func(n *lab.Namespace) error {
				var errs []error
				for _, device := range names {
					errs = append(errs, n.SetOffload(device, on, all...))
				}
				return errors.Join(errs...)
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Cleanup(func() { offload(true) })
	for _, on := range []bool{true, false} {
		offload(on)
		for _, f := range []lab.Family{lab.IPv4, lab.IPv6} {
			t.Run(fmt.Sprintf("offloads %t/%s", on, f), func(t *testing.T) { do(t, f) })
		}
	}
}

// iperf fetches a few megabytes. All of them arrive, and few of them twice. It is the client that receives: a server of
// iperf3 ends with its client and does not wait for what is on its way. It serves one client at a time, and the last one
// until a moment after that has gone.
func iperf(t *testing.T, l *lab.Lab, src, dst lab.Spot) {
	t.Helper()
	const bytes = 4 << 20
	var out string
	for end := time.Now().Add(commandWait); ; time.Sleep(20 * time.Millisecond) {
		out, _, _ = execute(t, l, src.Node, "iperf3", "-J", "-R", "-n", fmt.Sprint(bytes), "-B", src.Local.String(), "-c", dst.Addr.String())
		if !strings.Contains(out, "server is busy") && !strings.Contains(out, "reset by peer") || time.Now().After(end) {
			break
		}
	}
	received, again := iperfReport(t, out)
	if received < bytes {
		t.Errorf("%s to %s: %d bytes received, want %d: %s", dst, src, received, bytes, out)
	}
	if segments := received / 1400; again > segments/10 {
		t.Errorf("%s to %s: %d of some %d segments were sent again", dst, src, again, segments)
	}
}

// iperfReport reads what iperf3 says of bytes and segments.
func iperfReport(t *testing.T, out string) (received, again int64) {
	t.Helper()
	var report struct {
		End struct {
			Sent struct {
				Retransmits int64 `json:"retransmits"`
			} `json:"sum_sent"`
			Received struct {
				Bytes int64 `json:"bytes"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return report.End.Received.Bytes, report.End.Sent.Retransmits
}

// apart: one instance is administered by one ENI, asks its database by another and serves the public by the third. A
// capture at each device shows packets of its own addresses only.
func apart(t *testing.T, l *lab.Lab, sites []site) {
	dir := t.TempDir()
	own := map[string][]netip.Prefix{}
	var stops []func()
	_, p := l.Plan.Port("site")
	inst := l.Plan.Instance("vm-site")
	if p == nil || inst == nil {
		t.Fatal("the lab has no vm-site")
	}
	for _, port := range inst.Ports {
		own[port.Guest] = port.Addrs
		stops = append(stops, capture(t, l, port.Guest, filepath.Join(dir, port.Guest)))
	}
	for _, f := range []lab.Family{lab.IPv4, lab.IPv6} {
		client, _ := spots(t, l, internetNode, "site", f)
		for _, s := range sites {
			succeeds(t, l, internetNode, curl(s, s.eips[f], client.Addr)...)
		}
		for _, ends := range [][2]string{{"near", "site-mgmt"}, {"admin", "site-mgmt"}, {"site-data", "db"}, {"db", "site-mgmt"}, {"admin", "site-data"}} {
			src, dst := spots(t, l, ends[0], ends[1], f)
			exchangeTCP(t, l, src, dst, 1<<16, func() {})
		}
	}
	time.Sleep(silence)
	for _, stop := range stops {
		stop()
	}
	for device, addrs := range own {
		packets, strays := readCapture(t, filepath.Join(dir, device), addrs)
		if packets < 50 {
			t.Errorf("%d packets were captured at %s: the capture or the traffic is missing", packets, device)
		}
		if len(strays) > 0 {
			t.Errorf("at %s, which has %v, there were %d packets of others: %v", device, addrs, len(strays), strays[0])
		}
	}
}

// capture writes what a device of vm-site sends and gets to a file, until it is told to stop.
func capture(t *testing.T, l *lab.Lab, device, file string) func() {
	t.Helper()
	stop := interruptible(t, l, "vm-site", "tcpdump", "-i", device, "-U", "--immediate-mode", "-s", "128", "-B", "8192", "-Z", "root", "-w", file)
	for end := time.Now().Add(commandWait); ; time.Sleep(10 * time.Millisecond) {
		if st, err := os.Stat(file); err == nil && st.Size() > 0 {
			return stop
		}
		if time.Now().After(end) {
			t.Fatalf("tcpdump captures nothing at %s", device)
		}
	}
}

// readCapture counts the IP packets of a capture, and lists those that are neither from nor to any of the addresses.
// Link-local ones and multicast do not leave the link.
func readCapture(t *testing.T, file string, own []netip.Prefix) (packets int, strays []string) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := pcapgo.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for {
		data, _, err := r.ReadPacketData()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return packets, strays
		}
		if err != nil {
			t.Fatal(err)
		}
		src, dst, ok := addresses(data)
		if !ok {
			continue
		}
		packets++
		if !slices.ContainsFunc(own, func(p netip.Prefix) bool { return p.Addr() == src || p.Addr() == dst }) {
			strays = append(strays, fmt.Sprintf("%s > %s", src, dst))
		}
	}
}

// addresses are those of an IP packet, and of an ARP request the sender's.
func addresses(frame []byte) (src, dst netip.Addr, ok bool) {
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.NoCopy)
	var from, to []byte
	switch layer := p.NetworkLayer().(type) {
	case *layers.IPv4:
		from, to = layer.SrcIP.To4(), layer.DstIP.To4()
	case *layers.IPv6:
		from, to = layer.SrcIP, layer.DstIP
	}
	if arp, is := p.Layer(layers.LayerTypeARP).(*layers.ARP); is {
		from, to = arp.SourceProtAddress, arp.DstProtAddress
	}
	src, _ = netip.AddrFromSlice(from)
	dst, ok = netip.AddrFromSlice(to)
	return src, dst, ok && !src.IsLinkLocalUnicast() && !dst.IsMulticast() && !dst.IsLinkLocalUnicast()
}
