// SPDX-License-Identifier: Apache-2.0

package top

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gdamore/tcell/v2"
)

// Looker looks at the maps of a host; watch is as in Sampler.Look.
type Looker func(watch uint32) (*View, error)

// page is what the screen shows.
type page int

const (
	pageENIs page = iota
	pageFlows
	pageReasons
	pageRules
)

// The keys by which the list of ENIs is sorted, as the user presses them.
const sortKeys = "bpdnfe"

// Screen shows views until the user leaves.
type Screen struct {
	host  string
	every time.Duration
	term  tcell.Screen

	view    *View
	failed  error // of the last look
	sorted  byte  // one of sortKeys
	page    page
	watch   uint32 // the ENI of the other pages
	chosen  uint32 // the ENI of the selected line
	at, top int    // the selected line and the first one on the screen
}

// NewScreen shows views of a host on a terminal that is not initialized yet.
func NewScreen(host string, every time.Duration, term tcell.Screen) *Screen {
	return &Screen{host: host, every: every, term: term, sorted: sortKeys[0]}
}

// found is the result of one look.
type found struct {
	view *View
	err  error
}

// Run looks and shows until the user leaves or ctx ends.
func (s *Screen) Run(ctx context.Context, look Looker) error {
	if err := s.term.Init(); err != nil {
		return fmt.Errorf("open the terminal: %w", err)
	}
	defer s.term.Fini()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events, wanted, views := make(chan tcell.Event), make(chan uint32, 1), make(chan found)
	go s.term.ChannelEvents(events, ctx.Done())
	go lookAgain(ctx, look, s.every, wanted, views)
	for {
		s.draw()
		select {
		case <-ctx.Done():
			return nil
		case f := <-views:
			s.take(f)
		case ev, open := <-events:
			if !open {
				return errors.New("the terminal is gone")
			}
			watch := s.watch
			if s.handle(ev) {
				return nil
			}
			if s.watch != watch {
				select {
				case <-wanted: // that nobody has taken yet
				default:
				}
				wanted <- s.watch
			}
		}
	}
}

// lookAgain looks at once, when another ENI is watched, and every interval.
func lookAgain(ctx context.Context, look Looker, every time.Duration, wanted <-chan uint32, views chan<- found) {
	var watch uint32
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		var f found
		f.view, f.err = look(watch)
		select {
		case <-ctx.Done():
			return
		case watch = <-wanted:
			continue
		case views <- f:
		}
		select {
		case <-ctx.Done():
			return
		case watch = <-wanted:
		case <-tick.C:
		}
	}
}

func (s *Screen) take(f found) {
	if s.failed = f.err; f.err != nil {
		return
	}
	s.view = f.view
}

// handle returns true when the user leaves.
func (s *Screen) handle(ev tcell.Event) (leave bool) {
	switch ev := ev.(type) {
	case *tcell.EventResize:
		s.term.Sync()
	case *tcell.EventKey:
		return s.key(ev)
	}
	return false
}

func (s *Screen) key(ev *tcell.EventKey) (leave bool) {
	_, height := s.term.Size()
	screenful := max(height-headLines-1, 1)
	switch ev.Key() {
	case tcell.KeyCtrlC:
		return true
	case tcell.KeyUp:
		s.move(-1)
	case tcell.KeyDown:
		s.move(1)
	case tcell.KeyPgUp:
		s.move(-screenful)
	case tcell.KeyPgDn:
		s.move(screenful)
	case tcell.KeyHome:
		s.move(-s.lines())
	case tcell.KeyEnd:
		s.move(s.lines())
	case tcell.KeyEnter:
		if s.page == pageENIs && s.chosen != 0 {
			s.open(pageFlows, s.chosen)
		}
	case tcell.KeyTab:
		if s.page != pageENIs {
			s.open(pageFlows+(s.page-pageFlows+1)%3, s.watch)
		}
	case tcell.KeyEscape, tcell.KeyBackspace, tcell.KeyBackspace2, tcell.KeyLeft:
		if s.page != pageENIs {
			s.open(pageENIs, 0)
		}
	case tcell.KeyRune:
		return s.letter(byte(ev.Rune()))
	}
	return false
}

func (s *Screen) letter(c byte) (leave bool) {
	switch {
	case c == 'q':
		return true
	case c == 'j':
		s.move(1)
	case c == 'k':
		s.move(-1)
	case s.page == pageENIs && strings.IndexByte(sortKeys, c) >= 0:
		s.sorted = c
		s.at, s.top, s.chosen = 0, 0, 0
	}
	return false
}

func (s *Screen) open(p page, watch uint32) {
	s.page, s.watch, s.at, s.top = p, watch, 0, 0
}

// move selects another line.
func (s *Screen) move(by int) {
	s.at = max(0, min(s.at+by, s.lines()-1))
	if s.page == pageENIs && s.view != nil {
		s.chosen = s.loads()[s.at].Index
	}
}

func (s *Screen) lines() int {
	d := s.detail()
	switch {
	case s.view == nil:
		return 0
	case s.page == pageENIs:
		return len(s.view.Loads)
	case d == nil:
		return 0
	case s.page == pageFlows:
		return len(d.Flows)
	case s.page == pageReasons:
		return len(d.Reasons)
	}
	return len(d.Rules)
}

// detail is nil until the first look at the watched ENI.
func (s *Screen) detail() *Detail {
	if s.view == nil || s.view.Detail == nil || s.view.Detail.Index != s.watch {
		return nil
	}
	return s.view.Detail
}

// loads are the lines of the list of ENIs.
func (s *Screen) loads() []Load {
	loads := slices.Clone(s.view.Loads)
	slices.SortStableFunc(loads, func(x, y Load) int {
		return cmp.Or(compareLoads(s.sorted, &x, &y), strings.Compare(x.ENI, y.ENI))
	})
	return loads
}

func compareLoads(key byte, x, y *Load) int {
	switch key {
	case 'b':
		return cmp.Compare(y.Out.Bits+y.In.Bits, x.Out.Bits+x.In.Bits)
	case 'p':
		return cmp.Compare(y.Out.Packets+y.In.Packets, x.Out.Packets+x.In.Packets)
	case 'd':
		return cmp.Compare(y.Drops, x.Drops)
	case 'n':
		return cmp.Compare(y.Opened, x.Opened)
	case 'f':
		return cmp.Compare(y.Flows, x.Flows)
	}
	return strings.Compare(x.ENI, y.ENI)
}

// follow keeps the selected ENI selected when lines change places.
func (s *Screen) follow(loads []Load) {
	if i := slices.IndexFunc(loads, func(l Load) bool { return l.Index == s.chosen }); s.chosen != 0 && i >= 0 {
		s.at = i
		return
	}
	s.at = max(0, min(s.at, len(loads)-1))
	if len(loads) > 0 {
		s.chosen = loads[s.at].Index
	}
}
