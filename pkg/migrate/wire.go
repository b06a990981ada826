// SPDX-License-Identifier: Apache-2.0

package migrate

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"

	"github.com/eniplane/eniplane/pkg/dataplane"
)

// version of the protocol. Another one is refused.
const version = 1

const (
	maxFrame     = 1 << 18
	maxFlows     = 256 // in a frame
	maxName      = 255
	headerLength = 5
)

type frameType uint8

const (
	frameHello   frameType = 1
	frameWelcome frameType = 2
	frameFlows   frameType = 3
	frameRound   frameType = 4
	frameDone    frameType = 5
)

// hello says whose flows come.
type hello struct {
	Version  int
	From, To string // hosts
	ENI, UID string
	Epoch    uint64 // of the attachment at the source
}

// welcome answers it.
type welcome struct {
	Refused string `json:",omitempty"`
}

// done says what became of a round.
type done struct {
	Round   uint32
	Stored  int
	Refused map[string]int `json:",omitempty"` // by reason
	Here    uint64         `json:",omitempty"` // the epoch of the attachment, once the ENI has arrived
}

// Peer names the next hop of a flow: an ENI, or the internet.
type Peer struct {
	ENI, UID string
	Internet bool
}

// Flow is one on its way from host to host.
type Flow struct {
	dataplane.MovedFlow
	Peer Peer
	Rule string // as of RuleKey; "" = not known
}

func writeFrame(w io.Writer, t frameType, payload []byte) error {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, headerLength+len(payload)), uint32(len(payload)))
	b = append(append(b, byte(t)), payload...)
	if _, err := w.Write(b); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return nil
}

func writeJSON(w io.Writer, t frameType, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	return writeFrame(w, t, text)
}

// readFrame reads one frame; io.EOF = the other side has ended.
func readFrame(r io.Reader) (frameType, []byte, error) {
	var header [headerLength]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		if errors.Is(err, io.EOF) {
			return 0, nil, io.EOF
		}
		return 0, nil, fmt.Errorf("receive: %w", err)
	}
	size := binary.BigEndian.Uint32(header[:])
	if size > maxFrame {
		return 0, nil, fmt.Errorf("receive: a frame of %d bytes, at most %d are allowed", size, maxFrame)
	}
	payload := make([]byte, size)
	if _, err := io.ReadFull(r, payload); err != nil {
		return 0, nil, fmt.Errorf("receive: %w", err)
	}
	return frameType(header[4]), payload, nil
}

func readJSON(r io.Reader, want frameType, value any) error {
	t, payload, err := readFrame(r)
	if err != nil {
		return err
	}
	if t != want {
		return fmt.Errorf("receive: a frame of type %d in place of %d", t, want)
	}
	if err := json.Unmarshal(payload, value); err != nil {
		return fmt.Errorf("receive: %w", err)
	}
	return nil
}

// The first byte of a flow says what follows.
const (
	flagV6       = 1 << 0
	flagNAT      = 1 << 1
	flagInternet = 1 << 2
)

func encodeFlows(flows []Flow) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(len(flows)))
	for i := range flows {
		b = flows[i].append(b)
	}
	return b
}

func (f *Flow) append(b []byte) []byte {
	var flags byte
	if f.Local.Is6() {
		flags |= flagV6
	}
	if f.NAT.IsValid() {
		flags |= flagNAT
	}
	if f.Peer.Internet {
		flags |= flagInternet
	}
	b = append(b, flags, f.Class, f.State, f.Flags, f.Reason)
	for _, n := range []uint16{f.LocalPort, f.RemotePort, f.Seq[0], f.Seq[1]} {
		b = binary.BigEndian.AppendUint16(b, n)
	}
	b = binary.BigEndian.AppendUint32(b, f.Remaining)
	b = binary.BigEndian.AppendUint32(b, f.Age)
	for _, n := range []uint64{f.Packets[0], f.Packets[1], f.Bytes[0], f.Bytes[1]} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	b = append(b, f.Local.AsSlice()...)
	b = append(b, f.Remote.AsSlice()...)
	if f.NAT.IsValid() {
		b = append(b, f.NAT.AsSlice()...)
	}
	for _, s := range []string{f.Peer.ENI, f.Peer.UID, f.Rule} {
		s = s[:min(len(s), maxName)]
		b = append(append(b, byte(len(s))), s...)
	}
	return b
}

var errShort = errors.New("the flows end in the middle of one")

// reader takes a payload apart; after its end everything is zero and short is set.
type reader struct {
	b     []byte
	short bool
}

func (r *reader) take(n int) []byte {
	if len(r.b) < n {
		r.short = true
		r.b = nil
		return make([]byte, n)
	}
	got := r.b[:n]
	r.b = r.b[n:]
	return got
}

func (r *reader) u8() uint8      { return r.take(1)[0] }
func (r *reader) u16() uint16    { return binary.BigEndian.Uint16(r.take(2)) }
func (r *reader) u32() uint32    { return binary.BigEndian.Uint32(r.take(4)) }
func (r *reader) u64() uint64    { return binary.BigEndian.Uint64(r.take(8)) }
func (r *reader) string() string { return string(r.take(int(r.u8()))) }

func (r *reader) addr(v6 bool) netip.Addr {
	if v6 {
		return netip.AddrFrom16([16]byte(r.take(16)))
	}
	return netip.AddrFrom4([4]byte(r.take(4)))
}

// decodeFlows reads what a peer has sent; each flow is one that a host may have.
func decodeFlows(payload []byte) ([]Flow, error) {
	r := reader{b: payload}
	n := r.u16()
	if r.short {
		return nil, fmt.Errorf("receive: %w", errShort)
	}
	if n > maxFlows {
		return nil, fmt.Errorf("receive: %d flows in a frame, at most %d are allowed", n, maxFlows)
	}
	flows := make([]Flow, n)
	for i := range flows {
		flows[i].read(&r)
		if r.short {
			return nil, fmt.Errorf("receive: %w", errShort)
		}
		if err := flows[i].Check(); err != nil {
			return nil, fmt.Errorf("receive: %w", err)
		}
	}
	if len(r.b) > 0 {
		return nil, fmt.Errorf("receive: %d bytes follow the flows", len(r.b))
	}
	return flows, nil
}

func (f *Flow) read(r *reader) {
	flags := r.u8()
	v6 := flags&flagV6 != 0
	f.Class, f.State, f.Flags, f.Reason = r.u8(), r.u8(), r.u8(), r.u8()
	f.LocalPort, f.RemotePort = r.u16(), r.u16()
	f.Seq = [2]uint16{r.u16(), r.u16()}
	f.Remaining, f.Age = r.u32(), r.u32()
	f.Packets = [2]uint64{r.u64(), r.u64()}
	f.Bytes = [2]uint64{r.u64(), r.u64()}
	f.Local, f.Remote = r.addr(v6), r.addr(v6)
	if flags&flagNAT != 0 {
		f.NAT = r.addr(v6)
	}
	f.Peer = Peer{Internet: flags&flagInternet != 0}
	f.Peer.ENI, f.Peer.UID, f.Rule = r.string(), r.string(), r.string()
}
