// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"testing"

	"github.com/eniplane/eniplane/pkg/dataplane"
)

// A device that is deleted is nobody's at once: nothing waits for the next look, which may be long in coming.
func TestGoneDeviceIsClosedAtOnce(t *testing.T) {
	w := newWorld(t)
	w.veth("port1")
	w.veth("port2")
	l := w.open()
	w.apply(l, testState(1, 2))
	w.remove("port1")
	eventually(t, "its ENI is closed", func() bool {
		ready := readyENIs(t, l)
		return len(ready) == 1 && ready[2] == 2 && len(rows[dataplane.PortRow](t, l, dataplane.MapPorts)) == 1
	})
}

// A device that goes in the middle of an apply is not opened by it.
func TestDeviceGoesInTheMiddle(t *testing.T) {
	w := newWorld(t)
	w.veth("port1")
	w.veth("port2")
	l := w.open()
	w.apply(l, testState(1, 1))
	port := w.device("port2")
	old := l.engine.word
	l.engine.word = flipWord{old, func() { // it was found and prepared by now
		w.remove("port2")
		eventually(t, "the event is heard", func() bool {
			heard := false
			_ = l.gone.hold(func() error { heard = l.gone.since[uint32(port.Index)]; return nil })
			return heard
		})
	}}
	w.apply(l, testState(2, 2))
	l.engine.word = old
	if ready := readyENIs(t, l); len(ready) != 1 || ready[1] != 1 {
		t.Errorf("READY are %v, want the ENI whose device is there", ready)
	}
	if report := w.reconcile(l); report.ENIs["eni-2-2"].Phase != Waiting {
		t.Errorf("the ENI without a device is %+v", report.ENIs["eni-2-2"])
	}
}
