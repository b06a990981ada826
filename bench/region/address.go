// SPDX-License-Identifier: Apache-2.0

package region

import (
	"encoding/binary"
	"net/netip"

	"github.com/eniplane/eniplane/pkg/api"
)

// first is the host number of the first address in each range: those before are reserved in a subnet.
const first = 16

// numbered is the n-th address from base: their last four bytes count.
func numbered(base string, n uint32) netip.Addr {
	a := netip.MustParseAddr(base)
	b := a.AsSlice()
	last := b[len(b)-4:]
	binary.BigEndian.PutUint32(last, binary.BigEndian.Uint32(last)+n)
	n6, _ := netip.AddrFromSlice(b) // it has the length of an address
	return n6
}

func either(v6 bool, v4Base, v6Base string, n uint32) netip.Addr {
	if v6 {
		return numbered(v6Base, n)
	}
	return numbered(v4Base, n)
}

func vpc4() netip.Prefix { return netip.MustParsePrefix("10.0.0.0/8") }
func vpc6() netip.Prefix { return netip.MustParsePrefix("fd00::/32") }

// VNI is that of a case by its number.
func VNI(c int) uint32 { return uint32(c) + 1 }

// Local is the address of the local ENI i, the same in each case.
func Local(v6 bool, i int) netip.Addr {
	return either(v6, "10.0.0.0", "fd00:0:0:1::", first+uint32(i))
}

// Remote is the r-th address of the other hosts' ENIs, the same in each case.
func Remote(v6 bool, r uint32) netip.Addr { return either(v6, "10.128.0.0", "fd00:0:1:1::", first+r) }

// Outside is the n-th address on the internet.
func Outside(v6 bool, n uint32) netip.Addr { return either(v6, "60.0.0.0", "2a00:1450::", n) }

// EIP is that of the local ENI i of case c.
func EIP(v6 bool, c, i int) netip.Addr {
	return either(v6, "45.0.0.0", "2001:db8:e::", uint32(c)<<16+first+uint32(i))
}

// RemoteVTEP is that of the other host h.
func RemoteVTEP(h int) netip.Addr { return numbered("192.168.128.0", 1+uint32(h)) }

// LocalMAC is that of the local ENI i, the same in each case.
func LocalMAC(i int) api.MAC { return mac(1, uint32(i)) }

// RemoteMAC is that of the j-th ENI of other hosts, the same in each case.
func RemoteMAC(j int) api.MAC { return mac(2, uint32(j)) }

// mac counts in its last four bytes.
func mac(kind byte, n uint32) api.MAC {
	m := api.MAC{2, kind}
	binary.BigEndian.PutUint32(m[2:], first+n)
	return m
}
