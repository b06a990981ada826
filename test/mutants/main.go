// SPDX-License-Identifier: Apache-2.0

// Command mutants proves that the tests can fail: it puts one small bug after another into a copy of the programs
// and runs the rows and a short differential test on it. Every bug of the list must be found by one of them.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/eniplane/eniplane/pkg/pkttest"
)

func main() {
	list := flag.String("list", "test/mutants/list", "file of the bugs")
	only := flag.String("run", "", "only the bugs whose name contains this")
	packets := flag.Int("packets", 60000, "packets of the differential test")
	share := flag.Float64("share", 0.95, "part of the bugs that must be found")
	flag.Parse()
	if err := run(*list, *only, *packets, *share); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

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

// lab is the private copy in which bugs live, and the tests that look for them.
type lab struct {
	dir     string
	sources string
	packets int
}

func run(list, only string, packets int, share float64) error {
	text, err := os.ReadFile(list)
	if err != nil {
		return err
	}
	mutants, err := parse(string(text))
	if err != nil {
		return err
	}
	l, err := newLab(packets)
	if err != nil {
		return err
	}
	defer os.RemoveAll(l.dir)
	found, tried := 0, 0
	for _, m := range mutants {
		if !strings.Contains(m.name, only) {
			continue
		}
		tried++
		begin := time.Now()
		by, err := l.try(m)
		if err != nil {
			return fmt.Errorf("bug %q: %w", m.name, err)
		}
		if by != "" {
			found++
		}
		fmt.Printf("%-12s %5.1fs  %s\n", result(by), time.Since(begin).Seconds(), m.name)
	}
	fmt.Printf("%d of %d found\n", found, tried)
	if float64(found) < share*float64(tried) {
		return fmt.Errorf("%d of %d bugs were missed: write a row for each, or let the differential test draw what shows it", tried-found, tried)
	}
	return nil
}

func result(by string) string {
	if by == "" {
		return "MISSED"
	}
	return "by " + by
}

// newLab copies the sources, builds the tests and sees that they pass without a bug.
func newLab(packets int) (*lab, error) {
	dir, err := os.MkdirTemp("", "eniplane-mutants-")
	if err != nil {
		return nil, err
	}
	l := &lab{dir: dir, sources: filepath.Join(dir, "bpf"), packets: packets}
	for _, name := range []string{"rows", "diff"} {
		if out, err := exec.Command("go", "test", "-c", "-o", filepath.Join(dir, name), "./test/"+name).CombinedOutput(); err != nil {
			return l, fmt.Errorf("build test/%s: %w\n%s", name, err, out)
		}
	}
	by, err := l.try(mutant{})
	if err == nil && by != "" {
		err = errors.New("test/" + by + " fails without a bug")
	}
	return l, err
}

// try says which test finds a bug, "" if none does.
func (l *lab) try(m mutant) (by string, err error) {
	if err := l.infect(m); err != nil {
		return "", err
	}
	if err := l.compile(); err != nil {
		return "", err
	}
	for _, test := range []struct{ name, run string }{{"rows", "TestRows"}, {"diff", "TestCases|TestDifferential"}} {
		failed, out, err := l.test(test.name, test.run)
		if err != nil {
			return "", err
		}
		if bytes.Contains(out, []byte("load the programs")) {
			return "", fmt.Errorf("the verifier refuses it, which proves nothing: choose another\n%s", out)
		}
		if failed {
			return test.name, nil
		}
	}
	return "", nil
}

// infect makes a fresh copy of the sources with the bug in it; the zero mutant is none.
func (l *lab) infect(m mutant) error {
	if err := os.RemoveAll(l.sources); err != nil {
		return err
	}
	if err := os.CopyFS(l.sources, os.DirFS("bpf")); err != nil {
		return err
	}
	if m.file == "" {
		return nil
	}
	path := filepath.Join(l.sources, m.file)
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if n := strings.Count(string(text), m.old); n != 1 {
		return fmt.Errorf("%s has this text %d times, want once (the sources have moved on: correct the list):\n%s", m.file, n, m.old)
	}
	return os.WriteFile(path, []byte(strings.Replace(string(text), m.old, m.new, 1)), 0o644)
}

// compile makes the object as bpf2go does.
func (l *lab) compile() error {
	args := append([]string{"-target", "bpfel"}, strings.Fields(os.Getenv("BPF2GO_CFLAGS"))...)
	args = append(args, "-Wno-unused", "-Wno-unused-parameter", "-Wno-unused-variable", "-c", filepath.Join(l.sources, "eniplane.c"), "-o", l.object())
	if out, err := exec.Command(os.Getenv("BPF2GO_CC"), args...).CombinedOutput(); err != nil {
		return fmt.Errorf("compile: %w\n%s", err, out)
	}
	if out, err := exec.Command(os.Getenv("BPF2GO_STRIP"), "-g", l.object()).CombinedOutput(); err != nil {
		return fmt.Errorf("strip: %w\n%s", err, out)
	}
	return nil
}

func (l *lab) object() string { return filepath.Join(l.dir, "eniplane.o") }

// test runs one of the tests on the object.
func (l *lab) test(name, pattern string) (failed bool, out []byte, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(l.dir, name), "-test.failfast", "-test.run", pattern)
	cmd.Dir = filepath.Join("test", name)
	cmd.Env = append(os.Environ(), pkttest.EnvObject+"="+l.object(), fmt.Sprintf("ENIPLANE_DIFF_PACKETS=%d", l.packets),
		"ENIPLANE_DIFF_SHRINK=0", "ENIPLANE_ROOT_TESTS=1")
	out, err = cmd.CombinedOutput()
	var exit *exec.ExitError
	if err == nil {
		return false, out, nil
	}
	if errors.As(err, &exit) {
		return true, out, nil
	}
	return false, out, fmt.Errorf("run test/%s: %w", name, err)
}
