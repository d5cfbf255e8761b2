package mirror

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/internal/etcdrpc"
	"github.com/understudy-dr/understudy/internal/keyspace"
	"github.com/understudy-dr/understudy/internal/kvstream"
)

// collect finds what the old primary wrote after the last mirrored revision, in key order.
func (d *differences) collect(ctx context.Context, s stage) (*Differences, []Difference, error) {
	to, err := d.primaryHead(ctx, s.st)
	if err != nil {
		return nil, nil, err
	}
	if s.st.AppliedRevision > to {
		return nil, nil, failover.Permanent(fmt.Errorf("the old primary is at revision %d, and %d was mirrored: it was restored from a backup, so what it wrote since cannot be told from what it had before", to, s.st.AppliedRevision))
	}
	r := &Differences{Version: differencesVersion, Mirror: d.Mirror, OldPrimary: s.st.SourceClusterID, NewPrimary: s.newPrimary, From: s.st.AppliedRevision, To: to,
		PromotedAt: s.st.Revision, Exact: s.st.Complete, WrittenAt: time.Now().UTC().Round(time.Second)}
	if !s.st.Complete {
		r.Why = "the new primary was promoted while a copy was under way: some of what is listed may be there"
	}
	failover.Report(ctx, fmt.Sprintf("reading what the old primary did in revisions %d to %d", r.From+1, to))
	found, err := changes(ctx, d.Primary, d.RequestTimeout, r.From, to, d.keys.Kept)
	var list []Difference
	switch {
	case errors.Is(err, errForgotten):
		r.Exact = false
		r.Why = strings.TrimPrefix(r.Why+"; the old primary's log does not reach back to the last mirrored revision: deletes are guessed", "; ")
		list, err = d.compare(ctx, s, r)
	case err == nil:
		for key, c := range found {
			list = append(list, Difference{Key: key, Kind: c.kind(), Revision: c.revision, Writes: c.events})
		}
		slices.SortFunc(list, func(a, b Difference) int { return strings.Compare(a.Key, b.Key) })
	}
	if err != nil {
		return nil, nil, err
	}
	if err := d.conflicts(ctx, r, list); err != nil {
		return nil, nil, err
	}
	for _, diff := range list {
		r.count(diff)
	}
	return r, list, nil
}

// compare finds the differences without the old primary's log, by listing both sides.
func (d *differences) compare(ctx context.Context, s stage, r *Differences) (list []Difference, err error) {
	foreign := make(map[string]bool, len(s.st.Foreign))
	for _, key := range s.st.Foreign {
		foreign[key] = true
	}
	_, head, err := d.standbyHead(ctx)
	if err != nil {
		return nil, err
	}
	begin, end := keyspace.Bounds(d.keys.Source)
	targetBegin, targetEnd := keyspace.Bounds(d.keys.Target)
	oldPin, newPin := kvstream.NewPin(begin, r.To), kvstream.NewPin(targetBegin, head)
	olds, news := d.primary.Keys(begin, end, oldPin), d.standby.Keys(targetBegin, targetEnd, newPin)
	defer olds.Close()
	defer news.Close()
	err = d.keys.Merge(ctx, olds, news, func(old, now *mvccpb.KeyValue) {
		switch {
		case old != nil && (!d.keys.Kept(old.Key) || old.ModRevision <= r.From):
		case old != nil && old.CreateRevision > r.From && (now == nil || now.CreateRevision > r.PromotedAt):
			list = append(list, Difference{Key: string(old.Key), Kind: Created, Revision: old.ModRevision, Writes: int(old.Version)})
		case old != nil:
			list = append(list, Difference{Key: string(old.Key), Kind: Changed, Revision: old.ModRevision})
		case now.CreateRevision <= r.PromotedAt && d.keys.KeptAtTarget(now.Key) && !foreign[string(now.Key)]:
			list = append(list, Difference{Key: d.keys.ToSource(string(now.Key)), Kind: MaybeDeleted})
		}
	})
	if err == nil && oldPin.Moved() {
		err = errors.New("the old primary compacted its log while it was listed: try again")
	}
	return list, err
}

// conflictPage is how many keys are looked up in one transaction: less than etcd's --max-txn-ops.
const conflictPage = 100

// conflicts looks up what the new primary did to each key.
func (d *differences) conflicts(ctx context.Context, r *Differences, list []Difference) error {
	_, head, err := d.standbyHead(ctx)
	if err != nil {
		return err
	}
	r.NewRevision = head
	for page := range slices.Chunk(list, conflictPage) {
		resp, err := d.gets(ctx, d.Standby, page, func(key string) clientv3.Op { return clientv3.OpGet(d.keys.ToTarget(key), clientv3.WithKeysOnly()) })
		if err != nil {
			return fmt.Errorf("looking up keys at the new primary: %w", err)
		}
		for i := range page {
			kvs := resp.Responses[i].GetResponseRange().Kvs
			switch {
			case len(kvs) > 0 && kvs[0].ModRevision > r.PromotedAt:
				page[i].New, page[i].NewRevision = NewChanged, kvs[0].ModRevision
			case len(kvs) > 0:
				page[i].New = NewUnchanged
			case page[i].Kind == Created || page[i].Kind == Passing:
				page[i].New = NewAbsent
			default: // it was there when the new primary was promoted
				page[i].New = NewDeleted
			}
		}
	}
	return nil
}

func (d *differences) gets(ctx context.Context, client *clientv3.Client, page []Difference, get func(key string) clientv3.Op) (*clientv3.TxnResponse, error) {
	ops := make([]clientv3.Op, len(page))
	for i, diff := range page {
		ops[i] = get(diff.Key)
	}
	return etcdrpc.Do(ctx, d.RequestTimeout, func(ctx context.Context) (*clientv3.TxnResponse, error) { return client.Txn(ctx).Then(ops...).Commit() })
}

// writeValues writes what the old primary has under each key of the report, as it was at its end.
func (d *differences) writeValues(ctx context.Context, w lines, r *Differences, list []Difference) error {
	if err := w(map[string]any{"kind": "values", "mirror": r.Mirror, "oldPrimary": r.OldPrimary, "revision": r.To}); err != nil {
		return err
	}
	n := 0
	for _, diff := range list {
		if diff.Kind != Created && diff.Kind != Changed {
			continue
		}
		resp, err := etcdrpc.Do(ctx, d.RequestTimeout, func(ctx context.Context) (*clientv3.GetResponse, error) { // one by one: a value may have 1.5 MiB
			return d.Primary.Get(ctx, diff.Key, clientv3.WithRev(r.To))
		})
		if err != nil {
			return fmt.Errorf("reading from the old primary: %w", err)
		}
		for _, kv := range resp.Kvs {
			line := valueLine{Kind: "value", Revision: kv.ModRevision, Value: kv.Value}
			line.Key, line.KeyBytes = jsonKey(diff.Key)
			if err := w(line); err != nil {
				return err
			}
			n++
		}
	}
	return w(map[string]any{"kind": "end", "count": n})
}

// ReadValues reads a file of values (DifferenceReportConfig.Values): what the old primary had under each key that it created or changed. They are Secrets.
func ReadValues(path string) (map[string]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	values, in := map[string]string{}, bufio.NewReader(f)
	for n := 1; ; n++ {
		text, err := in.ReadBytes('\n')
		if err != nil { // io.EOF as well: its last line is an end
			return nil, fmt.Errorf("%s is no whole file of values: it ends in line %d: %w", path, n, err)
		}
		var line struct {
			valueLine
			Count int `json:"count"`
		}
		if err := json.Unmarshal(text, &line); err != nil {
			return nil, fmt.Errorf("%s: line %d is no JSON of a value", path, n)
		}
		switch line.Kind {
		case "values":
		case "value":
			key := line.Key
			if line.KeyBytes != nil {
				key = string(line.KeyBytes)
			}
			values[key] = string(line.Value)
		case "end":
			if line.Count != len(values) {
				return nil, fmt.Errorf("%s is no whole file of values: it has %d of %d", path, len(values), line.Count)
			}
			return values, nil
		default:
			return nil, fmt.Errorf("%s: line %d is of an unknown kind", path, n)
		}
	}
}

type valueLine struct {
	Kind     string `json:"kind"`
	Key      string `json:"key,omitempty"`
	KeyBytes []byte `json:"keyBytes,omitempty"`
	Revision int64  `json:"revision"`
	Value    []byte `json:"value"` // base64
}
