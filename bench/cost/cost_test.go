// SPDX-License-Identifier: Apache-2.0

package cost

import (
	"context"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/eniplane/eniplane/bench/host"
	"github.com/eniplane/eniplane/bench/region"
	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/dataplane/flowtable"
	"github.com/eniplane/eniplane/pkg/pkttest"
	"github.com/eniplane/eniplane/pkg/testroot"
)

// onMeter runs fn with a meter on a host without ENIs.
func onMeter(t *testing.T, fn func(*Meter) error) {
	t.Helper()
	testroot.Require(t)
	err := host.Do(context.Background(), nil, 1<<10, func(h *host.Host) error {
		m, err := Open(h, 1)
		if err != nil {
			return err
		}
		defer m.Close() //nolint:errcheck // only memory
		return fn(m)
	})
	if err != nil {
		t.Fatalf("%+v", err)
	}
}

// A program that leaves a longer packet behind finds one of the right length each time: after 5000 runs without that,
// no packet could grow any more.
func TestLengthIsRestored(t *testing.T) {
	onMeter(t, func(m *Meter) error {
		for _, name := range []string{costProgLongerTc, costProgLongerXdp} {
			s := Traffic{Peer: Internet, Family: pkttest.V4, Flows: 1}.shot(dataplane.In, ACK)
			s.program = name
			o, err := m.fire(&s, 0, 5000, false)
			if err != nil {
				return err
			}
			if want := map[string]uint32{costProgLongerTc: tcDrop, costProgLongerXdp: xdpDrop}[name]; o.code != want {
				t.Errorf("%s returns %d at last, want %d", name, o.code, want)
			}
		}
		return nil
	})
}

// The wrapper makes each flow once, and says in all fields which one it is.
func TestPackets(t *testing.T) {
	onMeter(t, func(m *Meter) error {
		const flows = 1 << 10
		traffic := Traffic{ENIs: 4, Peer: Overlay, Family: pkttest.V6, Flows: flows, Remotes: 25, Hosts: 2}
		s := traffic.shot(dataplane.In, ACK)
		wrapper, err := m.aim(s.program, true)
		if err != nil {
			return err
		}
		if err := m.wrapper.Maps[costMapPaths].Put(uint32(0), &s.path); err != nil {
			return err
		}
		seen, enis := map[string]bool{}, map[byte]int{}
		for range flows {
			out := make([]byte, len(s.frame)+64)
			opts := ebpf.RunOptions{Data: s.frame, DataOut: out, Context: skbContext(1), Repeat: 1}
			if _, err := wrapper.Run(&opts); err != nil {
				return err
			}
			frame := opts.DataOut
			if len(frame) != len(s.frame) {
				t.Fatalf("a packet of %d bytes, want %d", len(frame), len(s.frame))
			}
			mac, addr := frame[5], frame[14+24+15]
			if mac != addr {
				t.Fatalf("a packet to MAC %d and address %d of different ENIs", mac, addr)
			}
			// 20 addresses each have the remote ENIs.
			if from := (frame[14+8+15] - 16) / 20; frame[11]-16 != from {
				t.Fatalf("a packet of remote ENI %d with the MAC of %d", from, frame[11]-16)
			}
			enis[addr]++
			seen[string(frame[14+8:])] = true
		}
		if len(seen) != flows || len(enis) != 4 || enis[16] != flows/4 {
			t.Errorf("%d different packets for the ENIs %v, want %d for 4", len(seen), enis, flows)
		}
		return nil
	})
}

// Filling makes one flow per number, and each is established.
func TestFill(t *testing.T) {
	testroot.Require(t)
	cases := []region.Case{{Name: "base", Locals: 2, EIPs: true, Endpoints: 10}}
	states := map[uint32]int{}
	err := host.Do(context.Background(), region.Devices(cases), 1<<12, func(h *host.Host) error {
		if err := h.Install(context.Background(), region.Build(cases)); err != nil {
			return err
		}
		m, err := Open(h, 1)
		if err != nil {
			return err
		}
		defer m.Close() //nolint:errcheck // only memory
		if err := m.Fill(Traffic{Peer: Overlay, Family: pkttest.V4, TCP: true, Flows: 1 << 9, Remotes: 10}, dataplane.In); err != nil {
			return err
		}
		table, err := flowtable.Open(h.Maps().Map(dataplane.MapFlows4), nil, flowtable.IPv4)
		if err != nil {
			return err
		}
		defer table.Close()   //nolint:errcheck // only memory
		const established = 2 // FLOW_ESTABLISHED
		now, err := flowtable.Now()
		table.Each(now, func(f *flowtable.Flow) bool {
			states[uint32(f.State)]++
			return true
		})
		if states[established] != 1<<9 || len(states) != 1 {
			t.Errorf("flows by state: %v, want %d established", states, 1<<9)
		}
		return err
	})
	if err != nil {
		t.Fatalf("%+v", err)
	}
}

// Silence changes what counts, and nothing else.
func TestSilence(t *testing.T) {
	spec, err := dataplane.LoadSpec()
	if err != nil {
		t.Fatal(err)
	}
	before := map[string]int{}
	for name, p := range spec.Programs {
		before[name] = len(p.Instructions)
	}
	if n := Silence(spec); n < 10 {
		t.Errorf("%d instructions were changed, want the counters of all programs", n)
	}
	for name, p := range spec.Programs {
		if len(p.Instructions) != before[name] {
			t.Errorf("program %s has %d instructions, had %d", name, len(p.Instructions), before[name])
		}
	}
	if n := Silence(spec); n != 0 {
		t.Errorf("%d instructions still count after that", n)
	}
}
