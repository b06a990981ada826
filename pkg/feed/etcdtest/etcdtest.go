// SPDX-License-Identifier: Apache-2.0

// Package etcdtest runs real etcd servers for tests: processes of their own, which can be killed.
package etcdtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
)

// EnvBin names a directory of binaries that were built before, for machines without a compiler.
const EnvBin = "ENIPLANE_BIN"

// Server returns the path of the server, built from the version that test/etcd pins.
func Server(t testing.TB) string {
	t.Helper()
	if dir := os.Getenv(EnvBin); dir != "" {
		return filepath.Join(dir, "etcd")
	}
	_, file, _, _ := runtime.Caller(0)
	root := filepath.Join(filepath.Dir(file), "../../..")
	path := filepath.Join(root, "bin", "etcd")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", path, "go.etcd.io/etcd/server/v3")
	build.Dir = filepath.Join(root, "test", "etcd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build etcd: %v\n%s", err, out)
	}
	return path
}

// Options of a cluster.
type Options struct {
	Members int // 0 = 1
	TLS     *Certificates
	Host    string                   // address to listen on; "" = 127.0.0.1
	Flags   []string                 // more flags of each member
	In      func(func() error) error // runs something where the cluster shall be, in a network namespace say; nil = here
}

// Cluster is some members.
type Cluster struct {
	Members []*Member
	TLS     *Certificates
	in      func(func() error) error
}

// Member is one server.
type Member struct {
	Name string
	URL  string // for clients

	t    testing.TB
	in   func(func() error) error
	dir  string
	args []string
	cmd  *exec.Cmd
	done chan struct{}
	log  *os.File
}

// Start starts a cluster that ends with the test.
func Start(t testing.TB, opts Options) *Cluster {
	t.Helper()
	server := Server(t)
	n, scheme, host := max(opts.Members, 1), "http", opts.Host
	if opts.TLS != nil {
		scheme = "https"
	}
	if host == "" {
		host = "127.0.0.1"
	}
	dir := t.TempDir()
	in := opts.In
	if in == nil {
		in = func(do func() error) error { return do() }
	}
	ports := freePorts(t, in, host, 2*n)
	c := &Cluster{TLS: opts.TLS, in: in}
	var initial []string
	peer := func(i int) string { return fmt.Sprintf("http://%s:%d", host, ports[2*i+1]) }
	for i := range n {
		initial = append(initial, fmt.Sprintf("m%d=%s", i, peer(i)))
	}
	for i := range n {
		m := &Member{t: t, in: in, Name: fmt.Sprintf("m%d", i), URL: fmt.Sprintf("%s://%s:%d", scheme, host, ports[2*i])}
		m.dir = filepath.Join(dir, m.Name)
		m.args = append([]string{
			server, "--name", m.Name, "--data-dir", m.dir,
			"--listen-client-urls", m.URL, "--advertise-client-urls", m.URL,
			"--listen-peer-urls", peer(i), "--initial-advertise-peer-urls", peer(i),
			"--initial-cluster", strings.Join(initial, ","), "--initial-cluster-token", filepath.Base(dir),
			"--unsafe-no-fsync", "--logger", "zap", "--log-level", "error",
		}, opts.Flags...)
		if n == 1 { // it waits for nobody
			m.args = append(m.args, "--heartbeat-interval", "20", "--election-timeout", "200")
		}
		if opts.TLS != nil {
			m.args = append(m.args, "--cert-file", opts.TLS.ServerCert, "--key-file", opts.TLS.ServerKey,
				"--trusted-ca-file", opts.TLS.CA, "--client-cert-auth")
		}
		c.Members = append(c.Members, m)
		m.Start()
	}
	c.wait(t)
	return c
}

// Start starts the member, again after Kill.
func (m *Member) Start() {
	m.t.Helper()
	log, err := os.CreateTemp(m.t.TempDir(), m.Name)
	if err != nil {
		m.t.Fatal(err)
	}
	m.log = log
	m.cmd = exec.Command(m.args[0], m.args[1:]...)
	m.cmd.Stdout, m.cmd.Stderr = log, log
	if err := m.in(m.cmd.Start); err != nil {
		m.t.Fatal(err)
	}
	done, cmd := make(chan struct{}), m.cmd
	m.done = done
	go func() {
		_ = cmd.Wait()
		close(done)
	}()
	m.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-done
		_ = log.Close()
	})
}

// DataDir is where the member keeps what it knows.
func (m *Member) DataDir() string { return m.dir }

// PID is that of the server's process.
func (m *Member) PID() int { return m.cmd.Process.Pid }

// Kill ends the server with SIGKILL and waits until it is gone.
func (m *Member) Kill() {
	_ = m.cmd.Process.Kill()
	<-m.done
}

// Pause stops the server without ending it, as a machine does that hangs; Resume lets it go on.
func (m *Member) Pause() { _ = m.cmd.Process.Signal(syscall.SIGSTOP) }

// Resume ends a Pause.
func (m *Member) Resume() { _ = m.cmd.Process.Signal(syscall.SIGCONT) }

// URLs are those of all members, with commas, without scheme but for the first.
func (c *Cluster) URLs() string {
	var urls []string
	for i, m := range c.Members {
		url := m.URL
		if i > 0 {
			_, url, _ = strings.Cut(url, "://")
		}
		urls = append(urls, url)
	}
	return strings.Join(urls, ",")
}

// Client connects to the cluster until the end of the test.
func (c *Cluster) Client(t testing.TB) *clientv3.Client {
	t.Helper()
	dial := func(ctx context.Context, addr string) (conn net.Conn, err error) {
		err = c.in(func() error {
			conn, err = new(net.Dialer).DialContext(ctx, "tcp", addr)
			return err
		})
		return conn, err
	}
	conf := clientv3.Config{
		DialTimeout: 5 * time.Second, Logger: zap.NewNop(), DialOptions: []grpc.DialOption{grpc.WithContextDialer(dial)},
	}
	for _, m := range c.Members {
		conf.Endpoints = append(conf.Endpoints, m.URL)
	}
	if c.TLS != nil {
		conf.TLS = c.TLS.config(t)
	}
	client, err := clientv3.New(conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// wait waits until the cluster answers.
func (c *Cluster) wait(t testing.TB) {
	t.Helper()
	client := c.Client(t)
	var err error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		_, err = client.Get(ctx, "/")
		cancel()
		if err == nil {
			return
		}
		for _, m := range c.Members {
			select {
			case <-m.done:
				t.Fatalf("etcd member %s ended:\n%s", m.Name, m.logTail())
			default:
			}
		}
	}
	t.Fatal(errors.Join(errors.New("etcd does not answer"), err))
}

func (m *Member) logTail() []byte {
	text, err := os.ReadFile(m.log.Name())
	if err != nil {
		return []byte(err.Error())
	}
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	return bytes.Join(lines[max(0, len(lines)-10):], []byte("\n"))
}

// freePorts finds ports on which nobody listens now.
func freePorts(t testing.TB, in func(func() error) error, host string, n int) []int {
	t.Helper()
	var ports []int
	for range n {
		var l net.Listener
		err := in(func() (err error) {
			l, err = net.Listen("tcp", net.JoinHostPort(host, "0"))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}
