// SPDX-License-Identifier: Apache-2.0

package pkttest

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// testRun is the memory of one BPF_PROG_TEST_RUN: attributes, context and room for what comes out. ebpf.Program.Run
// allocates and blocks the profiler's signal at each call, which costs more than a small packet does.
type testRun struct {
	attr testRunAttr
	ctx  [skbContextSize]byte // what the program is given, then what it left
	out  [8192]byte
}

// testRunAttr is the part of union bpf_attr for BPF_PROG_TEST_RUN, which is kernel ABI.
type testRunAttr struct {
	progFD, retval              uint32
	sizeIn, sizeOut             uint32
	in, out                     unsafe.Pointer
	repeat, duration            uint32
	contextSizeIn, contextSizeO uint32
	contextIn, contextOut       unsafe.Pointer
	flags, cpu, batch, pad      uint32
}

// run runs a program once. The context is the first `context` bytes of ctx; a TC program leaves its own there.
func (r *testRun) run(fd int, frame []byte, context int, contextBack bool) (code uint32, out []byte, err error) {
	a := &r.attr
	*a = testRunAttr{
		progFD: uint32(fd), sizeIn: uint32(len(frame)), sizeOut: uint32(len(r.out)), repeat: 1,
		in: unsafe.Pointer(unsafe.SliceData(frame)), out: unsafe.Pointer(&r.out),
		contextSizeIn: uint32(context), contextIn: unsafe.Pointer(&r.ctx),
	}
	if contextBack {
		a.contextSizeO, a.contextOut = uint32(len(r.ctx)), unsafe.Pointer(&r.ctx)
	}
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_TEST_RUN, uintptr(unsafe.Pointer(a)), unsafe.Sizeof(*a))
	runtime.KeepAlive(frame)
	if errno != 0 {
		return 0, nil, errno
	}
	return a.retval, r.out[:a.sizeOut], nil
}
