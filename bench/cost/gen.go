// SPDX-License-Identifier: Apache-2.0

package cost

//go:generate go tool bpf2go -target bpfel -tags linux -type path cost cost.c
