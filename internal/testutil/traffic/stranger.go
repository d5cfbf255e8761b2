package traffic

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Stranger writes to a mirror's target as the target's own cluster does: it has keys of its own, and damages mirrored ones.
// A write is repeated while the server is away. It is not safe for concurrent use.
type Stranger struct {
	client *clientv3.Client
	dir    string
	rng    *rand.Rand

	made   int
	has    map[string]string
	damage int
}

// NewStranger prepares a stranger whose own keys lie in a folder that no source uses; it writes nothing.
func NewStranger(client *clientv3.Client, dir string, seed uint64) *Stranger {
	return &Stranger{client: client, dir: dir, rng: rand.New(rand.NewPCG(seed, 2)), has: map[string]string{}}
}

// Owns tells its own keys, those that it has deleted included.
func (s *Stranger) Owns(key string) bool { return strings.HasPrefix(key, s.dir) }

// Keys is how many keys of its own there are.
func (s *Stranger) Keys() int { return len(s.has) }

// Damages is how often it has changed or deleted a mirrored key, not counting what it repeated.
func (s *Stranger) Damages() int { return s.damage }

// Act makes, changes or deletes one of its own keys.
func (s *Stranger) Act(ctx context.Context) error {
	keys := slices.Sorted(maps.Keys(s.has))
	action := s.rng.IntN(4)
	var key string
	switch {
	case len(keys) == 0 || action > 1:
		s.made++
		key = fmt.Sprintf("%s%d", s.dir, s.made)
		s.has[key] = fmt.Sprint("value ", s.made)
	case action == 1:
		key = keys[s.rng.IntN(len(keys))]
		s.has[key] += "'"
	default:
		key = keys[s.rng.IntN(len(keys))]
		delete(s.has, key)
		_, err := s.do(ctx, clientv3.OpDelete(key))
		return err
	}
	_, err := s.do(ctx, clientv3.OpPut(key, s.has[key]))
	return err
}

// Damage changes or deletes one of the keys with a prefix that the mirror has put there, if there is any.
func (s *Stranger) Damage(ctx context.Context, prefix string, mirrored func(key string) bool) error {
	all, err := s.get(ctx, prefix)
	if err != nil {
		return err
	}
	maps.DeleteFunc(all, func(key, _ string) bool { return s.Owns(key) || !mirrored(key) })
	if len(all) == 0 {
		return nil
	}
	key := slices.Sorted(maps.Keys(all))[s.rng.IntN(len(all))]
	op := clientv3.OpDelete(key)
	if s.rng.IntN(2) == 0 {
		op = clientv3.OpPut(key, "damaged")
	}
	// The mirror may just have deleted it. Put after that it would be a key of the target's own.
	there := []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(key), ">", 0)}
	resp, err := s.do(ctx, clientv3.OpTxn(there, []clientv3.Op{op}, nil))
	if err == nil && resp.Txn().Succeeded {
		s.damage++
	}
	return err
}

// Check tells which of its own keys are not as it left them.
func (s *Stranger) Check(ctx context.Context) error {
	got, err := s.get(ctx, s.dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(s.has)) {
		value, ok := got[key]
		switch {
		case !ok:
			errs = append(errs, fmt.Errorf("key %q of the target's own was deleted", key))
		case value != s.has[key]:
			errs = append(errs, fmt.Errorf("key %q of the target's own was changed", key))
		}
		delete(got, key)
	}
	for _, key := range slices.Sorted(maps.Keys(got)) {
		errs = append(errs, fmt.Errorf("key %q of the target's own came back", key))
	}
	return errors.Join(errs...)
}

func (s *Stranger) do(ctx context.Context, op clientv3.Op) (resp clientv3.OpResponse, err error) {
	_, err = persist(ctx, func(ctx context.Context) (err error) {
		resp, err = s.client.Do(ctx, op)
		return err
	})
	return resp, err
}

func (s *Stranger) get(ctx context.Context, prefix string) (map[string]string, error) {
	var all map[string]string
	_, err := persist(ctx, func(ctx context.Context) error {
		resp, err := s.client.Get(ctx, prefix, clientv3.WithPrefix())
		if err != nil {
			return err
		}
		all = make(map[string]string, len(resp.Kvs))
		for _, kv := range resp.Kvs {
			all[string(kv.Key)] = string(kv.Value)
		}
		return nil
	})
	return all, err
}
