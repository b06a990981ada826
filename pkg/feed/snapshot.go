// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/pkg/api"
)

// snapshot is the content of a directory at one moment.
type snapshot struct {
	view   []stamp
	files  []api.File
	hash   string
	marked bool
	mark   string // of REVISION
	force  string // of FORCE
}

// take reads what is in view. It fails with changing if the directory is not in view any more
// when it has been read: then parts of it may be of another moment.
func take(dir string, view []stamp) (*snapshot, error) {
	s := &snapshot{view: view}
	total := 0
	for _, st := range view {
		data, err := readStable(filepath.Join(dir, st.name), st)
		if err != nil {
			return nil, err
		}
		switch st.name {
		case revisionFile:
			s.marked, s.mark = true, strings.TrimSpace(string(data))
		case forceFile:
			s.force = strings.TrimSpace(string(data))
		default:
			total += len(data)
			s.files = append(s.files, api.File{Name: st.name, Data: data})
		}
		if total > api.MaxTotalSize {
			return nil, fmt.Errorf("%s holds more than %d MiB of objects (shorten them)", dir, api.MaxTotalSize>>20)
		}
	}
	again, err := look(dir)
	if err != nil {
		return nil, err
	}
	if !slices.Equal(view, again) {
		return nil, changing("files have changed while they were read")
	}
	s.hash = hashOf(s.files)
	return s, nil
}

// readStable reads the file with the given stamp, unless somebody has it open for writing.
func readStable(path string, want stamp) ([]byte, error) {
	// Without O_NONBLOCK a FIFO would keep us here.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, changing(want.name + " has gone while it was read")
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file (remove it)", path)
	}
	if info.Size() > api.MaxFileSize {
		return nil, fmt.Errorf("%s has more than %d MiB (split it)", path, api.MaxFileSize>>20)
	}
	data := make([]byte, info.Size()+1) // one more: it may have grown
	n, err := io.ReadFull(f, data)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	data = data[:n]
	if hasWriter(f) {
		return nil, changing(want.name + " is open for writing")
	}
	if stampOf(want.name, info) != want || int64(len(data)) != want.size {
		return nil, changing(want.name + " has changed while it was read")
	}
	return data, nil
}

// hasWriter tells whether somebody has the file open for writing: then the kernel refuses a read
// lease, which is given back at once. Where leases are not to be had nobody counts as a writer.
func hasWriter(f *os.File) bool {
	fd := f.Fd()
	if _, err := unix.FcntlInt(fd, unix.F_SETLEASE, unix.F_RDLCK); err != nil {
		return errors.Is(err, unix.EAGAIN) && !isRemote(fd)
	}
	_, err := unix.FcntlInt(fd, unix.F_SETLEASE, unix.F_UNLCK)
	return err != nil
}

// isRemote tells whether a file is on a server that refuses leases of its own accord.
func isRemote(fd uintptr) bool {
	var st unix.Statfs_t
	if unix.Fstatfs(int(fd), &st) != nil {
		return false
	}
	switch uint32(st.Type) {
	case unix.NFS_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC:
		return true
	}
	return false
}

// decode reads the objects. A text on which our own code panics is refused like any other: the agent
// outlives every feed.
func decode(with func([]api.File) (*api.Objects, []*api.Error), files []api.File) (objects *api.Objects, err error) {
	defer func() {
		if p := recover(); p != nil {
			objects, err = nil, fmt.Errorf("reading the objects fails with %v (report this as a bug, with the files)", p)
		}
	}()
	objects, errs := with(files)
	if errs != nil {
		return nil, api.Errors(errs)
	}
	return objects, nil
}

// hashOf names a content: the names and texts of all object files.
func hashOf(files []api.File) string {
	h := sha256.New()
	for _, f := range files {
		for _, part := range [][]byte{[]byte(f.Name), f.Data} {
			var size [8]byte
			binary.BigEndian.PutUint64(size[:], uint64(len(part)))
			h.Write(size[:])
			h.Write(part)
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}
