// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"iter"
	"math/bits"
	"slices"
)

// piecesPerBlock is how many prefixes 256 ports may split into. With more they are a block: so many nodes of a trie take
// more memory than it, and more time to write.
const piecesPerBlock = 16

const (
	blockPorts = 256
	allPorts   = 1 << 16
)

// portSpan are the ports of one protocol that a rule matches, both ends included.
type portSpan struct{ from, to uint32 }

// spans returns the ports that a rule matches, of the one protocol that it is about. For ICMP a port is type and code.
// none: it matches all, or those of every protocol.
func (r *rule) spans() []portSpan {
	if r.icmp != nil {
		port := uint32(r.icmp.Type) << 8
		if r.icmp.Code == nil {
			return []portSpan{{port, port | 0xff}}
		}
		port |= uint32(*r.icmp.Code)
		return []portSpan{{port, port}}
	}
	if len(r.ports) == 0 {
		return nil
	}
	out := make([]portSpan, len(r.ports))
	for i, p := range r.ports {
		out[i] = portSpan{uint32(p.From), uint32(p.To)}
	}
	slices.SortFunc(out, func(a, b portSpan) int { return int(a.from) - int(b.from) })
	merged := out[:1]
	for _, s := range out[1:] {
		if last := &merged[len(merged)-1]; s.from <= last.to+1 {
			last.to = max(last.to, s.to)
		} else {
			merged = append(merged, s)
		}
	}
	return merged
}

// change is where rules begin or cease to match: the port in the upper half, the rule in the lower.
type change uint64

// protocolRules are the rules about one protocol.
type protocolRules struct {
	base    bitset // those that match it whatever the port, with those of all protocols
	changes []change
}

// serviceTable gives the protocols and ports that rules name their classes, and says which rules each class matches.
// 256 ports that split into more than `most` prefixes are a block.
func serviceTable(rules []rule, most int) (*ServiceTable, []bitset, error) {
	every := newBitset(len(rules))
	for i := range rules {
		if rules[i].protocol.Any {
			every.add(i)
		}
	}
	var byProtocol [256]*protocolRules
	total := 0
	for i := range rules {
		if rules[i].protocol.Any {
			continue
		}
		p := byProtocol[rules[i].protocol.Number]
		if p == nil {
			p = &protocolRules{base: slices.Clone(every)}
			byProtocol[rules[i].protocol.Number] = p
		}
		spans := rules[i].spans()
		if spans == nil {
			p.base.add(i)
		}
		if total += len(spans); total > maxServices {
			return nil, nil, fmt.Errorf("the port ranges of its rules are more than %d: use fewer or wider ranges", maxServices)
		}
		for _, s := range spans {
			p.changes = append(p.changes, change(s.from)<<32|change(i), change(s.to+1)<<32|change(i))
		}
	}
	b := serviceBuilder{classes: newClasses(), most: most}
	inherited := b.emit(0, 0, 0, b.classes.numberOrNone(every), 0)
	for number, p := range byProtocol {
		if p != nil {
			b.protocol(uint8(number), p, inherited)
		}
	}
	return &b.ServiceTable, b.classes.sets, nil
}

type serviceBuilder struct {
	ServiceTable
	classes *classes
	most    int
}

// emit adds a prefix unless its class is that of what is above it. It returns the class.
func (b *serviceBuilder) emit(protocol uint8, port uint16, bits uint8, class, inherited uint32) uint32 {
	if class != inherited {
		b.Prefixes = append(b.Prefixes, ServiceClass{Protocol: protocol, Port: port, Bits: bits, Class: class})
	}
	return class
}

// portRun are ports that the same rules match, others than the protocol's base.
type portRun struct {
	portSpan
	class uint32
}

// runs goes through the ports of a protocol from change to change. Rules only ever add to the base.
func (b *serviceBuilder) runs(p *protocolRules, base uint32) []portRun {
	slices.Sort(p.changes)
	set := slices.Clone(p.base)
	within := 0 // rules that match here and whatever the port do not
	var out []portRun
	for i := 0; i < len(p.changes); {
		from := uint32(p.changes[i] >> 32)
		for ; i < len(p.changes) && uint32(p.changes[i]>>32) == from; i++ {
			if set.flip(int(uint32(p.changes[i]))) {
				within++
			} else {
				within--
			}
		}
		if within == 0 || i == len(p.changes) {
			continue
		}
		run := portRun{portSpan{from, uint32(p.changes[i]>>32) - 1}, b.classes.number(set)}
		if last := len(out) - 1; last >= 0 && out[last].class == run.class && out[last].to+1 == from {
			out[last].to = run.to
		} else if run.class != base {
			out = append(out, run)
		}
	}
	return out
}

func (b *serviceBuilder) protocol(number uint8, p *protocolRules, inherited uint32) {
	base := b.emit(number, 0, 8, b.classes.numberOrNone(p.base), inherited)
	runs := b.runs(p, base)
	dense := b.denseBlocks(runs)
	blocks := map[uint32]*ServiceBlock{}
	for high, is := range dense {
		if !is {
			continue
		}
		block := &ServiceBlock{Protocol: number, High: uint8(high)}
		for i := range block.Classes {
			block.Classes[i] = base
		}
		blocks[uint32(high)] = block
	}
	for _, run := range runs {
		for from := run.from; from <= run.to; {
			to := min(run.to, from|(blockPorts-1))
			if block := blocks[from>>8]; block != nil {
				for port := from; port <= to; port++ {
					block.Classes[port&(blockPorts-1)] = run.class
				}
				from = to + 1
				continue
			}
			for to < run.to && !dense[(to+1)>>8] {
				to = min(run.to, to+blockPorts)
			}
			b.ports(number, portRun{portSpan{from, to}, run.class})
			from = to + 1
		}
	}
	for high, is := range dense {
		if is {
			b.Prefixes = append(b.Prefixes, ServiceClass{Protocol: number, Port: uint16(high) << 8, Bits: 16})
			b.Blocks = append(b.Blocks, *blocks[uint32(high)])
		}
	}
}

// denseBlocks finds the blocks in which runs end so often that they are better written out.
func (b *serviceBuilder) denseBlocks(runs []portRun) (dense [allPorts / blockPorts]bool) {
	var counts [allPorts / blockPorts]int
	for _, run := range runs {
		first, last := run.from>>8, run.to>>8
		if first == last {
			counts[first] += countPieces(run.portSpan)
			continue
		}
		counts[first] += countPieces(portSpan{run.from, run.from | (blockPorts - 1)})
		counts[last] += countPieces(portSpan{run.to &^ (blockPorts - 1), run.to})
	}
	for i, n := range counts {
		dense[i] = n > b.most
	}
	return dense
}

// pieces yields the fewest prefixes that cover ports: where each begins and how many bits of 16 it leaves open.
func pieces(ports portSpan) iter.Seq2[uint16, int] {
	return func(yield func(uint16, int) bool) {
		for from := ports.from; from <= ports.to; {
			// The largest block that begins at from and does not reach beyond to.
			size := 16
			if from != 0 {
				size = bits.TrailingZeros32(from)
			}
			size = min(size, bits.Len32(ports.to-from+1)-1)
			if !yield(uint16(from), size) {
				return
			}
			from += 1 << size
		}
	}
}

// countPieces returns how many prefixes cover ports of one block; all of it counts as none.
func countPieces(ports portSpan) (n int) {
	if ports.to-ports.from == blockPorts-1 {
		return 0
	}
	for range pieces(ports) {
		n++
	}
	return n
}

// ports adds the prefixes that cover a run.
func (b *serviceBuilder) ports(protocol uint8, run portRun) {
	for port, open := range pieces(run.portSpan) {
		b.Prefixes = append(b.Prefixes, ServiceClass{Protocol: protocol, Port: port, Bits: uint8(24 - open), Class: run.class})
	}
}
