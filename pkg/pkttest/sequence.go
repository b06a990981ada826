// SPDX-License-Identifier: Apache-2.0

package pkttest

// Numbers gives the TCP header other sequence and acknowledgement numbers.
func (p Packet) Numbers(seq, ack uint32) Packet {
	return change(p, true, func(l tcpLayer) tcpLayer { l.seq, l.ack = seq, ack; return l })
}
