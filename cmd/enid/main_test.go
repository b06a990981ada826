// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestExitCodes(t *testing.T) {
	for _, tt := range []struct {
		name     string
		args     []string
		log      string
		code     int
		out, err string
	}{
		{name: "help", args: []string{"--help"}, out: "enid --host NAME --feed SOURCE"},
		{name: "no arguments", code: 2, err: "--host is required"},
		{name: "unknown scheme", args: []string{"--host=h", "--feed=ftp:x"}, code: 2, err: `"ftp" is not known`},
		{name: "later scheme", args: []string{"--host=h", "--feed=k8s:"}, code: 2, err: "not supported by this version"},
		{name: "etcd without prefix", args: []string{"--host=h", "--feed=etcd:http://x:1"}, code: 2, err: "names no prefix"},
		{name: "certificates for a directory", args: []string{"--host=h", "--feed=dir:x", "--etcd-ca=x"}, code: 2, err: "for etcd: only"},
		{name: "unknown log format", args: []string{"--host=h", "--feed=dir:x"}, log: "xml", code: 2, err: "want text or json"},
		{name: "no address", args: []string{"--host=h", "--feed=dir:x", "--listen=nowhere"}, code: 2, err: "is not ADDR:PORT"},
		{name: "address of somebody else", args: []string{"--host=h", "--feed=dir:x", "--listen=192.0.2.1:9"}, code: 1, err: "listen for /readyz"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out, errs bytes.Buffer
			code := run(context.Background(), tt.args, &out, &errs, func(string) string { return tt.log })
			if code != tt.code || !strings.Contains(out.String(), tt.out) || !strings.Contains(errs.String(), tt.err) {
				t.Errorf("exit code %d, want %d; %q %q", code, tt.code, out.String(), errs.String())
			}
		})
	}
}

func TestSignalDuringTheStart(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	err := fmt.Errorf("open host host-a: %w", context.Canceled)
	var out strings.Builder
	if code := exitCode(ctx, err, &out); code != 1 {
		t.Errorf("without a signal: exit code %d", code)
	}
	cancel()
	if code := exitCode(ctx, err, &out); code != 0 {
		t.Errorf("after a signal: exit code %d", code)
	}
	if code := exitCode(ctx, errors.New("close the maps"), &out); code != 1 {
		t.Errorf("another error after a signal: exit code %d", code)
	}
}
