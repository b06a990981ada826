// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Entry is one entry of a map as the kernel has it.
type Entry struct{ Key, Value []byte }

// batch is how many entries one system call moves: large enough that the call does not count,
// larger than any bucket of a hash.
const batch = 4096

// chunk is memory for n entries of one size, in the form that the batch calls want: a slice whose
// elements are arrays.
type chunk struct {
	slice reflect.Value
	bytes []byte
	size  int
}

func newChunk(n, size int) chunk {
	slice := reflect.MakeSlice(reflect.SliceOf(reflect.ArrayOf(size, reflect.TypeFor[byte]())), n, n)
	return chunk{slice: slice, bytes: unsafe.Slice((*byte)(slice.UnsafePointer()), n*size), size: size}
}

func (c chunk) at(i int) []byte { return c.bytes[i*c.size : (i+1)*c.size] }

func (c chunk) first(n int) any { return c.slice.Slice(0, n).Interface() }

// ReadMap reads all entries of a map that is not per CPU, those of an array that are not zero.
// Entries that come or go meanwhile may be missing.
func ReadMap(m *ebpf.Map) ([]Entry, error) {
	keys, values := newChunk(batch, int(m.KeySize())), newChunk(batch, int(m.ValueSize()))
	var entries []Entry
	var cursor ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookup(&cursor, keys.first(batch), values.first(batch), nil)
		done := errors.Is(err, ebpf.ErrKeyNotExist)
		if err != nil && !done {
			return nil, fmt.Errorf("read map: %w", err)
		}
		for i := range n {
			if m.Type() == ebpf.Array && IsZero(values.at(i)) {
				continue
			}
			entries = append(entries, Entry{Key: slices.Clone(keys.at(i)), Value: slices.Clone(values.at(i))})
		}
		if done || n == 0 {
			return entries, nil
		}
	}
}

// CopyArray makes an array hold what another one of the same layout holds, in two system calls.
func CopyArray(from, to *ebpf.Map) error {
	n := int(from.MaxEntries())
	keys, values := newChunk(n, int(from.KeySize())), newChunk(n, int(from.ValueSize()))
	var cursor ebpf.MapBatchCursor
	got, err := from.BatchLookup(&cursor, keys.first(n), values.first(n), nil)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("read map: %w", err)
	}
	if got != n {
		return fmt.Errorf("read map: got %d entries of %d", got, n)
	}
	if _, err := to.BatchUpdate(keys.first(n), values.first(n), nil); err != nil {
		return fmt.Errorf("write map: %w", err)
	}
	return nil
}

// WriteMap writes entries, new or not.
func WriteMap(m *ebpf.Map, entries []Entry) error {
	size := min(batch, len(entries))
	keys, values := newChunk(size, int(m.KeySize())), newChunk(size, int(m.ValueSize()))
	for part := range slices.Chunk(entries, batch) {
		for i, e := range part {
			copy(keys.at(i), e.Key)
			copy(values.at(i), e.Value)
		}
		_, err := m.BatchUpdate(keys.first(len(part)), values.first(len(part)), nil)
		if errors.Is(err, unix.E2BIG) || errors.Is(err, unix.ENOSPC) {
			return fmt.Errorf("write map: it is full, more than %d entries are needed: %w", m.MaxEntries(), err)
		}
		if err != nil {
			return fmt.Errorf("write map: %w", err)
		}
	}
	return nil
}

// DeleteKeys removes entries; those that are not there are fine. Entries of an array become zero.
func DeleteKeys(m *ebpf.Map, keys [][]byte) error {
	if m.Type() == ebpf.Array {
		zero := make([]byte, m.ValueSize())
		entries := make([]Entry, len(keys))
		for i, key := range keys {
			entries[i] = Entry{Key: key, Value: zero}
		}
		return WriteMap(m, entries)
	}
	gone := newChunk(min(batch, len(keys)), int(m.KeySize()))
	for len(keys) > 0 {
		n := min(batch, len(keys))
		for i, key := range keys[:n] {
			copy(gone.at(i), key)
		}
		done, err := m.BatchDelete(gone.first(n), nil)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			done, err = done+1, nil // go on behind it
		}
		if err != nil {
			return fmt.Errorf("delete from map: %w", err)
		}
		keys = keys[done:]
	}
	return nil
}

// ReadKey reads one entry; nil means that there is none. Entries of an array are none when zero.
func ReadKey(m *ebpf.Map, key []byte) ([]byte, error) {
	value, err := m.LookupBytes(key)
	if err != nil {
		return nil, fmt.Errorf("read map: %w", err)
	}
	if m.Type() == ebpf.Array && IsZero(value) {
		return nil, nil
	}
	return value, nil
}

// VerifyMap reads entries back and says which of them is not as it was written.
func VerifyMap(m *ebpf.Map, entries []Entry) error {
	if len(entries) == 0 {
		return nil
	}
	// As large as the kernel makes values that are not per CPU.
	value := make([]byte, (m.ValueSize()+7)&^7)
	got := value[:m.ValueSize()]
	for i := range entries {
		e := &entries[i]
		err := m.Lookup(unsafe.Pointer(&e.Key[0]), unsafe.Pointer(&value[0]))
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("read back: key %x holds nothing, want %x: does another process write it?", e.Key, e.Value)
		}
		if err != nil {
			return fmt.Errorf("read back: %w", err)
		}
		if !bytes.Equal(got, e.Value) {
			return fmt.Errorf("read back: key %x holds %x, want %x: does another process write it?", e.Key, got, e.Value)
		}
	}
	return nil
}

// IsZero tells whether a value is empty.
func IsZero(value []byte) bool {
	return !slices.ContainsFunc(value, func(b byte) bool { return b != 0 })
}
