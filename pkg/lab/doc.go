// SPDX-License-Identifier: Apache-2.0

// Package lab builds a small cloud on one Linux machine: hosts, instances and the internet are
// network namespaces, joined by veth cables; every host runs its own agent with its own pins.
//
// What a lab looks like follows from a topology (kind Lab) and the objects of the feed that it
// names: Read and MakePlan are pure, Up carries the plan out, Down removes exactly what Up made.
// The demo, the end-to-end tests and people use the same functions.
//
// Only the network namespace is ever entered: a fresh mount namespace would hide bpffs.
package lab
