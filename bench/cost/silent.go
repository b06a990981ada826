// SPDX-License-Identifier: Apache-2.0

package cost

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"github.com/eniplane/eniplane/bench"
	"github.com/eniplane/eniplane/bench/region"
	"github.com/eniplane/eniplane/pkg/dataplane"
)

// Silence takes out of programs what is there only to be looked at: counters of ENIs, flows and rules. One
// instruction is replaced by another, so that everything else stays where it is: the look-up of a counter finds
// nothing, and what is added to 64 bits of memory is not, but for what keeps account of flows where they are stored
// and swept. It returns how many instructions that were.
func Silence(spec *ebpf.CollectionSpec) int {
	changed := 0
	for name, p := range spec.Programs {
		if !onPath(name) {
			continue
		}
		counter := false // in R1, for the next call
		function := ""
		for i := range p.Instructions {
			ins := &p.Instructions[i]
			function = cmp.Or(ins.Symbol(), function)
			finds := function == name || function == "hit4" || function == "hit6"
			var with asm.Instruction
			switch {
			case ins.IsLoadFromMap():
				counter = ins.Reference() == dataplane.MapCounters
				continue
			case ins.IsBuiltinCall() && counter && asm.BuiltinFunc(ins.Constant) == asm.FnMapLookupElem:
				with = asm.Mov.Imm(asm.R0, 0)
			case finds && adds(ins) || counts(ins):
				with = asm.Instruction{OpCode: asm.OpCode(asm.JumpClass).SetJumpOp(asm.Ja)} // to the next one
			default:
				continue
			}
			with.Metadata = ins.Metadata
			*ins = with
			counter = false
			changed++
		}
	}
	return changed
}

// onPath tells whether a program is one that packets run: not the sweep.
func onPath(program string) bool {
	return slices.ContainsFunc(dataplane.Slots(), func(s dataplane.Slot) bool { return s.Program == program })
}

// adds tells whether an instruction adds to 64 bits of memory without looking at them.
func adds(ins *asm.Instruction) bool {
	op := ins.OpCode
	return op.Class() == asm.StXClass && op.Mode() == asm.AtomicMode && op.Size() == asm.DWord && op.AtomicOp() == asm.AddAtomic
}

// counts tells whether an instruction stores what a flow has counted on the short way (bpf/quick.h).
func counts(ins *asm.Instruction) bool {
	if ins.OpCode.Class() != asm.StXClass || ins.OpCode.Mode() != asm.MemMode || ins.OpCode.Size() != asm.DWord {
		return false
	}
	line := strings.TrimSpace(fmt.Sprint(ins.Source()))
	return strings.HasPrefix(line, "body->packets[dir] +=") || strings.HasPrefix(line, "body->bytes[dir] +=")
}

// Load loads a changed object onto the live maps.
func (m *Meter) Load(spec *ebpf.CollectionSpec) (*ebpf.Collection, error) {
	live := map[string]*ebpf.Map{}
	for _, name := range dataplane.PinnedMaps(spec) {
		if found := m.host.Maps().Map(name); found != nil {
			live[name] = found
			spec.Maps[name].MaxEntries = found.MaxEntries()
		}
	}
	if err := dataplane.SetRings(spec, live[dataplane.MapHalfOpen]); err != nil {
		return nil, err
	}
	programs, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: live})
	if err != nil {
		return nil, fmt.Errorf("load changed programs: %w", err)
	}
	return programs, nil
}

// silentSubject is what is held against the programs in force.
const silentSubject = "without counters"

// counters: the same packets of the same flows, by the programs in force and by those without counters.
func counters(ctx context.Context, r *bench.Run) error {
	cases := []region.Case{{Name: "base", Locals: 2, EIPs: true, Endpoints: 1}}
	return OnHost(ctx, r, cases, 1<<16, func(b *Bench) error {
		spec, err := dataplane.LoadSpec()
		if err != nil {
			return err
		}
		if Silence(spec) == 0 {
			return errors.New("take the counters out of the programs: they have none")
		}
		silent, err := b.Load(spec)
		if err != nil {
			return err
		}
		defer silent.Close()
		quiet := b.With(silent.Programs)
		var contenders []bench.Contender
		for _, family := range families(r) {
			for _, peer := range []Peer{Overlay, Internet} {
				t := Traffic{Peer: peer, Family: family, Flows: 1}
				if err := b.Fill(t, dataplane.Out); err != nil {
					return err
				}
				for _, dir := range []dataplane.Direction{dataplane.Out, dataplane.In} {
					c := b.contender(t, dir, ACK, dataplane.ReasonDelivered, bench.Params{"case": caseEstablished})
					contenders = append(contenders, c, b.silence(quiet, t, dir, c))
				}
			}
		}
		results, err := b.InTurn(b.ctx, Metric(), nil, contenders)
		if err != nil {
			return err
		}
		for i := 0; i < len(results); i += 2 {
			b.Ratio("with counters / without, "+label(results[i].Params), results[i], results[i+1], atMost(1.10))
		}
		return nil
	})
}

// silence makes of a contender the one by the programs without counters.
func (b *Bench) silence(quiet *Meter, t Traffic, dir dataplane.Direction, c bench.Contender) bench.Contender {
	s := t.shot(dir, ACK)
	c.Subject = silentSubject
	c.Measure = func(context.Context) (float64, error) {
		o, err := quiet.fire(&s, b.random.Uint32(), b.packets(), false)
		if err == nil && o.code != redirected {
			err = fmt.Errorf("a program without counters returned %d, want %d", o.code, redirected)
		}
		return o.ns, err
	}
	return c
}
