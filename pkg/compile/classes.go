// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"encoding/binary"
	"iter"
	"math/bits"
	"net/netip"
	"slices"

	"github.com/eniplane/eniplane/pkg/api"
)

// bitset is a set of small numbers, of a length fixed when it is made.
type bitset []uint64

func newBitset(n int) bitset { return make(bitset, (n+63)/64) }

func (b bitset) add(i int)      { b[i/64] |= 1 << (i % 64) }
func (b bitset) has(i int) bool { return b[i/64]&(1<<(i%64)) != 0 }

// flip adds a member or takes it away; it tells whether it is one now.
func (b bitset) flip(i int) bool {
	b[i/64] ^= 1 << (i % 64)
	return b.has(i)
}

func (b bitset) addAll(list []uint32) {
	for _, i := range list {
		b.add(int(i))
	}
}

func (b bitset) union(other bitset) {
	for i, w := range other {
		b[i] |= w
	}
}

func (b bitset) meets(other bitset) bool {
	for i, w := range other {
		if b[i]&w != 0 {
			return true
		}
	}
	return false
}

func (b bitset) count() int {
	n := 0
	for _, w := range b {
		n += bits.OnesCount64(w)
	}
	return n
}

func (b bitset) empty() bool {
	for _, w := range b {
		if w != 0 {
			return false
		}
	}
	return true
}

// all yields the members in ascending order.
func (b bitset) all() iter.Seq[int] {
	return func(yield func(int) bool) {
		for i, w := range b {
			for ; w != 0; w &= w - 1 {
				if !yield(i*64 + bits.TrailingZeros64(w)) {
					return
				}
			}
		}
	}
}

// classes numbers sets of rules from 1 on, in the order in which they turn up. A class *is* its set
// of rules: addresses and group sets that the same rules name share one.
type classes struct {
	numbers map[string]uint32
	sets    []bitset // sets[class-1]
	key     []byte
}

func newClasses() *classes { return &classes{numbers: map[string]uint32{}} }

// number returns the class of a set that is not empty.
func (c *classes) number(set bitset) uint32 {
	c.key = c.key[:0]
	for _, w := range set {
		c.key = binary.LittleEndian.AppendUint64(c.key, w)
	}
	if n, ok := c.numbers[string(c.key)]; ok {
		return n
	}
	c.sets = append(c.sets, slices.Clone(set))
	n := uint32(len(c.sets))
	c.numbers[string(c.key)] = n
	return n
}

// numberOrNone is number for a set that may be empty, which is 0.
func (c *classes) numberOrNone(set bitset) uint32 {
	if set.empty() {
		return 0
	}
	return c.number(set)
}

// match says that the rules match everything under the prefix.
type match struct {
	prefix netip.Prefix
	rules  bitset
}

// classed is an entry of a longest-prefix table.
type classed struct {
	prefix netip.Prefix
	class  uint32
}

// classify returns the longest-prefix table that gives each address the class of all rules whose
// prefixes cover it. Going down, a set only grows, so no entry ever has to say "no rule" again, and
// one whose set equals that of the entry above it is left out. It sorts matches in place.
func (c *classes) classify(matches []match) []classed {
	slices.SortFunc(matches, func(a, b match) int { return api.ComparePrefix(a.prefix, b.prefix) })
	var (
		out   []classed
		above []classed // the emitted entries that cover the current prefix, outermost first
		sets  []bitset  // the set of above[i]
	)
	for i := 0; i < len(matches); {
		prefix := matches[i].prefix
		for len(above) > 0 && !above[len(above)-1].prefix.Contains(prefix.Addr()) {
			above = above[:len(above)-1]
		}
		depth := len(above)
		if depth == len(sets) {
			sets = append(sets, make(bitset, len(matches[i].rules)))
		}
		set, parent := sets[depth], uint32(0)
		clear(set)
		if depth > 0 {
			copy(set, sets[depth-1])
			parent = above[depth-1].class
		}
		for ; i < len(matches) && matches[i].prefix == prefix; i++ {
			set.union(matches[i].rules)
		}
		if class := c.number(set); class != parent {
			entry := classed{prefix, class}
			out = append(out, entry)
			above = append(above, entry)
		}
	}
	return out
}
