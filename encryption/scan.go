package encryption

import (
	"context"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/internal/etcdrpc"
	"github.com/understudy-dr/understudy/internal/keyspace"
	"github.com/understudy-dr/understudy/internal/kvstream"
)

// DefaultRequestTimeout is the deadline of a request to etcd.
const DefaultRequestTimeout = 5 * time.Second

// scanner reads the keys of a range in order, in windows, so that memory does not grow with their number.
type scanner struct {
	client  *clientv3.Client
	timeout time.Duration
	begin   string
	end     string
	window  int
}

func newScanner(client *clientv3.Client, prefix string, allKeys bool, timeout time.Duration, window int) *scanner {
	s := &scanner{client: client, timeout: timeout, window: window}
	if s.timeout == 0 {
		s.timeout = DefaultRequestTimeout
	}
	if prefix == "" && !allKeys {
		prefix = keyspace.DefaultPrefix
	}
	s.begin, s.end = keyspace.Bounds(prefix)
	return s
}

// checkRange checks what the fields of several Configs have in common.
func checkRange(client *clientv3.Client, prefix string, allKeys bool, timeout time.Duration) (errs []error) {
	if client == nil {
		errs = append(errs, &Error{Kind: ErrConfig, Detail: "there is no etcd client", Hint: "connect to the etcd of the apiservers"})
	}
	if prefix != "" && allKeys {
		errs = append(errs, &Error{Kind: ErrConfig, Detail: "AllKeys excludes Prefix", Hint: "set one of them"})
	}
	if timeout < 0 {
		errs = append(errs, &Error{Kind: ErrConfig, Detail: fmt.Sprintf("RequestTimeout %v is negative", timeout), Hint: "use 0 for the default or a positive duration"})
	}
	return errs
}

// scan reads all values behind the key after, "" for all, at the etcd's revision of now, and moves to a newer one when that is compacted meanwhile.
// It returns the revision at the beginning, and whether it has moved.
func (s *scanner) scan(ctx context.Context, after string, use func(kvs []*mvccpb.KeyValue) error) (rev int64, moved bool, err error) {
	_, rev, err = etcdrpc.Head(ctx, s.client, s.timeout, s.begin)
	if err != nil {
		return 0, false, explainEtcd(ctx, err)
	}
	pin := kvstream.NewPin(s.begin, rev)
	moved, err = s.scanAt(ctx, pin, after, use)
	return rev, moved, err
}

// scanAt is scan at a revision that the caller has pinned.
func (s *scanner) scanAt(ctx context.Context, pin *kvstream.Pin, after string, use func(kvs []*mvccpb.KeyValue) error) (moved bool, err error) {
	reader := &kvstream.Reader{Client: s.client, Timeout: s.timeout}
	begin := s.begin
	if after >= begin {
		begin = after + "\x00"
	}
	keys := reader.Keys(begin, s.end, pin)
	defer keys.Close()
	for {
		window := make(keyList, 0, s.window)
		for len(window) < s.window {
			kv, err := keys.Next(ctx)
			if err != nil {
				return pin.Moved(), explainEtcd(ctx, err)
			}
			if kv == nil {
				break
			}
			if !keyspace.IsMetadata(string(kv.Key)) {
				window = append(window, string(kv.Key))
			}
		}
		if len(window) == 0 {
			return pin.Moved(), nil
		}
		var own error
		err := reader.Fetch(ctx, window, pin, func(_ int, kvs []*mvccpb.KeyValue) error {
			own = use(kvs)
			return own
		})
		if own != nil {
			return pin.Moved(), own
		}
		if err != nil {
			return pin.Moved(), explainEtcd(ctx, err)
		}
	}
}

// keyList is a window of a listing, as kvstream reads it.
type keyList []string

func (l keyList) Len() int         { return len(l) }
func (l keyList) Key(i int) string { return l[i] }
func (l keyList) Pos(i int) int64  { return int64(i) }

// explainEtcd gives an error of an etcd its kind.
func explainEtcd(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if etcdrpc.Classify(err) == etcdrpc.Denied {
		return &Error{Kind: ErrPermission, Cause: err, Hint: "check user, password, client certificate and role"}
	}
	return &Error{Kind: ErrUnreachable, Cause: err, Hint: "check that the etcd has a leader, and its endpoints"}
}
