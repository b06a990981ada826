// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

func TestParseConfig(t *testing.T) {
	file := filepath.Join(t.TempDir(), "enid.yaml")
	text := "host: from-file\nfeed: dir:/file\nmax-flows: 100\nmax-delete-ratio: 0.5\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	defaults := config{
		BPFFS: "/sys/fs/bpf/eniplane", StateDir: "/var/lib/eniplane", Listen: "127.0.0.1:9966",
		MaxDeleteRatio: 0.2,
	}
	with := func(change func(*config)) config { c := defaults; change(&c); return c }
	for _, tt := range []struct {
		name string
		args []string
		want config
	}{
		{
			name: "defaults", args: []string{"--host", "h", "--feed", "dir:/x"},
			want: with(func(c *config) { c.Host, c.Feed = "h", "dir:/x" }),
		},
		{
			name: "file over defaults", args: []string{"--config", file},
			want: with(func(c *config) {
				c.Host, c.Feed, c.MaxFlows, c.MaxDeleteRatio = "from-file", "dir:/file", 100, 0.5
			}),
		},
		{
			name: "flags over file, also when they say the default",
			args: []string{"--max-delete-ratio=0.2", "--config", file, "--host=h"},
			want: with(func(c *config) { c.Host, c.Feed, c.MaxFlows = "h", "dir:/file", 100 }),
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseConfig(tt.args, &bytes.Buffer{})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, *got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParseConfigRefuses(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ok := []string{"--host", "h", "--feed", "dir:/x"}
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"no host", []string{"--feed", "dir:/x"}, "--host is required"},
		{"no feed", []string{"--host", "h"}, "--feed is required"},
		{"host that leaves the directory", []string{"--host", "..", "--feed", "dir:/x"}, "is not a name"},
		{"host in capitals", []string{"--host", "A", "--feed", "dir:/x"}, "is not a name"},
		{"unknown flag", append(ok, "--frobnicate"), "unknown flag"},
		{"argument", append(ok, "start"), `unexpected argument "start"`},
		{"peer listener that is no address", append(ok, "--peer-listen", "here"), "is not ADDR:PORT"},
		{"too many flows", append(ok, "--max-flows", "5000000000"), "--max-flows"},
		{"ratio above one", append(ok, "--max-delete-ratio", "1.1"), "not between 0 and 1"},
		{"ratio that is no number", append(ok, "--max-delete-ratio", "NaN"), "not between 0 and 1"},
		{"no such file", append(ok, "--config", dir+"/none"), "no such file"},
		{"unknown key", append(ok, "--config", write("u", "hosts: x\n")), "hosts"},
		{"peer listener in the file", append(ok, "--config", write("p", "peer-listen: here\n")), "is not ADDR:PORT"},
		{"two documents", append(ok, "--config", write("d", "host: a\n---\nhost: b\n")), "more than one"},
		{"wrong type", append(ok, "--config", write("t", "max-flows: many\n")), "cannot unmarshal"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parseConfig(tt.args, &bytes.Buffer{})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("error %v, want one with %q", err, tt.want)
			}
			if !errors.As(err, &usageError{}) {
				t.Errorf("%v is no usage error", err)
			}
		})
	}
}

func TestEmptyConfigFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "empty.yaml")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := parseConfig([]string{"--host=h", "--feed=dir:/x", "--config", file}, &bytes.Buffer{}); err != nil {
		t.Error(err)
	}
}

func TestHelpNamesEveryFlag(t *testing.T) {
	var out bytes.Buffer
	if _, err := parseConfig([]string{"-h"}, &out); !errors.Is(err, pflag.ErrHelp) {
		t.Fatalf("error %v", err)
	}
	for _, name := range []string{
		"host", "feed", "bpffs", "state-dir", "listen", "peer-listen", "peer-ca", "peer-cert", "peer-key", "peer-plaintext", "max-flows", "max-delete-ratio", "etcd-ca", "etcd-cert", "etcd-key", "etcd-user", "config",
	} {
		if !strings.Contains(out.String(), "--"+name+" ") {
			t.Errorf("help does not name --%s", name)
		}
	}
}
