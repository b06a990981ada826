// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

// MostFrames is how many frames ReadFrames takes of a file.
const MostFrames = 10_000

// packetReader is what pcapgo's readers have in common.
type packetReader interface {
	LinkType() layers.LinkType
}

// ReadFrames reads the Ethernet frames of a pcap or pcapng file. Frames that were cut off when they were captured are an
// error: they would be judged as malformed.
func ReadFrames(path string) ([][]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read packets: %w", err)
	}
	frames, err := readFrames(data)
	if err != nil {
		return nil, fmt.Errorf("read packets from %s: %w", path, err)
	}
	return frames, nil
}

func readFrames(data []byte) ([][]byte, error) {
	var link packetReader
	var next func() ([]byte, int, error)
	if bytes.HasPrefix(data, []byte{0x0a, 0x0d, 0x0d, 0x0a}) {
		r, err := pcapgo.NewNgReader(bytes.NewReader(data), pcapgo.DefaultNgReaderOptions)
		if err != nil {
			return nil, err
		}
		link = r
		next = func() ([]byte, int, error) {
			frame, info, err := r.ReadPacketData()
			return frame, info.Length, err
		}
	} else {
		r, err := pcapgo.NewReader(bytes.NewReader(data))
		if err != nil {
			return nil, err
		}
		link = r
		next = func() ([]byte, int, error) {
			frame, info, err := r.ReadPacketData()
			return frame, info.Length, err
		}
	}
	if link.LinkType() != layers.LinkTypeEthernet {
		return nil, fmt.Errorf("its packets are of link type %v, want Ethernet: capture at the port of an ENI or inside the guest, not at `any`", link.LinkType())
	}
	var frames [][]byte
	for {
		frame, length, err := next()
		switch {
		case errors.Is(err, io.EOF):
			return frames, nil
		case err != nil:
			return nil, err
		case length > len(frame):
			return nil, fmt.Errorf("packet %d was cut off at %d of %d bytes: capture whole packets (tcpdump -s 0)", len(frames)+1, len(frame), length)
		case len(frames) == MostFrames:
			return nil, fmt.Errorf("it holds more than %d packets: leave those in that matter", MostFrames)
		}
		frames = append(frames, frame)
	}
}
