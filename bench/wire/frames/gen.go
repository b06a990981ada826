// SPDX-License-Identifier: Apache-2.0

package frames

//go:generate go tool bpf2go -target bpfel -output-stem frames frames frames.c
