// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"unique"

	"github.com/eniplane/eniplane/pkg/api"
)

// Record is what other hosts must know of an ENI. In the feed it is one line:
//
//	UID HOST MAC FLAGS SUBNET GROUP[,GROUP..] IP[,IP..]
//
// with - for no host and no flags. HOST is A>B of one that moves from A to B and is at A, B<A when it is at B and A sends
// on what comes late. The flag f says that the ENI may send from foreign addresses.
type Record struct {
	Name    string
	UID     string
	Host    string // "" = attached nowhere
	To      string // the host where it is prepared; "" = none
	From    string // the host that it has left; "" = none, or that is over
	MAC     api.MAC
	Foreign bool
	Subnet  string
	Groups  []string
	IPs     []netip.Addr
}

// RecordOf makes the record of an ENI.
func RecordOf(objects *api.Objects, e *api.ENI) Record {
	return Record{
		Name: e.Name, UID: e.UID, Host: objects.HostOf(e), To: objects.MovingTo(e), From: objects.MovedFrom(e), MAC: e.MAC,
		Foreign: len(e.AllowedAddresses) > 0 || !e.SourceDestCheck,
		Subnet:  e.Subnet, Groups: e.SecurityGroups, IPs: e.IPs,
	}
}

const none = "-"

func (r Record) text() []byte {
	host, flags := r.Host, none
	switch {
	case host == "":
		host = none
	case r.To != "":
		host += ">" + r.To
	case r.From != "":
		host += "<" + r.From
	}
	if r.Foreign {
		flags = "f"
	}
	b := make([]byte, 0, 96)
	for _, word := range []string{r.UID, host, r.MAC.String(), flags, r.Subnet, strings.Join(r.Groups, ",")} {
		b = append(append(b, word...), ' ')
	}
	for i, ip := range r.IPs {
		if i > 0 {
			b = append(b, ',')
		}
		b = ip.AppendTo(b)
	}
	return b
}

// ParseRecord reads the line of an ENI.
func ParseRecord(name, line string) (Record, error) {
	r := Record{Name: name}
	words := strings.Split(line, " ")
	if len(words) != 7 {
		return r, fmt.Errorf("endpoint record of ENI %s has %d words instead of 7", name, len(words))
	}
	// Copies: a piece of the packed text would keep all of it alive.
	r.Name, r.UID = strings.Clone(name), strings.Clone(words[0])
	r.Subnet = intern(words[4])
	r.place(words[1])
	for _, group := range strings.Split(words[5], ",") {
		r.Groups = append(r.Groups, intern(group))
	}
	mac, err := net.ParseMAC(words[2])
	if err != nil || len(mac) != len(r.MAC) {
		return r, fmt.Errorf("endpoint record of ENI %s: %q is no MAC", name, words[2])
	}
	r.MAC = api.MAC(mac)
	for _, flag := range strings.TrimPrefix(words[3], none) {
		if flag != 'f' {
			return r, fmt.Errorf("endpoint record of ENI %s: the flag %q is not supported by this version", name, flag)
		}
		r.Foreign = true
	}
	for _, text := range strings.Split(words[6], ",") {
		ip, err := netip.ParseAddr(text)
		if err != nil || ip.Zone() != "" || ip.Is4In6() {
			return r, fmt.Errorf("endpoint record of ENI %s: %q is no address", name, text)
		}
		r.IPs = append(r.IPs, ip)
	}
	return r, r.check()
}

// place reads where the ENI is.
func (r *Record) place(word string) {
	if word == none {
		return
	}
	host, to, moves := strings.Cut(word, ">")
	if moves {
		r.To = intern(to)
	} else if at, from, moved := strings.Cut(word, "<"); moved {
		host, r.From = at, intern(from)
	}
	r.Host = intern(host)
}

// intern makes one copy of a name that many records have.
func intern(name string) string { return unique.Make(name).Value() }

// check refuses what no writer of ours makes.
func (r *Record) check() error {
	bad := func(what string) error { return fmt.Errorf("endpoint record of ENI %s: %s", r.Name, what) }
	for _, name := range append([]string{r.Name, r.Subnet}, r.Groups...) {
		if problem := api.NameProblem(name); problem != "" {
			return bad(fmt.Sprintf("the name %q %s", name, problem))
		}
	}
	switch {
	case r.UID == "":
		return bad("it has no UID")
	case r.MAC.IsZero() || !r.MAC.IsUnicast():
		return bad("its MAC is that of no interface")
	}
	return nil
}

// errConflict is the reason why a record is left out.
var errConflict = errors.New("it has an address of another ENI")

// claims are the addresses that ENIs of a VPC have.
type claims struct {
	ips  map[netip.Addr]struct{}
	macs map[api.MAC]struct{}
}

func newClaims() *claims {
	return &claims{ips: map[netip.Addr]struct{}{}, macs: map[api.MAC]struct{}{}}
}

// take claims the addresses of one ENI, all or none.
func (c *claims) take(mac api.MAC, ips []netip.Addr) error {
	if _, ok := c.macs[mac]; ok {
		return errConflict
	}
	for _, ip := range ips {
		if _, ok := c.ips[ip]; ok {
			return errConflict
		}
	}
	c.macs[mac] = struct{}{}
	for _, ip := range ips {
		c.ips[ip] = struct{}{}
	}
	return nil
}

// AddRecords adds the ENIs of the records to objects that hold the documents of one host: an ENI whose document is
// among them is known better than by its record. Of what does not fit, the line of before counts if there is one; it is
// reported.
func AddRecords(objects *api.Objects, records, before map[string]*Records) []error {
	var errs []error
	byVPC := map[string]*claims{}
	for _, e := range objects.ENIs {
		vpc := objects.VPCOf(e).Name
		if byVPC[vpc] == nil {
			byVPC[vpc] = newClaims()
		}
		_ = byVPC[vpc].take(e.MAC, e.IPs) // they have been judged
	}
	for vpc, set := range records {
		if byVPC[vpc] == nil {
			byVPC[vpc] = newClaims()
		}
		for name, line := range set.All() {
			if objects.ENIs[name] != nil {
				continue
			}
			if err := addRecord(objects, vpc, name, line, byVPC[vpc]); err != nil {
				errs = append(errs, err)
				if old, ok := before[vpc].Get(name); ok {
					_ = addRecord(objects, vpc, name, old, byVPC[vpc]) // it may not fit any more either
				}
			}
		}
	}
	return errs
}

func addRecord(objects *api.Objects, vpc, name, line string, taken *claims) error {
	r, err := ParseRecord(name, line)
	if err != nil {
		return err
	}
	return r.addTo(objects, vpc, taken)
}

func (r *Record) addTo(objects *api.Objects, vpc string, taken *claims) error {
	bad := func(what error) error { return fmt.Errorf("endpoint record of ENI %s: %w", r.Name, what) }
	subnet := objects.Subnets[r.Subnet]
	if subnet == nil || subnet.VPC != vpc {
		return bad(fmt.Errorf("its subnet %s is not of VPC %s", r.Subnet, vpc))
	}
	for _, host := range []string{r.Host, r.To, r.From} {
		if host != "" && objects.Hosts[host] == nil {
			return bad(fmt.Errorf("its host %s does not exist", host))
		}
	}
	if err := taken.take(r.MAC, r.IPs); err != nil {
		return bad(err)
	}
	objects.ENIs[r.Name] = &api.ENI{
		Metadata: api.Metadata{Name: r.Name, UID: r.UID}, Subnet: r.Subnet, MAC: r.MAC, IPs: r.IPs,
		SecurityGroups: r.Groups, SourceDestCheck: !r.Foreign, OnPolicyChange: api.Reevaluate,
		Timeouts: api.DefaultTimeouts(), Limits: api.DefaultLimits(), Elsewhere: r.Host,
		ElsewhereTo: r.To, ElsewhereFrom: r.From,
	}
	return nil
}
