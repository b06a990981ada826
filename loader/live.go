// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane"
)

// openings is what the maps say about devices: which port is whose, and who is READY.
type openings struct {
	live  dataplane.Content
	ports dataplane.Content
}

func wantedOpenings(ports []*port) openings {
	o := openings{live: dataplane.Content{}, ports: dataplane.Content{}}
	for _, p := range ports {
		if !p.usable() {
			continue
		}
		ready := dataplane.Live{
			Incarnation: p.eni.Incarnation, Ifindex: uint32(p.device.Index), MTU: uint32(p.device.MTU),
			XDP: p.xdp,
		}
		if p.caps.err == nil {
			p.caps.mark(&ready)
		}
		standAs(&ready, p.eni)
		o.live[dataplane.Index(p.eni.Index)] = ready.Encode()
		o.ports[dataplane.Index(uint32(p.device.Index))] = dataplane.EncodePort(p.eni.Index, p.eni.Incarnation)
	}
	return o
}

// standAs marks the device of an ENI that moves. What is sent on is too much for XDP.
func standAs(live *dataplane.Live, eni *compile.ENI) {
	live.Closed, live.Left = eni.Stage == compile.Prepared, eni.Stage == compile.Left
	live.XDP = live.XDP && eni.Stage == compile.Attached
}

// restate marks ENIs that stay and now stand otherwise, those that stand so: who has moved here is heard, who has left gets
// nothing any more. What devices are and can do stays as it was seen.
func (l *Loader) restate(st *compile.State, stages ...compile.Stage) error {
	now, err := l.content(dataplane.MapLive)
	if err != nil {
		return err
	}
	s := step{table: dataplane.MapLive}
	for i := range st.ENIs {
		key := dataplane.Index(st.ENIs[i].Index)
		if now[key] == nil || !slices.Contains(stages, st.ENIs[i].Stage) {
			continue
		}
		live, err := dataplane.DecodeLive(now[key])
		if err != nil {
			return err
		}
		standAs(&live, &st.ENIs[i])
		if value := live.Encode(); live.Incarnation == st.ENIs[i].Incarnation && !bytes.Equal(value, now[key]) {
			s.put(key, value)
		}
	}
	return l.engine.run([]step{s})
}

// mark tells the programs by which queues packets of the ENI go. XDP has none.
func (c *caps) mark(ready *dataplane.Live) {
	if c.in != nil {
		ready.CapIn, ready.XDP = true, false
	}
	if c.out != nil {
		ready.CapOut, ready.CapEIPs, ready.Shaper = c.all, !c.all, uint32(c.near)
	}
}

// shut takes the READY mark and the port away from everybody that must not have them, the mark
// first. Whoever keeps device and incarnation notices nothing.
func (l *Loader) shut(want openings) error {
	return l.gone.hold(func() error { return l.shutAll(want) })
}

func (l *Loader) shutAll(want openings) error {
	live, err := l.content(dataplane.MapLive)
	if err != nil {
		return err
	}
	ports, err := l.content(dataplane.MapPorts)
	if err != nil {
		return err
	}
	marks, doors := step{table: dataplane.MapLive}, step{table: dataplane.MapPorts}
	for _, key := range slices.Sorted(maps.Keys(live)) {
		same, err := sameOpening(live[key], want.live[key])
		if err != nil {
			return err
		}
		if !same {
			marks.drop(key)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(ports)) {
		if !bytes.Equal(ports[key], want.ports[key]) {
			doors.drop(key)
		}
	}
	if err := l.engine.run([]step{marks, doors}); err != nil {
		return fmt.Errorf("close what is gone: %w", err)
	}
	return nil
}

// sameOpening: a device whose MTU or XDP features changed is still the same.
func sameOpening(now, want []byte) (bool, error) {
	if want == nil {
		return false, nil
	}
	a, err := dataplane.DecodeLive(now)
	if err != nil {
		return false, err
	}
	b, err := dataplane.DecodeLive(want)
	if err != nil {
		return false, err
	}
	return a.Incarnation == b.Incarnation && a.Ifindex == b.Ifindex, nil
}

// admit gives ports and READY marks, the mark last, and reads them back. A device that has gone since devices were listed
// gets none.
func (l *Loader) admit(want openings) error {
	return l.gone.hold(func() error {
		if err := l.gone.without(want); err != nil {
			return err
		}
		if err := l.syncTable(dataplane.MapPorts, want.ports); err != nil {
			return err
		}
		return l.syncTable(dataplane.MapLive, want.live)
	})
}

// syncTable makes a small table that no revision covers equal to what it must be.
func (l *Loader) syncTable(name string, want dataplane.Content) error {
	now, err := l.content(name)
	if err != nil {
		return err
	}
	s := step{table: name}
	for _, key := range slices.Sorted(maps.Keys(now)) {
		if _, stays := want[key]; !stays {
			s.drop(key)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if !bytes.Equal(now[key], want[key]) {
			s.put(key, want[key])
		}
	}
	return l.engine.run([]step{s})
}

func (l *Loader) content(name string) (dataplane.Content, error) {
	entries, err := l.tables[name].read()
	if err != nil {
		return nil, fmt.Errorf("table %s: %w", name, err)
	}
	content := make(dataplane.Content, len(entries))
	for _, e := range entries {
		content[string(e.Key)] = e.Value
	}
	return content, nil
}
