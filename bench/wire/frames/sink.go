// SPDX-License-Identifier: Apache-2.0

package frames

import (
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// Seen is what came to a sink.
type Seen struct {
	Measured uint64 // frames to or from the sink's port
	Bytes    uint64 // of these
	Unwanted uint64 // other UDP and TCP
	Others   uint64
}

// Attached is a program of ours on devices. It leaves them when it is closed.
type Attached struct {
	collection *ebpf.Collection
	links      []link.Link
}

// Close detaches the program.
func (a *Attached) Close() error {
	var errs []error
	for _, l := range a.links {
		errs = append(errs, l.Close())
	}
	a.collection.Close()
	return errors.Join(errs...)
}

// Sink counts what arrives at devices and drops it.
type Sink struct{ Attached }

// NewSink attaches a sink to devices of the present namespace, by XDP: then veths have NAPI and take XDP frames. It
// counts UDP and TCP from or to the port.
func NewSink(port uint16, devices []int) (*Sink, error) {
	spec, err := specOf("sink")
	if err != nil {
		return nil, err
	}
	if err := spec.Variables[framesVarSinkPort].Set(port); err != nil {
		return nil, fmt.Errorf("set the sink's port: %w", err)
	}
	c, err := load(spec)
	if err != nil {
		return nil, err
	}
	s := &Sink{Attached{collection: c}}
	if err := s.attachXDP("sink", devices); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (a *Attached) attachXDP(program string, devices []int) error {
	for _, ifindex := range devices {
		l, err := link.AttachXDP(link.XDPOptions{
			Program: a.collection.Programs[program], Interface: ifindex, Flags: link.XDPDriverMode,
		})
		if err != nil {
			return fmt.Errorf("attach %s by XDP to device %d: %w", program, ifindex, err)
		}
		a.links = append(a.links, l)
	}
	return nil
}

func (a *Attached) attachTC(program string, devices []int) error {
	for _, ifindex := range devices {
		l, err := link.AttachTCX(link.TCXOptions{
			Program: a.collection.Programs[program], Interface: ifindex, Attach: ebpf.AttachTCXIngress,
		})
		if err != nil {
			return fmt.Errorf("attach %s by TC to device %d: %w", program, ifindex, err)
		}
		a.links = append(a.links, l)
	}
	return nil
}

// Seen returns what came since the sink was made.
func (a *Attached) Seen() (Seen, error) {
	var all []Seen
	if err := a.collection.Maps[framesMapArrived].Lookup(uint32(0), &all); err != nil {
		return Seen{}, fmt.Errorf("read the sink's counters: %w", err)
	}
	var s Seen
	for _, cpu := range all {
		s.Measured += cpu.Measured
		s.Bytes += cpu.Bytes
		s.Unwanted += cpu.Unwanted
		s.Others += cpu.Others
	}
	return s, nil
}

// WantSample makes the sink keep the next measured frame.
func (s *Sink) WantSample() error {
	if err := s.collection.Variables[framesVarSampleWanted].Set(uint32(1)); err != nil {
		return fmt.Errorf("ask for a sample: %w", err)
	}
	return nil
}

// Sample returns the frame that was kept, or as much of it as the sink keeps; nil if none came.
func (s *Sink) Sample() ([]byte, error) {
	var wanted, length uint32
	if err := s.collection.Variables[framesVarSampleWanted].Get(&wanted); err != nil {
		return nil, fmt.Errorf("look for the sample: %w", err)
	}
	if wanted != 0 {
		return nil, nil
	}
	if err := s.collection.Variables[framesVarSampleLen].Get(&length); err != nil {
		return nil, fmt.Errorf("read the sample's length: %w", err)
	}
	frame := make([]byte, s.collection.Variables[framesVarSample].Size())
	if err := s.collection.Variables[framesVarSample].Get(frame); err != nil {
		return nil, fmt.Errorf("read the sample: %w", err)
	}
	return frame[:length], nil
}

// Watch makes the sink note when measured frames come and forgets what it saw before.
func (s *Sink) Watch() error {
	for name, value := range map[string]any{framesVarFirstSeen: uint64(0), framesVarLastSeen: uint64(0), framesVarWatch: uint32(1)} {
		if err := s.collection.Variables[name].Set(value); err != nil {
			return fmt.Errorf("watch the sink: set %s: %w", name, err)
		}
	}
	return nil
}

// Watched returns when the first and the last measured frame came since Watch, on the monotonic clock; 0 = none did.
func (s *Sink) Watched() (first, last time.Duration, err error) {
	var f, l uint64
	if err := s.collection.Variables[framesVarFirstSeen].Get(&f); err != nil {
		return 0, 0, fmt.Errorf("read when the first frame came: %w", err)
	}
	if err := s.collection.Variables[framesVarLastSeen].Get(&l); err != nil {
		return 0, 0, fmt.Errorf("read when the last frame came: %w", err)
	}
	return time.Duration(f), time.Duration(l), nil
}
