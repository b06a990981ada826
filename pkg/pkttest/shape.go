// SPDX-License-Identifier: Apache-2.0

package pkttest

import (
	"fmt"
	"slices"
	"strings"

	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane"
)

// ShaperDevice is both ends of the shapers of all ENIs here.
const ShaperDevice = "shaper0"

// kinds of where a packet behind a shaper is bound for, by the upper bits of its mark (bpf/shape.h).
var boundKinds = []string{"none", "eni", "overlay", "uplink"}

// capLive adds to the READY mark of an ENI what the loader adds for its caps.
func (w *World) capLive(st *compile.State, e *compile.ENI, live *dataplane.Live) {
	live.CapIn, live.CapOut = e.IngressMbps != 0, e.EgressMbps != 0
	live.CapEIPs = !live.CapOut && slices.ContainsFunc(st.EIPs, func(x compile.EIP) bool { return x.ENI == e.Index && x.EgressMbps != 0 })
	live.XDP = live.XDP && !live.CapIn
	if live.CapOut || live.CapEIPs {
		live.Shaper = w.devices[ShaperDevice]
	}
}

// compareShape compares the class of a packet, and where to it goes on behind a shaper.
func (w *World) compareShape(b *strings.Builder, want Want, got result) {
	class := uint32(0)
	if got.priority != 0 {
		minor := got.priority - dataplane.ShapeHandle
		class = minor / dataplane.ShapeGroup
		if queue := minor % dataplane.ShapeGroup; queue < 1 || queue > dataplane.ShapeBuckets {
			fmt.Fprintf(b, "priority %#x is no queue\n", got.priority)
		}
	}
	if class != want.Class {
		fmt.Fprintf(b, "class %d (priority %#x), want %d\n", class, got.priority, want.Class)
	}
	if got.asked.Ifindex != w.devices[ShaperDevice] {
		return
	}
	if bound := w.bound(got.mark); bound != want.Bound {
		fmt.Fprintf(b, "bound for %s (mark %#x), want %s\n", bound, got.mark, want.Bound)
	}
}

// bound says what a mark means.
func (w *World) bound(mark uint32) string {
	kind := boundKinds[mark>>30]
	switch kind {
	case "eni":
		for _, e := range w.state.ENIs {
			if e.Index == mark>>20&0x3ff && e.Incarnation&0xffff == mark>>4&0xffff {
				return kind + " " + e.Name
			}
		}
	case "overlay":
		for _, h := range w.state.NextHops {
			if h.Index == mark>>10&0xfffff && h.Since&0x3ff == mark&0x3ff {
				return kind + " " + h.ENI
			}
		}
	case "uplink":
		for name, index := range w.devices {
			if index == mark&0x3fffffff {
				return kind + " " + name
			}
		}
	}
	return kind
}

// markOf is the mark of a packet that is bound for somewhere; with a "?" behind, for who had the number before.
func (w *World) markOf(bound string) (uint32, error) {
	kind, name, _ := strings.Cut(bound, " ")
	name, before := strings.CutSuffix(name, "?")
	past := uint32(0)
	if before {
		past = 1
	}
	switch slices.Index(boundKinds, kind) {
	case 1:
		e, err := w.ENI(name)
		return 1<<30 | e.Index<<20 | (e.Incarnation-past)&0xffff<<4 | 5, err
	case 2:
		for _, h := range w.state.NextHops {
			if h.ENI == name {
				return 2<<30 | h.Index<<10 | (h.Since-past)&0x3ff, nil
			}
		}
	case 3:
		return 3<<30 | w.devices[name], nil
	}
	return 0, fmt.Errorf("nothing is bound for %q", bound)
}
