// SPDX-License-Identifier: Apache-2.0

// Command mutants proves that the tests can fail: it puts one small bug after another into a copy of the programs
// and runs the rows and a differential test on it. Every bug of the list must be found by one of them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/eniplane/eniplane/pkg/testroot"
)

func main() {
	o := options{}
	flag.StringVar(&o.list, "list", "test/mutants/list", "file of the bugs")
	flag.StringVar(&o.only, "run", "", "only the bugs whose name matches this expression")
	flag.IntVar(&o.packets, "packets", 500_000, "packets of the last differential test")
	flag.IntVar(&o.workers, "workers", runtime.NumCPU(), "bugs that are tried at a time")
	flag.Float64Var(&o.share, "share", 0.95, "part of the bugs that must be found")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o)
	stop()
	if err := errors.Join(err, testroot.Sweep()); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	list, only string
	packets    int
	workers    int
	share      float64
}

// verdict is what became of a bug.
type verdict struct {
	mutant mutant
	by     string // the test that found it
	err    error  // it could not be tried
	took   time.Duration
}

func run(ctx context.Context, o options) error {
	mutants, err := readList(o.list, "bpf")
	if err != nil {
		return err
	}
	only, err := regexp.Compile(o.only)
	if err != nil {
		return fmt.Errorf("read -run: %w", err)
	}
	var chosen []mutant
	for _, m := range mutants {
		if only.MatchString(m.name) {
			chosen = append(chosen, m)
		}
	}
	dir, err := os.MkdirTemp("", "eniplane-mutants-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := build(dir); err != nil {
		return err
	}
	first := &lab{tests: dir, dir: filepath.Join(dir, "clean"), packets: o.packets}
	if by, err := first.try(ctx, mutant{}); err != nil {
		return fmt.Errorf("try the sources as they are: %w", err)
	} else if by != "" {
		return fmt.Errorf("the tests must pass without a bug first, but %s fails", by)
	}
	begin := time.Now()
	all := tryAll(ctx, chosen, o, dir)
	fmt.Printf("%d bugs tried in %s\n", len(all), time.Since(begin).Round(time.Second))
	return errors.Join(ctx.Err(), summarize(all, o.share))
}

// tryAll tries the bugs, several at a time, each worker in a directory of its own.
func tryAll(ctx context.Context, mutants []mutant, o options, dir string) []verdict {
	todo, done := make(chan mutant), make(chan verdict)
	var wg sync.WaitGroup
	for i := range o.workers {
		l := &lab{tests: dir, dir: filepath.Join(dir, strconv.Itoa(i)), packets: o.packets}
		wg.Go(func() {
			for m := range todo {
				begin := time.Now()
				by, err := l.try(ctx, m)
				done <- verdict{m, by, err, time.Since(begin)}
			}
		})
	}
	go func() {
		for _, m := range mutants {
			if ctx.Err() == nil {
				todo <- m
			}
		}
		close(todo)
		wg.Wait()
		close(done)
	}()
	var all []verdict
	for v := range done {
		all = append(all, v)
		fmt.Printf("%3d/%d %5.1fs  %-8s %s%s\n", len(all), len(mutants), v.took.Seconds(), v.word(), v.mutant.name, v.details())
	}
	return all
}

func (v verdict) word() string {
	switch {
	case v.err != nil:
		return "BROKEN"
	case v.by == "":
		return "SURVIVED"
	}
	return "found"
}

func (v verdict) details() string {
	if v.by == "" {
		return ""
	}
	return " (" + v.by + ")"
}

// summarize prints who found how many and who survived. It is an error if too many did, or if one could not be tried.
func summarize(all []verdict, share float64) error {
	found := map[string]int{}
	var errs []error
	n := 0
	for _, v := range all {
		switch {
		case v.err != nil:
			errs = append(errs, fmt.Errorf("bug %q: %w", v.mutant.name, v.err))
		case v.by == "":
			fmt.Println("survived:", v.mutant.file+":", v.mutant.name)
		default:
			test, _, _ := strings.Cut(v.by, ":")
			found[test]++
			n++
		}
	}
	fmt.Printf("%d of %d found (%.1f %%): %d by the differential test, %d by rows; %d could not be tried\n",
		n, len(all), 100*float64(n)/float64(max(1, len(all))), found["diff"], found["rows"], len(errs))
	if float64(n) < share*float64(len(all)) {
		errs = append(errs, fmt.Errorf("%d of %d bugs were not found: write a row for each, or let the differential test draw what shows it", len(all)-n, len(all)))
	}
	return errors.Join(errs...)
}
