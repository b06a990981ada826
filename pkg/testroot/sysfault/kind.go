// SPDX-License-Identifier: Apache-2.0

package sysfault

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// bpfCommands are those of enum bpf_cmd (linux/bpf.h) in its order.
var bpfCommands = strings.Fields(`MAP_CREATE MAP_LOOKUP_ELEM MAP_UPDATE_ELEM MAP_DELETE_ELEM MAP_GET_NEXT_KEY PROG_LOAD
	OBJ_PIN OBJ_GET PROG_ATTACH PROG_DETACH PROG_TEST_RUN PROG_GET_NEXT_ID MAP_GET_NEXT_ID PROG_GET_FD_BY_ID MAP_GET_FD_BY_ID
	OBJ_GET_INFO_BY_FD PROG_QUERY RAW_TRACEPOINT_OPEN BTF_LOAD BTF_GET_FD_BY_ID TASK_FD_QUERY MAP_LOOKUP_AND_DELETE_ELEM
	MAP_FREEZE BTF_GET_NEXT_ID MAP_LOOKUP_BATCH MAP_LOOKUP_AND_DELETE_BATCH MAP_UPDATE_BATCH MAP_DELETE_BATCH LINK_CREATE
	LINK_UPDATE LINK_GET_FD_BY_ID LINK_GET_NEXT_ID ENABLE_STATS ITER_CREATE LINK_DETACH PROG_BIND_MAP`)

// kindOf names a call that waits. Calls that a reader would call the same have the same name.
func kindOf(n *notification) string {
	a := n.arguments
	switch n.number {
	case unix.SYS_BPF:
		if a[0] < uint64(len(bpfCommands)) {
			return "bpf " + bpfCommands[a[0]]
		}
		return fmt.Sprintf("bpf %d", a[0])
	case unix.SYS_SENDTO:
		return "send " + message(a[1])
	case unix.SYS_SENDMSG:
		return "send " + message(pointer(pointer(a[1]+16))) // msg_iov, iov_base
	case unix.SYS_RECVFROM, unix.SYS_RECVMSG:
		return "receive"
	case unix.SYS_OPENAT, unix.SYS_UNLINKAT, unix.SYS_MKDIRAT:
		return name(n.number) + " " + general(text(a[1]))
	case unix.SYS_MOUNT, unix.SYS_STATFS:
		return name(n.number) + " " + general(text(a[0]))
	case unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2:
		return "rename " + general(text(a[3]))
	case unix.SYS_READ, unix.SYS_WRITE, unix.SYS_GETDENTS64, unix.SYS_FSYNC, unix.SYS_FLOCK:
		path, err := os.Readlink("/proc/self/fd/" + strconv.FormatUint(a[0]&0xffffffff, 10))
		if err != nil {
			path = "?"
		}
		return name(n.number) + " " + general(path)
	}
	return name(n.number)
}

func name(number int32) string {
	switch number {
	case unix.SYS_OPENAT:
		return "open"
	case unix.SYS_UNLINKAT:
		return "unlink"
	case unix.SYS_MKDIRAT:
		return "mkdir"
	case unix.SYS_GETDENTS64:
		return "list"
	case unix.SYS_READ:
		return "read"
	case unix.SYS_WRITE:
		return "write"
	case unix.SYS_FSYNC:
		return "fsync"
	case unix.SYS_STATFS:
		return "statfs"
	case unix.SYS_FLOCK:
		return "flock"
	case unix.SYS_MOUNT:
		return "mount"
	case unix.SYS_MEMBARRIER:
		return "membarrier"
	}
	return fmt.Sprintf("system call %d", number)
}

// general leaves the numbers out of a path: they are of processes, devices and tests.
func general(path string) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return -1
		}
		return r
	}, path)
}

// message is the type of a netlink message at an address.
func message(address uint64) string {
	return "netlink message " + strconv.Itoa(int(binary.NativeEndian.Uint16(peek(address+4, 2))))
}

func pointer(address uint64) uint64 { return binary.NativeEndian.Uint64(peek(address, 8)) }

// text is the string at an address.
func text(address uint64) string {
	const most = 256
	all, _, _ := bytes.Cut(peek(address, most), []byte{0})
	return string(all)
}

// peek reads memory of this process through the kernel, which refuses where there is none; then it returns zeros.
func peek(address uint64, size int) []byte {
	buf := make([]byte, size)
	local := []unix.Iovec{{Base: &buf[0]}}
	local[0].SetLen(size)
	remote := []unix.RemoteIovec{{Base: uintptr(address), Len: size}}
	_, _ = unix.ProcessVMReadv(os.Getpid(), local, remote, 0)
	return buf
}
