// SPDX-License-Identifier: Apache-2.0

// Command run is `go test` for the whole tree: it shows a line per package and the output of what failed, counts
// the tests, and removes what they leave behind, also when it is interrupted. Its arguments are those of go test.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/eniplane/eniplane/pkg/lab"
	"github.com/eniplane/eniplane/pkg/testroot"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "test:", err)
		os.Exit(1)
	}
}

// run starts go test in a process group of its own, so that an interrupt reaches the test binaries and what they
// started as one.
func run(ctx context.Context, args []string) error {
	start := time.Now()
	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-json", "-count=1"}, args...)...)
	cmd.Env = append(os.Environ(), testroot.EnvRequired+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) } // go test waits for its child
	cmd.WaitDelay = 10 * time.Second
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("connect to go test: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start go test: %w", err)
	}
	c := newCounter(os.Stdout)
	readErr := c.read(out)
	waitErr := cmd.Wait()
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what a test started and did not end; no such group is fine
	sweepErr := errors.Join(testroot.Sweep(), lab.DownAll(testroot.Abandoned))
	if ctx.Err() != nil {
		return errors.Join(errors.New("interrupted, cleaned up"), sweepErr)
	}
	fmt.Printf("ran every test and check of %d packages as root in %s; %d tests skipped\n",
		c.packages, time.Since(start).Round(time.Second), c.skipped)
	fmt.Printf("%d passed, %d failed\n", c.passed, c.failed)
	if waitErr != nil && c.failed == 0 {
		return errors.Join(fmt.Errorf("run go test: %w", waitErr), readErr, sweepErr)
	}
	if c.failed > 0 || c.passed == 0 {
		return errors.Join(errors.New("not everything passed"), sweepErr)
	}
	return errors.Join(readErr, sweepErr)
}

// event is one line of go test -json, of a test, a package or a build.
type event struct {
	Action, Package, Test, ImportPath, Output string
	Elapsed                                   float64
}

// counter counts the tests by their result. A test with subtests counts only if it fails by itself.
type counter struct {
	w                                 io.Writer
	packages, passed, failed, skipped int
	parent                            map[string]bool             // tests with subtests
	explained                         map[string]bool             // tests one of whose subtests failed
	output                            map[string]*strings.Builder // of packages and tests, until their result
	counts                            map[string][2]int           // passed and failed of a package
}

func newCounter(w io.Writer) *counter {
	return &counter{w: w, parent: map[string]bool{}, explained: map[string]bool{},
		output: map[string]*strings.Builder{}, counts: map[string][2]int{}}
}

// read takes the events up to the end of r. A line that is no event is shown as it is.
func (c *counter) read(r io.Reader) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var e event
		switch err := json.Unmarshal(lines.Bytes(), &e); {
		case err != nil:
			fmt.Fprintln(c.w, lines.Text())
		case e.ImportPath != "":
			fmt.Fprint(c.w, e.Output)
		case e.Test == "":
			c.packageEvent(e)
		default:
			c.testEvent(e)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read the output of go test: %w", err)
	}
	return nil
}

// testEvent counts the result of one test and shows what a failed one said.
func (c *counter) testEvent(e event) {
	id, n := e.Package+"."+e.Test, c.counts[e.Package]
	parent := ""
	if i := strings.LastIndexByte(e.Test, '/'); i >= 0 {
		parent = e.Package + "." + e.Test[:i]
	}
	switch e.Action {
	case "run":
		c.parent[parent] = true
	case "output":
		c.keep(id, e.Output)
	case "pass":
		if !c.parent[id] {
			c.passed++
			n[0]++
		}
		delete(c.output, id)
	case "fail":
		if !c.explained[id] {
			c.failed++
			n[1]++
		}
		c.explained[parent] = true
		c.show(id)
	case "skip":
		c.skipped++
		c.show(id)
	}
	c.counts[e.Package] = n
}

// packageEvent shows a package when it ends. One that fails without a failed test (it does not build, it panicked,
// it timed out) counts as one failure, and what its unfinished tests said is shown.
func (c *counter) packageEvent(e event) {
	n := c.counts[e.Package]
	switch e.Action {
	case "output":
		c.keep(e.Package, e.Output)
	case "pass":
		c.packages++
		delete(c.output, e.Package)
		fmt.Fprintf(c.w, "ok    %-24s %4d passed %6.1fs\n", short(e.Package), n[0], e.Elapsed)
	case "skip": // no test files
		delete(c.output, e.Package)
	case "fail":
		c.packages++
		if n[1] == 0 {
			c.failed++
			n[1]++
		}
		for id := range c.output {
			if strings.HasPrefix(id, e.Package+".") {
				c.show(id)
			}
		}
		c.show(e.Package)
		fmt.Fprintf(c.w, "FAIL  %-24s %4d passed %6.1fs, %d failed\n", short(e.Package), n[0], e.Elapsed, n[1])
	}
}

func (c *counter) keep(id, text string) {
	if c.output[id] == nil {
		c.output[id] = &strings.Builder{}
	}
	c.output[id].WriteString(text)
}

func (c *counter) show(id string) {
	if b := c.output[id]; b != nil {
		fmt.Fprint(c.w, b)
	}
	delete(c.output, id)
}

// short is the package's path inside the module.
func short(pkg string) string {
	return strings.TrimPrefix(pkg, "github.com/eniplane/eniplane/")
}
