// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/pkg/api"
)

// watcher tells early that a directory changes, and in which order. It reads inotify itself: the
// kernel queues events as part of the change, so a queue that is empty after a read proves that
// nothing changed during it; a library's goroutine in between would take that away.
//
// Where events are missing (no inotify left, a remote file system, a link to elsewhere) the
// watcher only waits, and the source lives by looking.
type watcher struct {
	file    *os.File // nil = no inotify
	conn    syscall.RawConn
	wd      int
	dir     [2]uint64 // device and inode of the watched directory
	watches bool
	mark    markOrder
}

// markOrder says what events tell about REVISION and the other files.
type markOrder int

const (
	markUnknown markOrder = iota
	markLast              // REVISION was written or renamed, and nothing after it
	markPassed            // something was changed after it, or it is being written
)

func newWatcher() *watcher {
	w := &watcher{}
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return w
	}
	f := os.NewFile(uintptr(fd), "inotify")
	conn, err := f.SyscallConn()
	if err != nil || f.SetReadDeadline(time.Time{}) != nil {
		f.Close()
		return w
	}
	w.file, w.conn = f, conn
	return w
}

func (w *watcher) close() {
	if w.file != nil {
		w.file.Close()
	}
}

// follow watches the directory that now has the path, which may be another one than before.
func (w *watcher) follow(path string) {
	if w.file == nil {
		return
	}
	info, err := os.Stat(path)
	if err != nil {
		w.forget()
		return
	}
	sys, ok := info.Sys().(*syscall.Stat_t)
	if !ok || w.watches && w.dir == [2]uint64{sys.Dev, sys.Ino} {
		return
	}
	w.forget()
	const mask = unix.IN_MODIFY | unix.IN_CLOSE_WRITE | unix.IN_ATTRIB | unix.IN_CREATE | unix.IN_DELETE |
		unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR
	w.control(func(fd int) {
		wd, err := unix.InotifyAddWatch(fd, path, mask)
		w.wd, w.watches = wd, err == nil
	})
	w.dir = [2]uint64{sys.Dev, sys.Ino}
}

func (w *watcher) forget() {
	w.mark = markUnknown
	if !w.watches {
		return
	}
	w.watches = false
	w.control(func(fd int) {
		// It fails if the directory is gone, and with it the watch.
		_, _ = unix.InotifyRmWatch(fd, uint32(w.wd))
	})
}

func (w *watcher) control(do func(fd int)) {
	// It fails only for a closed file, and this one is ours.
	_ = w.conn.Control(func(fd uintptr) { do(int(fd)) })
}

// wait returns when the directory changes, at the latest after d or when ctx ends.
func (w *watcher) wait(ctx context.Context, d time.Duration) {
	if w.file == nil {
		select {
		case <-ctx.Done():
		case <-time.After(d):
		}
		return
	}
	end := time.Now().Add(d)
	if w.file.SetReadDeadline(end) != nil {
		return
	}
	stop := context.AfterFunc(ctx, func() { _ = w.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for relevant := false; !relevant && ctx.Err() == nil && time.Now().Before(end); {
		// It fails at the deadline, which the loop sees too.
		_ = w.conn.Read(func(fd uintptr) bool {
			more, found := w.read(int(fd))
			relevant = relevant || found
			return more
		})
	}
}

// drain reads all events that are queued, and tells whether there were any.
func (w *watcher) drain() bool {
	found := false
	if w.file != nil {
		w.control(func(fd int) {
			for {
				more, _ := w.read(fd)
				if !more {
					return
				}
				found = true
			}
		})
	}
	return found
}

// read takes one batch of events. It returns whether there was one, and whether it concerns us.
func (w *watcher) read(fd int) (more, relevant bool) {
	var buf [16 << 10]byte
	n, err := unix.Read(fd, buf[:])
	if errors.Is(err, unix.EINTR) {
		return true, false
	}
	if err != nil || n < unix.SizeofInotifyEvent {
		return false, false
	}
	for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
		mask := binary.NativeEndian.Uint32(b[4:])
		end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
		name := string(bytes.TrimRight(b[unix.SizeofInotifyEvent:end], "\x00"))
		b = b[end:]
		relevant = w.note(mask, name) || relevant
	}
	return true, relevant
}

// note keeps what an event means. Events of other files of the directory are of no interest, but
// they too say that somebody goes on after the mark.
func (w *watcher) note(mask uint32, name string) (relevant bool) {
	switch name {
	case forceFile:
		return true
	case revisionFile:
		w.mark = markPassed
		if mask&(unix.IN_CLOSE_WRITE|unix.IN_MOVED_TO) != 0 {
			w.mark = markLast
		}
		return true
	case "": // the directory itself, or events have been lost
		w.mark = markUnknown
		return true
	}
	w.mark = markPassed
	return api.IsObjectFile(name) || strings.HasPrefix(name, "..")
}
