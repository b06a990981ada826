// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

var smac, dmac = [6]byte{2, 0, 0, 0, 0, 1}, [6]byte{2, 0, 0, 0, 0, 2}

// Frames are what other software takes for the packet that was asked about, with checksums as a host writes them.
func TestBuild(t *testing.T) {
	for _, tt := range []struct {
		text, want string
		change     func(*Question)
	}{
		{"tcp 10.0.1.10:40000 > 10.0.2.9:443", "tcp 10.0.1.10:40000 > 10.0.2.9:443 [S]", nil},
		{"tcp [fd00::1]:1 > [fd00::2]:2", "tcp [fd00::1]:1 > [fd00::2]:2 [S.]", func(q *Question) { q.Flags = flagSYN | flagACK }},
		{"udp 10.0.1.10 > 10.0.2.9:9", "udp 10.0.1.10:40000 > 10.0.2.9:9", func(q *Question) { q.Size = 101 }},
		{"udp fd00::1 > [fd00::2]:9", "udp [fd00::1]:40000 > [fd00::2]:9", nil},
		{"icmp 10.0.1.10 > 10.0.2.9", "icmp 10.0.1.10 > 10.0.2.9 type 8 code 0", nil},
		{"icmpv6 fd00::1 > fd00::2", "icmpv6 fd00::1 > fd00::2 type 128 code 0", nil},
		{"icmp 10.0.1.10 > 10.0.2.9", "icmp 10.0.1.10 > 10.0.2.9 type 13 code 1", func(q *Question) { q.ICMP = &ICMP{13, 1} }},
		{"47 10.0.1.10 > 10.0.2.9", "47 10.0.1.10 > 10.0.2.9", nil},
	} {
		q, err := ParseQuestion(tt.text)
		if err != nil {
			t.Fatal(err)
		}
		if tt.change != nil {
			tt.change(&q)
		}
		frame, err := q.build(smac, dmac)
		if err != nil {
			t.Fatal(err)
		}
		if got := Describe(frame); got != tt.want {
			t.Errorf("%s is %q, want %q", tt.text, got, tt.want)
		}
		if diff := cmp.Diff(resummed(t, frame)[:len(frame)], frame); diff != "" {
			t.Errorf("%s: lengths or checksums differ from those of gopacket:\n%s", tt.text, diff)
		}
	}
}

// resummed lets gopacket write lengths and checksums of a frame anew.
func resummed(t *testing.T, frame []byte) []byte {
	t.Helper()
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	if e := p.ErrorLayer(); e != nil {
		t.Fatalf("decode: %v", e.Error())
	}
	var parts []gopacket.SerializableLayer
	for _, l := range p.Layers() {
		s, ok := l.(gopacket.SerializableLayer)
		if !ok {
			continue
		}
		switch l := l.(type) {
		case *layers.TCP:
			_ = l.SetNetworkLayerForChecksum(p.NetworkLayer())
		case *layers.UDP:
			_ = l.SetNetworkLayerForChecksum(p.NetworkLayer())
		case *layers.ICMPv6:
			_ = l.SetNetworkLayerForChecksum(p.NetworkLayer())
		}
		parts = append(parts, s)
	}
	if p.NetworkLayer().LayerType() == layers.LayerTypeIPv4 && p.TransportLayer() == nil && p.Layer(layers.LayerTypeICMPv4) == nil {
		return frame // a protocol that is no layer of gopacket's
	}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, parts...); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestEncapsulate(t *testing.T) {
	q, err := ParseQuestion("tcp 10.0.1.10:40000 > 10.0.2.9:443")
	if err != nil {
		t.Fatal(err)
	}
	inner, err := q.build(smac, dmac)
	if err != nil {
		t.Fatal(err)
	}
	frame, err := encapsulate(inner, smac, dmac, netip.MustParseAddr("192.0.2.2"), Tunnel{VNI: 2001, Remote: netip.MustParseAddr("192.0.2.1")})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := Describe(frame), "vxlan 2001 192.0.2.1 > 192.0.2.2: tcp 10.0.1.10:40000 > 10.0.2.9:443 [S]"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	got, _ := inside(frame)
	if diff := cmp.Diff(inner, got); diff != "" {
		t.Errorf("inside is another frame:\n%s", diff)
	}
}

func TestAnswer(t *testing.T) {
	for text, want := range map[string]string{
		"tcp 10.0.1.10:40000 > 10.0.2.9:443": "tcp 10.0.2.9:443 > 10.0.1.10:40000 [S.]",
		"udp 10.0.1.10:1 > 10.0.2.9:9":       "udp 10.0.2.9:9 > 10.0.1.10:1",
		"icmp 10.0.1.10 > 10.0.2.9":          "icmp 10.0.2.9 > 10.0.1.10 type 0 code 0",
		"icmpv6 fd00::1 > fd00::2":           "icmpv6 fd00::2 > fd00::1 type 129 code 0",
		"47 10.0.1.10 > 10.0.2.9":            "47 10.0.2.9 > 10.0.1.10",
	} {
		q, err := ParseQuestion(text)
		if err != nil {
			t.Fatal(err)
		}
		frame, err := q.build(smac, dmac)
		if err != nil {
			t.Fatal(err)
		}
		a, ok := answer(frame)
		if !ok {
			t.Errorf("nobody answers %s", text)
			continue
		}
		if frame, err = a.build(dmac, smac); err != nil || Describe(frame) != want {
			t.Errorf("%s is answered by %s, %v, want %s", text, Describe(frame), err, want)
		}
	}
	rst := Question{Protocol: protoTCP, Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.2"), Flags: flagRST}
	frame, err := rst.build(smac, dmac)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := answer(frame); ok {
		t.Error("a RST is answered")
	}
}

// Short and strange frames are described, and belong to no connection or to one; none is read beyond its end.
func TestTuplesOfAnything(t *testing.T) {
	q, err := ParseQuestion("udp fd00::1 > [fd00::2]:9")
	if err != nil {
		t.Fatal(err)
	}
	frame, err := q.build(smac, dmac)
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(frame) {
		if got := tuples(frame[:n]); n < len(frame) && len(got) > 0 {
			t.Errorf("%d bytes are %v", n, got)
		}
		_ = Describe(frame[:n])
	}
	// Behind a hop-by-hop header stands a fragment header, behind that the same packet.
	long := append([]byte{}, frame[:54]...)
	long[20] = 0
	long = append(long, 44, 0, 0, 0, 0, 0, 0, 0, 17, 0, 0, 1, 0, 0, 0, 9)
	long = append(long, frame[54:]...)
	if got := tuples(long); len(got) != 1 || got[0].dport != 9 || !got[0].fragment || got[0].later {
		t.Errorf("a first fragment is %+v", got)
	}
	long[65] = 8
	if got := tuples(long); len(got) != 1 || !got[0].later {
		t.Errorf("a later fragment is %+v", got)
	}
}
