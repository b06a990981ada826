// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/eniplane/eniplane/pkg/testroot"
)

func TestWatchLinks(t *testing.T) {
	testroot.Require(t)
	ns := testroot.Netns(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var changed <-chan struct{}
	err := ns.Do(func() (err error) {
		changed, err = WatchLinks(ctx, slog.New(slog.DiscardHandler))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-changed:
		t.Fatal("a change before any")
	case <-time.After(20 * time.Millisecond):
	}
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "port0"}, PeerName: "guest0"}
	if err := ns.Do(func() error { return netlink.LinkAdd(veth) }); err != nil {
		t.Fatal(err)
	}
	select {
	case <-changed:
	case <-time.After(10 * time.Second):
		t.Fatal("a new device was not noticed")
	}
}
