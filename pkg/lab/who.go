// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"time"
)

// WhoAnswers connects to an address on which several nodes listen, and returns the name of the one
// that it reached.
func (l *Lab) WhoAnswers(ctx context.Context, from Spot, addr netip.Addr, port uint16, at ...Spot) (string, error) {
	for _, spot := range at {
		ln, err := l.Listen(spot, port)
		if err != nil {
			return "", fmt.Errorf("listen on %s: %w", spot, err)
		}
		defer ln.Close()
		go func() {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, spot.Node)
			_ = c.Close()
		}()
	}
	ctx, cancel := context.WithTimeout(ctx, allowedWait)
	defer cancel()
	c, err := l.Dial(ctx, from, Spot{Addr: addr}, port)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(allowedWait)); err != nil {
		return "", fmt.Errorf("set deadline: %w", err)
	}
	name, err := io.ReadAll(c)
	if err != nil {
		return "", fmt.Errorf("wait for a name: %w", err)
	}
	return string(name), nil
}
