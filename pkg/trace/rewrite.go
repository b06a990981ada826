// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"fmt"

	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"

	"github.com/eniplane/eniplane/pkg/dataplane"
)

// Offsets in the one place of mapIO: what helpers give, what they were asked for.
const (
	givenVNI     = 0 // 0 = the packet came through no tunnel
	givenRemote  = 4 // host order, as the helper gives it
	givenPolicy  = 8
	askedIfindex = 16
	askedHow     = 20 // 1 = redirect, 2 = redirect to the neighbour that the host's routes name
	askedVNI     = 24
	askedRemote  = 28
	askedPolicy  = 32
	ioSize       = 64
)

// Offsets in a place of mapEvents.
const (
	eventCount  = 0 // of the first place
	eventResult = 4
	eventWork   = 8
)

var eventSize = eventWork + dataplane.WorkSize

// Offsets in struct bpf_tunnel_key, which is kernel ABI.
const (
	tunnelID     = 0
	tunnelRemote = 4
)

// What a TC program returns for a redirect, and what helpers answer to what cannot be.
const (
	tcRedirect = 7
	invalid    = -22
)

// substitutes are what stands for helpers, each in a function of its own.
func substitutes() map[asm.BuiltinFunc]asm.Instructions {
	io := func(dst asm.Register) asm.Instruction { return asm.LoadMapValue(dst, 0, 0).WithReference(mapIO) }
	redirect := func(how int32) asm.Instructions {
		return asm.Instructions{
			io(asm.R2),
			asm.StoreMem(asm.R2, askedIfindex, asm.R1, asm.Word),
			asm.StoreImm(asm.R2, askedHow, int64(how), asm.Word),
			asm.Mov.Imm(asm.R0, tcRedirect),
			asm.Return(),
		}
	}
	// given copies words of mapIO to where the second argument points, asked the other way.
	given := func(label string, result int32, words ...[2]int16) asm.Instructions {
		code := asm.Instructions{
			io(asm.R3),
			asm.LoadMem(asm.R0, asm.R3, givenVNI, asm.Word),
			asm.JEq.Imm(asm.R0, 0, label),
		}
		for _, w := range words {
			code = append(code, asm.LoadMem(asm.R0, asm.R3, w[0], asm.Word), asm.StoreMem(asm.R2, w[1], asm.R0, asm.Word))
		}
		return append(code,
			asm.Mov.Imm(asm.R0, result),
			asm.Return(),
			asm.Mov.Imm(asm.R0, invalid).WithSymbol(label),
			asm.Return(),
		)
	}
	asked := func(words ...[2]int16) asm.Instructions {
		code := asm.Instructions{io(asm.R3)}
		for _, w := range words {
			code = append(code, asm.LoadMem(asm.R0, asm.R2, w[1], asm.Word), asm.StoreMem(asm.R3, w[0], asm.R0, asm.Word))
		}
		return append(code, asm.Mov.Imm(asm.R0, 0), asm.Return())
	}
	return map[asm.BuiltinFunc]asm.Instructions{
		asm.FnRedirect:        redirect(1),
		asm.FnRedirectNeigh:   redirect(2),
		asm.FnSkbGetTunnelKey: given("trace_no_tunnel", 0, [2]int16{givenVNI, tunnelID}, [2]int16{givenRemote, tunnelRemote}),
		asm.FnSkbGetTunnelOpt: given("trace_no_policy", 4, [2]int16{givenPolicy, 0}),
		asm.FnSkbSetTunnelKey: asked([2]int16{askedVNI, tunnelID}, [2]int16{askedRemote, tunnelRemote}),
		asm.FnSkbSetTunnelOpt: asked([2]int16{askedPolicy, 0}),
	}
}

// function gives instructions a name, type information and a line of source, without which the kernel takes no program
// that has some.
func function(name string, code asm.Instructions, line fmt.Stringer) asm.Instructions {
	long := &btf.Int{Name: "long", Size: 8, Encoding: btf.Signed}
	args := &btf.FuncProto{Return: long}
	for _, arg := range []string{"a", "b", "c", "d"} {
		args.Params = append(args.Params, btf.FuncParam{Name: arg, Type: long})
	}
	code[0] = btf.WithFuncMetadata(code[0].WithSymbol(name).WithSource(line), &btf.Func{Name: name, Type: args, Linkage: btf.StaticFunc})
	return code
}

// rewrite replaces helpers and lets the functions that judge note what they have found.
func rewrite(program asm.Instructions) (asm.Instructions, error) {
	insns := make(asm.Instructions, len(program))
	copy(insns, program)
	code, called := substitutes(), asm.Instructions{}
	done := map[asm.BuiltinFunc]bool{}
	for i := range insns {
		fn := asm.BuiltinFunc(insns[i].Constant)
		if !insns[i].IsBuiltinCall() || code[fn] == nil {
			continue
		}
		name := "trace_" + fn.String()
		call := asm.Call.Label(name)
		call.Metadata = insns[i].Metadata
		insns[i] = call.WithReference(name)
		if !done[fn] {
			done[fn] = true
			called = append(called, function(name, code[fn], program[0].Source())...)
		}
	}
	for _, name := range []string{"judge4", "judge6"} {
		var err error
		if insns, err = noteAtEnd(insns, name); err != nil {
			return nil, err
		}
	}
	return append(insns, called...), nil
}

// noteAtEnd makes a function go through code that notes its result where it would return.
func noteAtEnd(insns asm.Instructions, name string) (asm.Instructions, error) {
	first, last := -1, len(insns)
	for i := range insns {
		switch starts := btf.FuncMetadata(&insns[i]) != nil; {
		case first < 0 && starts && insns[i].Symbol() == name:
			first = i
		case first >= 0 && starts && last == len(insns):
			last = i
		}
	}
	if first < 0 {
		return nil, fmt.Errorf("it has no function %s", name)
	}
	note := "trace_note_" + name
	for i := first; i < last; i++ {
		if insns[i].OpCode.JumpOp() != asm.Exit || insns[i].OpCode.Class() != asm.JumpClass {
			continue
		}
		jump := asm.Ja.Label(note)
		jump.Metadata = insns[i].Metadata
		insns[i] = jump.WithReference(note)
	}
	out := append(asm.Instructions{}, insns[:last]...)
	out = append(out, noteCode(note)...)
	return append(out, insns[last:]...), nil
}

// noteCode appends to mapEvents what the CPU has at hand, and the result. At the end of a function all registers but
// r0 are free, and so is its stack.
func noteCode(name string) asm.Instructions {
	done := name + "_done"
	lookup := func(m string) asm.Instructions {
		return asm.Instructions{
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, -4),
			asm.LoadMapPtr(asm.R1, 0).WithReference(m),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, done),
		}
	}
	code := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R0).WithSymbol(name),
		asm.StoreImm(asm.RFP, -4, 0, asm.Word),
	}
	code = append(code, lookup(mapEvents)...)
	code = append(code,
		asm.LoadMem(asm.R7, asm.R0, eventCount, asm.Word),
		asm.Add.Imm(asm.R7, 1),
		asm.StoreMem(asm.R0, eventCount, asm.R7, asm.Word),
		asm.StoreMem(asm.RFP, -4, asm.R7, asm.Word),
	)
	code = append(code, lookup(mapEvents)...)
	code = append(code,
		asm.Mov.Reg(asm.R7, asm.R0),
		asm.StoreMem(asm.R7, eventResult, asm.R6, asm.Word),
		asm.StoreImm(asm.RFP, -4, 0, asm.Word),
	)
	code = append(code, lookup(dataplane.MapWorks)...)
	for at := 0; at < dataplane.WorkSize; at += 4 {
		code = append(code,
			asm.LoadMem(asm.R1, asm.R0, int16(at), asm.Word),
			asm.StoreMem(asm.R7, int16(eventWork+at), asm.R1, asm.Word),
		)
	}
	return append(code, asm.Mov.Reg(asm.R0, asm.R6).WithSymbol(done), asm.Return())
}
