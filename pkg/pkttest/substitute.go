// SPDX-License-Identifier: Apache-2.0

package pkttest

import (
	"fmt"
	"maps"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

//go:generate go tool bpf2go -target bpfel helpers helpers.c

// unitMap holds what helpers.c calls given and asked.
const unitMap = "unit.bss"

// substitutes says by which function of helpers.c the call of a helper is replaced.
var substitutes = map[asm.BuiltinFunc]string{
	asm.FnRedirect:         "unit_redirect",
	asm.FnRedirectNeigh:    "unit_redirect_neigh",
	asm.FnSkbGetTunnelKey:  "unit_get_tunnel_key",
	asm.FnSkbGetTunnelOpt:  "unit_get_tunnel_opt",
	asm.FnSkbSetTunnelKey:  "unit_set_tunnel_key",
	asm.FnSkbSetTunnelOpt:  "unit_set_tunnel_opt",
	asm.FnKtimeGetNs:       "unit_ktime",
	asm.FnKtimeGetCoarseNs: "unit_ktime",
	asm.FnKtimeGetBootNs:   "unit_ktime",
}

// substitute replaces, in all programs of spec, the calls of helpers that BPF_PROG_TEST_RUN cannot
// serve.
func substitute(spec *ebpf.CollectionSpec) error {
	return substituteBy(spec, substitutes)
}

// substituteClock replaces only what tells the time.
func substituteClock(spec *ebpf.CollectionSpec) error {
	clock := maps.Clone(substitutes)
	maps.DeleteFunc(clock, func(_ asm.BuiltinFunc, by string) bool { return by != "unit_ktime" })
	return substituteBy(spec, clock)
}

func substituteBy(spec *ebpf.CollectionSpec, by map[asm.BuiltinFunc]string) error {
	helpers, err := loadHelpers()
	if err != nil {
		return fmt.Errorf("load the substitutes of helpers: %w", err)
	}
	functions := splitFunctions(helpers.Programs["unit_helpers"].Instructions)
	for _, p := range spec.Programs {
		p.Instructions = append(p.Instructions, replaceCalls(p.Instructions, functions, by)...)
	}
	spec.Maps[unitMap] = helpers.Maps[".bss"].Copy()
	spec.Maps[unitMap].Name = "unit_bss"
	return nil
}

// splitFunctions cuts a linked program into its functions by name, and makes them refer to unitMap.
func splitFunctions(insns asm.Instructions) map[string]asm.Instructions {
	functions := make(map[string]asm.Instructions)
	var name string
	for _, ins := range insns {
		if s := ins.Symbol(); strings.HasPrefix(s, "unit_") {
			name = s
		}
		if ins.IsLoadFromMap() {
			ins = ins.WithReference(unitMap)
		}
		functions[name] = append(functions[name], ins)
	}
	return functions
}

// replaceCalls changes calls of helpers in place, one instruction for one, and returns the functions
// that are now called.
func replaceCalls(insns asm.Instructions, functions map[string]asm.Instructions, by map[asm.BuiltinFunc]string) asm.Instructions {
	var called asm.Instructions
	done := make(map[string]bool)
	for i := range insns {
		ins := &insns[i]
		name := by[asm.BuiltinFunc(ins.Constant)]
		if !ins.IsBuiltinCall() || name == "" {
			continue
		}
		call := asm.Call.Label(name)
		call.Metadata = ins.Metadata
		insns[i] = call.WithReference(name)
		if !done[name] {
			called = append(called, functions[name]...)
			done[name] = true
		}
	}
	return called
}
