// SPDX-License-Identifier: Apache-2.0

package api

import (
	"net/netip"
	"slices"
)

// prefixSet finds the member that covers a prefix with one look-up per length in use, however many
// members it has.
type prefixSet struct {
	members map[netip.Prefix]*document
	lengths [2][]int // of IPv4 and IPv6 members
}

func newPrefixSet() *prefixSet { return &prefixSet{members: map[netip.Prefix]*document{}} }

func familyIndex(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// add puts a valid prefix into the set, with the document that says so.
func (s *prefixSet) add(p netip.Prefix, d *document) {
	if _, ok := s.members[p]; ok {
		return
	}
	s.members[p] = d
	lengths := &s.lengths[familyIndex(p.Addr())]
	if !slices.Contains(*lengths, p.Bits()) {
		*lengths = append(*lengths, p.Bits())
	}
}

// cover returns the member that holds all of p, and its document.
func (s *prefixSet) cover(p netip.Prefix) (netip.Prefix, *document, bool) {
	for _, bits := range s.lengths[familyIndex(p.Addr())] {
		if bits > p.Bits() {
			continue
		}
		wide, err := p.Addr().Prefix(bits)
		if err != nil {
			continue
		}
		if d, ok := s.members[wide]; ok {
			return wide, d, true
		}
	}
	return netip.Prefix{}, nil, false
}

// placed is a prefix and where it stands.
type placed struct {
	prefix netip.Prefix
	doc    *document
	order  int // of the text
	path   string
}

// overlaps calls report for each prefix that overlaps another one: with the one that stands later
// in the text first.
func overlaps(list []placed, report func(later, earlier placed)) {
	slices.SortStableFunc(list, func(a, b placed) int { return ComparePrefix(a.prefix, b.prefix) })
	var wide placed // the last one that no other covers
	for _, p := range list {
		if !wide.prefix.IsValid() || !wide.prefix.Overlaps(p.prefix) {
			wide = p
			continue
		}
		if p.order > wide.order {
			report(p, wide)
		} else {
			report(wide, p)
		}
	}
}
