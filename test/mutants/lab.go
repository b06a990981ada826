// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/eniplane/eniplane/pkg/pkttest"
)

// attempt is one run of a test on the programs with a bug.
type attempt struct {
	test    string   // directory in test/
	pattern string   // of the tests
	env     []string // what to ask of them
}

// attempts go from the quick to the thorough; the first that fails has found the bug.
func attempts(packets int) []attempt {
	return []attempt{
		{"diff", "TestDifferential", []string{"ENIPLANE_DIFF_PACKETS=100000"}},
		{"rows", "TestRows", nil},
		{"diff", "TestCases|TestDifferential", []string{"ENIPLANE_DIFF_SEED=1000", fmt.Sprintf("ENIPLANE_DIFF_PACKETS=%d", packets)}},
	}
}

// lab is the private copy in which bugs live, one at a time, and the tests that look for them.
type lab struct {
	tests   string // what build made, shared
	dir     string
	packets int
}

// build compiles the tests once and keeps the sources as they are now: the tree may change meanwhile.
func build(dir string) error {
	if err := os.CopyFS(filepath.Join(dir, "bpf"), os.DirFS("bpf")); err != nil {
		return err
	}
	for _, name := range []string{"rows", "diff"} {
		if err := os.CopyFS(filepath.Join(dir, "in-"+name, "testdata"), os.DirFS(filepath.Join("test", name, "testdata"))); err != nil {
			return err
		}
		if out, err := exec.Command("go", "test", "-c", "-o", filepath.Join(dir, name), "./test/"+name).CombinedOutput(); err != nil {
			return fmt.Errorf("build test/%s: %w\n%s", name, err, out)
		}
	}
	return nil
}

// try says which test finds a bug, "" if none does. The zero mutant is no bug.
func (l *lab) try(ctx context.Context, m mutant) (by string, err error) {
	if err := l.infect(m); err != nil {
		return "", err
	}
	if err := l.compile(ctx); err != nil {
		return "", err
	}
	for _, a := range attempts(l.packets) {
		failed, out, err := l.test(ctx, a)
		if err != nil {
			return "", err
		}
		if bytes.Contains(out, []byte("load the programs")) {
			return "", fmt.Errorf("the verifier refuses it, which proves nothing: choose another\n%s", out)
		}
		if failed {
			return finder(a.test, string(out)), nil
		}
	}
	return "", nil
}

var (
	failedTest = regexp.MustCompile(`(?m)^ *--- FAIL: (\S+)`)
	failedSeed = regexp.MustCompile(`seed \d+`)
)

// finder names what failed: the seed of a world, or the last test in the output, which is the deepest.
func finder(test, out string) string {
	if seed := failedSeed.FindString(out); seed != "" {
		return test + ": " + seed
	}
	all := failedTest.FindAllStringSubmatch(out, -1)
	if len(all) == 0 {
		return test
	}
	deepest := all[0][1]
	for _, m := range all {
		if strings.Count(m[1], "/") > strings.Count(deepest, "/") {
			deepest = m[1]
		}
	}
	_, name, _ := strings.Cut(deepest, "/")
	return test + ": " + name
}

func (l *lab) sources() string { return filepath.Join(l.dir, "bpf") }
func (l *lab) object() string  { return filepath.Join(l.dir, "eniplane.o") }

// infect makes a fresh copy of the sources with the bug in it.
func (l *lab) infect(m mutant) error {
	if err := os.RemoveAll(l.sources()); err != nil {
		return err
	}
	clean := filepath.Join(l.tests, "bpf")
	if err := os.CopyFS(l.sources(), os.DirFS(clean)); err != nil {
		return err
	}
	if m.file == "" {
		return nil
	}
	text, err := m.infected(clean)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(l.sources(), m.file), []byte(text), 0o644)
}

// compile makes the object as bpf2go does.
func (l *lab) compile(ctx context.Context) error {
	args := append([]string{"-target", "bpfel"}, strings.Fields(os.Getenv("BPF2GO_CFLAGS"))...)
	args = append(args, "-Wno-unused", "-Wno-unused-parameter", "-Wno-unused-variable",
		"-c", filepath.Join(l.sources(), "eniplane.c"), "-o", l.object())
	if out, err := exec.CommandContext(ctx, os.Getenv("BPF2GO_CC"), args...).CombinedOutput(); err != nil {
		return fmt.Errorf("compile: %w\n%s", err, out)
	}
	if out, err := exec.CommandContext(ctx, os.Getenv("BPF2GO_STRIP"), "-g", l.object()).CombinedOutput(); err != nil {
		return fmt.Errorf("strip: %w\n%s", err, out)
	}
	return nil
}

// test runs one of the tests on the object, on one CPU: the labs share the others.
func (l *lab) test(ctx context.Context, a attempt) (failed bool, out []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(l.tests, a.test), "-test.failfast", "-test.run", a.pattern)
	cmd.Dir = filepath.Join(l.tests, "in-"+a.test)
	cmd.Env = append(os.Environ(), pkttest.EnvObject+"="+l.object(), "ENIPLANE_DIFF_SHRINK=0", "ENIPLANE_ROOT_TESTS=1", "GOMAXPROCS=1")
	cmd.Env = append(cmd.Env, a.env...)
	out, err = cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return false, out, nil
	case ctx.Err() != nil:
		return false, out, fmt.Errorf("run test/%s: %w", a.test, ctx.Err())
	case errors.As(err, &exit):
		return true, out, nil
	}
	return false, out, fmt.Errorf("run test/%s: %w", a.test, err)
}
