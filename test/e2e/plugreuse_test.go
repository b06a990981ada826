// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"strconv"
	"testing"
	"time"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/lab"
)

// reuse: names and ifindexes that were the ENI's and are somebody else's now carry none of its trust. The ENI is attached
// and its device is there, before and after.
func reuse(t *testing.T, l *lab.Lab) {
	t.Run("the device becomes another ENI's", func(t *testing.T) { deviceChangesHands(t, l) })
	t.Run("a stranger takes name and ifindex, without the agent", func(t *testing.T) { strangerMeanwhile(t, l) })
	t.Run("a stranger takes the ifindex", func(t *testing.T) { strangerTakesIndex(t, l) })
}

// deviceChangesHands: in one revision the device is another ENI's. Whoever is behind it is that ENI and no longer the first.
func deviceChangesHands(t *testing.T, l *lab.Lab) {
	device := "eni-" + plugHot
	edit(t, l, []lab.Edit{attach(plugHot, false, "", 0, ""), attach("thief", true, "vm-many", plugENIs-1, device)})
	waitPhase(t, l, "host-a", "thief", "Ready")
	t.Cleanup(func() {
		edit(t, l, []lab.Edit{attach("thief", false, "", 0, ""), attach(plugHot, true, "vm-many", plugENIs-1, device)})
		waitPhase(t, l, "host-a", plugHot, "Ready")
		allowed(t, l, probe{from: plugHot, to: "far", protocol: "tcp", port: plugOpen + 4})
	})
	nothingPasses(t, l, "vm-many", "eth7")
	hot4, thief4 := plugAddr(7, 0, lab.IPv4).String(), plugAddr(7, 40, lab.IPv4).String()
	for _, r := range []struct {
		name   string
		frame  []byte
		reason dataplane.Reason
	}{
		{"its MAC", datagram(t, plugMAC(7), gatewayMAC, hot4, farSpot(lab.IPv4).Addr.String(), plugOpen), dataplane.ReasonSpoofedMAC},
		{"its address", datagram(t, plugMAC(50), gatewayMAC, hot4, farSpot(lab.IPv4).Addr.String(), plugOpen), dataplane.ReasonSpoofedIP},
	} {
		before := counters(t, l)
		if err := l.SendFrame("vm-many", "eth7", r.frame); err != nil {
			t.Fatal(err)
		}
		if !waitCounted(t, l, before, "thief", dataplane.Out, r.reason, answerWait) {
			t.Errorf("%s: no %s counted; dropped: %v", r.name, r.reason, lab.Drops(counters(t, l).Since(before)))
		}
	}
	arrives(t, l, "vm-many", "eth7", datagram(t, plugMAC(50), gatewayMAC, thief4, farSpot(lab.IPv4).Addr.String(), plugOpen))
}

// arrives wants a frame to get to far: the silence before was not that of a dead device.
func arrives(t *testing.T, l *lab.Lab, node, device string, frame []byte) {
	t.Helper()
	s := sniff(t, l, "vm-far", guestDevice)
	for end := time.Now().Add(answerWait); s.seen() == 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("an honest frame from %s of %s does not arrive, so the silence proves nothing", device, node)
		}
		if err := l.SendFrame(node, device, frame); err != nil {
			t.Fatal(err)
		}
	}
}

// stranger makes a device on host-a, with an ifindex, whose other end is "wire" on vm-near. Both are up.
func stranger(t *testing.T, l *lab.Lab, name string, ifindex int) {
	t.Helper()
	succeeds(t, l, "host-a", "ip", "link", "add", "name", name, "index", strconv.Itoa(ifindex), "type", "veth",
		"peer", "name", "wire", "netns", l.Namespace("vm-near"))
	succeeds(t, l, "host-a", "ip", "link", "set", name, "up")
	succeeds(t, l, "vm-near", "ip", "link", "set", "wire", "up")
}

func ifindexOf(t *testing.T, l *lab.Lab, host, device string) (ifindex int) {
	t.Helper()
	if err := l.In(host, func(n *lab.Namespace) error {
		dev, err := n.Netlink().LinkByName(device)
		if err == nil {
			ifindex = dev.Attrs().Index
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return ifindex
}

// strangerMeanwhile: with the agent dead, a device with the ENI's name and ifindex is made by somebody and set up. What
// comes out of it reaches nobody. The agent comes back and sees that it is another device.
func strangerMeanwhile(t *testing.T, l *lab.Lab) {
	device := "eni-" + plugHot
	ifindex := ifindexOf(t, l, "host-a", device)
	if err := l.KillAgent("host-a"); err != nil {
		t.Fatal(err)
	}
	if err := l.UnplugPort(plugHot); err != nil {
		t.Fatal(err)
	}
	stranger(t, l, device, ifindex)
	stack := delivered(t, l, "host-a")
	elsewhere := []*sniffer{sniff(t, l, "vm-far", guestDevice), sniff(t, l, "underlay", "host0-0"), sniff(t, l, "vm-many", "eth6")}
	hot4 := plugAddr(7, 0, lab.IPv4).String()
	for _, to := range []string{farSpot(lab.IPv4).Addr.String(), vtepA, plugAddr(6, 0, lab.IPv4).String()} {
		for _, port := range []uint16{plugOpen, 4789} {
			for _, mac := range [][]byte{gatewayMAC, broadcast, deviceMAC(t, l, "host-a", device)} {
				if err := l.SendFrame("vm-near", "wire", datagram(t, plugMAC(7), mac, hot4, to, port)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	time.Sleep(4 * silence)
	if n := seenBy(stack) + seenBy(elsewhere); n != 0 {
		t.Errorf("%d packets of a stranger's device with the ENI's name and ifindex got through", n)
	}
	succeeds(t, l, "host-a", "ip", "link", "del", device)
	if err := l.PlugPort(plugHot); err != nil {
		t.Fatal(err)
	}
	revive(t, l, "host-a")
	waitPhase(t, l, "host-a", plugHot, "Ready")
	allowed(t, l, probe{from: "far", to: plugHot, protocol: "tcp", port: plugOpen + 5})
}

// strangerTakesIndex: under traffic to the ENI its device goes, and in the same breath a device of somebody with the same
// ifindex comes. What is sent to the ENI does not get there, but for the moment until the agent has heard of it.
func strangerTakesIndex(t *testing.T, l *lab.Lab) {
	device := "eni-" + plugHot
	ifindex := ifindexOf(t, l, "host-a", device)
	if err := l.UnplugPort(plugHot); err != nil {
		t.Fatal(err)
	}
	gone := time.Now()
	stranger(t, l, "stranger", ifindex)
	t.Cleanup(func() { succeeds(t, l, "host-a", "ip", "link", "del", "stranger") })
	t.Logf("the device was gone and another with its ifindex up within %v", time.Since(gone).Round(100*time.Microsecond))
	if got := ifindexOf(t, l, "host-a", "stranger"); got != ifindex {
		t.Fatalf("the stranger has ifindex %d, not %d", got, ifindex)
	}
	waitPhase(t, l, "host-a", plugHot, "Waiting")
	at := sniff(t, l, "vm-near", "wire")
	for i := range 20 {
		frame := datagram(t, plugMAC(100), gatewayMAC, farSpot(lab.IPv4).Addr.String(), plugAddr(7, i, lab.IPv4).String(), plugOpen)
		if err := l.SendFrame("vm-far", guestDevice, frame); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(4 * silence)
	if n := at.seen(); n != 0 {
		t.Errorf("%d of 20 packets to the ENI arrived at a stranger's device with its ifindex", n)
	}
	elsewhere := sniff(t, l, "vm-far", guestDevice)
	if err := l.SendFrame("vm-near", "wire", datagram(t, plugMAC(7), gatewayMAC, plugAddr(7, 0, lab.IPv4).String(), farSpot(lab.IPv4).Addr.String(), plugOpen)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(4 * silence)
	if n := elsewhere.seen(); n != 0 {
		t.Errorf("%d packets of a stranger with the ENI's ifindex arrived as the ENI's", n)
	}
	if err := l.PlugPort(plugHot); err != nil {
		t.Fatal(err)
	}
	waitPhase(t, l, "host-a", plugHot, "Ready")
	allowed(t, l, probe{from: "far", to: plugHot, protocol: "tcp", port: plugOpen + 6})
	if n := at.seen(); n != 1 { // what it sent itself
		t.Errorf("%d packets arrived at the stranger after the ENI had another device", n-1)
	}
}
