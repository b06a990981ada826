// SPDX-License-Identifier: Apache-2.0

package frames

import (
	"encoding/binary"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
)

// tally counts the packets of each IPv4 source.
type tally struct {
	counts *ebpf.Map
	prog   *ebpf.Program
	link   link.Link
}

func newTally(ifindex int) (*tally, error) {
	d := &tally{}
	var err error
	if d.counts, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 4, ValueSize: 8, MaxEntries: 1 << 16}); err != nil {
		return nil, err
	}
	if d.prog, err = ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "Apache-2.0", Instructions: asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, 0, asm.Word), asm.LoadMem(asm.R3, asm.R1, 4, asm.Word),
		asm.Mov.Reg(asm.R4, asm.R2), asm.Add.Imm(asm.R4, 30), asm.JGT.Reg(asm.R4, asm.R3, "drop"),
		asm.LoadMem(asm.R4, asm.R2, 12, asm.Half), asm.JNE.Imm(asm.R4, 8, "drop"), // not IPv4
		asm.LoadMem(asm.R4, asm.R2, 26, asm.Word), asm.StoreMem(asm.RFP, -4, asm.R4, asm.Word),
		asm.Mov.Imm(asm.R4, 1), asm.StoreMem(asm.RFP, -16, asm.R4, asm.DWord),
		asm.LoadMapPtr(asm.R1, d.counts.FD()), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(), asm.JEq.Imm(asm.R0, 0, "new"),
		asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord), asm.Add.Imm(asm.R1, 1), asm.StoreMem(asm.R0, 0, asm.R1, asm.DWord), asm.Ja.Label("drop"),
		asm.LoadMapPtr(asm.R1, d.counts.FD()).WithSymbol("new"), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4),
		asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, -16), asm.Mov.Imm(asm.R4, 0), asm.FnMapUpdateElem.Call(),
		asm.Mov.Imm(asm.R0, 1).WithSymbol("drop"), asm.Return(),
	}}); err != nil {
		return nil, err
	}
	d.link, err = link.AttachXDP(link.XDPOptions{Program: d.prog, Interface: ifindex, Flags: link.XDPDriverMode})
	return d, err
}

func (d *tally) Close() error { return d.link.Close() }

// addresses counts how many of n addresses from base on came exactly twice.
func (d *tally) addresses(base uint32, n int) (twice int, err error) {
	for i := range n {
		var key [4]byte
		binary.BigEndian.PutUint32(key[:], base+uint32(i))
		var count uint64
		if err := d.counts.Lookup(key, &count); err != nil && err != ebpf.ErrKeyNotExist {
			return 0, err
		}
		if count == 2 {
			twice++
		}
	}
	return twice, nil
}
