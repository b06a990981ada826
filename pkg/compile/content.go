// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"slices"
)

// content collects what a hash covers. Every field carries its length or has a fixed one, so that
// different values never give the same bytes.
type content []byte

func (c *content) num(v uint64) { *c = binary.LittleEndian.AppendUint64(*c, v) }

func (c *content) flag(v bool) {
	if v {
		c.num(1)
		return
	}
	c.num(0)
}

func (c *content) str(s string) {
	c.num(uint64(len(s)))
	*c = append(*c, s...)
}

func (c *content) strs(list []string) {
	c.num(uint64(len(list)))
	for _, s := range list {
		c.str(s)
	}
}

func (c *content) hash(h [32]byte) { *c = append(*c, h[:]...) }

func (c *content) addr(a netip.Addr) {
	*c = append(*c, byte(a.BitLen()))
	if a.Is4() {
		b := a.As4()
		*c = append(*c, b[:]...)
		return
	}
	b := a.As16()
	*c = append(*c, b[:]...)
}

func (c *content) addrs(list []netip.Addr) {
	c.num(uint64(len(list)))
	for _, a := range list {
		c.addr(a)
	}
}

func (c *content) prefixes(list []netip.Prefix) {
	c.num(uint64(len(list)))
	*c = slices.Grow(*c, 18*len(list)) // there may be 100,000
	for _, p := range list {
		c.addr(p.Addr())
		*c = append(*c, byte(p.Bits()))
	}
}

func (c *content) sum() [32]byte { return sha256.Sum256(*c) }

// key returns the hash in the form in which IDs keep it.
func (c *content) key() string { return keyOf(c.sum()) }

// keyOf shortens a hash: 128 bits are plenty to tell contents apart.
func keyOf(hash [32]byte) string { return hex.EncodeToString(hash[:16]) }
