// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"encoding/json"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
)

// TestJSONAsYAML: what is read as JSON is what the YAML parser makes of it, lines included.
func TestJSONAsYAML(t *testing.T) {
	example, err := os.ReadFile("../../examples/two-hosts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	objects, errs := Decode([]File{{Name: "example", Data: example}})
	if errs != nil {
		t.Fatal(Errors(errs))
	}
	texts := []string{
		`{}`, `{"a": null}`, `{"a": [1, -2, 1.5, 1e3, true, false, "x", [], {}]}`, `{"a": {"b": {"c": ["d", {"e": 1}]}}}`,
		`{"a": "1", "b": "true", "c": "null", "d": "", "e": "~", "<<": "x", "a": 2}`, `{"a": "\u0041\n\t\"\\"}`, "{\n \"a\":\n  1,\n \"b\": [\n  2,\n  3]\n}\n",
		`{"a": 00}`, `{"a"}`, `{"a": 1} {"b": 2}`, `{a: 1}`, `{"a": 1}, `, `{"a": 18446744073709551616}`, "{\"a\": \"\xff\"}", `{"a": "ü"}`,
	}
	for _, o := range objects.All() {
		text, err := MarshalJSON(o)
		if err != nil {
			t.Fatal(err)
		}
		var indented bytes.Buffer
		if err := json.Indent(&indented, text, "", "  "); err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(text), indented.String())
	}
	read := 0
	for _, text := range texts {
		got := jsonNode([]byte(text))
		if got == nil {
			continue
		}
		read++
		var want yaml.Node
		if err := yaml.Unmarshal([]byte(text), &want); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		ignore := cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".Column" || p.Last().String() == ".Style" }, cmp.Ignore())
		if diff := cmp.Diff(want.Content[0], got, ignore); diff != "" {
			t.Errorf("%s is read as another: %s", text, diff)
		}
	}
	if read < len(objects.All())*2+7 {
		t.Errorf("only %d of %d texts were read as JSON", read, len(texts))
	}
}
