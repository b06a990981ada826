// SPDX-License-Identifier: Apache-2.0

package oracle

// maxSegments is into how many wire packets one of an ENI may be cut.
const maxSegments = 2048

// wire is a packet as the wire sees it: a GSO packet stands for several, of which each repeats the headers.
type wire struct {
	packets int
	bytes   int
	size    int // of the largest IP packet among them
}

// segments says what a frame becomes when its payload is cut into parts of gso bytes; 0 = it is not cut. A frame that
// is to be cut must be TCP or UDP right behind its IP header, of the length that this says: what others count as is
// not defined.
func segments(frame []byte, gso int) wire {
	w := wire{packets: 1, bytes: len(frame)}
	if len(frame) < ethernet+40 {
		return w
	}
	var l4 int
	var protocol uint8
	switch ip := frame[ethernet:]; be.Uint16(frame[12:]) {
	case etherIPv4:
		l4, protocol, w.size = ethernet+int(ip[0]&15)*4, ip[9], int(be.Uint16(ip[2:]))
	case etherIPv6:
		l4, protocol, w.size = ethernet+40, ip[6], 40+int(be.Uint16(ip[4:]))
	}
	if gso == 0 {
		return w
	}
	headers := l4 + 8
	if protocol == tcp {
		headers = l4 + int(frame[l4+12]>>4)*4
	}
	if payload := len(frame) - headers; payload > 0 {
		w.packets = (payload + gso - 1) / gso
		w.bytes += (w.packets - 1) * headers
		w.size = headers - ethernet + gso
	}
	return w
}
