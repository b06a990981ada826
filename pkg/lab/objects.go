// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"os"

	"github.com/eniplane/eniplane/pkg/api"
)

// readObjects reads and validates the objects of a feed file or directory.
func readObjects(path string) (*api.Objects, error) {
	paths, err := feedFiles(path)
	if err != nil {
		return nil, err
	}
	files := make([]api.File, len(paths))
	for i, p := range paths {
		data, err := os.ReadFile(p)
		if err != nil {
			return nil, fmt.Errorf("read feed: %w", err)
		}
		files[i] = api.File{Name: p, Data: data}
	}
	objects, errs := api.Decode(files)
	if len(errs) > 0 {
		return nil, fmt.Errorf("feed %s is not valid:\n%w", path, api.Errors(errs))
	}
	return objects, nil
}
