// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"
	"unsafe"
)

// bytesOf copies the memory of a generated struct: these are flat and have no implicit padding
// (testdata/abi.golden), so the memory is what the kernel sees.
func bytesOf[T any](v *T) []byte {
	return append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v))...)
}

// keyOf is bytesOf for the key of a Content.
func keyOf[T any](v *T) string {
	return string(unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v)))
}

// fromBytes fills a generated struct from what the kernel gave.
func fromBytes[T any](v *T, b []byte) error {
	if uintptr(len(b)) != unsafe.Sizeof(*v) {
		return fmt.Errorf("decode %T: got %d bytes, want %d", *v, len(b), unsafe.Sizeof(*v))
	}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v)), b)
	return nil
}
