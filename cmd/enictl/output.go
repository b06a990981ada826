// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// format is the value of -o.
type format string

var formats = []string{"table", "wide", "json", "yaml", "name"}

func (f *format) String() string {
	if *f == "" {
		return "table"
	}
	return string(*f)
}

// Set implements pflag.Value.
func (f *format) Set(s string) error {
	if !slices.Contains(formats, s) {
		return fmt.Errorf("want one of %s", strings.Join(formats, ", "))
	}
	*f = format(s)
	return nil
}

// Type implements pflag.Value.
func (*format) Type() string { return "format" }

// list is what a noun prints, in every format.
type list struct {
	columns []column
	rows    []row
	empty   string // what a table says instead of nothing
}

type column struct {
	name string
	wide bool // only with -o wide
}

// row is one thing: its name, its cells for a table, further lines of cells if it needs them, and
// the value for JSON and YAML.
type row struct {
	name  string
	cells []string
	more  [][]string
	value any
}

// columns makes columns from names; those after "|" are wide.
func columns(names ...string) []column {
	var cols []column
	wide := false
	for _, n := range names {
		if n == "|" {
			wide = true
			continue
		}
		cols = append(cols, column{name: n, wide: wide})
	}
	return cols
}

// print writes the list in the chosen format.
func (a *app) print(l list) error {
	switch a.output.String() {
	case "json":
		return writeJSON(a.out, l.values())
	case "yaml":
		return writeYAML(a.out, l.values())
	case "name":
		for _, r := range l.rows {
			if _, err := fmt.Fprintln(a.out, r.name); err != nil {
				return err
			}
		}
		return nil
	}
	if len(l.rows) == 0 && l.empty != "" {
		_, err := fmt.Fprintln(a.err, l.empty)
		return err
	}
	return a.table(l)
}

// printOne writes a single value: JSON and YAML show it bare, not as a list.
func (a *app) printOne(r row, text func(io.Writer)) error {
	switch a.output.String() {
	case "json":
		return writeJSON(a.out, r.value)
	case "yaml":
		return writeYAML(a.out, r.value)
	case "name":
		_, err := fmt.Fprintln(a.out, r.name)
		return err
	}
	text(a.out)
	return nil
}

func (l *list) values() []any {
	values := make([]any, 0, len(l.rows))
	for _, r := range l.rows {
		values = append(values, r.value)
	}
	return values
}

func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// writeYAML goes through JSON, so that both have the same keys in the same order.
func writeYAML(w io.Writer, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var n yaml.Node
	if err := yaml.Unmarshal(text, &n); err != nil { // YAML is a superset of JSON
		return err
	}
	plain(&n)
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err := enc.Encode(&n); err != nil {
		return err
	}
	return enc.Close()
}

// plain drops JSON's braces and quotes where YAML does not need them. Older readers of YAML take
// some MACs for numbers in base 60, so what has a colon stays quoted.
func plain(n *yaml.Node) {
	if n.Kind != yaml.ScalarNode || !strings.Contains(n.Value, ":") {
		n.Style = 0
	}
	for _, c := range n.Content {
		plain(c)
	}
}

// table writes aligned columns. Widths are counted before colours are added.
func (a *app) table(l list) error {
	wide := a.output == "wide"
	var lines [][]string
	for _, r := range l.rows {
		lines = append(append(lines, r.cells), r.more...)
	}
	var shown []int
	widths := make([]int, len(l.columns))
	for i, c := range l.columns {
		if c.wide && !wide {
			continue
		}
		shown = append(shown, i)
		widths[i] = utf8.RuneCountInString(c.name)
		for _, cells := range lines {
			widths[i] = max(widths[i], utf8.RuneCountInString(cells[i]))
		}
	}
	var b strings.Builder
	line := func(cell func(i int) string, paint func(string) string) {
		for n, i := range shown {
			text := cell(i)
			b.WriteString(paint(text))
			if n < len(shown)-1 {
				b.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(text)+2))
			}
		}
		b.WriteByte('\n')
	}
	line(func(i int) string { return l.columns[i].name }, func(s string) string { return s })
	for _, cells := range lines {
		line(func(i int) string { return cells[i] }, a.paint)
	}
	_, err := io.WriteString(a.out, b.String())
	return err
}

// paint gives the words of a state their colour.
func (a *app) paint(cell string) string {
	if !a.coloured() {
		return cell
	}
	switch cell {
	case "Ready", "ok", "established", "pass", "delivered":
		return "\x1b[32m" + cell + "\x1b[0m"
	case "Waiting", "Prepared", "Left", "warning", "opening", "answered", "closing", "refused":
		return "\x1b[33m" + cell + "\x1b[0m"
	case "Degraded", "missing", "blocked", "denied":
		return "\x1b[31m" + cell + "\x1b[0m"
	}
	return cell
}

// dash stands for nothing in a cell.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
