// SPDX-License-Identifier: Apache-2.0

package instructions_test

import (
	"maps"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"github.com/eniplane/eniplane/bench/instructions"
	"github.com/eniplane/eniplane/pkg/testroot"
)

// A program whose way is known: a loop of 10 turns around a branch, and a function that is called once. Most of its
// registers hold values to the end, which counting must not disturb.
func TestCounts(t *testing.T) {
	testroot.Require(t)
	insns := asm.Instructions{
		asm.Mov.Imm(asm.R6, 10).WithSymbol("main"), // 1: loop counter
		asm.Mov.Imm(asm.R7, 0),                     // 2: sum of the even ones
		asm.Mov.Imm(asm.R8, 1000),                  // 3
		asm.Mov.Imm(asm.R9, 5),                     // 4
		asm.Mov.Reg(asm.R3, asm.R6),                // turn: 1
		asm.And.Imm(asm.R3, 1),                     // 2
		asm.Instruction{OpCode: asm.OpCode(asm.JumpClass).SetJumpOp(asm.JNE).SetSource(asm.ImmSource), Dst: asm.R3, Offset: 1}, // 3
		asm.Add.Reg(asm.R7, asm.R6), // 4, in every second turn
		asm.Sub.Imm(asm.R6, 1),      // 5
		asm.Instruction{OpCode: asm.OpCode(asm.JumpClass).SetJumpOp(asm.JNE).SetSource(asm.ImmSource), Dst: asm.R6, Offset: -6}, // 6
		asm.Mov.Reg(asm.R1, asm.R7),                   // 5
		asm.Call.Label("add"),                         // 6
		asm.Add.Reg(asm.R0, asm.R8),                   // 7
		asm.Add.Reg(asm.R0, asm.R9),                   // 8
		asm.Return(),                                  // 9
		asm.Mov.Reg(asm.R0, asm.R1).WithSymbol("add"), // 10
		asm.Add.Imm(asm.R0, 20000),                    // 11
		asm.Return(),                                  // 12
	}
	insns[11] = insns[11].WithReference("add")
	spec := &ebpf.CollectionSpec{
		Maps:     map[string]*ebpf.MapSpec{},
		Programs: map[string]*ebpf.ProgramSpec{"main": {Name: "main", Type: ebpf.XDP, Instructions: insns, License: "GPL"}},
	}
	counter, err := instructions.Instrument(spec)
	if err != nil {
		t.Fatal(err)
	}
	if counter.Blind > 0 {
		t.Errorf("%d instructions are not counted", counter.Blind)
	}
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		t.Fatalf("%+v", err)
	}
	defer coll.Close()
	if err := counter.Reset(coll); err != nil {
		t.Fatal(err)
	}
	code, err := coll.Programs["main"].Run(&ebpf.RunOptions{Data: make([]byte, 64)})
	if err != nil {
		t.Fatal(err)
	}
	if want := uint32(10 + 8 + 6 + 4 + 2 + 1000 + 5 + 20000); code != want {
		t.Errorf("the counted program returns %d, want %d as before", code, want)
	}
	want := map[string]uint64{"unknown": 12 + 10*5 + 5} // written by hand: of no header
	if got, err := counter.Executed(coll); err != nil || !maps.Equal(got, want) {
		t.Errorf("instructions executed: %v (%v), want %v", got, err, want)
	}
}
