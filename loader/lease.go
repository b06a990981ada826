// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"sync"
	"time"

	"github.com/eniplane/eniplane/pkg/dataplane"
	"github.com/eniplane/eniplane/pkg/dataplane/flowtable"
)

// A lease lasts for leaseTicks of the flow clock, about 2 s, and is renewed four times as often.
const (
	leaseTicks = 8
	leaseEvery = 500 * time.Millisecond
)

// leaseXDP lets XDP deliver to ports until the loader is closed. If the process dies, the lease runs out, and everything
// goes by TC: a guest may then change what its port takes, and nobody hears of it.
func (l *Loader) leaseXDP() error {
	if err := l.renewXDP(); err != nil {
		return err
	}
	stop := make(chan struct{})
	var renewing sync.WaitGroup
	renewing.Go(func() {
		tick := time.NewTicker(leaseEvery)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			if err := l.renewXDP(); err != nil {
				l.log.Error("XDP delivers nothing any more, TC does", "err", err)
			}
		}
	})
	l.closers = append(l.closers, func() error {
		close(stop)
		renewing.Wait()
		return l.maps.Map(dataplane.MapXDPLease).Put(uint32(0), uint32(0))
	})
	return nil
}

func (l *Loader) renewXDP() error {
	now, err := flowtable.Now()
	if err != nil {
		return fmt.Errorf("renew the lease of XDP: %w", err)
	}
	if err := l.maps.Map(dataplane.MapXDPLease).Put(uint32(0), now+leaseTicks); err != nil {
		return fmt.Errorf("renew the lease of XDP: %w", err)
	}
	return nil
}
