// SPDX-License-Identifier: Apache-2.0

package dataplane_test

import (
	"encoding/binary"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/testroot"
)

// Keys that are not there do not keep others from being deleted, wherever they are in the list.
func TestDeleteKeysSkipsWhatIsNotThere(t *testing.T) {
	testroot.Require(t)
	for _, spec := range []ebpf.MapSpec{
		{Name: "hash", Type: ebpf.Hash, KeySize: 8, ValueSize: 4, MaxEntries: 20000},
		{Name: "lpm", Type: ebpf.LPMTrie, KeySize: 8, ValueSize: 4, MaxEntries: 20000, Flags: unix.BPF_F_NO_PREALLOC},
	} {
		t.Run(spec.Name, func(t *testing.T) {
			m, err := ebpf.NewMap(&spec)
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			var entries []dataplane.Entry
			keys := [][]byte{key(1 << 20)}
			for i := range uint32(10000) {
				entries = append(entries, dataplane.Entry{Key: key(i), Value: []byte{1, 2, 3, 4}})
				if keys = append(keys, key(i)); i%3000 == 0 {
					keys = append(keys, key(1<<20+i))
				}
			}
			if err := dataplane.WriteMap(m, entries); err != nil {
				t.Fatal(err)
			}
			keys = append(keys, key(1<<21))
			if err := dataplane.DeleteKeys(m, keys[:len(keys)-1500]); err != nil {
				t.Fatal(err)
			}
			if left, err := dataplane.ReadMap(m); err != nil || len(left) == 0 || len(left) > 1500 {
				t.Fatalf("%d entries are left (%v), want those whose keys were not named", len(left), err)
			}
			if err := dataplane.DeleteKeys(m, keys); err != nil {
				t.Fatal(err)
			}
			if left, err := dataplane.ReadMap(m); err != nil || len(left) > 0 {
				t.Fatalf("%d entries are left (%v), want none", len(left), err)
			}
		})
	}
}

// key of a number: a full prefix for a trie.
func key(i uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, 32), i)
}
