// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/lab"
)

// pane is a terminal of tmux with a command in it.
type pane struct {
	t      *testing.T
	socket string
}

func newPane(t *testing.T, command ...string) *pane {
	t.Helper()
	p := &pane{t: t, socket: filepath.Join(t.TempDir(), "tmux")}
	p.tmux(append([]string{"-f", "/dev/null", "new-session", "-d", "-x", "130", "-y", "24"}, command...)...)
	t.Cleanup(func() { _ = exec.Command("tmux", "-S", p.socket, "kill-server").Run() }) // it may have ended
	return p
}

func (p *pane) tmux(args ...string) string {
	p.t.Helper()
	out, err := exec.Command("tmux", append([]string{"-S", p.socket}, args...)...).CombinedOutput()
	if err != nil {
		p.t.Fatalf("tmux %q: %v: %s (deploy/install-deps.sh e2e installs it)", args, err, out)
	}
	return string(out)
}

func (p *pane) press(keys ...string) { p.t.Helper(); p.tmux(append([]string{"send-keys"}, keys...)...) }

// sees waits until a line of the screen matches, while fn goes on.
func (p *pane) sees(pattern string, fn func()) {
	p.t.Helper()
	want := regexp.MustCompile("(?m)" + pattern)
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if fn != nil {
			fn()
		}
		screen := p.tmux("capture-pane", "-p")
		if want.MatchString(screen) {
			return
		}
		if time.Now().After(end) {
			p.t.Fatalf("%q is not on the screen:\n%s", pattern, screen)
		}
	}
}

// TestTop: in a real terminal, the ENI that is denied, why, and who talks to whom.
func TestTop(t *testing.T) {
	l := common(t)
	line := []string{labs.binary(t, "enictl"), "top", "--host", "host-b", "--bpffs", l.AgentBPFFS(), "--state-dir", l.AgentStateDir()}
	p := newPane(t, append(line, "--interval", "1s")...)
	from, to, err := l.Spots("a1", "b2", lab.IPv4)
	if err != nil {
		t.Fatal(err)
	}
	p.sees(`^host-b .* ENIs .* flows`, nil)
	p.sees(`^mute .* SG_DENIED out`, func() {
		denied(t, l, probe{from: "mute", to: "b2", protocol: "tcp", port: 443, family: lab.IPv4}, "mute", dataplane.Out, dataplane.ReasonSGDenied)
	})
	p.press("d")
	p.sees(`MOST DROPS *\nmute `, nil)
	p.press("Enter")
	p.sees(`^mute: 0 of its 0 flows`, nil)
	p.press("Tab")
	p.sees(`^out +SG_DENIED .*`+regexp.QuoteMeta(dataplane.ReasonSGDenied.Help()), nil)
	p.press("Escape")

	p.sees(`^b2 .* \d[.0-9]*M `, func() { exchangeTCP(t, l, from, to, 2<<20, func() {}) })
	p.press("b", "Enter")
	p.sees(`^b2: \d+ of its \d+ flows`, nil)
	p.sees(`^tcp +`+regexp.QuoteMeta(to.Local.String())+`:8005 +`+regexp.QuoteMeta(from.Local.String())+`:\d+ .* strict/`, nil)
	p.press("q")
	for end := time.Now().Add(10 * time.Second); exec.Command("tmux", "-S", p.socket, "has-session").Run() == nil; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("q does not end it")
		}
	}

	out, err := exec.Command(line[0], append(line[1:], "--interval", "200ms")...).CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "ENI") || !strings.Contains(string(out), "\nmute ") {
		t.Errorf("without a terminal: %v: %s", err, out)
	}
	if out, err := exec.Command(line[0], append(line[1:], "--interval", "1ms")...).CombinedOutput(); err == nil || !strings.Contains(string(out), "want 200ms or more") {
		t.Errorf("a look each millisecond: %v: %s", err, out)
	}
}
