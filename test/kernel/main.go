// SPDX-License-Identifier: Apache-2.0

// Command kernel runs the tests of packages on another kernel: it takes a Debian kernel package, boots it in QEMU
// by software emulation with an initramfs of its own making, runs the test binaries there as root and reports what
// they said. Nothing is installed but QEMU itself; kernel and BusyBox are unpacked into the cache directory.
//
//	go run ./test/kernel [-kernel 6.12] [-run REGEXP] PACKAGE[=REGEXP]...
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// config is what the flags say.
type config struct {
	kernel  string
	cache   string
	run     string
	memory  int
	timeout time.Duration
	pkgs    []string
}

func main() {
	var c config
	flag.StringVar(&c.kernel, "kernel", "6.12", "version prefix of the Debian cloud kernel")
	flag.StringVar(&c.cache, "cache", "bin/packages", "directory for unpacked packages")
	flag.StringVar(&c.run, "run", "", "run only tests that match, as in go test")
	flag.IntVar(&c.memory, "memory", 3072, "memory of the machine in MiB")
	flag.DurationVar(&c.timeout, "timeout", 15*time.Minute, "kill the machine after this time")
	flag.Parse()
	c.pkgs = flag.Args()
	if len(c.pkgs) == 0 {
		fmt.Fprintln(os.Stderr, "kernel: name at least one package")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, c); err != nil {
		fmt.Fprintln(os.Stderr, "kernel:", err)
		stop()
		os.Exit(1)
	}
}

// run builds the machine, boots it and judges its output.
func run(ctx context.Context, c config) error {
	root, err := moduleRoot(ctx)
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp("", "eniplane-kernel-")
	if err != nil {
		return fmt.Errorf("make the working directory: %w", err)
	}
	defer os.RemoveAll(tmp)

	step("unpacking the Debian %s kernel and BusyBox", c.kernel)
	k, err := fetchKernel(ctx, c.cache, c.kernel)
	if err != nil {
		return err
	}
	step("building the tests of %s", strings.Join(c.pkgs, " "))
	payload, err := buildTests(ctx, root, tmp, c)
	if err != nil {
		return err
	}
	initrd := filepath.Join(tmp, "initrd")
	if err := writeInitrd(ctx, initrd, root, k, payload); err != nil {
		return err
	}
	step("booting %s", k.release)
	res, err := boot(ctx, c, k, initrd, filepath.Join(tmp, "console"))
	if err != nil {
		return err
	}
	fmt.Printf("%s: %s\n", k.release, res)
	return res.verdict(len(payload))
}

// test is one test binary and the package it came from.
type test struct {
	dir    string // of the package, relative to the module
	binary string // on this machine
	run    string
}

// buildTests compiles one static test binary per package, and the module's own binaries beside them.
func buildTests(ctx context.Context, root, tmp string, c config) ([]test, error) {
	var tests []test
	for i, arg := range c.pkgs {
		pkg, only, ok := strings.Cut(arg, "=")
		if !ok {
			only = c.run
		}
		dir, err := output(ctx, "go", "list", "-f", "{{.Dir}}", pkg)
		if err != nil {
			return nil, err
		}
		rel, err := filepath.Rel(root, dir)
		if err != nil {
			return nil, fmt.Errorf("find package %s in the module: %w", pkg, err)
		}
		bin := filepath.Join(tmp, fmt.Sprintf("%d.test", i))
		cmd := exec.CommandContext(ctx, "go", "test", "-c", "-o", bin, pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if err := cmd.Run(); err != nil {
			return nil, fmt.Errorf("build the tests of %s: %w", pkg, err)
		}
		if _, err := os.Stat(bin); err != nil {
			return nil, fmt.Errorf("package %s has no tests", pkg)
		}
		tests = append(tests, test{dir: rel, binary: bin, run: only})
	}
	return tests, nil
}

// moduleRoot is the directory of go.mod.
func moduleRoot(ctx context.Context) (string, error) {
	return output(ctx, "go", "list", "-m", "-f", "{{.Dir}}")
}

// output runs a command and returns what it printed, without the last newline.
func output(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("run %s %s: %w", name, strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}

func step(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "kernel: "+format+"\n", args...)
}
