// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/eniplane/eniplane/pkg/lab"
)

// TestPolicyModes: a live connection of an ENI, opened by it or by its peer, while its rules, the
// members of the group that they name and the network ACL change and come back.
func TestPolicyModes(t *testing.T) {
	l := common(t)
	good, err := os.ReadFile(filepath.Join(l.FeedDir(), objectsFile))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { putGood(t, l, good) })
	set := func(kind, name, field string, value any) lab.Edit {
		return lab.Edit{Kind: kind, Name: name, Change: func(spec *yaml.Node) error { return lab.Set(spec, field, value) }}
	}
	changes := []struct {
		name   string
		only   string // opening direction, if it makes sense in one only
		change []lab.Edit
		goesOn map[string][2]bool // by mode: during the change, and when it is taken back
	}{
		{
			"rules", "", []lab.Edit{set("SecurityGroup", "strict", "ingress", []any{}), set("SecurityGroup", "strict", "egress", []any{})},
			map[string][2]bool{"reevaluate": {false, true}, "keep": {true, true}, "cut": {false, false}},
		},
		{
			"membership", "in", []lab.Edit{set("ENI", "a1", "securityGroups", []any{"open"})},
			map[string][2]bool{"reevaluate": {false, true}, "keep": {true, true}, "cut": {false, false}},
		},
		{
			"network ACL", "", []lab.Edit{set("NetworkACL", "front", "ingress", []any{})},
			map[string][2]bool{"reevaluate": {false, true}, "keep": {false, true}, "cut": {false, true}},
		},
	}
	for _, mode := range []string{"reevaluate", "keep", "cut"} {
		for _, ends := range []struct{ name, from, to string }{{"in", "a1", "b2"}, {"out", "b2", "a1"}} {
			for _, c := range changes {
				if c.only != "" && c.only != ends.name {
					continue
				}
				t.Run(mode+"/"+ends.name+"/"+c.name, func(t *testing.T) {
					base := []lab.Edit{set("ENI", "b2", "onPolicyChange", mode), set("Subnet", "back", "networkACL", "front")}
					edit(t, l, base)
					defer putGood(t, l, good)
					conn := echoing(t, l, ends.from, ends.to)
					converses(t, conn, true)
					held, err := os.ReadFile(filepath.Join(l.FeedDir(), objectsFile))
					if err != nil {
						t.Fatal(err)
					}
					edit(t, l, c.change)
					converses(t, conn, c.goesOn[mode][0])
					putGood(t, l, held)
					converses(t, conn, c.goesOn[mode][1])
				})
			}
		}
	}
}

func edit(t *testing.T, l *lab.Lab, edits []lab.Edit) {
	t.Helper()
	revision, err := l.EditFeed(edits...)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.WaitRevisionAll(context.Background(), revision); err != nil {
		t.Fatal(err)
	}
}

// echoing opens a TCP connection whose other end sends back what it gets.
func echoing(t *testing.T, l *lab.Lab, from, to string) net.Conn {
	t.Helper()
	src, dst, err := l.Spots(from, to, lab.IPv4)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := l.Listen(dst, 5432)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return // the test has ended
		}
		defer c.Close()
		_, _ = io.Copy(c, c) // ends with the connection, however that ends
	}()
	ctx, cancel := context.WithTimeout(context.Background(), answerWait)
	defer cancel()
	c, err := l.Dial(ctx, src, dst, 5432)
	if err != nil {
		t.Fatalf("connect %s to %s: %v", src, dst, err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// converses sends a byte and wants one back; or none, for longer than TCP waits before it tries again.
// What was sent in vain before comes back too: it is read away.
func converses(t *testing.T, c net.Conn, want bool) {
	t.Helper()
	if _, err := c.Write([]byte{1}); err != nil {
		t.Fatalf("write: %v", err)
	}
	wait := answerWait
	if !want {
		wait = time.Second
	}
	if err := c.SetReadDeadline(time.Now().Add(wait)); err != nil {
		t.Fatal(err)
	}
	_, err := c.Read(make([]byte, 16))
	if (err == nil) != want {
		t.Fatalf("an answer: %v, want %v", err, want)
	}
}
