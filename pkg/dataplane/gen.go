// SPDX-License-Identifier: Apache-2.0

package dataplane

// Run these by `make generate`: the Makefile pins the compiler and its flags and hands them over in the
// environment (BPF2GO_CC, BPF2GO_STRIP, BPF2GO_CFLAGS).

//go:generate go tool bpf2go -target bpfel -tags linux -type rules -type rule_set -output-stem bpf bpf ../../bpf/eniplane.c
//go:generate go run ./internal/abigen enums_gen.go reasons_gen.go ../../bpf/reason.h ../../bpf/types.h ../../bpf/maps.h
