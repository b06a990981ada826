// SPDX-License-Identifier: Apache-2.0

package diff

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/oracle"
	"github.com/eniplane/eniplane/pkg/pkttest"
)

// fileCase is a case as testdata holds it.
type fileCase struct {
	Flows     int // limits of the host; 0 = generous
	HalfOpen  int `yaml:"halfOpen"`
	Revisions []string
	Steps     []fileStep
}

type fileStep struct {
	After    time.Duration
	Revision int
	Toggle   string
	At       oracle.Kind
	Device   string
	VNI      uint32
	Source   string
	Marked   bool
	Public   bool
	GSO      int
	Linear   int
	Frame    string
}

// String writes a case as testdata understands it, with the packets decoded in comments.
func (c *Case) String() string {
	var b strings.Builder
	if c.Limits != generous {
		fmt.Fprintf(&b, "flows: %d\nhalfOpen: %d\n", c.Limits.Flows, c.Limits.HalfOpen)
	}
	b.WriteString("revisions:\n")
	for _, o := range c.Worlds {
		text, err := api.MarshalYAML(o.All()...)
		if err != nil {
			return err.Error()
		}
		b.WriteString("  - |\n")
		for line := range strings.Lines(string(text)) {
			b.WriteString("    " + line)
		}
	}
	b.WriteString("steps:\n")
	for _, s := range c.Steps {
		fmt.Fprintf(&b, "  - %s\n", s)
		for line := range strings.Lines(pkttest.Show(s.Frame)) {
			if strings.HasPrefix(line, "    ") {
				break
			}
			b.WriteString("    # " + strings.TrimSpace(line) + "\n")
		}
	}
	return b.String()
}

func (s Step) String() string {
	fields := []string{fmt.Sprintf("at: %s, device: %s, frame: %q", s.From.Kind, s.From.Device, hex.EncodeToString(s.Frame))}
	if s.From.VNI != 0 {
		fields = append(fields, fmt.Sprintf("vni: %d, source: %v, marked: %v", s.From.VNI, s.From.Source, s.From.Marked))
	}
	if s.From.Public {
		fields = append(fields, "public: true")
	}
	if s.From.GSO != 0 {
		fields = append(fields, fmt.Sprintf("gso: %d", s.From.GSO))
	}
	if s.Linear != 0 {
		fields = append(fields, fmt.Sprintf("linear: %d", s.Linear))
	}
	if s.After != 0 {
		fields = append(fields, fmt.Sprintf("after: %v", s.After))
	}
	if s.Revision != 0 {
		fields = append(fields, fmt.Sprintf("revision: %d", s.Revision))
	}
	if s.Toggle != "" {
		fields = append(fields, "toggle: "+s.Toggle)
	}
	return "{" + strings.Join(fields, ", ") + "}"
}

// decode reads objects as the feed does.
func decode(text []byte) (*api.Objects, error) {
	o, problems := api.Decode([]api.File{{Name: "case.yaml", Data: text}})
	var errs []error
	for _, p := range problems {
		errs = append(errs, p)
	}
	return o, errors.Join(errs...)
}

// parseCase reads what String writes.
func parseCase(text []byte) (*Case, error) {
	var f fileCase
	if err := yaml.Unmarshal(text, &f); err != nil {
		return nil, fmt.Errorf("read case: %w", err)
	}
	c := &Case{Limits: limits{f.Flows, f.HalfOpen}}
	if f.Flows == 0 {
		c.Limits = generous
	}
	for i, text := range f.Revisions {
		o, err := decode([]byte(text))
		if err != nil {
			return nil, fmt.Errorf("read revision %d: %w", i, err)
		}
		c.Worlds = append(c.Worlds, o)
	}
	for i, s := range f.Steps {
		frame, err := hex.DecodeString(s.Frame)
		if err != nil {
			return nil, fmt.Errorf("read frame of step %d: %w", i+1, err)
		}
		step := Step{After: s.After, Revision: s.Revision, Toggle: s.Toggle, Frame: frame, Linear: s.Linear}
		step.From = oracle.Port{Kind: s.At, Device: s.Device, VNI: s.VNI, Marked: s.Marked, Public: s.Public, GSO: s.GSO}
		if s.Source != "" {
			if step.From.Source, err = netip.ParseAddr(s.Source); err != nil {
				return nil, fmt.Errorf("read source of step %d: %w", i+1, err)
			}
		}
		c.Steps = append(c.Steps, step)
	}
	return c, nil
}

// What differed once never differs again.
func TestCases(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases (%v)", err)
	}
	p := newPlayer(newHost(t, ownsAll))
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".yaml"), func(t *testing.T) {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			c, err := parseCase(text)
			if err != nil {
				t.Fatal(err)
			}
			for _, p.wide = range []bool{false, true} {
				err = p.q.Do(func() error {
					diff, err := p.replay(c)
					if diff != "" {
						t.Errorf("wide rule sets: %v\n%s", p.wide, diff)
					}
					return err
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// The random worlds are such as the feed accepts, and a case says everything of itself.
func TestWorldsAreValid(t *testing.T) {
	for seed := range uint64(30) {
		g := newGen(seed)
		o := g.world()
		for range 5 {
			text, err := api.MarshalYAML(o.All()...)
			if err != nil {
				t.Fatal(err)
			}
			read, err := decode(text)
			if err != nil {
				t.Fatalf("seed %d: %v\n%s", seed, err, text)
			}
			again, err := api.MarshalYAML(read.All()...)
			if err != nil || string(again) != string(text) {
				t.Fatalf("seed %d: read back as another world (%v)", seed, err)
			}
			o = g.change(o)
		}
	}
}
