package encryption

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/internal/etcdrpc"
	"github.com/understudy-dr/understudy/internal/keyspace"
	"github.com/understudy-dr/understudy/internal/kvstream"
)

// history shows use all values that the etcd holds in any revision up to the present one: those of the oldest revision that is left, and all that was put since.
func (s *scanner) history(ctx context.Context, use func(kvs []*mvccpb.KeyValue) error) error {
	_, head, err := etcdrpc.Head(ctx, s.client, s.timeout, s.begin)
	if err != nil {
		return explainEtcd(ctx, err)
	}
	for from := int64(1); from <= head; {
		compacted, err := s.events(ctx, from, head, use)
		if err != nil {
			return err
		}
		if compacted == 0 {
			return nil
		}
		moved, err := s.scanAt(ctx, kvstream.NewPin(s.begin, compacted), "", use)
		if err != nil {
			return err
		}
		if from = compacted + 1; moved {
			from = 1 // compacted again meanwhile: the watch will tell how far
		}
	}
	return nil
}

// events shows use what was put from one revision to another. It returns the oldest revision that is left if the first is compacted, else 0.
func (s *scanner) events(ctx context.Context, from, to int64, use func(kvs []*mvccpb.KeyValue) error) (compacted int64, err error) {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	watch := s.client.Watch(ctx, s.begin, clientv3.WithRange(s.end), clientv3.WithRev(from), clientv3.WithFragment())
	ask := time.NewTicker(s.timeout / 10)
	defer ask.Stop()
	silent := time.NewTimer(s.timeout)
	defer silent.Stop()
	for {
		select {
		case <-silent.C:
			return 0, explainEtcd(ctx, fmt.Errorf("%w of %v while its history was read", etcdrpc.ErrTimeout, s.timeout))
		case <-ask.C:
			// The answer tells how far the watch has come when nothing happens. An error shows in the watch.
			_ = s.client.RequestProgress(ctx)
		case resp, ok := <-watch:
			silent.Reset(s.timeout)
			switch {
			case !ok && ctx.Err() != nil:
				return 0, ctx.Err()
			case resp.CompactRevision > 0:
				return resp.CompactRevision, nil
			case resp.Err() != nil:
				return 0, explainEtcd(ctx, resp.Err())
			case !ok:
				return 0, explainEtcd(ctx, errors.New("its watch ended"))
			}
			kvs := make([]*mvccpb.KeyValue, 0, len(resp.Events))
			last := int64(0)
			for _, event := range resp.Events {
				last = event.Kv.ModRevision
				if event.Type == clientv3.EventTypePut && last <= to && !keyspace.IsMetadata(string(event.Kv.Key)) {
					kvs = append(kvs, event.Kv)
				}
			}
			if err := use(kvs); err != nil {
				return 0, err
			}
			// A fragment may be followed by more of its revision; what comes behind the last one may not.
			if last > to || resp.IsProgressNotify() && resp.Header.Revision >= to {
				return 0, nil
			}
		}
	}
}
