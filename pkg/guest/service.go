// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// The paths of the metadata service, below its address, as EC2 has them and as its guests' tools ask for them.
const (
	tokenPath  = "/latest/api/token"
	macsPath   = "/latest/meta-data/network/interfaces/macs/"
	namePath   = "/latest/meta-data/instance-id"
	tokenTTL   = "X-aws-ec2-metadata-token-ttl-seconds"
	tokenField = "X-aws-ec2-metadata-token"
)

// errAbsent is what a service says of a path that it does not have.
var errAbsent = errors.New("404")

// service is a metadata service.
type service struct {
	address string // http://HOST[:PORT]
	client  *http.Client
	token   string
}

// ReadService reads the ENIs of this machine from a metadata service at an address like http://169.254.169.254. Per MAC
// below latest/meta-data/network/interfaces/macs/ it asks for device-number, interface-id, local-ipv4s, ipv6s and the
// CIDRs of the subnet; and before for a token, which a service that knows none need not give.
func ReadService(ctx context.Context, address string) (*Machine, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	s := &service{address: strings.TrimRight(address, "/"), client: &http.Client{Timeout: 5 * time.Second}}
	if err := s.authorize(ctx); err != nil {
		return nil, fmt.Errorf("ask %s for a token: %w", s.address, err)
	}
	m := &Machine{}
	var err error
	if m.Name, err = s.get(ctx, namePath); err != nil && !errors.Is(err, errAbsent) {
		return nil, err
	}
	macs, err := s.lines(ctx, macsPath)
	if err != nil {
		return nil, fmt.Errorf("list ENIs: %w", err)
	}
	for _, mac := range macs {
		e, err := s.eni(ctx, strings.TrimSuffix(mac, "/"))
		if err != nil {
			return nil, fmt.Errorf("ENI %s: %w", mac, err)
		}
		m.ENIs = append(m.ENIs, e)
	}
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("what %s says: %w", s.address, err)
	}
	return m, nil
}

func (s *service) eni(ctx context.Context, name string) (ENI, error) {
	mac, err := net.ParseMAC(name)
	if err != nil || len(mac) != 6 {
		return ENI{}, fmt.Errorf("%q is not a MAC", name)
	}
	e := ENI{Name: name, MAC: mac.String()}
	if id, err := s.get(ctx, macsPath+name+"/interface-id"); err == nil {
		e.Name = id
	}
	number, err := s.get(ctx, macsPath+name+"/device-number")
	if err != nil {
		return e, err
	}
	if e.Index, err = strconv.Atoi(number); err != nil {
		return e, fmt.Errorf("device-number %q is not a number", number)
	}
	var subnets []netip.Prefix
	for _, leaf := range []string{"subnet-ipv4-cidr-block", "subnet-ipv6-cidr-blocks"} {
		if subnets, err = gather(ctx, s, macsPath+name+"/"+leaf, subnets, netip.ParsePrefix); err != nil {
			return e, err
		}
	}
	var ips []netip.Addr
	for _, leaf := range []string{"local-ipv4s", "ipv6s"} {
		if ips, err = gather(ctx, s, macsPath+name+"/"+leaf, ips, netip.ParseAddr); err != nil {
			return e, err
		}
	}
	for _, ip := range ips {
		a, err := address(ip, subnets, nil)
		if err != nil {
			return e, err
		}
		e.Addrs = append(e.Addrs, a)
	}
	return e, nil
}

// gather appends what the lines of a path say; a path that is absent says nothing.
func gather[T any](ctx context.Context, s *service, path string, to []T, parse func(string) (T, error)) ([]T, error) {
	lines, err := s.lines(ctx, path)
	if err != nil && !errors.Is(err, errAbsent) {
		return nil, err
	}
	for _, line := range lines {
		v, err := parse(line)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		to = append(to, v)
	}
	return to, nil
}

// authorize gets a token if the service gives any.
func (s *service) authorize(ctx context.Context) error {
	text, status, err := s.ask(ctx, http.MethodPut, tokenPath, tokenTTL, "60")
	if err == nil && status == http.StatusOK {
		s.token = text
	}
	return err
}

func (s *service) lines(ctx context.Context, path string) ([]string, error) {
	text, err := s.get(ctx, path)
	if err != nil {
		return nil, err
	}
	return strings.Fields(text), nil
}

func (s *service) get(ctx context.Context, path string) (string, error) {
	text, status, err := s.ask(ctx, http.MethodGet, path, tokenField, s.token)
	switch {
	case err != nil:
		return "", fmt.Errorf("get %s: %w", path, err)
	case status == http.StatusNotFound:
		return "", fmt.Errorf("get %s%s: %w", s.address, path, errAbsent)
	case status != http.StatusOK:
		return "", fmt.Errorf("get %s%s: the service answers %d", s.address, path, status)
	}
	return text, nil
}

// ask sends one request, with one header unless its value is empty.
func (s *service) ask(ctx context.Context, method, path, header, value string) (string, int, error) {
	req, err := http.NewRequestWithContext(ctx, method, s.address+path, nil)
	if err != nil {
		return "", 0, err
	}
	if value != "" {
		req.Header.Set(header, value)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return "", 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxFile))
	return strings.TrimSpace(string(text)), resp.StatusCode, err
}
