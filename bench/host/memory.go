// SPDX-License-Identifier: Apache-2.0

package host

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/eniplane/eniplane/pkg/dataplane"
)

// Memory is what maps have in memory, in bytes, by their names.
type Memory map[string]float64

// Sum is that of all maps.
func (m Memory) Sum() float64 {
	sum := 0.0
	for _, bytes := range m {
		sum += bytes
	}
	return sum
}

// MapMemory asks the kernel for the memory of each pinned map: what it has allocated for an array, what the entries
// take of any other (since Linux 6.4).
func (h *Host) MapMemory() (Memory, error) {
	spec, err := dataplane.LoadSpec()
	if err != nil {
		return nil, err
	}
	memory := Memory{}
	for _, name := range dataplane.PinnedMaps(spec) {
		m := h.maps.Map(name)
		if m == nil {
			continue
		}
		if memory[name], err = memlock(m.FD()); err != nil {
			return nil, fmt.Errorf("memory of map %s: %w", name, err)
		}
	}
	return memory, nil
}

func memlock(fd int) (float64, error) {
	f, err := os.Open("/proc/self/fdinfo/" + strconv.Itoa(fd))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), "memlock:"); ok {
			return strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
	}
	if err := lines.Err(); err != nil {
		return 0, err
	}
	return 0, fmt.Errorf("the kernel does not say it")
}
