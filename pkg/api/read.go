// SPDX-License-Identifier: Apache-2.0

package api

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// IsObjectFile tells by its name whether a file of a directory holds objects: hidden files and
// editors' backups do not.
func IsObjectFile(name string) bool {
	if strings.HasPrefix(name, ".") || strings.HasSuffix(name, "~") {
		return false
	}
	return slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(name))
}

// ReadPaths reads files, and the object files directly in directories, in the given order.
func ReadPaths(paths ...string) ([]File, error) {
	var files []File
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, fmt.Errorf("read objects: %w", err)
		}
		names := []string{path}
		if info.IsDir() {
			if names, err = objectFiles(path); err != nil {
				return nil, err
			}
		}
		for _, name := range names {
			f, err := ReadFile(name)
			if err != nil {
				return nil, err
			}
			files = append(files, f)
		}
	}
	return files, nil
}

func objectFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read objects: %w", err)
	}
	var paths []string
	for _, e := range entries {
		if IsObjectFile(e.Name()) {
			paths = append(paths, filepath.Join(dir, e.Name()))
		}
	}
	return paths, nil
}

// ReadFile reads one file, or as much of it as Decode needs to see that it is too big. It may be a
// pipe: `validate -f /dev/stdin`.
func ReadFile(path string) (File, error) {
	f, err := os.Open(path)
	if err != nil {
		return File{}, fmt.Errorf("read objects: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxFileSize+1))
	if err != nil {
		return File{}, fmt.Errorf("read objects from %s: %w", path, err)
	}
	return File{Name: path, Data: data}, nil
}
