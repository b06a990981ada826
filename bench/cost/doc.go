// SPDX-License-Identifier: Apache-2.0

// Package cost measures what the programs cost by themselves: the real programs, loaded by the real loader onto the
// real maps, run by BPF_PROG_TEST_RUN behind a wrapper that writes each packet anew (cost.c). Devices, the kernel's
// own work on a packet and interrupts are not part of it; package wire measures them.
package cost
