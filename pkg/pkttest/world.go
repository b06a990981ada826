// SPDX-License-Identifier: Apache-2.0

package pkttest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/testroot"
)

// Setup describes the host that rows run on.
type Setup struct {
	Objects  func() (*api.Objects, error) // the revision, decoded anew on each call: rows change it
	Host     string
	Absent   []string // devices of the feed that do not exist
	Underlay Underlay
	Uplink   MAC            // of every uplink
	Knobs    map[string]any // volatile const of the object

	Ways map[string]MAC // VTEP -> neighbour by which it is reached without the kernel

	// Refuses tells whether XDP drops what this step wants to be dropped, so that TC never sees it; nil = the rows do
	// not care. Asked if a row runs by XDP and TC in turn.
	Refuses func(Step) bool

	NoXDP     bool // the ports take no frames from XDP
	WideRules bool // every rule set is searched instead of looked up
}

// World is one host: a network namespace with its devices, the loaded programs, and maps that hold
// a revision. It is not for concurrent use.
type World struct {
	setup   Setup
	ns      *testroot.Namespace
	coll    *ebpf.Collection
	base    *compile.State
	state   *compile.State
	ids     *compile.IDs
	written map[string]dataplane.Content
	devices map[string]uint32
	slot    uint64
	unit    unit
	counts  map[counterKey]uint64
	ports   sourcePorts
	lastENI uint32 // highest index that an ENI ever had here
}

// NewWorld builds the host and brings its revision into force.
func NewWorld(t testing.TB, setup Setup) *World {
	t.Helper()
	testroot.Require(t)
	w := &World{
		setup:   setup,
		ns:      testroot.Netns(t),
		written: make(map[string]dataplane.Content),
		devices: make(map[string]uint32),
		ports:   make(sourcePorts),
	}
	if err := w.ns.Do(func() error { return w.build(t) }); err != nil {
		t.Fatalf("build a world of packets: %+v", err)
	}
	return w
}

func (w *World) build(t testing.TB) error {
	if err := w.load(t); err != nil {
		return err
	}
	objects, err := w.setup.Objects()
	if err != nil {
		return err
	}
	if w.base, err = w.compile(objects, true); err != nil {
		return err
	}
	if err := w.makeDevices(t); err != nil {
		return err
	}
	if err := w.Apply(w.base); err != nil {
		return err
	}
	w.counts, err = w.readCounters()
	return err
}

// EnvObject names another object file to test instead of the embedded one: a mutant.
const EnvObject = "ENIPLANE_BPF_OBJECT"

func loadObject() (*ebpf.CollectionSpec, error) {
	path := os.Getenv(EnvObject)
	if path == "" {
		return dataplane.LoadSpec()
	}
	spec, err := ebpf.LoadCollectionSpec(path)
	if err != nil {
		return nil, fmt.Errorf("read the BPF object %s: %w", path, err)
	}
	return spec, nil
}

// load loads the object with the substitutes in place of the helpers that a test cannot have.
func (w *World) load(t testing.TB) error {
	spec, err := loadObject()
	if err != nil {
		return err
	}
	for name, value := range w.setup.Knobs {
		v := spec.Variables[name]
		if v == nil {
			return fmt.Errorf("set knob %s: the object has none of this name", name)
		}
		if err := v.Set(value); err != nil {
			return fmt.Errorf("set knob %s: %w", name, err)
		}
	}
	if err := substitute(spec); err != nil {
		return err
	}
	for _, m := range spec.Maps {
		m.Pinning = ebpf.PinNone
	}
	if err := sizeFlows(spec, testSets); err != nil {
		return err
	}
	w.coll, err = ebpf.NewCollection(spec)
	if err != nil {
		return fmt.Errorf("load the programs: %w", err)
	}
	t.Cleanup(w.coll.Close)
	w.unit, err = openUnit(w.coll)
	return err
}

// makeDevices makes the uplinks, the overlay device and the ports, and tells the maps which they
// are, as the loader does.
func (w *World) makeDevices(t testing.TB) error {
	vxlan, err := makeVXLAN()
	if err != nil {
		return err
	}
	w.devices[VXLANDevice] = uint32(vxlan)
	shaper, err := makePort(ShaperDevice, MAC{})
	if err != nil {
		return err
	}
	w.devices[ShaperDevice] = uint32(shaper)
	for _, name := range w.base.Host.Uplinks {
		index, err := makePort(name, w.setup.Uplink)
		if err != nil {
			return err
		}
		w.devices[name] = uint32(index)
		l, err := enableXDP(index)
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = l.Close() })
		if err := w.put(dataplane.MapUplinks, u32(uint32(index)), dataplane.EncodeUplink(w.setup.Uplink)); err != nil {
			return err
		}
	}
	for _, e := range w.base.ENIs {
		if slices.Contains(w.setup.Absent, e.Device) {
			continue
		}
		index, err := makePort(e.Device, MAC{})
		if err != nil {
			return err
		}
		w.devices[e.Device] = uint32(index)
	}
	uplink := w.devices[w.base.Host.Uplinks[0]]
	if err := writeWays(w.coll, uplink, w.setup.Uplink, w.setup.Ways); err != nil {
		return err
	}
	return w.setup.Underlay.connect(int(uplink))
}

// compile makes the next revision; settled: what has moved before is where it is.
func (w *World) compile(objects *api.Objects, settled bool) (*compile.State, error) {
	in := compile.Input{
		Objects: objects, Host: w.setup.Host, Revision: 1, Previous: w.state, IDs: w.ids, Settled: settled, WideRules: w.setup.WideRules,
	}
	if w.state != nil {
		in.Revision = w.state.Revision + 1
	}
	result, err := compile.Compile(in)
	if err != nil {
		return nil, err
	}
	for name, err := range result.Degraded {
		return nil, fmt.Errorf("compile ENI %s: %w", name, err)
	}
	w.ids = result.IDs
	return result.State, nil
}

// Revise brings the revision into force that change makes of the world's objects; nil restores it.
func (w *World) Revise(change func(*api.Objects)) error {
	objects, err := w.setup.Objects()
	if err != nil {
		return err
	}
	if change != nil {
		change(objects)
	}
	st, err := w.compile(objects, change == nil)
	if err != nil {
		return err
	}
	return w.Apply(st)
}

// Apply brings a state into force: all of it into both slots, then the next slot counts.
func (w *World) Apply(st *compile.State) error {
	tables, err := dataplane.Encode(st, dataplane.HostFacts{
		VXLANIfindex: w.devices[VXLANDevice], OverlayMTU: 1450, MaxFlows: MaxFlows, HalfOpen: testPlaces,
	})
	if err != nil {
		return err
	}
	contents, err := tables.All()
	if err != nil {
		return err
	}
	var errs []error
	for name, kind := range dataplane.TableKinds() {
		errs = append(errs, w.replace(name, kind, contents[name]))
	}
	for _, e := range st.ENIs {
		errs = append(errs, w.ready(st, e))
	}
	w.slot ^= 1
	w.state = st
	errs = append(errs, w.LeaseXDP(math.MaxUint32), w.LeaseWays(math.MaxUint32), w.put(dataplane.MapActive, u32(0), u64(st.Revision<<1|w.slot)))
	return errors.Join(errs...)
}

// LeaseWays lets packets leave without the kernel up to a tick of the flow clock.
func (w *World) LeaseWays(until uint32) error {
	return writeExit(w.coll, w.devices[w.base.Host.Uplinks[0]], w.setup.Uplink, until)
}

// LeaseXDP lets XDP deliver up to a tick of the flow clock.
func (w *World) LeaseXDP(until uint32) error { return w.put(dataplane.MapXDPLease, u32(0), u32(until)) }

// replace makes a table hold exactly this content.
func (w *World) replace(name string, kind dataplane.Kind, content dataplane.Content) error {
	m := w.coll.Maps[name]
	if m == nil {
		return fmt.Errorf("write table %s: the object has none of this name", name)
	}
	for key := range w.written[name] {
		if _, stays := content[key]; stays {
			continue
		}
		if m.Type() == ebpf.Array {
			if err := m.Put([]byte(key), make([]byte, m.ValueSize())); err != nil {
				return fmt.Errorf("clear entry of %s: %w", name, err)
			}
		} else if err := m.Delete([]byte(key)); err != nil {
			return fmt.Errorf("delete entry of %s: %w", name, err)
		}
	}
	for key, value := range content {
		if kind == dataplane.Slotted {
			value = slices.Concat(value, value)
		}
		if err := m.Put([]byte(key), value); err != nil {
			return fmt.Errorf("write entry of %s: %w", name, err)
		}
	}
	w.written[name] = content
	return nil
}

// ready binds the device of an ENI and sets its READY mark, if the device exists.
func (w *World) ready(st *compile.State, e compile.ENI) error {
	index, ok := w.devices[e.Device]
	if !ok {
		return nil
	}
	live := dataplane.Live{
		Incarnation: e.Incarnation, Ifindex: index, MTU: 1500, XDP: !w.setup.NoXDP && e.Stage == compile.Attached,
		Closed: e.Stage == compile.Prepared, Left: e.Stage == compile.Left,
	}
	w.capLive(st, &e, &live)
	return errors.Join(
		w.put(dataplane.MapPorts, u32(index), dataplane.EncodePort(e.Index, e.Incarnation)),
		w.put(dataplane.MapLive, u32(e.Index), live.Encode()))
}

func (w *World) put(name string, key, value []byte) error {
	m := w.coll.Maps[name]
	if m == nil {
		return fmt.Errorf("write map %s: the object has none of this name", name)
	}
	if err := m.Put(key, value); err != nil {
		return fmt.Errorf("write map %s: %w", name, err)
	}
	return nil
}

// ENI finds a local ENI of the revision in force.
func (w *World) ENI(name string) (compile.ENI, error) {
	for _, e := range w.state.ENIs {
		if e.Name == name {
			return e, nil
		}
	}
	return compile.ENI{}, fmt.Errorf("no ENI %q on host %s", name, w.setup.Host)
}

// Unready takes the READY mark of an ENI away.
func (w *World) Unready(name string) error {
	e, err := w.ENI(name)
	if err != nil {
		return err
	}
	return w.put(dataplane.MapLive, u32(e.Index), dataplane.Live{}.Encode())
}

// Mislead makes the programs guess that the port of one ENI is another's.
func (w *World) Mislead(name, to string) error {
	from, err := w.ENI(name)
	if err != nil {
		return err
	}
	e, err := w.ENI(to)
	if err != nil {
		return err
	}
	return w.hint(from, e.Index)
}

// hint sets which ENI the programs try first for a device.
func (w *World) hint(e compile.ENI, eni uint32) error {
	place := w.devices[e.Device] % w.coll.Maps[dataplane.MapPortHints].MaxEntries()
	return w.put(dataplane.MapPortHints, u32(place), u32(eni))
}

// ReadyAs gives the port or the READY mark of an ENI to another incarnation, as for a moment when one follows another.
func (w *World) ReadyAs(name string, port bool) error {
	e, err := w.ENI(name)
	if err != nil {
		return err
	}
	index := w.devices[e.Device]
	if port {
		return errors.Join(w.hint(e, 0), w.put(dataplane.MapPorts, u32(index), dataplane.EncodePort(e.Index, e.Incarnation-1)))
	}
	return w.put(dataplane.MapLive, u32(e.Index), dataplane.Live{Incarnation: e.Incarnation - 1, Ifindex: index, MTU: 1500}.Encode())
}

// Endow makes addresses count as endpoints of a VPC like another one, whatever the feed says of them.
func (w *World) Endow(addrs Addr, like Addr, vni uint32) error {
	st := *w.state
	st.Endpoints = slices.Clone(st.Endpoints)
	for _, f := range Families() {
		for _, e := range w.state.Endpoints {
			if e.Addr == like.In(f) && e.VNI == vni {
				e.Addr = addrs.In(f)
				st.Endpoints = append(st.Endpoints, e)
			}
		}
	}
	if len(st.Endpoints) == len(w.state.Endpoints) {
		return fmt.Errorf("no endpoint %v in VNI %d", like, vni)
	}
	st.Revision++
	return w.Apply(&st)
}

// FillSlots puts the programs into the arrays from which the stubs call them.
func (w *World) FillSlots() error {
	for _, s := range dataplane.Slots() {
		if err := w.coll.Maps[s.Array].Put(s.Index, w.coll.Programs[s.Program]); err != nil {
			return fmt.Errorf("put program %s into its slot: %w", s.Program, err)
		}
	}
	return nil
}

// EmptySlots takes the programs out of the arrays again.
func (w *World) EmptySlots() error {
	for _, s := range dataplane.Slots() {
		if err := w.coll.Maps[s.Array].Delete(s.Index); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("empty the slot of program %s: %w", s.Program, err)
		}
	}
	return nil
}

// CutNextHop makes the next hop of an address lead nowhere, as if its ENI were gone.
func (w *World) CutNextHop(addr netip.Addr, vni uint32) error {
	for _, e := range w.state.Endpoints {
		if e.Addr == addr && e.VNI == vni {
			m := w.coll.Maps[dataplane.MapNextHops]
			return m.Put(u32(e.NextHop), make([]byte, m.ValueSize()))
		}
	}
	return fmt.Errorf("no endpoint %v in VNI %d", addr, vni)
}

func u32(v uint32) []byte { return binary.LittleEndian.AppendUint32(nil, v) }
func u64(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }
