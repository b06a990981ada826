// SPDX-License-Identifier: Apache-2.0

package host

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/eniplane/eniplane/bench/region"
	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/dataplane"
)

const (
	listen     = "127.0.0.1:9966" // in the host's own namespace
	startLimit = 5 * time.Minute
	stopLimit  = time.Minute
)

// Enid finds the agent's binary: beside this one, else in $PATH.
func Enid() (string, error) {
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), "enid")
		if _, err := os.Stat(beside); err == nil {
			return beside, nil
		}
	}
	path, err := exec.LookPath("enid")
	if err != nil {
		return "", fmt.Errorf("find the agent: it is neither beside this program nor in $PATH (make build): %w", err)
	}
	return path, nil
}

// Agent is a running enid.
type Agent struct {
	cmd  *exec.Cmd
	log  bytes.Buffer
	done chan struct{} // closed when it has ended
	end  error         // how
}

// StartAgent starts the agent in the host's namespace, on a directory as feed. It must be called inside Do.
func (h *Host) StartAgent(enid, feedDir string, flags ...string) (*Agent, error) {
	a := &Agent{done: make(chan struct{})}
	args := append([]string{"--host", region.Host, "--feed", "dir:" + feedDir, "--bpffs", h.pins, "--state-dir", h.dir, "--listen", listen}, flags...)
	a.cmd = exec.Command(enid, args...)
	a.cmd.Stdout, a.cmd.Stderr = &a.log, &a.log
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // with the thread, which is locked
	if err := a.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the agent: %w", err)
	}
	go func() {
		a.end = a.cmd.Wait()
		close(a.done)
	}()
	return a, nil
}

// Stop ends the agent; what it has put into force stays. It may be repeated.
func (a *Agent) Stop() error {
	if err := a.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop the agent: %w", err)
	}
	select {
	case <-a.done:
		return nil
	case <-time.After(stopLimit):
		_ = a.cmd.Process.Kill() // it is late
		<-a.done
		return errors.New("stop the agent: it did not end in time and was killed")
	}
}

// WaitReady waits until the agent has brought a revision into force.
func (a *Agent) WaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for {
		ok, err := ready(ctx)
		if ok {
			return nil
		}
		select {
		case <-a.done:
			return fmt.Errorf("the agent ended: %w\n%s", a.end, a.tail())
		case <-ctx.Done():
			return fmt.Errorf("the agent is not ready: %w (%w)\n%s", ctx.Err(), err, a.tail())
		case <-time.After(time.Millisecond):
		}
	}
}

func (a *Agent) tail() string {
	lines := strings.Split(a.log.String(), "\n")
	return strings.Join(lines[max(0, len(lines)-10):], "\n")
}

// ready asks on this thread, which is in the host's namespace: the HTTP client would ask on another.
func ready(ctx context.Context) (bool, error) {
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", listen)
	if err != nil {
		return false, fmt.Errorf("ask the agent: %w", err)
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "GET /readyz HTTP/1.0\r\nHost: %s\r\n\r\n", listen); err != nil {
		return false, fmt.Errorf("ask the agent: %w", err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return false, fmt.Errorf("ask the agent: %w", err)
	}
	defer response.Body.Close()
	return response.StatusCode == http.StatusOK, nil
}

// Memory is what the agent has in memory now and had at most, in bytes.
func (a *Agent) Memory() (now, most float64, err error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", a.cmd.Process.Pid))
	if err != nil {
		return 0, 0, fmt.Errorf("read the agent's memory: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		kib, _ := strconv.ParseFloat(words[1], 64) // of the lines that count
		switch words[0] {
		case "VmRSS:":
			now = kib * 1024
		case "VmHWM:":
			most = kib * 1024
		}
	}
	return now, most, nil
}

// OpenPinned makes Maps return those that the agent has made.
func (h *Host) OpenPinned() (err error) {
	h.maps, err = dataplane.OpenPinned(dataplane.PinDir(h.pins, region.Host), false)
	return err
}

// Feed is a directory of objects that an agent follows.
type Feed struct {
	Dir      string
	revision uint64
}

// NewFeed writes objects as a feed in a directory that goes with the host. Those of Publish are left out.
func (h *Host) NewFeed(o *api.Objects, later ...api.Object) (*Feed, error) {
	f := &Feed{Dir: filepath.Join(h.dir, "feed")}
	if err := os.MkdirAll(f.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the feed: %w", err)
	}
	var all []api.Object
	for _, object := range o.All() {
		if !slices.Contains(later, object) {
			all = append(all, object)
		}
	}
	if err := f.write("region.json", all); err != nil {
		return nil, err
	}
	return f, f.Publish(later...)
}

// write replaces a file of the feed as a whole.
func (f *Feed) write(name string, objects []api.Object) error {
	items := make([]any, len(objects))
	for i, object := range objects {
		text, err := api.MarshalJSON(object)
		if err != nil {
			return err
		}
		items[i] = json.RawMessage(text)
	}
	data, err := json.Marshal(api.NewList(items))
	if err != nil {
		return fmt.Errorf("write the feed: %w", err)
	}
	return f.rename(name, data)
}

func (f *Feed) rename(name string, data []byte) error {
	path := filepath.Join(f.Dir, name)
	hidden := filepath.Join(f.Dir, "."+name)
	if err := os.WriteFile(hidden, data, 0o600); err != nil {
		return fmt.Errorf("write the feed: %w", err)
	}
	if err := os.Rename(hidden, path); err != nil {
		return fmt.Errorf("write the feed: %w", err)
	}
	return nil
}

// Stage writes objects that the next revision has, without making it visible.
func (f *Feed) Stage(objects ...api.Object) error { return f.write("edited.json", objects) }

// Mark makes what was staged a revision, at this moment.
func (f *Feed) Mark() (time.Time, error) {
	f.revision++
	begin := time.Now()
	return begin, f.rename("REVISION", []byte(strconv.FormatUint(f.revision, 10)))
}

// Publish makes a revision with these objects in the place of those of the last Publish.
func (f *Feed) Publish(objects ...api.Object) error {
	if err := f.Stage(objects...); err != nil {
		return err
	}
	_, err := f.Mark()
	return err
}
