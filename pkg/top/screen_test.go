// SPDX-License-Identifier: Apache-2.0

package top

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/gdamore/tcell/v2"

	"github.com/eniplane/eniplane/pkg/dataplane"
)

// text is what stands on a simulated terminal.
func text(term tcell.SimulationScreen) string {
	cells, width, height := term.GetContents()
	var b strings.Builder
	for y := range height {
		for x := range width {
			if r := cells[y*width+x].Runes; len(r) > 0 {
				b.WriteRune(r[0])
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// sees waits until the terminal shows all of it.
func sees(t *testing.T, term tcell.SimulationScreen, wanted ...string) string {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		got, missing := text(term), ""
		for _, w := range wanted {
			if !strings.Contains(got, w) {
				missing = w
			}
		}
		if missing == "" {
			return got
		}
		if time.Now().After(end) {
			t.Fatalf("%q is not on the screen:\n%s", missing, got)
		}
	}
}

func TestScreen(t *testing.T) {
	h := newFakeHost()
	s := h.sampler()
	h.flows = []dataplane.Flow{flow(1, 4711, time.Minute)}
	looks := make(chan error)
	look := func(watch uint32) (*View, error) {
		if err := <-looks; err != nil {
			return nil, err
		}
		h.pass(time.Second, 4)
		h.count(2, dataplane.In, dataplane.ReasonContinue, 1000, 1_000_000)
		h.count(1, dataplane.Out, dataplane.ReasonSGDenied, 10, 600)
		return s.Look(h, names, watch)
	}
	term := tcell.NewSimulationScreen("")
	done := make(chan error)
	go func() { done <- NewScreen("host-a", 10*time.Millisecond, term).Run(context.Background(), look) }()
	looks <- nil
	looks <- nil
	got := sees(t, term, "host-a  03:04:07  2 ENIs  1 of 1000 flows", "SG_DENIED ou", "8.00M")
	if strings.Index(got, "db-0") > strings.Index(got, "web-0") {
		t.Errorf("the ENI with most traffic is not the first:\n%s", got)
	}
	term.InjectKey(tcell.KeyRune, 'd', tcell.ModNone)
	for end := time.Now().Add(10 * time.Second); strings.Index(got, "web-0") > strings.Index(got, "db-0"); got = text(term) {
		if time.Now().After(end) {
			t.Fatalf("not sorted by drops:\n%s", got)
		}
	}
	term.InjectKey(tcell.KeyEnter, 0, tcell.ModNone)
	sees(t, term, "looking ...", "Tab flows, reasons, rules")
	looks <- nil // that was under way
	looks <- nil
	sees(t, term, "web-0: 1 of its 1 flows", "10.0.2.10:4711", "established")
	term.InjectKey(tcell.KeyTab, 0, tcell.ModNone)
	sees(t, term, "what became of its packets", "SG_DENIED", dataplane.ReasonSGDenied.Help())
	term.InjectKey(tcell.KeyTab, 0, tcell.ModNone)
	sees(t, term, "rules that let its flows pass", "HITS/s of the host")
	looks <- errors.New("the pins are gone")
	sees(t, term, "host-a  cannot look: the pins are gone", "HITS/s of the host")
	term.InjectKey(tcell.KeyEscape, 0, tcell.ModNone)
	sees(t, term, "MOST DROPS")
	term.InjectKey(tcell.KeyRune, 'q', tcell.ModNone)
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("q does not end it")
	}
	close(looks)
}

// TestSelection: the selected ENI stays selected when lines change places, and the list scrolls.
func TestSelection(t *testing.T) {
	view := &View{}
	for i := range 40 {
		view.Loads = append(view.Loads, Load{ENI: string(rune('A' + i)), Index: uint32(i), Out: Rate{Bits: float64(100 - i)}})
	}
	term := tcell.NewSimulationScreen("")
	if err := term.Init(); err != nil {
		t.Fatal(err)
	}
	defer term.Fini()
	term.SetSize(80, 14)
	s := NewScreen("host-a", time.Second, term)
	s.take(found{view: view})
	s.draw()
	for range 2 {
		s.key(tcell.NewEventKey(tcell.KeyPgDn, 0, tcell.ModNone))
		s.draw()
	}
	if got := text(term); s.chosen != 20 || !strings.Contains(got, "U  ") || strings.Contains(got, "A  ") {
		t.Errorf("ENI %d is selected after two pages:\n%s", s.chosen, got)
	}
	s.view.Loads[20].Out.Bits = 1000
	s.draw()
	if s.at != 0 || s.chosen != 20 || !strings.Contains(text(term), "U  ") {
		t.Errorf("line %d, ENI %d:\n%s", s.at, s.chosen, text(term))
	}
	s.key(tcell.NewEventKey(tcell.KeyEnd, 0, tcell.ModNone))
	s.draw()
	if s.at != 39 || !strings.Contains(text(term), "h  ") {
		t.Errorf("line %d:\n%s", s.at, text(term))
	}
}
