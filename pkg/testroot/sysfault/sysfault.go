// SPDX-License-Identifier: Apache-2.0

// Package sysfault makes system calls fail, to see what becomes of those who make them. The calls of one thread go
// through a seccomp filter to a goroutine that lets them pass or answers them with an error. What is tested has nothing
// for it in its text, and no call that reaches the kernel is forgotten.
package sysfault

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Call is a system call on its way to the kernel.
type Call struct {
	Number int    // 1 = the first of the thread that the filter sees
	Kind   string // what is asked of what: "bpf OBJ_GET", "send netlink route 16", "write /proc/sys/net/..."
}

// String names the call.
func (c Call) String() string { return fmt.Sprintf("call %d (%s)", c.Number, c.Kind) }

// filtered are the system calls by which anything is asked of the kernel that can refuse it. Those that the Go runtime
// makes by itself are not among them, nor those that it makes without letting go of its processor (socket): a stop of the
// world in the middle of one would wait for the goroutine that answers it, which waits for the world. Nor is bind: where it
// fails, github.com/vishvananda/netlink closes a file descriptor twice, which is somebody else's by then.
var filtered = []uint32{
	unix.SYS_BPF, unix.SYS_SENDTO, unix.SYS_SENDMSG, unix.SYS_RECVFROM, unix.SYS_RECVMSG, unix.SYS_OPENAT,
	unix.SYS_GETDENTS64, unix.SYS_UNLINKAT, unix.SYS_MKDIRAT, unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_MEMBARRIER,
	unix.SYS_FSYNC, unix.SYS_STATFS, unix.SYS_FLOCK, unix.SYS_MOUNT, unix.SYS_READ, unix.SYS_WRITE,
}

// Run runs fn on a thread of its own. Of each of its calls, judge says with which error it fails; 0 lets it pass. judge is
// called from another goroutine. What fn starts on other threads is not seen.
func Run(judge func(Call) unix.Errno, fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the filter ends with the thread
		done <- watched(judge, fn)
	}()
	return <-done
}

func watched(judge func(Call) unix.Errno, fn func() error) error {
	var end [2]int
	if err := unix.Pipe2(end[:], unix.O_CLOEXEC); err != nil {
		return fmt.Errorf("make a pipe: %w", err)
	}
	listener, err := install()
	if err != nil {
		return errors.Join(err, unix.Close(end[0]), unix.Close(end[1]))
	}
	s := &supervisor{listener: listener, end: end[0], judge: judge, ended: make(chan error, 1)}
	go func() { s.ended <- s.run() }()
	err = fn()
	// The pipe's end is no filtered call. The listener stays open until nobody waits for it any more.
	closed := unix.Close(end[1])
	supervised := <-s.ended
	return errors.Join(err, supervised, closed, unix.Close(end[0]), unix.Close(listener))
}

// Offsets in struct seccomp_data (linux/seccomp.h), as a filter reads it.
const (
	dataNumber = 0
	dataArg0   = 16
	dataArg2   = 32
)

// install filters the calls of this thread from now on and returns who is told of them.
func install() (listener int, err error) {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return -1, fmt.Errorf("give up new privileges: %w", err)
	}
	program := filter()
	fprog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	const flags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&fprog)))
	if errno != 0 {
		return -1, fmt.Errorf("install a seccomp filter: %w", errno)
	}
	return int(fd), nil
}

// filter: the runtime wakes its poller by reading and writing 8 bytes, and 0 to 2 are for people.
func filter() []unix.SockFilter {
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	give := func(action uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: action}
	}
	jump := func(how uint16, k uint32, yes, no int) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_K | how, K: k, Jt: uint8(yes), Jf: uint8(no)}
	}
	program := []unix.SockFilter{load(dataNumber)}
	plain := filtered[:len(filtered)-2] // then read and write
	for i, number := range plain {
		program = append(program, jump(unix.BPF_JEQ, number, len(plain)-i+7-1, 0))
	}
	return append(program,
		jump(unix.BPF_JEQ, unix.SYS_READ, 1, 0),
		jump(unix.BPF_JEQ, unix.SYS_WRITE, 0, 4),
		load(dataArg0),
		jump(unix.BPF_JGT, 2, 0, 2),
		load(dataArg2),
		jump(unix.BPF_JEQ, 8, 0, 1),
		give(unix.SECCOMP_RET_ALLOW),
		give(unix.SECCOMP_RET_USER_NOTIF))
}

// notification and response are struct seccomp_notif and seccomp_notif_resp.
type notification struct {
	id        uint64
	pid       uint32
	flags     uint32
	number    int32
	arch      uint32
	ip        uint64
	arguments [6]uint64
}

type response struct {
	id    uint64
	value int64
	errno int32
	flags uint32
}

type supervisor struct {
	listener, end int
	judge         func(Call) unix.Errno
	ended         chan error
	calls         int
}

// run answers calls until the pipe ends.
func (s *supervisor) run() error {
	fds := []unix.PollFd{{Fd: int32(s.listener), Events: unix.POLLIN}, {Fd: int32(s.end), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for system calls: %w", err)
		}
		if fds[0].Revents&unix.POLLIN != 0 {
			if err := s.answer(); err != nil {
				return err
			}
			continue
		}
		if fds[1].Revents != 0 {
			return nil
		}
	}
}

func (s *supervisor) answer() error {
	var n notification
	if errno := s.ioctl(unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&n)); errno == unix.ENOENT || errno == unix.EINTR {
		return nil // a signal came between: the call is made again
	} else if errno != 0 {
		return fmt.Errorf("take a system call: %w", errno)
	}
	s.calls++
	r := response{id: n.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
	if errno := s.judge(Call{s.calls, kindOf(&n)}); errno != 0 {
		r.flags, r.errno = 0, -int32(errno)
	}
	if errno := s.ioctl(unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&r)); errno != 0 && errno != unix.ENOENT {
		return fmt.Errorf("answer a system call: %w", errno)
	}
	return nil
}

func (s *supervisor) ioctl(request uint, value unsafe.Pointer) unix.Errno {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(s.listener), uintptr(request), uintptr(value))
	return errno
}
