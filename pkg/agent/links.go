// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/vishvananda/netlink"
)

// WatchLinks returns a channel that gets a value when devices of this network namespace changed, or what they can do.
// Values collapse: one that waits to be read stands for all changes since.
func WatchLinks(ctx context.Context, log *slog.Logger) (<-chan struct{}, error) {
	changed := make(chan struct{}, 1)
	updates, stop, err := subscribeLinks(ctx, log)
	if err != nil {
		return nil, err
	}
	features, err := subscribeFeatures()
	if err != nil {
		stop()
		return nil, err
	}
	go watchFeatures(ctx, features, log, changed)
	go func() {
		for {
			select {
			case <-ctx.Done():
				stop()
				return
			case _, ok := <-updates:
				if !ok { // the kernel dropped events, or the socket broke: listen anew, then look
					stop()
					updates, stop = resubscribe(ctx, log)
				}
				notify(changed)
			}
		}
	}()
	return changed, nil
}

func notify(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func subscribeLinks(ctx context.Context, log *slog.Logger) (chan netlink.LinkUpdate, func(), error) {
	updates := make(chan netlink.LinkUpdate, 64)
	ctx, stop := context.WithCancel(ctx) // closes the socket
	err := netlink.LinkSubscribeWithOptions(updates, ctx.Done(), netlink.LinkSubscribeOptions{
		ErrorCallback: func(err error) {
			if ctx.Err() == nil {
				log.Warn("device events were lost, all devices are looked at again", "err", err)
			}
		},
	})
	if err != nil {
		stop()
		return nil, nil, fmt.Errorf("subscribe to device events: %w", err)
	}
	return updates, stop, nil
}

// resubscribe tries until it works or ctx ends. The periodic reconcile covers the time between.
func resubscribe(ctx context.Context, log *slog.Logger) (chan netlink.LinkUpdate, func()) {
	for {
		select {
		case <-ctx.Done():
			return nil, func() {}
		case <-time.After(time.Second):
		}
		updates, stop, err := subscribeLinks(ctx, log)
		if err == nil {
			return updates, stop
		}
		log.Error("cannot listen to devices", "err", err)
	}
}
