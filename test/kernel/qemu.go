// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
)

// result is what the machine said.
type result struct {
	passed, failed, skipped int
	exits                   []int    // of the test binaries, in order
	ended                   bool     // the payload came to its end
	oops                    []string // lines of the kernel that must not be there
}

func (r *result) String() string {
	return fmt.Sprintf("%d passed, %d failed, %d skipped", r.passed, r.failed, r.skipped)
}

// verdict is nil only if every binary ran to its end, something passed, nothing failed and the kernel is sound.
func (r *result) verdict(binaries int) error {
	var errs []error
	if !r.ended {
		errs = append(errs, errors.New("the machine stopped before the tests ended"))
	}
	if len(r.exits) != binaries {
		errs = append(errs, fmt.Errorf("%d of %d test binaries ended", len(r.exits), binaries))
	}
	for i, code := range r.exits {
		if code != 0 {
			errs = append(errs, fmt.Errorf("test binary %d exited with %d", i, code))
		}
	}
	if r.failed > 0 {
		errs = append(errs, fmt.Errorf("%d tests failed", r.failed))
	}
	if r.passed == 0 {
		errs = append(errs, errors.New("no test passed: does -run match anything?"))
	}
	for _, line := range r.oops {
		errs = append(errs, fmt.Errorf("the kernel said: %s", line))
	}
	return errors.Join(errs...)
}

// boot runs the machine until it powers off, echoes what the tests say and counts it. Emulation only: hardware
// acceleration inside virtual machines is not to be relied upon.
func boot(ctx context.Context, c config, k *kernel, initrd, console string) (*result, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64",
		"-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", strconv.Itoa(c.memory),
		"-display", "none", "-no-reboot", "-nodefaults", "-serial", "file:"+console, "-serial", "stdio",
		"-kernel", k.image, "-initrd", initrd,
		"-append", "console=ttyS0 panic=-1 loglevel=5 mitigations=off net.ifnames=0")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("connect to the machine: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start QEMU: %w", err)
	}
	res := count(out, os.Stdout)
	waitErr := cmd.Wait()
	log, err := os.ReadFile(console)
	if err != nil {
		return nil, fmt.Errorf("read the console of the machine: %w", err)
	}
	res.oops = findOops(string(log))
	if !res.ended {
		fmt.Fprintf(os.Stderr, "--- console of the machine\n%s\n---\n", tail(string(log), 60))
	}
	if waitErr != nil {
		return nil, errors.Join(fmt.Errorf("run QEMU: %w", waitErr), ctx.Err())
	}
	return res, nil
}

// count copies the machine's lines to w and counts the results in them.
func count(r io.Reader, w io.Writer) *result {
	res := &result{}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 16<<20) // a verifier log is one long message
	for lines.Scan() {
		line := strings.TrimRight(lines.Text(), "\r")
		trimmed := strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(trimmed, "--- PASS:"):
			res.passed++
		case strings.HasPrefix(trimmed, "--- FAIL:"):
			res.failed++
		case strings.HasPrefix(trimmed, "--- SKIP:"):
			res.skipped++
		case strings.HasPrefix(line, "@@exit "):
			code, err := strconv.Atoi(strings.TrimPrefix(line, "@@exit "))
			if err != nil {
				code = -1
			}
			res.exits = append(res.exits, code)
			continue
		case line == "@@end":
			res.ended = true
			continue
		}
		fmt.Fprintln(w, line)
	}
	return res
}

var oops = regexp.MustCompile(`BUG:|Oops|Kernel panic|WARNING: CPU|general protection|did not load`)

// findOops returns the lines by which a kernel, or the init script, says that something broke.
func findOops(log string) []string {
	var found []string
	for line := range strings.Lines(log) {
		if oops.MatchString(line) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found
}

// tail returns the last n lines.
func tail(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
