// SPDX-License-Identifier: Apache-2.0

package diff

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eniplane/eniplane/pkg/api"
	"github.com/eniplane/eniplane/pkg/oracle"
)

// What the environment may ask for.
const (
	envPackets = "ENIPLANE_DIFF_PACKETS" // how many packets, 0 = until envTime is over
	envTime    = "ENIPLANE_DIFF_TIME"    // how long at most
	envSeed    = "ENIPLANE_DIFF_SEED"    // of the first world
	envShrink  = "ENIPLANE_DIFF_SHRINK"  // 0 = report what differs as it is
)

// A world plays this many packets, with a change of the feed now and then: more often in some worlds than in others.
const packetsPerWorld = 1500

var changeEvery = []int{75, 200, 300, 400}

// effort of a run.
type effort struct {
	packets int64
	until   time.Time
	seed    uint64
}

func effortOf(t *testing.T) effort {
	l := effort{packets: 2_000_000, seed: 1}
	for _, v := range []struct {
		name string
		set  func(string) error
	}{
		{envPackets, func(s string) (err error) { l.packets, err = strconv.ParseInt(s, 10, 64); return err }},
		{envSeed, func(s string) (err error) { l.seed, err = strconv.ParseUint(s, 10, 64); return err }},
		{envTime, func(s string) error {
			d, err := time.ParseDuration(s)
			l.until = time.Now().Add(d)
			return err
		}},
	} {
		if s := os.Getenv(v.name); s != "" {
			if err := v.set(s); err != nil {
				t.Fatalf("read %s: %v", v.name, err)
			}
		}
	}
	return l
}

// hostOf makes a host for a world and those like it: half of them are played by XDP alone, half by XDP and TC in turn.
func hostOf(t *testing.T, seed uint64) *player {
	if seed/2%2 == 0 {
		return newPlayer(newHost(t, ownsAll))
	}
	p := newPlayer(newHost(t, asksAll))
	p.inTurn = true
	return p
}

// enoughForAll is how many packets show everything that must be seen, whatever the seed: the rarest is one of 130,000.
const enoughForAll = 1_500_000

// Both sides agree on everything that becomes of random packets in random worlds.
func TestDifferential(t *testing.T) {
	l := effortOf(t)
	// What lives is little, what is thrown away is much.
	before := debug.SetGCPercent(800)
	t.Cleanup(func() { debug.SetGCPercent(before) })
	var sent atomic.Int64
	var next atomic.Uint64
	next.Store(l.seed)
	var wg sync.WaitGroup
	var mu sync.Mutex
	became, came := map[seen]int{}, map[stage]int{}
	begin := time.Now()
	for range runtime.GOMAXPROCS(0) {
		// A host is made when its first world comes: to load the programs takes longer than many worlds.
		var players [2]*player
		wg.Go(func() {
			for !t.Failed() && (l.packets == 0 || sent.Load() < l.packets) && (l.until.IsZero() || time.Now().Before(l.until)) {
				seed := next.Add(1) - 1
				if players[seed/2%2] == nil {
					players[seed/2%2] = hostOf(t, seed)
				}
				p := players[seed/2%2]
				before := p.sent
				if err := p.q.Do(func() error { return p.fuzz(t, seed) }); err != nil {
					t.Errorf("differential test: %+v", err)
					break
				}
				sent.Add(int64(p.sent - before))
			}
			mu.Lock()
			defer mu.Unlock()
			for _, p := range players {
				if p == nil {
					continue
				}
				for r, n := range p.seen {
					became[r] += n
				}
				for s, n := range p.stages {
					came[s] += n
				}
			}
		})
	}
	wg.Wait()
	took := time.Since(begin)
	t.Logf("%d packets in %d worlds, %.0f per second", sent.Load(), next.Load()-l.seed, float64(sent.Load())/took.Seconds())
	t.Logf("%v", became)
	t.Logf("%v", came)
	if sent.Load() < enoughForAll {
		return
	}
	for _, what := range mustBecome {
		if became[what] == 0 {
			t.Errorf("no packet of %d was %v", sent.Load(), what)
		}
	}
	for _, what := range mustCome {
		if came[what] == 0 {
			t.Errorf("no flow of %d packets was %v", sent.Load(), what)
		}
	}
}

// mustBecome and mustCome are what packets become and flows come to rarely enough to be worth a look.
var (
	mustBecome = []seen{
		{oracle.Delivered, "fragment"}, {oracle.Delivered, "error"}, {oracle.TCPWindow, ""}, {oracle.StrayND, ""},
		{oracle.FlowQuota, ""}, {oracle.WrongENI, ""}, {oracle.PacketRate, ""}, {oracle.FlowRate, ""}, {oracle.PacketRate, "segments"},
		{oracle.Delivered, "segments"}, {oracle.Answered, "segments"}, {oracle.TooBig, ""}, {oracle.Answered, "far"}, {oracle.Malformed, "segments"},
		{oracle.Delivered, "way eni"}, {oracle.Delivered, "way vpc"}, {oracle.Delivered, "way eni by policy"},
		{oracle.Delivered, "way vpc by policy"}, {oracle.Delivered, "way internet by policy"},
		{oracle.Delivered, "way transit local"}, {oracle.Delivered, "way transit eni"}, {oracle.Delivered, "way transit vpc"},
		{oracle.NotPeered, ""}, {oracle.NoTransit, ""}, {oracle.RouteLoop, ""},
		{oracle.EIPUnknown, ""}, {oracle.Delivered, "public"}, {oracle.Delivered, "by a gateway"}, {oracle.VXLANSender, "public"},
		{oracle.EIPSource, "public"}, {oracle.Answered, "public"}, {oracle.SGDenied, "public"}, {oracle.ICMPUnrelated, "public"},
		{oracle.Delivered, "leaves"}, {oracle.VXLANSender, "leaves"}, {oracle.NoEIP, "leaves"}, {oracle.ICMPUnrelated, "leaves"},
	}
	mustCome = []stage{
		{"tcp", oracle.Opening, false, false}, {"tcp", oracle.Opening, true, false}, {"tcp", oracle.Established, false, false},
		{"tcp", oracle.Closing, false, false}, {"tcp", oracle.Closing, false, true}, {"tcp", oracle.Blocked, false, false},
		{"udp", oracle.Opening, true, false}, {"udp", oracle.Established, false, false}, {"udp", oracle.Blocked, false, false},
		{"icmp", oracle.Opening, true, false}, {"icmp", oracle.Established, false, false}, {"icmp", oracle.Blocked, false, false},
		{"other", oracle.Opening, true, false}, {"other", oracle.Established, false, false}, {"other", oracle.Blocked, false, false},
	}
)

// fuzz plays a world of its own; what differs is shrunk and reported.
func (p *player) fuzz(t *testing.T, seed uint64) error {
	p.wide = seed%2 == 1
	c, diff, err := p.random(seed)
	if err != nil {
		return fmt.Errorf("seed %d: %w", seed, err)
	}
	if diff != "" {
		if os.Getenv(envShrink) == "0" {
			t.Errorf("seed %d: model and programs (wide rule sets: %v) differ:\n%s", seed, p.wide, diff)
			return nil
		}
		c, diff = p.shrink(c, diff)
		t.Errorf("seed %d: model and programs (wide rule sets: %v) differ:\n%s\n%s\nThis case is in %s: move it to test/diff/testdata when it is understood.",
			seed, p.wide, diff, c, keepCase(seed, c))
	}
	return nil
}

// keepCase writes a case to a file as testdata holds them, and returns where that is.
func keepCase(seed uint64, c *Case) string {
	path := filepath.Join(os.TempDir(), fmt.Sprintf("eniplane-case-%d.yaml", seed))
	text := "# SPDX-License-Identifier: Apache-2.0\n# (What this case shows, in a sentence.)\n" + c.String()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return fmt.Sprintf("no file: %v", err)
	}
	return path
}

func newGen(seed uint64) gen { return gen{rand.New(rand.NewPCG(seed, 1))} }

// random draws and plays a case, until both sides differ.
func (p *player) random(seed uint64) (c *Case, diff string, err error) {
	g := newGen(seed)
	c = &Case{Limits: g.limits(), Worlds: []*api.Objects{g.world()}}
	if err := p.start(c); err != nil {
		return c, "", err
	}
	in := newPackets(g, c.Worlds[0], p.inTurn)
	every := pick(g, changeEvery)
	for range packetsPerWorld {
		s := Step{After: g.delay()}
		if g.oneIn(every) {
			if diff := p.compareFlows(); diff != "" {
				return c, diff, nil
			}
			in.see(g.change(in.objs))
			c.Worlds = append(c.Worlds, in.objs)
			s.Revision = len(c.Worlds) - 1
		}
		if g.oneIn(20) && len(in.local) > 0 {
			if e := pick(g, in.local).Name; p.shut[e] || g.oneIn(6) {
				s.Toggle = e
			}
		}
		s.From, s.Frame = in.next()
		s.Linear = in.linear(s.From, s.Frame)
		c.Steps = append(c.Steps, s)
		diff, out, err := p.step(c, &c.Steps[len(c.Steps)-1])
		if diff != "" || err != nil {
			return c, diff, err
		}
		in.listen(s.From, s.Frame, out)
	}
	return c, p.compareFlows(), nil
}
