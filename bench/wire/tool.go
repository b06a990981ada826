// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// ToolCommand is the word by which enibench becomes the tool: both ends of request/response measurements run as
// processes of their own inside guests.
const ToolCommand = "wire-tool"

// answer is what the client prints.
type answer struct {
	Count int     `json:"count"`
	P50   float64 `json:"p50"` // microseconds
	P99   float64 `json:"p99"`
	Rate  float64 `json:"rate"` // per second
}

// Tool is one end of a measurement: `serve ADDR:PORT` answers every byte and datagram until it is ended;
// `tcp|udp|connect ADDR:PORT COUNT` asks, one request after the other, and prints how long that took. Sockets block and
// the garbage collector rests, so that what is measured is the path.
func Tool(args []string, stdout io.Writer) error {
	runtime.LockOSThread()
	debug.SetGCPercent(-1)
	if len(args) == 2 && args[0] == "serve" {
		addr, err := netip.ParseAddrPort(args[1])
		if err != nil {
			return fmt.Errorf("address to serve: %w", err)
		}
		return serve(addr)
	}
	if len(args) != 3 {
		return errors.New("usage: serve ADDR:PORT | tcp|udp|connect ADDR:PORT COUNT")
	}
	addr, err := netip.ParseAddrPort(args[1])
	if err != nil {
		return fmt.Errorf("address to ask: %w", err)
	}
	count, err := strconv.Atoi(args[2])
	if err != nil || count < 1 {
		return fmt.Errorf("count %q: want a number above 0", args[2])
	}
	ask, stop, err := asker(args[0], addr)
	if err != nil {
		return err
	}
	defer stop()
	a, err := repeat(ask, count)
	if err != nil {
		return err
	}
	return json.NewEncoder(stdout).Encode(a)
}

// repeat asks so often, after a few times that do not count.
func repeat(ask func() error, count int) (*answer, error) {
	const warm = 10
	took := make([]time.Duration, 0, count)
	var begin time.Time
	for i := -min(warm, count); i < count; i++ {
		if i == 0 {
			begin = time.Now()
		}
		start := time.Now()
		if err := ask(); err != nil {
			return nil, fmt.Errorf("request %d: %w", i, err)
		}
		if i >= 0 {
			took = append(took, time.Since(start))
		}
	}
	all := time.Since(begin)
	slices.Sort(took)
	at := func(share float64) float64 {
		return float64(took[min(count-1, int(share*float64(count)))].Nanoseconds()) / 1000
	}
	return &answer{Count: count, P50: at(0.50), P99: at(0.99), Rate: float64(count) / all.Seconds()}, nil
}

// asker returns what makes one request.
func asker(mode string, addr netip.AddrPort) (ask func() error, stop func(), err error) {
	if mode == "connect" {
		return func() error { return connectOnce(addr) }, func() {}, nil
	}
	kind := map[string]int{"tcp": unix.SOCK_STREAM, "udp": unix.SOCK_DGRAM}[mode]
	if kind == 0 {
		return nil, nil, fmt.Errorf("mode %q: want tcp, udp or connect", mode)
	}
	fd, err := dial(kind, addr)
	if err != nil {
		return nil, nil, err
	}
	return func() error { return exchange(fd) }, func() { _ = unix.Close(fd) }, nil
}

// dial connects a blocking socket. Answers that do not come are an error, not a wait for ever.
func dial(kind int, addr netip.AddrPort) (int, error) {
	fd, err := unix.Socket(family(addr.Addr()), kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open a socket: %w", err)
	}
	wait := unix.Timeval{Sec: 5}
	err = errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &wait))
	if err == nil && kind == unix.SOCK_STREAM {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	}
	if err == nil {
		err = again(func() error { return unix.Connect(fd, sockaddr(addr)) })
		if errors.Is(err, unix.EISCONN) { // it went on while a signal was handled
			err = nil
		}
	}
	if err != nil {
		return 0, errors.Join(fmt.Errorf("connect to %s: %w", addr, err), unix.Close(fd))
	}
	return fd, nil
}

// again repeats a system call that a signal has ended: with a time limit on the socket the kernel does not, and the Go
// runtime sends itself signals.
func again(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// exchange sends a byte and waits for the answer.
func exchange(fd int) error {
	b, n := []byte{1}, 0
	if err := again(func() error { _, err := unix.Write(fd, b); return err }); err != nil {
		return fmt.Errorf("ask: %w", err)
	}
	err := again(func() (err error) { n, err = unix.Read(fd, b); return err })
	if err != nil {
		return fmt.Errorf("wait for the answer: %w", err)
	}
	if n != 1 {
		return errors.New("wait for the answer: the connection has ended")
	}
	return nil
}

// connectOnce opens a connection, asks once and resets it, so that no port stays in use.
func connectOnce(addr netip.AddrPort) error {
	fd, err := dial(unix.SOCK_STREAM, addr)
	if err != nil {
		return err
	}
	err = exchange(fd)
	if err == nil {
		err = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	return errors.Join(err, unix.Close(fd))
}

// serve answers by TCP and UDP until the process is ended.
func serve(addr netip.AddrPort) error {
	udp, err := listen(unix.SOCK_DGRAM, addr)
	if err != nil {
		return err
	}
	tcp, err := listen(unix.SOCK_STREAM, addr)
	if err != nil {
		return err
	}
	go serveUDP(udp)
	for {
		fd, _, err := unix.Accept4(tcp, unix.SOCK_CLOEXEC)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ECONNABORTED) {
			continue
		}
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		serveTCP(fd)
	}
}

func listen(kind int, addr netip.AddrPort) (int, error) {
	fd, err := unix.Socket(family(addr.Addr()), kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open a socket: %w", err)
	}
	err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.Bind(fd, sockaddr(addr)))
	if err == nil && kind == unix.SOCK_STREAM {
		err = unix.Listen(fd, 1024)
	}
	if err != nil {
		return 0, errors.Join(fmt.Errorf("listen on %s: %w", addr, err), unix.Close(fd))
	}
	return fd, nil
}

// serveTCP answers one connection, in the accepting thread: a client asks one after the other.
func serveTCP(fd int) {
	defer unix.Close(fd) //nolint:errcheck // the client has gone
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	b := make([]byte, 64)
	for {
		n, err := unix.Read(fd, b)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return
		}
		if _, err := unix.Write(fd, b[:n]); err != nil {
			return
		}
	}
}

func serveUDP(fd int) {
	runtime.LockOSThread()
	b := make([]byte, 2048)
	for {
		n, from, err := unix.Recvfrom(fd, b, 0)
		if err != nil {
			continue // an ICMP error of an earlier answer, or a signal
		}
		_ = unix.Sendto(fd, b[:n], 0, from) // who asked notices if it is lost
	}
}

func family(a netip.Addr) int {
	if a.Is6() {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is6() {
		return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
	}
	return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
}
