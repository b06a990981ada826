// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/eniplane/eniplane/pkg/compile"
	"github.com/eniplane/eniplane/pkg/durable"
)

const namesFile = "names.json"

// SaveNames keeps the names of the revision in force in a host's state directory, so that the CLI
// prints names also with the agent dead.
func SaveNames(hostStateDir string, names compile.Names) error {
	data, err := json.Marshal(names)
	if err != nil {
		return fmt.Errorf("encode names: %w", err)
	}
	return durable.Replace(filepath.Join(hostStateDir, namesFile), data, 0o644)
}

// LoadNames reads what SaveNames kept. No file means no names: ids are printed as numbers.
func LoadNames(hostStateDir string) (compile.Names, error) {
	var names compile.Names
	path := filepath.Join(hostStateDir, namesFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return names, nil
	}
	if err != nil {
		return names, fmt.Errorf("read names: %w", err)
	}
	if err := json.Unmarshal(data, &names); err != nil {
		return compile.Names{}, fmt.Errorf("decode names in %s (delete the file, the agent writes it again): %w", path, err)
	}
	return names, nil
}
