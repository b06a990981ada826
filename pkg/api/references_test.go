// SPDX-License-Identifier: Apache-2.0

package api

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestReferences: an object that misses another one when that is gone refers to it.
func TestReferences(t *testing.T) {
	for _, file := range []string{"../../examples/two-hosts.yaml", "../../test/e2e/testdata/objects.yaml"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		objects, errs := Parse([]File{{Name: file, Data: text}})
		if len(errs) > 0 {
			t.Fatal(Errors(errs))
		}
		refers := map[string][]Reference{}
		var files []File
		for _, o := range objects {
			refers[ReferenceTo(o).String()] = References(o)
			doc, err := MarshalJSON(o)
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, File{Name: ReferenceTo(o).String(), Data: doc})
		}
		missed := 0
		for i, gone := range objects {
			_, errs := Decode(slices.Delete(slices.Clone(files), i, i+1))
			for _, e := range errs {
				if !strings.Contains(e.Msg, fmt.Sprintf("%s %q does not exist", gone.Kind(), gone.Meta().Name)) {
					continue
				}
				missed++
				if !slices.Contains(refers[e.File], ReferenceTo(gone)) {
					t.Errorf("%s misses %s, but does not refer to it", e.File, ReferenceTo(gone))
				}
			}
		}
		if missed < 20 {
			t.Errorf("%s: only %d references were missed: the test tests little", file, missed)
		}
	}
}
