// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/eniplane/eniplane/pkg/api"
)

// How long a member may take.
const (
	dialTimeout    = 5 * time.Second
	requestTimeout = 10 * time.Second
	markTimeout    = 3 * time.Second  // for one small key: then nobody is there
	keepAlive      = 10 * time.Second // without a word, then the member is asked whether it lives; it bears no more
	keepAliveWait  = 3 * time.Second
)

// pageSize is how many keys one request lists.
const pageSize = 4000

// ErrEmpty says that no change set has been committed.
var ErrEmpty = errors.New("the feed holds no change set yet (write one with enictl apply -f)")

// Store is a connection to a feed. It is safe for concurrent use.
type Store struct {
	layout
	client *clientv3.Client
	source string // for errors

	keptLogs uint64       // see keptLogs
	step     func(string) // called before each step of a large change set, for tests that stop there
}

// Open connects to a feed. It returns without waiting for a member unless a user has to be logged in.
func Open(ctx context.Context, c *Config) (*Store, error) {
	conf := clientv3.Config{
		Endpoints: c.Endpoints, DialTimeout: dialTimeout, Context: ctx, Logger: zap.NewNop(),
		DialKeepAliveTime: keepAlive, DialKeepAliveTimeout: keepAliveWait,
		DialOptions: []grpc.DialOption{grpc.WithUserAgent("eniplane")},
	}
	var err error
	if c.secure() {
		if conf.TLS, err = c.Files.tls(); err != nil {
			return nil, err
		}
	}
	if conf.Username, conf.Password, err = c.Files.user(); err != nil {
		return nil, err
	}
	client, err := clientv3.New(conf)
	if err != nil {
		return nil, fmt.Errorf("connect to feed etcd:%s%s: %w", strings.Join(c.Endpoints, ","), c.Prefix, plainError(err))
	}
	return &Store{
		layout: layout{c.Prefix}, client: client, source: "etcd:" + strings.Join(c.Endpoints, ",") + c.Prefix,
		keptLogs: keptLogs, step: func(string) {},
	}, nil
}

// Close ends the connection.
func (s *Store) Close() error { return s.client.Close() }

// plainError turns what the client says about its own deadlines into what it means.
func plainError(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("no member answers in time: %w", err)
	}
	return err
}

// Position is a moment of the feed: a mark, and where to read what belongs to it.
type Position struct {
	Mark
	Cluster  uint64
	modified int64 // revision of etcd at which the mark was set, 0 if there is none
	at       int64 // revision of etcd that shows the mark and all of it
}

// Position reads the mark as the cluster has it now.
func (s *Store) Position(ctx context.Context) (*Position, error) {
	ctx, cancel := context.WithTimeout(ctx, markTimeout)
	defer cancel()
	r, err := s.client.Get(ctx, s.mark())
	if err != nil {
		return nil, fmt.Errorf("read feed %s: %w", s.source, plainError(err))
	}
	p := &Position{Cluster: r.Header.ClusterId, at: r.Header.Revision}
	if len(r.Kvs) == 0 {
		return p, nil
	}
	p.modified = r.Kvs[0].ModRevision
	if err := json.Unmarshal(r.Kvs[0].Value, &p.Mark); err != nil || p.Mark.Revision == 0 || p.ID == "" {
		return nil, fmt.Errorf("read feed %s: the key mark holds no mark (%v; remove it, then enictl apply --force)", s.source, err)
	}
	return p, nil
}

// pair is a key without what it was listed by, and its value unpacked.
type pair struct {
	key     string
	value   []byte
	created int64
}

// list reads all keys below a prefix as they were at a revision of etcd, in order, and hands them to take.
func (s *Store) list(ctx context.Context, prefix string, at int64, take func(pair) error) error {
	from, end := prefix, clientv3.GetPrefixRangeEnd(prefix)
	for {
		page, err := s.page(ctx, from, end, at)
		if err != nil {
			return fmt.Errorf("read feed %s: %w", s.source, plainError(err))
		}
		for _, kv := range page.Kvs {
			value, err := unpack(kv.Value)
			if err != nil {
				return fmt.Errorf("read feed %s: key %s: %w", s.source, kv.Key, err)
			}
			if err := take(pair{strings.TrimPrefix(string(kv.Key), prefix), value, kv.CreateRevision}); err != nil {
				return err
			}
		}
		if !page.More {
			return nil
		}
		from = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
	}
}

func (s *Store) page(ctx context.Context, from, end string, at int64) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return s.client.Get(ctx, from, clientv3.WithRange(end), clientv3.WithRev(at), clientv3.WithLimit(pageSize))
}

// entries reads the parts of a change set.
func (s *Store) entries(ctx context.Context, prefix string, at int64) ([]entry, error) {
	var all []entry
	err := s.list(ctx, prefix, at, func(p pair) error {
		entries, err := entriesOf(p.value)
		if err != nil {
			return fmt.Errorf("read feed %s: %s: %w", s.source, p.key, err)
		}
		all = append(all, entries...)
		return nil
	})
	return all, err
}

// Document is an object as it lies in the feed.
type Document struct {
	Text []byte
	UID  string // of the document, or the create revision of its key
}

// Documents are objects by what names them.
type Documents map[api.Reference]Document

// Files returns the documents as files named KIND/NAME, in the order of kinds and names.
func (d Documents) Files() []api.File {
	files := make([]api.File, 0, len(d))
	for _, ref := range sortedReferences(d) {
		files = append(files, api.File{Name: ref.String(), Data: d[ref].Text})
	}
	return files
}

// Objects reads and judges the documents together.
func (d Documents) Objects() (*api.Objects, error) {
	objects, errs := api.Decode(d.Files())
	if errs != nil {
		return nil, api.Errors(errs)
	}
	d.Identify(objects)
	return objects, nil
}

// Identify gives objects the identities of their documents.
func (d Documents) Identify(objects *api.Objects) {
	for _, o := range objects.All() {
		// What revisions share is not written to.
		if doc, ok := d[api.ReferenceTo(o)]; ok && doc.UID != "" && o.Meta().UID != doc.UID {
			o.Meta().UID = doc.UID
		}
	}
}

// documentOf makes a document of what a key holds.
func documentOf(p pair) Document {
	var head struct {
		Metadata struct{ UID string }
	}
	// Whether it is an object at all is judged with the others.
	_ = json.Unmarshal(p.value, &head)
	uid := head.Metadata.UID
	if uid == "" {
		uid = fmt.Sprint(p.created)
	}
	return Document{Text: p.value, UID: uid}
}

// NewDocument makes a document of a text that holds its identity.
func NewDocument(text []byte) Document { return documentOf(pair{value: text}) }

// compactedRetries is how often a reading begins again because its moment was compacted meanwhile.
const compactedRetries = 3

// Read returns all objects at a moment.
func (s *Store) Read(ctx context.Context) (*Position, Documents, error) {
	for attempt := 1; ; attempt++ {
		p, docs, err := s.readOnce(ctx)
		if !errors.Is(err, rpctypes.ErrCompacted) || attempt == compactedRetries {
			return p, docs, err
		}
	}
}

func (s *Store) readOnce(ctx context.Context) (*Position, Documents, error) {
	p, err := s.Position(ctx)
	if err != nil {
		return nil, nil, err
	}
	docs := Documents{}
	if err := s.list(ctx, s.objects(), p.at, func(kv pair) error {
		ref, err := referenceOf(kv.key)
		if err == nil {
			docs[ref] = documentOf(kv)
		}
		return err
	}); err != nil {
		return nil, nil, err
	}
	if !p.Staged {
		return p, docs, nil
	}
	staged, err := s.entries(ctx, s.stagedParts(p.ID), p.at)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range staged {
		name, ok := strings.CutPrefix(e.Key, "objects/")
		if !ok {
			continue
		}
		ref, err := referenceOf(name)
		if err != nil {
			return nil, nil, err
		}
		delete(docs, ref)
		if !e.Deleted {
			docs[ref] = documentOf(pair{value: e.Value})
		}
	}
	return p, docs, nil
}
