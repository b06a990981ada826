// SPDX-License-Identifier: Apache-2.0

package pkttest

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// Show decodes a frame: one line per layer, then its bytes.
func Show(frame []byte) string {
	if len(frame) == 0 {
		return "  (nothing)\n"
	}
	var b strings.Builder
	packet := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.NoCopy)
	for _, l := range packet.Layers() {
		fmt.Fprintf(&b, "  %s\n", shorten(gopacket.LayerString(l)))
	}
	for line := range strings.Lines(hex.Dump(frame)) {
		b.WriteString("    " + line)
	}
	return b.String()
}

// shorten drops what gopacket repeats of the bytes.
func shorten(s string) string {
	if i := strings.Index(s, "Contents="); i >= 0 {
		if j := strings.Index(s[i:], "] "); j >= 0 {
			s = s[:i] + s[i+j+2:]
		}
	}
	if i := strings.Index(s, "Payload=["); i >= 0 {
		if j := strings.Index(s[i:], "] "); j >= 0 {
			s = s[:i] + s[i+j+2:]
		}
	}
	return s
}

// Diff compares two whole frames. It returns nothing if they are equal, else both decoded and the
// places in which they differ.
func Diff(want, got []byte) string {
	if bytes.Equal(want, got) {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "want %d bytes:\n%s", len(want), Show(want))
	fmt.Fprintf(&b, "got %d bytes:\n%s", len(got), Show(got))
	b.WriteString("differ at:")
	for i := range max(len(want), len(got)) {
		switch {
		case i >= len(want):
			fmt.Fprintf(&b, " %d(none,%02x)", i, got[i])
		case i >= len(got):
			fmt.Fprintf(&b, " %d(%02x,none)", i, want[i])
		case want[i] != got[i]:
			fmt.Fprintf(&b, " %d(%02x,%02x)", i, want[i], got[i])
		}
	}
	return b.String() + "\n"
}
