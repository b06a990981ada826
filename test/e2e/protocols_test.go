// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/lab"
)

// TestProtocolNumber: rule `gre` of the group strict allows protocol 47 and no other number.
func TestProtocolNumber(t *testing.T) {
	l := common(t)
	for _, target := range []string{"a3", "b2"} {
		for _, f := range []lab.Family{lab.IPv4, lab.IPv6} {
			for protocol, allow := range map[int]bool{47: true, 99: false} {
				t.Run(fmt.Sprintf("%s/%s/%d", target, f, protocol), func(t *testing.T) {
					sendProtocol(t, l, target, f, protocol, allow)
				})
			}
		}
	}
}

func sendProtocol(t *testing.T, l *lab.Lab, target string, f lab.Family, protocol int, allow bool) {
	from, to, err := l.Spots("a2", target, f)
	if err != nil {
		t.Fatal(err)
	}
	server, client := listenIP(t, l, to, protocol), listenIP(t, l, from, protocol)
	before := counters(t, l)
	if _, err := client.WriteTo(marker, &net.IPAddr{IP: to.Addr.AsSlice()}); err != nil {
		t.Fatal(err)
	}
	wait := answerWait
	if !allow {
		if !waitCounted(t, l, before, target, dataplane.In, dataplane.ReasonSGDenied, answerWait) {
			t.Errorf("SG_DENIED is not counted; dropped: %v", lab.Drops(counters(t, l).Since(before)))
		}
		wait = silence
	}
	if err := server.SetReadDeadline(time.Now().Add(wait)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := server.ReadFrom(make([]byte, 2048)); (err == nil) != allow {
		t.Errorf("arrived: %v, want allowed = %t; dropped: %v", err, allow, lab.Drops(counters(t, l).Since(before)))
	}
}

// TestICMPTypes: the group strict lets in echo requests only, so another request is dropped, and so
// are a reply that nobody asked for and an error about a flow that does not exist.
func TestICMPTypes(t *testing.T) {
	l := common(t)
	rows := []struct {
		name   string
		typ    uint8
		code   uint8
		reason dataplane.Reason
	}{
		{"timestamp request", layers.ICMPv4TypeTimestampRequest, 0, dataplane.ReasonSGDenied},
		{"echo request with a code", layers.ICMPv4TypeEchoRequest, 1, dataplane.ReasonSGDenied},
		{"echo reply", layers.ICMPv4TypeEchoReply, 0, dataplane.ReasonNoFlow},
		{"port unreachable", layers.ICMPv4TypeDestinationUnreachable, layers.ICMPv4CodePort, dataplane.ReasonICMPUnrelated},
	}
	for _, target := range []struct{ eni, vm, addr string }{{"a3", "vm-a3", "10.0.2.30"}, {"b2", "vm-b2", "10.0.2.50"}} {
		for _, r := range rows {
			t.Run(target.eni+"/"+r.name, func(t *testing.T) {
				guest := sniff(t, l, target.vm, guestDevice)
				before := counters(t, l)
				if err := l.SendFrame("vm-a2", guestDevice, icmpFrame(t, target.addr, r.typ, r.code)); err != nil {
					t.Fatal(err)
				}
				if !icmpCounted(t, l, before, target.eni, r.reason) {
					t.Errorf("%s is not counted; dropped: %v", r.reason, lab.Drops(counters(t, l).Since(before)))
				}
				time.Sleep(silence)
				if guest.seen() != 0 {
					t.Error("it arrived")
				}
			})
		}
	}
}

// icmpCounted: what belongs to no flow ends at the sender's own port already.
func icmpCounted(t *testing.T, l *lab.Lab, before lab.Counters, target string, reason dataplane.Reason) bool {
	t.Helper()
	if reason == dataplane.ReasonSGDenied {
		return waitCounted(t, l, before, target, dataplane.In, reason, answerWait)
	}
	return waitCounted(t, l, before, "a2", dataplane.Out, reason, answerWait)
}

// icmpFrame is an ICMP message from a2, through the gateway. An error carries the start of a packet
// that the target never sent.
func icmpFrame(t *testing.T, to string, typ, code uint8) []byte {
	t.Helper()
	a2, target := netip.MustParseAddr("10.0.1.20"), netip.MustParseAddr(to)
	payload := gopacket.Payload(marker)
	if typ == layers.ICMPv4TypeDestinationUnreachable {
		udp := &layers.UDP{SrcPort: 1111, DstPort: 2222}
		payload = frame(t, network(target, a2, udp).(gopacket.SerializableLayer), udp, gopacket.Payload(marker))
	}
	return frame(t,
		&layers.Ethernet{SrcMAC: macA2, DstMAC: gatewayMAC, EthernetType: layers.EthernetTypeIPv4},
		&layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolICMPv4, SrcIP: a2.AsSlice(), DstIP: target.AsSlice()},
		&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(typ, code), Id: 4711, Seq: 1},
		payload)
}
