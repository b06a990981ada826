// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/eniplane/eniplane/pkg/dataplane"
)

// What no event of a device tells of is heard all the same, what is somebody else's is not.
func TestDamagesAreHeard(t *testing.T) {
	w := newWorld(t)
	w.veth("port1")
	l := w.open()
	port := w.apply(l, testState(1, 1)).ENIs["eni-1-1"].Ifindex
	heard := func(limit time.Duration) bool {
		select {
		case <-l.Damaged():
			return true
		case <-time.After(limit):
			return false
		}
	}
	calm := func() { // what we do ourselves is heard, too
		w.reconcile(l)
		for heard(50 * time.Millisecond) {
		}
	}
	for _, d := range []damage{
		{name: "a link's pin", do: func() error { return os.Remove(l.place.link(rolePort, port)) }},
		{name: "a map's pin", do: func() error {
			return os.Remove(filepath.Join(l.place.maps(), dataplane.PinnedName(dataplane.MapENIs)))
		}},
		{name: "all pins", do: func() error { return os.RemoveAll(l.place.pins) }},
		{name: "all pins once more", do: func() error { return os.RemoveAll(l.place.pins) }},
		{name: "the inet guard", do: func() error { return nftDelete(nftables.TableFamilyINet, l.guard.table) }},
		{name: "the netdev guard", do: func() error { return nftDelete(nftables.TableFamilyNetdev, l.guard.table) }},
	} {
		calm()
		w.in(d.do)
		if !heard(5 * time.Second) {
			t.Errorf("%s: nothing is heard", d.name)
		}
	}
	calm()
	w.in(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		conn.AddTable(&nftables.Table{Name: "others", Family: nftables.TableFamilyINet})
		if err := conn.Flush(); err != nil {
			return err
		}
		return nftDelete(nftables.TableFamilyINet, "others")
	})
	if heard(200 * time.Millisecond) {
		t.Error("the table of somebody else was heard to go")
	}
}

// Messages of any shape are no more than not understood.
func TestRemoves(t *testing.T) {
	d := &damages{table: "ours"}
	message := func(kind uint16, table string) []byte {
		name := append([]byte(table), 0)
		attr := append([]byte{byte(4 + len(name)), 0, 1, 0}, name...)
		for len(attr)%4 != 0 {
			attr = append(attr, 0)
		}
		m := append(make([]byte, 20), attr...)
		m[0], m[4], m[5] = byte(len(m)), byte(kind), 10
		return m
	}
	for _, tt := range []struct {
		name string
		data []byte
		want bool
	}{
		{"our table goes", message(unix.NFT_MSG_DELTABLE, "ours"), true},
		{"an element of ours, behind others", append(message(unix.NFT_MSG_DELRULE, "theirs"), message(unix.NFT_MSG_DELSETELEM, "ours")...), true},
		{"theirs", message(unix.NFT_MSG_DELTABLE, "theirs"), false},
		{"ours comes", message(unix.NFT_MSG_NEWTABLE, "ours"), false},
		{"half a message", message(unix.NFT_MSG_DELTABLE, "ours")[:22], false},
		{"no length", make([]byte, 40), false},
		{"nothing", nil, false},
	} {
		if got := d.removes(tt.data); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}
