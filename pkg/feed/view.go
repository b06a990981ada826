// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/eniplane/eniplane/pkg/api"
)

// The files that are no objects.
const (
	revisionFile = "REVISION"
	forceFile    = "FORCE"
)

// stamp is what changes when a file's content does.
type stamp struct {
	name         string
	dev, ino     uint64
	size         int64
	mtime, ctime int64 // ns
}

// stampOf reads the stamp of a file. Symlinks have been followed.
func stampOf(name string, info fs.FileInfo) stamp {
	s := stamp{name: name, size: info.Size()}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		s.dev, s.ino = sys.Dev, sys.Ino
		s.mtime, s.ctime = sys.Mtim.Nano(), sys.Ctim.Nano()
	}
	return s
}

// look returns the stamps of all files of a directory that make its revision, by name.
func look(dir string) ([]stamp, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	view := []stamp{} // not nil: an empty directory has a view too
	for _, e := range entries {
		name := e.Name()
		if !api.IsObjectFile(name) && name != revisionFile && name != forceFile {
			continue
		}
		path := filepath.Join(dir, name)
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			if _, err := os.Lstat(path); err == nil {
				return nil, fmt.Errorf("%s is a link to nothing (remove or mend it)", path)
			}
			return nil, changing(name + " has gone while it was read")
		}
		if err != nil {
			return nil, err
		}
		view = append(view, stampOf(name, info))
	}
	return view, nil
}

// marked tells whether a view has a mark.
func marked(view []stamp) bool {
	return slices.ContainsFunc(view, func(s stamp) bool { return s.name == revisionFile })
}

// closed tells whether a marked view is complete by its times: nothing is newer than the mark.
func closed(view []stamp) bool {
	var mark, newest int64
	for _, s := range view {
		switch s.name {
		case revisionFile:
			mark = s.ctime
		case forceFile:
		default:
			newest = max(newest, s.ctime)
		}
	}
	return mark != 0 && newest <= mark
}

// changing is the error of a directory in which somebody writes right now. It says what to do, or that
// there is nothing to do but wait.
type changing string

func (c changing) Error() string {
	if strings.HasSuffix(string(c), ")") {
		return string(c)
	}
	return string(c) + " (waiting until nobody writes)"
}
