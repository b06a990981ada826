// SPDX-License-Identifier: Apache-2.0

// Package trace says what the programs in force would do with a packet, and why, without doing it.
//
// A trace twin is a program of the same text as the one in force that reads the same tables, but whose every other map
// is its own: flows, counters, budgets, hints and the scratch memory of a packet. Before a run the twin is given a copy
// of what the packet could meet there; what it writes is read afterwards, and forgotten. So it goes the very way of a real
// packet, with its flow made and counted, and nothing that is live can change, whatever the text does. No instruction
// in the programs serves this.
//
// What BPF_PROG_TEST_RUN cannot do, a twin has replaced, one call for one: redirects are noted instead of
// prepared, and the tunnel that a packet came through is given. Where a judgement ends it is noted too.
//
// The agent pins twins (Ensure); Open finds them, with the agent dead or alive.
package trace
