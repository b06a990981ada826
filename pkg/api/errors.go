// SPDX-License-Identifier: Apache-2.0

package api

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// maxErrors bounds what a broken feed can make us keep and print.
const maxErrors = 1000

// Error is one thing that is wrong in the feed, and where. Kind, Name and Path are empty where the
// text could not be read so far; Line is 0 where the whole file is meant.
type Error struct {
	File string
	Line int
	Kind string
	Name string
	Path string
	Msg  string
}

// Error returns `file:line: kind/name: path: what is wrong (what to do)`.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d", e.Line)
	}
	if e.Kind != "" {
		b.WriteString(": " + e.Kind)
		if e.Name != "" {
			b.WriteString("/" + e.Name)
		}
	}
	if e.Path != "" {
		b.WriteString(": " + e.Path)
	}
	b.WriteString(": " + e.Msg)
	return b.String()
}

// Errors is a list of errors as one error, a line each.
type Errors []*Error

// Error returns all lines.
func (l Errors) Error() string {
	lines := make([]string, len(l))
	for i, e := range l {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// errorList collects errors up to maxErrors and counts the rest.
type errorList struct {
	list    []*Error
	dropped int
}

func (l *errorList) add(e *Error) {
	if len(l.list) >= maxErrors {
		l.dropped++
		return
	}
	l.list = append(l.list, e)
}

func (l *errorList) len() int { return len(l.list) + l.dropped }

// sorted returns the errors by file, line, path and message, each once.
func (l *errorList) sorted() []*Error {
	slices.SortFunc(l.list, func(a, b *Error) int {
		return cmp.Or(
			cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line),
			cmp.Compare(a.Path, b.Path), cmp.Compare(a.Msg, b.Msg))
	})
	if l.dropped > 0 {
		last := l.list[len(l.list)-1]
		l.list = append(l.list, &Error{
			File: last.File,
			Msg:  fmt.Sprintf("%d more errors are not shown (correct these first)", l.dropped),
		})
	}
	return l.list
}
