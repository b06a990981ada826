// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/pkg/dataplane"
)

// table is a map as the engine sees it. Tests put faults between the engine and the kernel.
type table interface {
	read() ([]dataplane.Entry, error)
	get(key []byte) ([]byte, error) // nil = none
	write(entries []dataplane.Entry) error
	verify(entries []dataplane.Entry) error // that these are there
	remove(keys [][]byte) error
}

// word is the host word.
type word interface {
	load() uint64
	store(uint64) error
}

// kernelTable is a map, read and written by system calls.
type kernelTable struct{ m *ebpf.Map }

func (t kernelTable) read() ([]dataplane.Entry, error)      { return dataplane.ReadMap(t.m) }
func (t kernelTable) get(key []byte) ([]byte, error)        { return dataplane.ReadKey(t.m, key) }
func (t kernelTable) write(entries []dataplane.Entry) error { return dataplane.WriteMap(t.m, entries) }
func (t kernelTable) verify(entries []dataplane.Entry) error {
	return dataplane.VerifyMap(t.m, entries)
}

func (t kernelTable) remove(keys [][]byte) error { return dataplane.DeleteKeys(t.m, keys) }

// mapping is the memory of an array: a system call copies with memcpy, which may tear a word that
// programs read at once.
type mapping struct {
	memory []byte
	size   int // of an element
}

func newMapping(m *ebpf.Map) (*mapping, error) {
	size := (int(m.ValueSize()) + 7) &^ 7
	page := unix.Getpagesize()
	length := (size*int(m.MaxEntries()) + page - 1) / page * page
	memory, err := unix.Mmap(m.FD(), 0, length, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map the memory of %v: %w", m, err)
	}
	return &mapping{memory: memory, size: size}, nil
}

func (m *mapping) close() error {
	if err := unix.Munmap(m.memory); err != nil {
		return fmt.Errorf("unmap memory: %w", err)
	}
	return nil
}

// word returns the i-th 8 bytes of an element.
func (m *mapping) word(element uint32, i int) *uint64 {
	return (*uint64)(unsafe.Pointer(&m.memory[int(element)*m.size+8*i]))
}

// hostWord is the map `active`.
type hostWord struct{ *mapping }

func (w hostWord) load() uint64 { return atomic.LoadUint64(w.word(0, 0)) }

func (w hostWord) store(value uint64) error {
	atomic.StoreUint64(w.word(0, 0), value)
	if got := w.load(); got != value {
		return fmt.Errorf("the host word reads %#x after writing %#x: does another process write it?", got, value)
	}
	return nil
}

// hopTable is the map `nexthops`. What an edit changes of one ENI's place is one store; an edit that
// changes more than place and generation closes the hop meanwhile, so that no packet gets the place
// of one ENI and the MAC of another.
type hopTable struct {
	kernelTable
	*mapping
}

// read looks at the memory: most of the map is empty.
func (t hopTable) read() ([]dataplane.Entry, error) {
	var entries []dataplane.Entry
	size := int(t.m.ValueSize())
	for index := range t.m.MaxEntries() {
		value := t.memory[int(index)*t.size:][:size]
		if dataplane.IsZero(value) {
			continue
		}
		entries = append(entries, dataplane.Entry{Key: []byte(dataplane.Index(index)), Value: bytes.Clone(value)})
	}
	return entries, nil
}

func (t hopTable) write(entries []dataplane.Entry) error {
	for _, e := range entries {
		index := binary.LittleEndian.Uint32(e.Key)
		if index >= t.m.MaxEntries() || len(e.Value) != int(t.m.ValueSize()) {
			return fmt.Errorf("write next hop %d of %d bytes: the map has %d of %d bytes", index, len(e.Value), t.m.MaxEntries(), t.m.ValueSize())
		}
		t.put(index, e.Value)
	}
	return nil
}

// put stores whole words: the first is the place, the second begins with the generation.
func (t hopTable) put(index uint32, value []byte) {
	padded := make([]byte, t.size)
	copy(padded, value)
	words := make([]uint64, t.size/8)
	same := true
	for i := range words {
		words[i] = binary.LittleEndian.Uint64(padded[8*i:])
		changed := atomic.LoadUint64(t.word(index, i)) ^ words[i]
		if i == 1 {
			changed >>= 32
		}
		same = same && (i == 0 || changed == 0)
	}
	if !same {
		atomic.StoreUint64(t.word(index, 0), 0)
	}
	for i := len(words) - 1; i >= 0; i-- {
		atomic.StoreUint64(t.word(index, i), words[i])
	}
}

func (t hopTable) remove(keys [][]byte) error {
	for _, key := range keys {
		t.put(binary.LittleEndian.Uint32(key), nil)
	}
	return nil
}

// grace waits until no packet is judged any more that read the host word, or a next hop, before
// the call. The barrier waits for the kernel's read-side sections, in which programs run.
func grace() error {
	const membarrierGlobal = 1
	if _, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, membarrierGlobal, 0, 0); errno != 0 {
		return fmt.Errorf("wait for packets under way: membarrier: %w (kernels with nohz_full are not supported)", errno)
	}
	return nil
}
