// SPDX-License-Identifier: Apache-2.0

// Package pkttest proves the datapath packet by packet: builders of packets that read as one line,
// a decoded difference of two packets, and a runner that feeds rows of packets to the loaded
// programs by BPF_PROG_TEST_RUN and compares everything that comes out: the whole packet, where it
// goes, what was counted.
//
// It shares no code with the programs: headers, lengths and checksums are built here from the RFCs,
// so an error in the C text cannot hide behind the same error in its test.
package pkttest
