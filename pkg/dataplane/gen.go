// SPDX-License-Identifier: Apache-2.0

package dataplane

// The compiler and its flags come from the Makefile (BPF2GO_CC and so on): run `make generate`.

//go:generate go tool bpf2go -target bpfel -tags linux -output-stem bpf bpf ../../bpf/eniplane.c
//go:generate go run ./internal/abigen enums_gen.go reasons_gen.go ../../bpf/reason.h ../../bpf/types.h ../../bpf/maps.h
