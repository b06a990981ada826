// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"errors"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// stage writes a change set that does not fit into a transaction: first where nobody looks, then the mark, then the keys.
func (s *Store) stage(ctx context.Context, p *Position, set *changeSet, finals []entry, logs []clientv3.Op) error {
	values, err := parts(finals)
	if err != nil {
		return err
	}
	var aside []clientv3.Op
	for i, value := range values {
		aside = append(aside, clientv3.OpPut(s.stagedParts(set.mark.ID)+digits(uint64(i)), string(value)))
	}
	if err := s.putAll(ctx, append(aside, logs...)); err != nil {
		return errors.Join(err, s.discard(ctx, set))
	}
	s.step("commit")
	set.mark.Staged = true
	if err := s.setMark(ctx, p, &set.mark, s.pruneStaged(set.mark.ID)); err != nil {
		if errors.Is(err, errRace) {
			return errors.Join(err, s.discard(ctx, set))
		}
		return err // it may have been committed: the next writer finds out
	}
	s.step("put in place")
	now, err := s.Position(ctx)
	if err != nil {
		return err
	}
	if now.ID != set.mark.ID || !now.Staged {
		return nil // somebody was kind enough
	}
	return s.finish(ctx, now)
}

// pruneStaged removes what writers that died before their commit have left: nobody else can commit it any more.
func (s *Store) pruneStaged(keep string) []clientv3.Op {
	return []clientv3.Op{
		clientv3.OpDelete(s.staged(), clientv3.WithRange(s.stagedParts(keep))),
		clientv3.OpDelete(clientv3.GetPrefixRangeEnd(s.stagedParts(keep)), clientv3.WithRange(clientv3.GetPrefixRangeEnd(s.staged()))),
	}
}

// discard removes what was staged for a commit that did not come.
func (s *Store) discard(ctx context.Context, set *changeSet) error {
	ctx = context.WithoutCancel(ctx) // whoever gives up tidies up, too
	ops := []clientv3.Op{clientv3.OpDelete(s.stagedParts(set.mark.ID), clientv3.WithPrefix())}
	for view := range set.views {
		ops = append(ops, clientv3.OpDelete(s.log(view, set.mark.Revision)+"/"+set.mark.ID+"/", clientv3.WithPrefix()))
	}
	return s.putAll(ctx, ops)
}

// putAll does operations in as many transactions as it takes.
func (s *Store) putAll(ctx context.Context, ops []clientv3.Op, conditions ...clientv3.Cmp) error {
	for len(ops) > 0 {
		n, size := 0, 0
		for n < len(ops) && n < maxOperations && (n == 0 || size+len(ops[n].ValueBytes()) <= maxBytes) {
			size += len(ops[n].ValueBytes()) + len(ops[n].KeyBytes())
			n++
		}
		if err := s.transact(ctx, ops[:n], conditions); err != nil {
			return err
		}
		ops = ops[n:]
	}
	return nil
}

func (s *Store) transact(ctx context.Context, ops []clientv3.Op, conditions []clientv3.Cmp) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	r, err := s.client.Txn(ctx).If(conditions...).Then(ops...).Commit()
	if err != nil {
		return fmt.Errorf("write feed %s: %w", s.source, plainError(err))
	}
	if !r.Succeeded {
		return errRace
	}
	return nil
}

// finish puts the keys of a committed, staged change set in place. Several may do so at once: all write the same, and only
// as long as the mark stays.
func (s *Store) finish(ctx context.Context, p *Position) error {
	staged, err := s.entries(ctx, s.stagedParts(p.ID), p.at)
	if err != nil {
		return err
	}
	same := clientv3.Compare(clientv3.ModRevision(s.mark()), "=", p.modified)
	ops, _ := s.operations(staged)
	if err := s.putAll(ctx, ops, same); err != nil {
		return ignoreRace(err)
	}
	s.step("finish")
	mark := p.Mark
	mark.Staged = false
	err = s.setMark(ctx, p, &mark, []clientv3.Op{clientv3.OpDelete(s.stagedParts(p.ID), clientv3.WithPrefix())})
	return ignoreRace(err)
}

// ignoreRace is for work that whoever was faster has done as well.
func ignoreRace(err error) error {
	if errors.Is(err, errRace) {
		return nil
	}
	return err
}
