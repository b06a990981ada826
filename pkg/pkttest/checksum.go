// SPDX-License-Identifier: Apache-2.0

package pkttest

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// checksum is the Internet checksum of RFC 1071, the plain way: sum all words, fold, complement.
func checksum(parts ...[]byte) uint16 {
	b := slices.Concat(parts...)
	if len(b)%2 == 1 {
		b = append(b, 0)
	}
	var sum uint64
	for ; len(b) > 0; b = b[2:] {
		sum += uint64(binary.BigEndian.Uint16(b))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// pseudoHeader is what transport checksums cover of the IP header (RFC 9293 section 3.1, RFC 8200
// section 8.1).
func pseudoHeader(src, dst netip.Addr, protocol uint8, length int) []byte {
	b := slices.Concat(src.AsSlice(), dst.AsSlice())
	if src.Is4() {
		b = append(b, 0, protocol)
		return binary.BigEndian.AppendUint16(b, uint16(length))
	}
	b = binary.BigEndian.AppendUint32(b, uint32(length))
	return append(b, 0, 0, 0, protocol)
}

// sumMode says what to write into a checksum field.
type sumMode struct {
	zero  bool   // nothing: UDP over IPv4 may
	wrong uint16 // added to the right one, so that the error survives an incremental update
}

// apply turns the right checksum into what is written.
func (m sumMode) apply(right uint16) uint16 {
	if m.zero {
		return 0
	}
	sum := uint32(right) + uint32(m.wrong)
	return uint16(sum>>16 + sum&0xffff)
}
