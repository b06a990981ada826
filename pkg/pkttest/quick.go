// SPDX-License-Identifier: Apache-2.0

package pkttest

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/dataplane/flowtable"
	"github.com/eniplane/eniplane/pkg/testroot"
)

// Quick is a host for very many packets: the programs are loaded once, revisions only swap what the maps hold, and
// a packet costs one system call. Time stands still unless a packet says otherwise. It is not for concurrent use.
type Quick struct {
	ns      *testroot.Namespace
	coll    *ebpf.Collection
	devices map[string]uint32
	names   map[uint32]string
	written map[string]map[string][2][]byte
	ports   map[uint32]bool
	lives   map[uint32]bool
	slot    uint64
	unit    mapped
	offsets unit
	counts  mapped
	before  []byte // of counts, as after the last packet
	flowMem []mapped
	tables  map[flowtable.Family]*flowtable.Table
	state   *compile.State
	lastENI uint32 // highest index since the last Reset
	vtep    netip.Addr
	test    *testRun
	hooks   map[string]quickHook
	delta   []Count
	hits    hitCounters
	usage   mapped
	facts   dataplane.HostFacts
	twins   *ebpf.CollectionSpec
}

// quickHook is a loaded program.
type quickHook struct {
	fd  int
	xdp bool
}

// mapped is the memory of a map.
type mapped []byte

// QuickSetup describes the devices of the host; its revisions come later.
type QuickSetup struct {
	Ports    []string
	Uplinks  []string
	Underlay Underlay
	Uplink   MAC
	Knobs    map[string]any
	Ways     map[string]MAC // as in Setup
	Sets     uint32         // of each flow table
}

// quickENIs is how many ENIs a Quick host counts packets of.
const quickENIs = 64

// NewQuick loads the programs and makes the devices.
func NewQuick(t testing.TB, setup QuickSetup) *Quick {
	t.Helper()
	testroot.Require(t)
	q := &Quick{
		ns: testroot.Netns(t), devices: map[string]uint32{}, names: map[uint32]string{},
		written: map[string]map[string][2][]byte{}, ports: map[uint32]bool{}, lives: map[uint32]bool{},
		tables: map[flowtable.Family]*flowtable.Table{},
		test:   &testRun{}, hooks: map[string]quickHook{},
	}
	if err := q.ns.Do(func() error { return errors.Join(q.load(t, setup), q.makeDevices(t, setup)) }); err != nil {
		t.Fatalf("build a quick host: %+v", err)
	}
	return q
}

// Do runs fn where the devices are. All packets must be sent inside.
func (q *Quick) Do(fn func() error) error { return q.ns.Do(fn) }

func (q *Quick) load(t testing.TB, setup QuickSetup) error {
	spec, err := loadObject()
	if err != nil {
		return err
	}
	for name, value := range setup.Knobs {
		if err := spec.Variables[name].Set(value); err != nil {
			return fmt.Errorf("set knob %s: %w", name, err)
		}
	}
	if err := sizeFlows(spec, setup.Sets); err != nil {
		return err
	}
	q.twins = spec.Copy()
	if err := errors.Join(substitute(spec), substituteClock(q.twins)); err != nil {
		return err
	}
	for _, m := range spec.Maps {
		m.Pinning = ebpf.PinNone
	}
	counters := spec.Maps[dataplane.MapCounters]
	counters.Type, counters.Flags, counters.MaxEntries = ebpf.Array, unix.BPF_F_MMAPABLE, quickENIs*2*reasonsPerSide
	spec.Maps[unitMap].Flags |= unix.BPF_F_MMAPABLE
	if q.coll, err = ebpf.NewCollection(spec); err != nil {
		return fmt.Errorf("load the programs: %w", err)
	}
	t.Cleanup(q.coll.Close)
	for name, p := range q.coll.Programs {
		q.hooks[name] = quickHook{p.FD(), p.Type() == ebpf.XDP}
	}
	if q.offsets, err = openUnit(q.coll); err != nil {
		return err
	}
	return q.mapMemory(t)
}

func (q *Quick) mapMemory(t testing.TB) (err error) {
	if q.unit, err = mapMap(t, q.coll.Maps[unitMap], q.offsets.size); err != nil {
		return err
	}
	if q.counts, err = mapMap(t, q.coll.Maps[dataplane.MapCounters], quickENIs*2*sideBytes); err != nil {
		return err
	}
	q.before = make([]byte, len(q.counts))
	if q.hits.memory, err = mapMap(t, q.coll.Maps[dataplane.MapRuleHits], compile.MaxRuleIDs*8); err != nil {
		return err
	}
	for _, name := range flowMemory() {
		m := q.coll.Maps[name]
		mem, err := mapMap(t, m, int(m.ValueSize()*m.MaxEntries()))
		if err != nil {
			return err
		}
		q.flowMem = append(q.flowMem, mem)
		if name == dataplane.MapFlowUsage {
			q.usage = mem
		}
	}
	for name, family := range flowMaps() {
		m := q.coll.Maps[name]
		if err := flowtable.Prepare(q.coll.Maps[flowTablesMap], m, family, MaxFlows); err != nil {
			return err
		}
		if q.tables[family], err = flowtable.Open(m, nil, family); err != nil {
			return err
		}
		t.Cleanup(func() { _ = q.tables[family].Close() })
	}
	return nil
}

func mapMap(t testing.TB, m *ebpf.Map, size int) (mapped, error) {
	mem, err := unix.Mmap(m.FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map the memory of %v: %w", m, err)
	}
	t.Cleanup(func() { _ = unix.Munmap(mem) })
	return mem, nil
}

func (q *Quick) makeDevices(t testing.TB, setup QuickSetup) error {
	if q.coll == nil {
		return nil
	}
	vxlan, err := makeVXLAN()
	if err != nil {
		return err
	}
	q.devices[VXLANDevice] = uint32(vxlan)
	for _, name := range slices.Concat(setup.Uplinks, setup.Ports) {
		isUplink := slices.Contains(setup.Uplinks, name)
		var mac MAC
		if isUplink {
			mac = setup.Uplink
		}
		index, err := makePort(name, mac)
		if err != nil {
			return err
		}
		q.devices[name] = uint32(index)
		if !isUplink {
			continue
		}
		l, err := enableXDP(index)
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = l.Close() })
		if err := q.coll.Maps[dataplane.MapUplinks].Put(u32(uint32(index)), dataplane.EncodeUplink(setup.Uplink)); err != nil {
			return fmt.Errorf("write uplink: %w", err)
		}
	}
	for name, index := range q.devices {
		q.names[index] = name
	}
	q.facts = dataplane.HostFacts{VXLANIfindex: q.devices[VXLANDevice], OverlayMTU: 1450, MaxFlows: MaxFlows, HalfOpen: testPlaces}
	if err := writeWays(q.coll, q.devices[setup.Uplinks[0]], setup.Uplink, setup.Ways); err != nil {
		return err
	}
	return setup.Underlay.connect(int(q.devices[setup.Uplinks[0]]))
}

// Reset forgets all flows and revisions.
func (q *Quick) Reset() {
	for _, mem := range q.flowMem {
		clear(mem)
	}
	if err := clearRates(q.coll.Maps[ratesMap], quickENIs); err != nil {
		panic(err) // a map that was written before
	}
	q.state, q.lastENI = nil, 0
	q.facts.MaxFlows, q.facts.HalfOpen = MaxFlows, testPlaces
}

// Limit makes the next revisions be those of a host for so many flows, with so many half-open ones of an ENI and
// opening direction.
func (q *Quick) Limit(maxFlows, halfOpen int) {
	q.facts.MaxFlows, q.facts.HalfOpen = uint32(maxFlows), uint32(min(halfOpen, testPlaces))
}

// Apply brings a state into force: into the slot that does not count, which then counts. The other slot keeps what
// was in force before.
func (q *Quick) Apply(st *compile.State, closed map[string]bool) error {
	tables, err := dataplane.Encode(st, q.facts)
	if err != nil {
		return err
	}
	contents, err := tables.All()
	if err != nil {
		return err
	}
	slot := q.slot ^ 1
	for name, kind := range dataplane.TableKinds() {
		if err := q.replace(name, kind == dataplane.Slotted, contents[name], int(slot)); err != nil {
			return err
		}
	}
	q.slot, q.state, q.vtep = slot, st, st.Host.VTEP
	q.hits.follow(st)
	for i := range st.ENIs {
		if q.lastENI = max(q.lastENI, st.ENIs[i].Index); q.lastENI >= quickENIs {
			return fmt.Errorf("apply: ENI index %d is beyond the %d that a quick host counts", q.lastENI, quickENIs)
		}
	}
	if err := q.coll.Maps[dataplane.MapActive].Put(u32(0), u64(st.Revision<<1|slot)); err != nil {
		return fmt.Errorf("write active: %w", err)
	}
	return q.Open(closed)
}

// Open sets the READY marks of all ENIs that are not closed, and takes away all others.
func (q *Quick) Open(closed map[string]bool) error {
	ports, lives := map[uint32]bool{}, map[uint32]bool{}
	for _, e := range q.state.ENIs {
		index := q.devices[e.Device]
		live := dataplane.Live{Incarnation: e.Incarnation, Ifindex: index, MTU: 1500}
		if closed[e.Name] {
			live = dataplane.Live{}
		}
		ports[index], lives[e.Index] = true, true
		if err := errors.Join(
			q.coll.Maps[dataplane.MapPorts].Put(u32(index), dataplane.EncodePort(e.Index, e.Incarnation)),
			q.coll.Maps[dataplane.MapLive].Put(u32(e.Index), live.Encode())); err != nil {
			return fmt.Errorf("open ENI %s: %w", e.Name, err)
		}
	}
	var errs []error
	for index := range q.ports {
		if !ports[index] {
			errs = append(errs, q.coll.Maps[dataplane.MapPorts].Delete(u32(index)))
		}
	}
	for index := range q.lives {
		if !lives[index] {
			errs = append(errs, q.coll.Maps[dataplane.MapLive].Put(u32(index), dataplane.Live{}.Encode()))
		}
	}
	q.ports, q.lives = ports, lives
	return errors.Join(errs...)
}

// replace makes a table hold this content, in one slot if it has two.
func (q *Quick) replace(name string, slotted bool, content dataplane.Content, slot int) error {
	m := q.coll.Maps[name]
	have := q.written[name]
	if have == nil {
		have = map[string][2][]byte{}
		q.written[name] = have
	}
	var put []dataplane.Entry
	var gone [][]byte
	for key, halves := range have {
		if _, stays := content[key]; stays {
			continue
		}
		if !slotted || dataplane.IsZero(halves[slot^1]) {
			gone = append(gone, []byte(key))
			delete(have, key)
			continue
		}
		halves[slot] = make([]byte, len(halves[slot^1]))
		have[key] = halves
		put = append(put, dataplane.Entry{Key: []byte(key), Value: slices.Concat(halves[0], halves[1])})
	}
	for key, value := range content {
		halves, known := have[key]
		if known && slices.Equal(halves[slot], value) {
			continue
		}
		halves[slot] = value
		if slotted && halves[slot^1] == nil {
			halves[slot^1] = make([]byte, len(value))
		}
		if !slotted {
			halves = [2][]byte{value, value}
		}
		have[key] = halves
		if slotted {
			value = slices.Concat(halves[0], halves[1])
		}
		put = append(put, dataplane.Entry{Key: []byte(key), Value: value})
	}
	if err := dataplane.DeleteKeys(m, gone); err != nil {
		return fmt.Errorf("empty table %s: %w", name, err)
	}
	if len(put) == 0 {
		return nil
	}
	if err := dataplane.WriteMap(m, put); err != nil {
		return fmt.Errorf("write table %s: %w", name, err)
	}
	return nil
}

// QuickPacket is a packet for a Quick host.
type QuickPacket struct {
	At     Hook // PortProgram, VXLANProgram, UplinkProgram or UplinkXDPProgram
	Frame  []byte
	Now    time.Duration // since boot, not 0
	Mark   uint32
	Tunnel *Tunnel
	GSO    uint32 // gso_size
	Linear int    // XDP: bytes in the first piece of memory, 0 = all; older kernels refuse such a packet
}

// QuickResult is what became of it.
type QuickResult struct {
	Verdict   Verdict
	Frame     []byte // valid until the next packet
	Mark      uint32
	Device    string
	Neighbour bool
	Tunnel    *Tunnel
	Counts    []Count // with the packets that came in (ReasonContinue), sorted; valid until the next packet
}

// Send runs the program of a hook on a packet. ok is false if the kernel does not make such a packet at all.
func (q *Quick) Send(p QuickPacket) (r QuickResult, ok bool, err error) {
	q.give(p)
	hook := q.hooks[p.At.Program]
	ifindex := q.devices[p.At.Device]
	context := q.test.ctx[:skbContextSize]
	if hook.xdp {
		context = q.test.ctx[:xdpContextSize]
		xdpContext(context, cmp.Or(p.Linear, len(p.Frame)), ifindex)
	} else {
		skbContext(context, ifindex, p.Mark, p.GSO, len(p.Frame))
	}
	code, out, err := q.test.run(hook.fd, p.Frame, len(context), !hook.xdp)
	if errors.Is(err, unix.EINVAL) {
		return r, false, nil
	}
	if err != nil {
		return r, false, fmt.Errorf("run program %s on %d bytes: %w", p.At.Program, len(p.Frame), err)
	}
	if r.Verdict, err = verdictOf(code, hook.xdp); err != nil {
		return r, false, err
	}
	r.Frame = out
	if !hook.xdp {
		r.Mark = binary.LittleEndian.Uint32(q.test.ctx[skbMark:])
	}
	q.ask(&r, hook.xdp && code == xdpTX, p.At.Device)
	r.Counts = q.newCounts()
	return r, true, nil
}

func (q *Quick) give(p QuickPacket) {
	clear(q.unit[q.offsets.asked : q.offsets.asked+int(unsafe.Sizeof(helpersAsked{}))])
	given := (*helpersGiven)(unsafe.Pointer(&q.unit[q.offsets.given]))
	*given = helpersGiven{Now: uint64(p.Now)}
	if p.Tunnel != nil {
		given.Vni, given.Policy = p.Tunnel.VNI, p.Tunnel.Policy
		given.Remote = hostOrder(netip.MustParseAddr(p.Tunnel.Remote))
		given.Local = hostOrder(q.vtep)
	}
}

func (q *Quick) ask(r *QuickResult, tx bool, device string) {
	asked := (*helpersAsked)(unsafe.Pointer(&q.unit[q.offsets.asked]))
	r.Device = q.names[asked.Ifindex]
	if tx {
		r.Device = device
	}
	r.Neighbour = asked.Neighbour == 1
	r.Tunnel = tunnelOf(*asked)
}

// sideBytes is the memory of the counters of one ENI in one direction.
const sideBytes = reasonsPerSide * 16

// newCounts gives what was counted since the last packet.
func (q *Quick) newCounts() []Count {
	delta := q.delta[:0]
	for side := range int(q.lastENI+1) * 2 {
		now, before := q.counts[side*sideBytes:][:sideBytes], q.before[side*sideBytes:][:sideBytes]
		if bytes.Equal(now, before) {
			continue
		}
		for reason := range reasonsPerSide {
			n := binary.LittleEndian.Uint64(now[reason*16:]) - binary.LittleEndian.Uint64(before[reason*16:])
			if n > 0 {
				delta = append(delta, Count{q.nameOf(uint32(side / 2)), dataplane.Direction(side % 2), dataplane.Reason(reason), n})
			}
		}
		copy(before, now)
	}
	slices.SortFunc(delta, compareCounts)
	q.delta = delta
	return delta
}

func (q *Quick) nameOf(index uint32) string {
	for i := range q.state.ENIs {
		if q.state.ENIs[i].Index == index {
			return q.state.ENIs[i].Name
		}
	}
	return ""
}

// Sweep runs a whole pass of the sweep at this time; a full one looks at everything. That finds no ENIs of the
// revision before: the loader asks for it when both slots are alike.
func (q *Quick) Sweep(now time.Duration, full bool) error {
	q.give(QuickPacket{Now: now})
	if !full {
		return sweep(q.coll, full)
	}
	if err := q.writeENIs(q.slot); err != nil {
		return err
	}
	return errors.Join(sweep(q.coll, full), q.writeENIs(q.slot^1))
}

// writeENIs writes the ENIs with the slot in force, and with this one in the other place.
func (q *Quick) writeENIs(other uint64) error {
	var entries []dataplane.Entry
	for key, halves := range q.written[dataplane.MapENIs] {
		pair := [2][]byte{halves[other], halves[other]}
		pair[q.slot] = halves[q.slot]
		entries = append(entries, dataplane.Entry{Key: []byte(key), Value: slices.Concat(pair[0], pair[1])})
	}
	return dataplane.WriteMap(q.coll.Maps[dataplane.MapENIs], entries)
}

// Flows returns how many flows count for an ENI.
func (q *Quick) Flows(e *compile.ENI) int {
	n := 0
	for color := range uint32(2) {
		if held := binary.LittleEndian.Uint64(q.usage[e.Index*64+color*8:]); uint32(held>>32) == e.Flows {
			n += int(uint32(held))
		}
	}
	return n
}

// EachFlow calls fn with each flow alive at `now`.
func (q *Quick) EachFlow(now time.Duration, fn func(f *flowtable.Flow)) {
	for _, t := range q.tables {
		t.Each(uint32(now/flowtable.Ticks(1)), func(f *flowtable.Flow) bool {
			fn(f)
			return true
		})
	}
}
