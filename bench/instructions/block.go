// SPDX-License-Identifier: Apache-2.0

package instructions

import (
	"fmt"

	"github.com/cilium/ebpf/asm"
)

// registers is a set of registers: bit n is Rn.
type registers uint16

const (
	arguments registers = 0b111110 // R1 to R5
	scratch   registers = 0b111111 // what a call leaves undefined: R0 to R5
	usable    registers = 0b1111111111
)

func set(r asm.Register) registers { return 1 << r }

// block is a run of instructions that is executed as a whole: first to last, both included.
type block struct {
	function    string
	first, last int
	start       bool // of a function
	next        []int
}

// blocks cuts a program into blocks. targets are the instructions to which others jump.
func blocks(insns asm.Instructions) (all []block, targets map[int]int, err error) {
	at, index := offsets(insns)
	targets = map[int]int{} // from the jump
	leads := map[int]bool{}
	for i := range insns {
		if !jumps(&insns[i]) {
			continue
		}
		to, ok := index[at[i]+1+int(insns[i].Offset)]
		if !ok {
			return nil, nil, fmt.Errorf("instruction %d jumps to nowhere", i)
		}
		targets[i] = to
		leads[to] = true
	}
	function := ""
	for i := range insns {
		ins := &insns[i]
		start := ins.Symbol() != ""
		if start {
			function = ins.Symbol()
		}
		if i == 0 || start || leads[i] || ends(&insns[i-1]) {
			all = append(all, block{function: function, first: i, start: start})
		}
		all[len(all)-1].last = i
	}
	connect(insns, all, targets)
	return all, targets, nil
}

// connect notes which blocks may follow each.
func connect(insns asm.Instructions, all []block, targets map[int]int) {
	of := map[int]int{} // block by first instruction
	for n := range all {
		of[all[n].first] = n
	}
	for n := range all {
		last := &insns[all[n].last]
		if to, ok := targets[all[n].last]; ok {
			all[n].next = append(all[n].next, of[to])
		}
		goesOn := !exits(last) && !(jumps(last) && last.OpCode.JumpOp() == asm.Ja)
		if goesOn && n+1 < len(all) && !all[n+1].start {
			all[n].next = append(all[n].next, n+1)
		}
	}
}

// offsets are where instructions are when each has 8 bytes, and the reverse.
func offsets(insns asm.Instructions) (at []int, index map[int]int) {
	index = map[int]int{}
	pos := 0
	for i := range insns {
		at = append(at, pos)
		index[pos] = i
		pos += int(insns[i].Size()) / asm.InstructionSize
	}
	return at, index
}

// jumps tells whether an instruction may go on elsewhere in the same function.
func jumps(ins *asm.Instruction) bool {
	op := ins.OpCode.JumpOp()
	return ins.OpCode.Class().IsJump() && op != asm.Call && op != asm.Exit
}

func exits(ins *asm.Instruction) bool {
	return ins.OpCode.Class() == asm.JumpClass && ins.OpCode.JumpOp() == asm.Exit
}

func ends(ins *asm.Instruction) bool { return jumps(ins) || exits(ins) }

// touched says which registers an instruction reads and which it writes.
func touched(ins *asm.Instruction) (reads, writes registers) {
	op := ins.OpCode
	dst, src := set(ins.Dst), set(ins.Src)
	switch class := op.Class(); {
	case class.IsALU():
		writes = dst
		if op.ALUOp() != asm.Mov {
			reads = dst
		}
		if op.Source() == asm.RegSource {
			reads |= src
		}
	case class == asm.LdClass:
		writes = dst
	case class == asm.LdXClass:
		reads, writes = src, dst
	case class == asm.StClass:
		reads = dst
	case class == asm.StXClass:
		reads = dst | src
		if op.Mode() == asm.AtomicMode && op.AtomicOp() != asm.AddAtomic {
			reads |= set(asm.R0) // compare and exchange
			writes = src | set(asm.R0)
		}
	case exits(ins):
		reads = set(asm.R0)
	case op.JumpOp() == asm.Call:
		reads, writes = arguments, scratch
	case op.JumpOp() != asm.Ja:
		reads = dst
		if op.Source() == asm.RegSource {
			reads |= src
		}
	}
	return reads, writes
}

// liveness returns, for each instruction, the registers whose values somebody may still read when it begins.
func liveness(insns asm.Instructions, all []block) []registers {
	live := make([]registers, len(insns))
	for changed := true; changed; {
		changed = false
		for n := len(all) - 1; n >= 0; n-- {
			var after registers
			for _, next := range all[n].next {
				after |= live[all[next].first]
			}
			for i := all[n].last; i >= all[n].first; i-- {
				reads, writes := touched(&insns[i])
				before := after&^writes | reads
				if before != live[i] {
					live[i], changed = before, true
				}
				after = before
			}
		}
	}
	return live
}
