// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/eniplane/eniplane/pkg/dataplane"
)

func TestApplyMakesPortsReady(t *testing.T) {
	w := newWorld(t)
	w.veth("port1")
	l := w.open()
	report := w.apply(l, testState(5, 2))

	if report.Revision != 5 || report.ENIs["eni-1-1"].Phase != Ready || report.ENIs["eni-2-2"].Phase != Waiting {
		t.Errorf("report = %+v", report)
	}
	if diff := cmp.Diff(map[uint32]uint32{1: 1}, readyENIs(t, l)); diff != "" {
		t.Errorf("ready ENIs (-want +got):\n%s", diff)
	}
	if !isUp(w.device("port1")) {
		t.Error("a ready port is down")
	}
	active := rows[dataplane.ActiveRow](t, l, dataplane.MapActive)
	if diff := cmp.Diff([]dataplane.ActiveRow{{Revision: 5, Slot: 1}}, active); diff != "" {
		t.Errorf("active (-want +got):\n%s", diff)
	}
	if got := len(rows[dataplane.NextHopRow](t, l, dataplane.MapNextHops)); got != 4 {
		t.Errorf("%d next hops, want 2 local, 1 remote, the internet", got)
	}

	w.veth("port2")
	if report = w.reconcile(l); report.ENIs["eni-2-2"].Phase != Ready {
		t.Errorf("the device came, but the report is %+v", report)
	}
	if diff := cmp.Diff(map[uint32]uint32{1: 1, 2: 2}, readyENIs(t, l)); diff != "" {
		t.Errorf("ready ENIs (-want +got):\n%s", diff)
	}
}

func TestSecondAgentIsRefused(t *testing.T) {
	w := newWorld(t)
	w.open()
	err := w.host.Do(func() error {
		_, err := Open(context.Background(), w.opts)
		return err
	})
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "host-a") {
		t.Errorf("second Open: %v, want ErrLocked that names the host", err)
	}
}
