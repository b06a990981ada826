// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/eniplane/eniplane/pkg/api"
)

// The defaults of the contract.
const (
	defaultBPFFS    = "/sys/fs/bpf/eniplane"
	defaultStateDir = "/var/lib/eniplane"
	defaultListen   = "127.0.0.1:9966"
	defaultRatio    = 0.2
)

// config is what flags and the file say. The keys of the file are the names of the flags.
type config struct {
	Host           string  `yaml:"host"`
	Feed           string  `yaml:"feed"`
	BPFFS          string  `yaml:"bpffs"`
	StateDir       string  `yaml:"state-dir"`
	Listen         string  `yaml:"listen"`
	PeerListen     string  `yaml:"peer-listen"`
	MaxFlows       uint32  `yaml:"max-flows"`
	MaxDeleteRatio float64 `yaml:"max-delete-ratio"`

	PeerCA        string `yaml:"peer-ca"`
	PeerCert      string `yaml:"peer-cert"`
	PeerKey       string `yaml:"peer-key"`
	PeerPlaintext bool   `yaml:"peer-plaintext"`

	EtcdCA   string `yaml:"etcd-ca"`
	EtcdCert string `yaml:"etcd-cert"`
	EtcdKey  string `yaml:"etcd-key"`
	EtcdUser string `yaml:"etcd-user"`
}

// usageError is a mistake in the arguments or the file: exit code 2.
type usageError struct{ error }

// parseConfig reads the arguments and the file that they name. A flag wins over the file, the file
// over the default. It returns pflag.ErrHelp after having printed the help that was asked for.
func parseConfig(args []string, out io.Writer) (*config, error) {
	c := config{}
	var file string
	fs := pflag.NewFlagSet("enid", pflag.ContinueOnError)
	fs.SortFlags = false
	fs.SetOutput(out)
	fs.Usage = func() {
		fmt.Fprintf(out, "enid is the eniplane agent of one host.\n\nUsage:\n"+
			"  enid --host NAME --feed SOURCE [flags]\n\nFlags:\n%s", fs.FlagUsages())
	}
	fs.StringVar(&c.Host, "host", "", "name of this host in the feed")
	fs.StringVar(&c.Feed, "feed", "", "source of the objects: dir:PATH or etcd:http(s)://HOST:PORT[,..]/PREFIX")
	fs.StringVar(&c.BPFFS, "bpffs", defaultBPFFS, "directory in a BPF file system; pins live in DIR/HOST")
	fs.StringVar(&c.StateDir, "state-dir", defaultStateDir, "directory of the state; files live in DIR/HOST")
	fs.StringVar(&c.Listen, "listen", defaultListen, "address of /healthz, /readyz and /metrics")
	fs.StringVar(&c.PeerListen, "peer-listen", "", "address for other agents: flows of instances that move here; needs --peer-cert (default the peer of this Host in the feed)")
	fs.StringVar(&c.PeerCA, "peer-ca", "", "file of the authorities that sign the agents' certificates")
	fs.StringVar(&c.PeerCert, "peer-cert", "", "file of this agent's certificate for other agents; its DNS name is --host")
	fs.StringVar(&c.PeerKey, "peer-key", "", "file of its key")
	fs.BoolVar(&c.PeerPlaintext, "peer-plaintext", false, "talk to other agents without TLS, for labs only: who has a host's address is the host")
	fs.Uint32Var(&c.MaxFlows, "max-flows", 0, "flows that the host can hold (default those of its pinned tables, else 1048576)")
	fs.Float64Var(&c.MaxDeleteRatio, "max-delete-ratio", defaultRatio,
		"refuse a revision that deletes more than this part of the host's ENIs (4 always pass)")
	fs.StringVar(&c.EtcdCA, "etcd-ca", "", "file of the authorities that sign the members of etcd (default those of the system)")
	fs.StringVar(&c.EtcdCert, "etcd-cert", "", "file of the agent's own certificate for etcd")
	fs.StringVar(&c.EtcdKey, "etcd-key", "", "file of its key")
	fs.StringVar(&c.EtcdUser, "etcd-user", "", "file with one line USER:PASSWORD for etcd")
	fs.StringVar(&file, "config", "", "YAML file with the names of these flags as keys; flags win")

	if err := fs.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			return nil, err
		}
		return nil, usageError{err}
	}
	if fs.NArg() > 0 {
		return nil, usageError{fmt.Errorf("unexpected argument %q: enid takes flags only", fs.Arg(0))}
	}
	if file != "" {
		if err := c.readFile(file); err != nil {
			return nil, usageError{err}
		}
		// A second time, because flags win over the file.
		if err := fs.Parse(args); err != nil {
			return nil, usageError{err}
		}
	}
	if err := c.check(); err != nil {
		return nil, usageError{err}
	}
	return &c, nil
}

func (c *config) readFile(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read --config: %w", err)
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(c); err != nil && !errors.Is(err, io.EOF) { // an empty file is fine
		return fmt.Errorf("read --config %s: %w", path, err)
	}
	if err := dec.Decode(&struct{}{}); !errors.Is(err, io.EOF) {
		return fmt.Errorf("read --config %s: more than one YAML document", path)
	}
	return nil
}

func (c *config) check() error {
	switch {
	case c.Host == "":
		return errors.New("--host is required: the name of this host in the feed")
	case api.NameProblem(c.Host) != "": // it becomes a part of paths
		return fmt.Errorf("--host %q is not a name: it %s", c.Host, api.NameProblem(c.Host))
	case c.Feed == "":
		return errors.New("--feed is required, for example dir:/etc/eniplane/feed")
	case c.BPFFS == "":
		return errors.New("--bpffs is empty")
	case c.StateDir == "":
		return errors.New("--state-dir is empty")
	case !isListenAddress(c.Listen):
		return fmt.Errorf("--listen %q is not ADDR:PORT", c.Listen)
	case c.PeerListen != "" && !isListenAddress(c.PeerListen):
		return fmt.Errorf("--peer-listen %q is not ADDR:PORT", c.PeerListen)
	case !(c.MaxDeleteRatio >= 0 && c.MaxDeleteRatio <= 1): // also refuses NaN
		return fmt.Errorf("--max-delete-ratio %v is not between 0 and 1", c.MaxDeleteRatio)
	}
	return nil
}

// isListenAddress tells whether a text can be an address to listen on, such as 127.0.0.1:9966 or :9966.
func isListenAddress(text string) bool {
	_, port, err := net.SplitHostPort(text)
	return err == nil && port != ""
}
