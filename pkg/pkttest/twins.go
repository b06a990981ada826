// SPDX-License-Identifier: Apache-2.0

package pkttest

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/eniplane/eniplane/pkg/dataplane"
)

// TwinSpec is the object from which trace twins are made, with the constants of this host and its clock: the
// time of a twin is that of the last packet that Give or Send was called with.
func (q *Quick) TwinSpec() *ebpf.CollectionSpec { return q.twins }

// Maps are the live maps of the host. They must not be closed.
func (q *Quick) Maps() *dataplane.Maps { return dataplane.NewMaps(q.coll.Maps) }

// Program is a loaded program by its name.
func (q *Quick) Program(name string) *ebpf.Program { return q.coll.Programs[name] }

// Give makes it the time of a packet that is sent later.
func (q *Quick) Give(p QuickPacket) { q.give(p) }

// Ifindex is a device by its name, and DeviceName the reverse.
func (q *Quick) Ifindex(name string) uint32 { return q.devices[name] }

// DeviceName is the reverse of Ifindex.
func (q *Quick) DeviceName(ifindex uint32) string { return q.names[ifindex] }

// ENIName is the name of an ENI by its index; "" of the host.
func (q *Quick) ENIName(index uint32) string { return q.nameOf(index) }

// Fingerprints are hashes of the live maps by name: with `all` of all of them, else of those that packets write and that
// are quick to read. The map in which time is given is left out.
func (q *Quick) Fingerprints(seed maphash.Seed, all bool) (map[string]uint64, error) {
	const few = 1 << 16 // those of the first rules
	hits := q.hits.memory
	if !all {
		hits = hits[:few]
	}
	prints := map[string]uint64{
		dataplane.MapCounters: maphash.Bytes(seed, q.counts), dataplane.MapRuleHits: maphash.Bytes(seed, hits),
	}
	for i, name := range flowMemory() {
		prints[name] = maphash.Bytes(seed, q.flowMem[i])
	}
	if !all {
		return prints, nil
	}
	for name, m := range q.coll.Maps {
		if _, done := prints[name]; done || name == unitMap || m.Type() == ebpf.ProgramArray {
			continue
		}
		sum, err := fingerprint(seed, m)
		if err != nil {
			return nil, fmt.Errorf("read map %s: %w", name, err)
		}
		prints[name] = sum
	}
	return prints, nil
}

// fingerprint does not depend on the order in which a hash gives its entries.
func fingerprint(seed maphash.Seed, m *ebpf.Map) (sum uint64, err error) {
	if strings.HasPrefix(m.Type().String(), "PerCPU") {
		for i := range m.MaxEntries() {
			var values [][]byte
			if err := m.Lookup(i, &values); err != nil {
				return 0, err
			}
			for _, v := range values {
				sum += maphash.Bytes(seed, v) * uint64(i+1)
			}
		}
		return sum, nil
	}
	entries, err := dataplane.ReadMap(m)
	for _, e := range entries {
		sum += maphash.Bytes(seed, append(binary.LittleEndian.AppendUint32(nil, uint32(len(e.Key))), append(e.Key, e.Value...)...))
	}
	return sum, err
}
