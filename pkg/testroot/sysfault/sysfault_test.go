// SPDX-License-Identifier: Apache-2.0

package sysfault

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The call that is chosen fails with the error that is given, all others do what they do, and other threads notice nothing.
func TestRun(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	write := func() error { return os.WriteFile(path, []byte("text"), 0o600) }
	var calls []Call
	all := func(c Call) unix.Errno { calls = append(calls, c); return 0 }
	if err := Run(all, write); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "text" {
		t.Errorf("the file holds %q (%v)", got, err)
	}
	if len(calls) != 2 || !strings.HasPrefix(calls[0].Kind, "open ") || !strings.HasPrefix(calls[1].Kind, "write ") ||
		!strings.HasSuffix(calls[1].Kind, "/file") {
		t.Fatalf("calls %v, want to open and to write the file", calls)
	}
	for n := 1; n <= 2; n++ {
		err := Run(func(c Call) unix.Errno {
			if c.Number == n {
				return unix.EDQUOT
			}
			return 0
		}, write)
		if !errors.Is(err, unix.EDQUOT) {
			t.Errorf("call %d fails: %v", n, err)
		}
		if err := write(); err != nil {
			t.Errorf("another thread: %v", err)
		}
	}
}

// Kinds are told apart as far as a reader would.
func TestKinds(t *testing.T) {
	var kinds []string
	err := Run(func(c Call) unix.Errno { kinds = append(kinds, c.Kind); return 0 }, func() error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		request := make([]byte, 17)
		request[0], request[4], request[6], request[7] = 17, unix.RTM_GETLINK, unix.NLM_F_REQUEST, unix.NLM_F_DUMP>>8
		if err := unix.Sendto(fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return err
		}
		_, _, err = unix.Recvfrom(fd, make([]byte, 4096), 0)
		_, _, _ = unix.Syscall(unix.SYS_BPF, 7, 0, 0) // of no use: it has no attributes
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(kinds, ", "); got != "send netlink message 18, receive, bpf OBJ_GET" {
		t.Errorf("kinds %q", got)
	}
}
