// SPDX-License-Identifier: Apache-2.0

package pkttest

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// compare describes how a result differs from what the step wants, or nothing.
func (w *World) compare(step Step, family Family, got result) string {
	want, frame := w.wanted(step, family, got)
	var b strings.Builder
	b.WriteString(diffCounts(withReceived(want.Counts), got.counts))
	if want.Verdict != got.verdict {
		fmt.Fprintf(&b, "verdict %v, want %v\n", got.verdict, want.Verdict)
	}
	if want.Verdict == Redirect {
		w.compareWay(&b, want, family, got)
	}
	if want.Verdict != Drop {
		b.WriteString(Diff(frame, got.frame))
		if want.Mark != got.mark && (step.At.Program == UplinkProgram || step.At.Program == ShaperProgram) && !got.xdp {
			fmt.Fprintf(&b, "mark %#x, want %#x\n", got.mark, want.Mark)
		}
	}
	if want.Verdict == Redirect && !got.xdp {
		w.compareShape(&b, want, got)
	}
	compareFlows(&b, want, got.flows)
	if hits := hitsFor(want.Hits, family); want.Hits != nil && !slices.Equal(hits, got.hits) {
		fmt.Fprintf(&b, "rules hit %v, want %v\n", got.hits, hits)
	}
	if b.Len() > 0 {
		fmt.Fprintf(&b, "the packet was:\n%s", Show(step.In.Bytes(family)))
	}
	return b.String()
}

// wanted is what the step wants, and the frame that leaves. What goes into a tunnel to a VTEP to which there is a way leaves
// by the uplink, with outer headers; not what has a group policy id. The kernel makes no such packet of segments as
// BPF_PROG_TEST_RUN makes them.
func (w *World) wanted(step Step, family Family, got result) (Want, []byte) {
	want, packet := step.Want, step.Want.Packet
	if packet.None() {
		packet = step.In
	}
	if want.Verdict == Drop {
		return want, nil
	}
	atUplink := step.At.Program == UplinkProgram || step.At.Program == UplinkXDPProgram
	if want.Tunnel == nil && !atUplink && got.asked.Neighbour == 0 && slices.Contains(w.base.Host.Uplinks, want.Device) {
		return want, w.byNeighbour(packet.Bytes(family))
	}
	if want.Tunnel == nil || want.Tunnel.Policy != 0 || step.GSO > 0 || step.ByKernel {
		return want, packet.Bytes(family)
	}
	neighbour, known := w.setup.Ways[want.Tunnel.Remote]
	if !known {
		return want, packet.Bytes(family)
	}
	frame := encapsulated(packet, family, w.setup.Uplink, neighbour, w.base.Host.VTEP.String(), want.Tunnel.Remote, want.Tunnel.VNI)
	want.Device, want.Tunnel = w.base.Host.Uplinks[0], nil
	w.ports.fill(frame, got.frame)
	return want, frame
}

// byNeighbour is a frame with the MACs that the kernel would write: what is not left to it must have them.
func (w *World) byNeighbour(frame []byte) []byte {
	copy(frame, w.setup.Underlay.Neighbour[:])
	copy(frame[6:], w.setup.Uplink[:])
	return frame
}

// compareWay compares where a redirect goes.
func (w *World) compareWay(b *strings.Builder, want Want, family Family, got result) {
	device := fmt.Sprintf("ifindex %d", got.asked.Ifindex)
	for name, index := range w.devices {
		if index == got.asked.Ifindex {
			device = name
		}
	}
	if want.Device != device {
		fmt.Fprintf(b, "redirect to %s, want %s\n", device, want.Device)
	}
	tunnel := tunnelOf(got.asked)
	switch {
	case (want.Tunnel == nil) != (tunnel == nil):
		fmt.Fprintf(b, "tunnel %+v, want %+v\n", tunnel, want.Tunnel)
	case tunnel != nil && *tunnel != *want.Tunnel:
		fmt.Fprintf(b, "tunnel %+v, want %+v\n", *tunnel, *want.Tunnel)
	}
	if want.ByNeighbour && got.asked.Neighbour == 0 {
		fmt.Fprintf(b, "redirect past the kernel's neighbours, want by them\n")
	}
	if via := want.Via.In(family); via.IsValid() && via != viaOf(got.asked) {
		fmt.Fprintf(b, "by neighbour %v, want %v\n", viaOf(got.asked), via)
	}
}

// viaOf is the next hop that bpf_redirect_neigh was given.
func viaOf(a helpersAsked) netip.Addr {
	switch a.ViaFamily {
	case 2:
		return netip.AddrFrom4([4]byte(a.Via[:4]))
	case 10:
		return netip.AddrFrom16(a.Via)
	}
	return netip.Addr{}
}

// compareFlows looks for the flows that must be there.
func compareFlows(b *strings.Builder, want Want, got []Flow) {
	for _, f := range want.Flows {
		if !slices.Contains(got, f) {
			fmt.Fprintf(b, "no flow %+v among %+v\n", f, got)
		}
	}
	if want.NoFlow && len(got) > 0 {
		fmt.Fprintf(b, "flows %+v, want none\n", got)
	}
}
