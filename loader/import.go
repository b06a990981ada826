// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/eniplane/eniplane/pkg/dataplane"
)

// Import takes flows of another host into the table, as far as they are of ENIs that are here or prepared. It says of
// each what came of it: ReasonContinue, or why it is not there.
func (l *Loader) Import(flows []dataplane.ImportedFlow) ([]dataplane.Reason, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.slots == nil {
		return nil, fmt.Errorf("import flows: the loader is closed")
	}
	prog := l.slots.Programs[dataplane.FlowImport]
	if prog == nil {
		return nil, fmt.Errorf("the BPF object has no program %s", dataplane.FlowImport)
	}
	var all []dataplane.Reason
	for len(flows) > 0 {
		batch := flows[:min(len(flows), dataplane.ImportBatch)]
		flows = flows[len(batch):]
		if err := dataplane.PutImports(l.imports.memory, batch); err != nil {
			return nil, fmt.Errorf("import flows: %w", err)
		}
		taken, err := prog.Run(&ebpf.RunOptions{Data: make([]byte, 14)})
		if err != nil {
			return nil, fmt.Errorf("import flows: run program %s: %w", dataplane.FlowImport, err)
		}
		if int(taken) != len(batch) {
			return nil, fmt.Errorf("import flows: program %s took %d of %d", dataplane.FlowImport, taken, len(batch))
		}
		results, err := dataplane.ImportResults(l.imports.memory, len(batch))
		if err != nil {
			return nil, fmt.Errorf("import flows: %w", err)
		}
		all = append(all, results...)
	}
	return all, nil
}
