// SPDX-License-Identifier: Apache-2.0

package driver

//go:generate go tool bpf2go -target bpfel -output-stem driver driver driver.c
