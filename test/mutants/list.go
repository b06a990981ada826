// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// mutant is one bug.
type mutant struct {
	name, file string
	old, new   string
}

// parse reads paragraphs: a name, a file, lines that begin with "- " and with "+ ".
func parse(text string) ([]mutant, error) {
	var all []mutant
	for paragraph := range strings.SplitSeq(text, "\n\n") {
		lines := strings.Split(strings.Trim(paragraph, "\n"), "\n")
		if strings.HasPrefix(lines[0], "#") || lines[0] == "" {
			continue
		}
		if len(lines) < 4 {
			return nil, fmt.Errorf("bug %q: want a name, a file, and lines with - and +", lines[0])
		}
		m := mutant{name: lines[0], file: lines[1]}
		var before, after []string
		for _, line := range lines[2:] {
			switch {
			case strings.HasPrefix(line, "- "):
				before = append(before, line[2:])
			case strings.HasPrefix(line, "+ "):
				after = append(after, line[2:])
			default:
				return nil, fmt.Errorf("bug %q: line %q begins with neither - nor +", m.name, line)
			}
		}
		m.old, m.new = strings.Join(before, "\n"), strings.Join(after, "\n")
		all = append(all, m)
	}
	return all, nil
}

// readList reads the bugs and sees that each is one of these sources, so that none is forgotten when they move on.
func readList(path, sources string) ([]mutant, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	all, err := parse(string(text))
	if err != nil {
		return nil, err
	}
	var errs []error
	names := map[string]bool{}
	for _, m := range all {
		if names[m.name] {
			errs = append(errs, fmt.Errorf("two bugs are called %q", m.name))
		}
		names[m.name] = true
		if _, err := m.infected(sources); err != nil {
			errs = append(errs, fmt.Errorf("bug %q: %w", m.name, err))
		}
	}
	return all, errors.Join(errs...)
}

// infected is the text of the file with the bug in it.
func (m mutant) infected(sources string) (string, error) {
	text, err := os.ReadFile(filepath.Join(sources, m.file))
	if err != nil {
		return "", err
	}
	if n := strings.Count(string(text), m.old); n != 1 {
		return "", fmt.Errorf("%s has this text %d times, want once (the sources have moved on: correct the list):\n%s", m.file, n, m.old)
	}
	if m.old == m.new {
		return "", errors.New("it changes nothing")
	}
	return strings.Replace(string(text), m.old, m.new, 1), nil
}
