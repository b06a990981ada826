// SPDX-License-Identifier: Apache-2.0

// Package instructions counts which instructions of the programs a packet executes. Times need a quiet machine and say
// nothing on another one; these counts are the same everywhere, so a test can hold them.
//
// The programs are changed to count themselves: into each block of instructions that is executed as a whole goes a
// short one that counts the block, at a place where two registers are free. What helpers of the kernel do is not
// counted, nor what the kernel makes of the instructions.
package instructions

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"path"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// countsMap holds a number per block.
const countsMap = "block_counts"

// Counter knows the blocks of instrumented programs.
type Counter struct {
	length []map[string]int // of each block, in instructions, by the header that they come from
	Blind  int              // instructions in blocks without room for counting
	Total  int              // instructions
}

// Instrument changes all programs of an object. They must be loaded together with its maps.
func Instrument(spec *ebpf.CollectionSpec) (*Counter, error) {
	c := &Counter{}
	for name, p := range spec.Programs {
		insns, err := c.program(p.Instructions)
		if err != nil {
			return nil, fmt.Errorf("program %s: %w", name, err)
		}
		p.Instructions = insns
	}
	spec.Maps[countsMap] = &ebpf.MapSpec{
		Name: countsMap, Type: ebpf.Array, KeySize: 4, ValueSize: uint32(8 * len(c.length)), MaxEntries: 1,
	}
	return c, nil
}

// program returns the instructions with those that count. Jumps get labels in the place of distances.
func (c *Counter) program(insns asm.Instructions) (asm.Instructions, error) {
	all, targets, err := blocks(insns)
	if err != nil {
		return nil, err
	}
	live, from := liveness(insns, all), headers(insns)
	probes := map[int]asm.Instructions{} // by the instruction that follows
	for n := range all {
		size := all[n].last - all[n].first + 1
		c.Total += size
		at, free := room(&all[n], live)
		if bits.OnesCount16(uint16(free)) < 2 {
			c.Blind += size
			continue
		}
		probes[at] = probe(free, len(c.length))
		c.length = append(c.length, tally(from[all[n].first:all[n].last+1]))
	}
	return join(insns, probes, targets), nil
}

// near is how far a jump reaches safely: its distance has 16 bits, and what makes far jumps possible takes room too.
const near = 30000

// join puts instructions together that come in front of others. Jumps get labels in the place of distances; what
// becomes too far for a jump goes by one with 32 bits.
func join(insns asm.Instructions, probes map[int]asm.Instructions, targets map[int]int) asm.Instructions {
	labels, at := map[int]string{}, make([]int, len(insns))
	pos := 0
	for i := range insns {
		at[i] = pos
		for _, part := range [][]asm.Instruction{probes[i], insns[i : i+1]} {
			for j := range part {
				pos += int(part[j].Size()) / asm.InstructionSize
			}
		}
	}
	for _, to := range targets {
		if labels[to] = insns[to].Symbol(); labels[to] == "" {
			labels[to] = fmt.Sprintf("block-%d", to)
		}
	}
	var out asm.Instructions
	for i := range insns {
		first := len(out)
		out = append(out, probes[i]...)
		to, isJump := targets[i]
		if distance := at[to] - at[i]; isJump && (distance > near || distance < -near) {
			out = append(out, far(insns[i], i, labels[to])...)
		} else if isJump {
			out = append(out, toLabel(insns[i], labels[to]))
		} else {
			out = append(out, insns[i])
		}
		if label := labels[i]; label != "" && insns[i].Symbol() == "" {
			out[first] = out[first].WithSymbol(label)
		}
	}
	return out
}

// toLabel is a jump to a label.
func toLabel(ins asm.Instruction, label string) asm.Instruction {
	ins = ins.WithReference(label)
	ins.Offset = -1
	return ins
}

// far is a jump that reaches any label: it goes on to a long one, past which everybody else goes.
func far(ins asm.Instruction, i int, label string) asm.Instructions {
	long := asm.Instruction{OpCode: asm.OpCode(asm.Jump32Class).SetJumpOp(asm.Ja), Constant: -1}.WithReference(label)
	if ins.OpCode.JumpOp() == asm.Ja {
		long.Metadata = ins.Metadata
		return asm.Instructions{long.WithReference(label)}
	}
	past := asm.Instruction{OpCode: asm.OpCode(asm.JumpClass).SetJumpOp(asm.Ja), Offset: 1}
	hop := fmt.Sprintf("far-%d", i)
	return asm.Instructions{toLabel(ins, hop), past, long.WithSymbol(hop)}
}

// room finds an instruction of a block before which the most registers are free, never a function's first one.
func room(b *block, live []registers) (at int, free registers) {
	for i := b.first; i <= b.last; i++ {
		if i == b.first && b.start {
			continue
		}
		if f := usable &^ live[i]; bits.OnesCount16(uint16(f)) > bits.OnesCount16(uint16(free)) {
			at, free = i, f
		}
	}
	return at, free
}

// probe adds 1 to the count of a block.
func probe(free registers, n int) asm.Instructions {
	pointer := asm.Register(bits.TrailingZeros16(uint16(free)))
	one := asm.Register(bits.TrailingZeros16(uint16(free &^ set(pointer))))
	return asm.Instructions{
		asm.LoadMapValue(pointer, 0, uint32(8*n)).WithReference(countsMap),
		asm.Mov.Imm(one, 1),
		asm.AddAtomic.Mem(pointer, one, asm.DWord, 0),
	}
}

// Reset sets all counts to zero.
func (c *Counter) Reset(coll *ebpf.Collection) error {
	if err := coll.Maps[countsMap].Put(uint32(0), make([]byte, 8*len(c.length))); err != nil {
		return fmt.Errorf("reset the counts of instructions: %w", err)
	}
	return nil
}

// headers are the files of the sources of instructions; one without is of the line of the one before.
func headers(insns asm.Instructions) []string {
	from, file := make([]string, len(insns)), "unknown"
	for i := range insns {
		if line, ok := insns[i].Source().(*btf.Line); ok {
			file = path.Base(line.FileName())
		}
		from[i] = file
	}
	return from
}

func tally(names []string) map[string]int {
	count := map[string]int{}
	for _, name := range names {
		count[name]++
	}
	return count
}

// Executed is how many instructions were executed since the last Reset, by the header that they come from.
func (c *Counter) Executed(coll *ebpf.Collection) (map[string]uint64, error) {
	value, err := coll.Maps[countsMap].LookupBytes(uint32(0))
	if err != nil {
		return nil, fmt.Errorf("read the counts of instructions: %w", err)
	}
	executed := map[string]uint64{}
	for n, length := range c.length {
		times := binary.LittleEndian.Uint64(value[8*n:])
		for header, of := range length {
			if times > 0 {
				executed[header] += uint64(of) * times
			}
		}
	}
	return executed, nil
}

// sum adds up what all headers have.
func sum(executed map[string]uint64) uint64 {
	all := uint64(0)
	for _, n := range executed {
		all += n
	}
	return all
}
