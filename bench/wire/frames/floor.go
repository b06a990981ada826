// SPDX-License-Identifier: Apache-2.0

package frames

import (
	"errors"
	"fmt"
	"net/netip"
)

// Hook is where a floor is attached.
type Hook int

// The two hooks.
const (
	XDP Hook = iota
	TC
)

// NewDropper attaches what only counts and drops.
func NewDropper(hook Hook, port uint16, devices []int) (*Attached, error) {
	if hook == XDP {
		s, err := NewSink(port, devices)
		if err != nil {
			return nil, err
		}
		return &s.Attached, nil
	}
	spec, err := specOf("sink_tc")
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
	a := &Attached{collection: c}
	if err := a.attachTC("sink_tc", devices); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

// Choice says by which address of a frame a redirecting floor chooses its device: the one number `address - Base`.
// Without Devices > 1 there is nothing to choose.
type Choice struct {
	Offset int // of the lowest 32 bits of the address
	Base   netip.Addr
}

// NewRedirector attaches what only sends on: to[0], or the device that the choice names.
func NewRedirector(hook Hook, devices, to []int, choice Choice) (*Attached, error) {
	program := map[Hook]string{XDP: "redirect_xdp", TC: "redirect_tc"}[hook]
	spec, err := specOf(program)
	if err != nil {
		return nil, err
	}
	if len(to) > 1 {
		for name, value := range map[string]uint32{
			framesVarChooseOff: uint32(choice.Offset), framesVarChooseMask: uint32(len(to) - 1), framesVarChooseBase: low32(choice.Base),
		} {
			if err := spec.Variables[name].Set(value); err != nil {
				return nil, fmt.Errorf("set %s: %w", name, err)
			}
		}
	}
	c, err := load(spec)
	if err != nil {
		return nil, err
	}
	a := &Attached{collection: c}
	if hook == XDP {
		err = errors.Join(fillDevices(c.Maps[framesMapOutputs], to), a.attachXDP(program, devices))
	} else {
		err = errors.Join(fillDevices(c.Maps[framesMapIfindexes], to), a.attachTC(program, devices))
	}
	if err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}
