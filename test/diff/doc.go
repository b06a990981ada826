// SPDX-License-Identifier: Apache-2.0

// Package diff compares the programs with the reference model (pkg/oracle): random objects, random packets and
// their replies, time that passes, revisions that change in the middle. Whatever a packet becomes must be the same
// on both sides. What differs is shrunk and printed as a case, and left as a file; a case in testdata is played for
// ever.
//
// Packets are TCP, UDP, ICMP and others of both families, whole, in fragments, mutated, quoted by ICMP errors, as GSO
// packets, and under XDP in several pieces of memory. BPF_PROG_TEST_RUN makes no partial checksum, no VLAN tag beside
// the frame, no tunnel metadata (what the helpers say of it is put in their place) and no skb in pieces: those are
// the end-to-end tests' and the rows'.
//
// `make test` plays two million packets from seed 1. `make fuzz T=1h` plays for a time from a seed that it prints;
// ENIPLANE_DIFF_PACKETS, _TIME, _SEED and _SHRINK say the same to `go test`. Workers are as many as GOMAXPROCS.
package diff
