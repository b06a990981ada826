// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/lab"
)

const (
	routingObjects = "routing-objects.yaml"
	megabytes      = 2 << 20
)

// TestRouting: an appliance between two subnets and in front of the internet, two of them in a row, peers, and a
// table as long as it may be.
func TestRouting(t *testing.T) {
	l := upFrom(t, "testdata/routing-lab.yaml", false)
	makeAppliance(t, l, "vm-fw")
	makeAppliance(t, l, "vm-fw-b")
	feed, err := os.ReadFile(filepath.Join(l.FeedDir(), routingObjects))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []lab.Family{lab.IPv4, lab.IPv6} {
		t.Run("appliance/"+f.String(), func(t *testing.T) { appliance(t, l, f) })
		t.Run("internet/"+f.String(), func(t *testing.T) { throughToInternet(t, l, f) })
		t.Run("peers/"+f.String(), func(t *testing.T) { peers(t, l, f) })
	}
	t.Run("iperf3", func(t *testing.T) { fastWays(t, l) })
	t.Run("chain", func(t *testing.T) { chain(t, l, string(feed)) })
	t.Run("chain to the internet", func(t *testing.T) { chainToInternet(t, l, string(feed)) })
	t.Run("one-sided", func(t *testing.T) { oneSided(t, l, string(feed)) })
	t.Run("policy", func(t *testing.T) { policyRoute(t, l, string(feed)) })
	t.Run("policy ways", func(t *testing.T) { policyWays(t, l, string(feed)) })
	t.Run("prefix list", func(t *testing.T) { prefixListRoute(t, l, string(feed)) })
	t.Run("whole tables", func(t *testing.T) { wholeTables(t, l, string(feed)) })
	t.Run("100000 routes", func(t *testing.T) { manyRoutes(t, l, string(feed)) })
	balanced(t, l)
}

// makeAppliance lets a node forward as a firewall would: with connections tracked, one port refused, and what goes
// to the internet translated.
func makeAppliance(t *testing.T, l *lab.Lab, node string) {
	t.Helper()
	run(t, l, node, "", "sysctl", "-q", "-w", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	run(t, l, node, `
table inet appliance {
	chain forward {
		type filter hook forward priority 0; policy accept
		tcp dport 7777 drop
		ct state invalid drop
	}
	chain out {
		type nat hook postrouting priority 100
		ip saddr { 10.0.3.0/24, 10.0.6.0/24 } ip daddr 198.51.100.0/24 masquerade
		ip6 saddr { fd00:1:0:3::/64, fd00:1:0:6::/64 } ip6 daddr 2001:db8:51::/64 masquerade
	}
}`, "nft", "-f", "-")
}

func run(t *testing.T, l *lab.Lab, node, input string, command ...string) {
	t.Helper()
	var out bytes.Buffer
	ctx, cancel := context.WithTimeout(context.Background(), answerWait)
	defer cancel()
	if err := l.Exec(ctx, node, command, strings.NewReader(input), &out, &out); err != nil {
		t.Fatalf("%v in %s: %v\n%s", command, node, err, out.String())
	}
}

func spots(t *testing.T, l *lab.Lab, from, to string, f lab.Family) (src, dst lab.Spot) {
	t.Helper()
	src, dst, err := l.Spots(from, to, f)
	if err != nil {
		t.Fatal(err)
	}
	return src, dst
}

// appliance: between the subnets app and data everything goes through fw, whichever hosts the ends are on.
func appliance(t *testing.T, l *lab.Lab, f lab.Family) {
	for _, from := range []string{"app-a", "app-b"} {
		for _, to := range []string{"data-a", "data-b"} {
			for _, protocol := range []string{"icmp", "tcp", "udp"} {
				allowed(t, l, probe{from: from, to: to, protocol: protocol, port: 443, family: f})
			}
			allowed(t, l, probe{from: to, to: from, protocol: "tcp", port: 443, family: f})
			src, dst := spots(t, l, from, to, f)
			before := counters(t, l)
			exchangeTCP(t, l, src, dst, megabytes, func() {})
			in, out := packetsAt(t, l, before, "fw")
			if in < 200 || out < 200 {
				t.Errorf("%s to %s: %d packets came to fw and %d from it: they take another way", from, to, in, out)
			}
			if ttl := ttlOf(t, l, src, dst); ttl != 63 {
				t.Errorf("%s to %s: arrives with TTL %d, want 63: the appliance counts down, nobody else", from, to, ttl)
			}
			if by := firstHop(t, l, src, dst); by != hopOf(t, l, "fw", f) {
				t.Errorf("%s to %s: the first hop is %v, want that of fw", from, to, by)
			}
		}
	}
	// What its groups do not allow it does not get; what it drops itself was delivered to it.
	denied(t, l, probe{from: "app-a", to: "data-b", protocol: "tcp", port: 9000, family: f}, "fw", dataplane.In, dataplane.ReasonSGDenied)
	denied(t, l, probe{from: "app-b", to: "data-a", protocol: "tcp", port: 9000, family: f}, "fw", dataplane.In, dataplane.ReasonSGDenied)
	denied(t, l, probe{from: "app-a", to: "data-a", protocol: "tcp", port: 7777, family: f}, "fw", dataplane.In, dataplane.ReasonDelivered)
	// Inside a subnet nothing goes through it.
	src, dst := spots(t, l, "app-a", "app-b", f)
	if ttl := ttlOf(t, l, src, dst); ttl != 64 {
		t.Errorf("app-a to app-b arrives with TTL %d, want 64", ttl)
	}
}

func hopOf(t *testing.T, l *lab.Lab, eni string, f lab.Family) netip.Addr {
	t.Helper()
	s, _ := spots(t, l, eni, eni, f)
	return s.Addr
}

// packetsAt is what was delivered to and from an ENI since then.
func packetsAt(t *testing.T, l *lab.Lab, before lab.Counters, eni string) (in, out uint64) {
	t.Helper()
	for _, m := range counters(t, l).Since(before) {
		if m.ENI != eni || m.Reason != dataplane.ReasonDelivered {
			continue
		}
		if m.Direction == dataplane.In {
			in += m.Packets
		} else {
			out += m.Packets
		}
	}
	return in, out
}

// ttlOf is the TTL with which a datagram arrives that was sent with 64.
func ttlOf(t *testing.T, l *lab.Lab, from, to lab.Spot) int {
	t.Helper()
	server, err := l.ListenUDP(to, 7071)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	client, err := l.ListenUDP(from, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	option(t, server, unix.IPPROTO_IP, unix.IP_RECVTTL, unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, to, 1)
	option(t, client, unix.IPPROTO_IP, unix.IP_TTL, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, to, 64)
	if _, err := client.WriteToUDPAddrPort([]byte("how far"), netip.AddrPortFrom(to.Addr, 7071)); err != nil {
		t.Fatal(err)
	}
	if err := server.SetReadDeadline(time.Now().Add(answerWait)); err != nil {
		t.Fatal(err)
	}
	oob := make([]byte, 256)
	_, n, _, _, err := server.ReadMsgUDPAddrPort(make([]byte, 64), oob)
	if err != nil {
		t.Errorf("from %s to %s: %v", from, to, err)
		return 0
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 || len(messages[0].Data) < 1 {
		t.Fatalf("control messages %v (%v)", messages, err)
	}
	return int(messages[0].Data[0])
}

func option(t *testing.T, c *net.UDPConn, level4, name4, level6, name6 int, s lab.Spot, value int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	level, name := level4, name4
	if s.Addr.Is6() {
		level, name = level6, name6
	}
	var set error
	if err := raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), level, name, value) }); err != nil || set != nil {
		t.Fatal(err, set)
	}
}

// firstHop is who says that the TTL of a datagram has been exceeded that was sent with 1.
func firstHop(t *testing.T, l *lab.Lab, from, to lab.Spot) netip.Addr {
	t.Helper()
	client, err := l.ListenUDP(from, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	option(t, client, unix.IPPROTO_IP, unix.IP_RECVERR, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, to, 1)
	option(t, client, unix.IPPROTO_IP, unix.IP_TTL, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, to, 1)
	if _, err := client.WriteToUDPAddrPort([]byte("who is next"), netip.AddrPortFrom(to.Addr, 33434)); err != nil {
		t.Fatal(err)
	}
	raw, err := client.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	oob := make([]byte, 512)
	for end := time.Now().Add(answerWait); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		n := 0
		if err := raw.Control(func(fd uintptr) {
			_, n, _, _, err = unix.Recvmsg(int(fd), make([]byte, 64), oob, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		}); err != nil {
			t.Fatal(err)
		}
		if err == nil {
			return offender(t, oob[:n])
		}
	}
	t.Errorf("from %s to %s: nobody says that the TTL is exceeded", from, to)
	return netip.Addr{}
}

// offender reads struct sock_extended_err, behind which the address stands of who sent the error.
func offender(t *testing.T, oob []byte) netip.Addr {
	t.Helper()
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range messages {
		switch {
		case m.Header.Type == unix.IP_RECVERR && len(m.Data) >= 24:
			return netip.AddrFrom4([4]byte(m.Data[20:24]))
		case m.Header.Type == unix.IPV6_RECVERR && len(m.Data) >= 40:
			return netip.AddrFrom16([16]byte(m.Data[24:40]))
		}
	}
	t.Fatalf("no error in %v", messages)
	return netip.Addr{}
}

// throughToInternet: app has no EIP and goes through fw, which has one.
func throughToInternet(t *testing.T, l *lab.Lab, f lab.Family) {
	for _, from := range []string{"app-a", "app-b"} {
		for _, protocol := range []string{"icmp", "tcp", "udp"} {
			allowed(t, l, probe{from: from, to: internetNode, protocol: protocol, port: 443, family: f})
		}
		src, dst := spots(t, l, from, internetNode, f)
		exchangeTCP(t, l, src, dst, megabytes, func() {})
		if ttl := ttlOf(t, l, src, dst); ttl != 63 {
			t.Errorf("%s to the internet: arrives with TTL %d, want 63", from, ttl)
		}
	}
	denied(t, l, probe{from: "lime-a", to: internetNode, protocol: "tcp", port: 443, family: f}, "lime-a", dataplane.Out, dataplane.ReasonNoEIP)
	denied(t, l, probe{from: "data-b", to: internetNode, protocol: "tcp", port: 443, family: f}, "data-b", dataplane.Out, dataplane.ReasonNoRoute)
}

// peers: app of VPC red and lime, directly and by private addresses.
func peers(t *testing.T, l *lab.Lab, f lab.Family) {
	for _, from := range []string{"app-a", "app-b"} {
		for _, to := range []string{"lime-a", "lime-b"} {
			for _, protocol := range []string{"icmp", "tcp", "udp"} {
				allowed(t, l, probe{from: from, to: to, protocol: protocol, port: 443, family: f})
			}
			allowed(t, l, probe{from: to, to: from, protocol: "tcp", port: 443, family: f})
			src, dst := spots(t, l, from, to, f)
			exchangeTCP(t, l, src, dst, megabytes, func() {})
			if ttl := ttlOf(t, l, src, dst); ttl != 64 {
				t.Errorf("%s to %s: arrives with TTL %d, want 64", from, to, ttl)
			}
		}
		denied(t, l, probe{from: "data-a", to: "lime-b", protocol: "tcp", port: 443, family: f}, "data-a", dataplane.Out, dataplane.ReasonNoRoute)
	}
}

// publish brings an edited feed into force on all hosts, and at the end of the test what was there before. It returns
// the new text.
func publish(t *testing.T, l *lab.Lab, before string, edits ...string) string {
	t.Helper()
	after := before
	for i := 0; i < len(edits); i += 2 {
		if strings.Count(after, edits[i]) != 1 {
			t.Fatalf("%q occurs %d times in the feed", edits[i], strings.Count(after, edits[i]))
		}
		after = strings.Replace(after, edits[i], edits[i+1], 1)
	}
	put := func(text string) {
		revision, err := l.PutFeed(routingObjects, []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := l.WaitRevisionAll(ctx, revision); err != nil {
			t.Fatal(err)
		}
	}
	put(after)
	t.Cleanup(func() { put(before) })
	return after
}

// chain: app to data through fw-b, on the other host, and then fw; back the other way round.
func chain(t *testing.T, l *lab.Lab, feed string) {
	publish(t, l, feed,
		`{destination: 10.0.4.0/24, target: eni/fw}`, `{destination: 10.0.4.0/24, target: eni/fw-b}`,
		`{destination: "fd00:1:0:4::/64", target: eni/fw}`, `{destination: "fd00:1:0:4::/64", target: eni/fw-b}`,
		"metadata: {name: edge-b}\nspec: {vpc: red, routes: []}",
		"metadata: {name: edge-b}\nspec: {vpc: red, routes: [{destination: 10.0.4.0/24, target: eni/fw}, {destination: \"fd00:1:0:4::/64\", target: eni/fw}]}",
		"metadata: {name: edge}\nspec:\n  vpc: red\n  routes:\n",
		"metadata: {name: edge}\nspec:\n  vpc: red\n  routes:\n  - {destination: 10.0.3.0/24, target: eni/fw-b}\n  - {destination: \"fd00:1:0:3::/64\", target: eni/fw-b}\n")
	for _, f := range []lab.Family{lab.IPv4, lab.IPv6} {
		for _, from := range []string{"app-a", "app-b"} {
			for _, to := range []string{"data-a", "data-b"} {
				allowed(t, l, probe{from: from, to: to, protocol: "icmp", family: f})
				src, dst := spots(t, l, from, to, f)
				before := counters(t, l)
				exchangeTCP(t, l, src, dst, megabytes, func() {})
				for _, fw := range []string{"fw", "fw-b"} {
					if in, out := packetsAt(t, l, before, fw); in < 200 || out < 200 {
						t.Errorf("%s to %s: %d packets came to %s and %d from it", from, to, in, fw, out)
					}
				}
				if there, back := ttlOf(t, l, src, dst), ttlOf(t, l, dst, src); there != 62 || back != 62 {
					t.Errorf("%s to %s: arrives with TTL %d and comes back with %d, want 62", from, to, there, back)
				}
			}
		}
	}
}

// chainToInternet: from app through fw-b and fw, each of which translates, to the internet and back.
func chainToInternet(t *testing.T, l *lab.Lab, feed string) {
	publish(t, l, feed,
		`{destination: 0.0.0.0/0, target: eni/fw}`, `{destination: 0.0.0.0/0, target: eni/fw-b}`,
		`{destination: "::/0", target: eni/fw}`, `{destination: "::/0", target: eni/fw-b}`,
		"metadata: {name: edge-b}\nspec: {vpc: red, routes: []}",
		"metadata: {name: edge-b}\nspec: {vpc: red, routes: [{destination: 0.0.0.0/0, target: eni/fw}, {destination: \"::/0\", target: eni/fw}]}")
	for _, f := range []lab.Family{lab.IPv4, lab.IPv6} {
		for _, from := range []string{"app-a", "app-b"} {
			src, dst := spots(t, l, from, internetNode, f)
			before := counters(t, l)
			exchangeTCP(t, l, src, dst, megabytes, func() {})
			for _, fw := range []string{"fw", "fw-b"} {
				if in, out := packetsAt(t, l, before, fw); in < 200 || out < 200 {
					t.Errorf("%s to the internet: %d packets came to %s and %d from it", from, in, fw, out)
				}
			}
			if ttl := ttlOf(t, l, src, dst); ttl != 62 {
				t.Errorf("%s to the internet: arrives with TTL %d, want 62", from, ttl)
			}
		}
	}
}

// oneSided: without lime's route red's leads nowhere, on both hosts, and what is new ends at its sender.
func oneSided(t *testing.T, l *lab.Lab, feed string) {
	publish(t, l, feed, `{destination: 10.0.3.0/24, target: vpc/red}`, `{destination: 10.0.3.0/24, target: blackhole}`,
		`{destination: "fd00:1:0:3::/64", target: vpc/red}`, `{destination: "fd00:1:0:3::/64", target: blackhole}`)
	for _, f := range []lab.Family{lab.IPv4, lab.IPv6} {
		for _, to := range []string{"lime-a", "lime-b"} {
			denied(t, l, probe{from: "app-a", to: to, protocol: "tcp", port: 443, family: f}, "app-a", dataplane.Out, dataplane.ReasonNotPeered)
			denied(t, l, probe{from: to, to: "app-a", protocol: "tcp", port: 443, family: f}, to, dataplane.Out, dataplane.ReasonBlackhole)
		}
	}
}

// policyRoute: an ENI's own route, for one port, takes it past the firewall's table: through the other appliance, which
// has no way to the internet.
func policyRoute(t *testing.T, l *lab.Lab, feed string) {
	publish(t, l, feed, "instance: vm-app-a, index: 0, device: eni-app-a}\n",
		"instance: vm-app-a, index: 0, device: eni-app-a}\n  policyRoutes:\n  - {priority: 1, protocol: tcp, ports: [\"8080-8089\"], target: eni/fw-b}\n  - {priority: 2, protocol: tcp, ports: [25], target: blackhole}\n")
	for _, f := range []lab.Family{lab.IPv4, lab.IPv6} {
		allowed(t, l, probe{from: "app-a", to: internetNode, protocol: "tcp", port: 443, family: f})
		denied(t, l, probe{from: "app-a", to: internetNode, protocol: "tcp", port: 8085, family: f}, "fw-b", dataplane.In, dataplane.ReasonDelivered)
		denied(t, l, probe{from: "app-a", to: internetNode, protocol: "tcp", port: 25, family: f}, "app-a", dataplane.Out, dataplane.ReasonBlackhole)
		allowed(t, l, probe{from: "app-b", to: internetNode, protocol: "tcp", port: 25, family: f})
		allowed(t, l, probe{from: "app-a", to: "data-b", protocol: "tcp", port: 8085, family: f}) // what is local comes first
	}
}

// manyRoutes: a table of 100,000 routes comes into force while a connection lives, and goes again.
func manyRoutes(t *testing.T, l *lab.Lab, feed string) {
	const head = "metadata: {name: app}\nspec:\n  vpc: red\n  routes:\n"
	var routes strings.Builder
	routes.WriteString(head)
	for i := range 99_994 {
		target := "blackhole"
		if i%2 == 1 {
			target = "eni/fw"
		}
		fmt.Fprintf(&routes, "  - {destination: %d.%d.%d.0/24, target: %s}\n", 20+i>>16, i>>8&255, i&255, target)
	}
	src, dst := spots(t, l, "app-a", "data-b", lab.IPv4)
	out, far := spots(t, l, "app-b", internetNode, lab.IPv4)
	exchangeTCP(t, l, src, dst, megabytes, func() {
		exchangeTCP(t, l, out, far, megabytes, func() {
			begin := time.Now()
			publish(t, l, feed, head, routes.String())
			t.Logf("100,000 routes are in force on both hosts after %v", time.Since(begin).Round(10*time.Millisecond))
		})
	})
	allowed(t, l, probe{from: "app-a", to: "data-a", protocol: "tcp", port: 443})
	allowed(t, l, probe{from: "app-b", to: internetNode, protocol: "tcp", port: 443})
	denied(t, l, probe{from: "app-a", to: "21.1.2.7", protocol: "icmp"}, "app-a", dataplane.Out, dataplane.ReasonBlackhole)
	denied(t, l, probe{from: "app-a", to: "21.1.3.7", protocol: "icmp"}, "fw", dataplane.In, dataplane.ReasonDelivered)
	denied(t, l, probe{from: "app-b", to: "20.0.1.7", protocol: "icmp"}, "fw", dataplane.In, dataplane.ReasonDelivered)
}
