package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/etcdmirror"
)

const (
	demoChanges  = 400 // single writes and deletes
	demoShop     = "/registry/configmaps/demo-shop/"
	demoShopKeys = 40
)

// contents are the keys of an etcd at one revision.
type contents struct {
	revision int64
	entries  map[string]entry
}

type entry struct {
	value []byte
	mod   int64
}

// read reads all keys that begin with prefix, "" for all, but for the metadata of mirrors.
func read(ctx context.Context, client *clientv3.Client, prefix string) (contents, error) {
	ctx, cancel := context.WithTimeout(ctx, demoRequest)
	defer cancel()
	resp, err := client.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return contents{}, err
	}
	c := contents{resp.Header.Revision, make(map[string]entry, len(resp.Kvs))}
	for _, kv := range resp.Kvs {
		if key := string(kv.Key); !strings.HasPrefix(key, etcdmirror.MetadataPrefix) {
			c.entries[key] = entry{kv.Value, kv.ModRevision}
		}
	}
	return c, nil
}

// commit does operations at the primary in one transaction.
func (d *demo) commit(ctx context.Context, ops ...clientv3.Op) error {
	ctx, cancel := context.WithTimeout(ctx, demoRequest)
	defer cancel()
	resp, err := d.source.Txn(ctx).Then(ops...).Commit()
	if err == nil {
		d.last = resp.Header.Revision
	}
	return err
}

// change writes and deletes at random, then several keys at once, then a whole namespace's worth.
func (d *demo) change(ctx context.Context) error {
	all, err := read(ctx, d.source, "/registry/")
	if err != nil {
		return err
	}
	rng := rand.New(rand.NewPCG(d.seed, 0))
	d.say("seed of the random choices: %d", d.seed)
	value := all.entries["/registry/configmaps/team-a/with-finalizer"].value
	if !bytes.HasPrefix(value, []byte("k8s\x00")) {
		return errors.New("the cluster's data lacks a ConfigMap in protobuf that the demo copies")
	}
	before := d.mirror.Status()
	if err := d.random(ctx, rng, all, value); err != nil {
		return err
	}
	names, err := d.together(ctx, value)
	if err != nil {
		return err
	}
	for i := range demoShopKeys {
		if err := d.commit(ctx, clientv3.OpPut(fmt.Sprintf("%sitem-%02d", demoShop, i), string(value))); err != nil {
			return err
		}
	}
	if err := d.commit(ctx, clientv3.OpDelete(demoShop, clientv3.WithPrefix())); err != nil {
		return err
	}
	d.say("%d more keys written one by one, then deleted at once by their prefix", demoShopKeys)

	began := time.Now()
	waiting, cancel := context.WithTimeout(ctx, demoWait)
	defer cancel()
	if err := d.mirror.WaitForRevision(waiting, d.last); err != nil {
		return fmt.Errorf("waiting for revision %d: %w", d.last, err)
	}
	after := d.mirror.Status()
	d.say("%s after the last change the standby equalled primary revision %d: %s puts and %s deletes in %s transactions", duration(time.Since(began)), d.last,
		thousands(after.Puts-before.Puts), thousands(after.Deletes-before.Deletes), thousands(after.Transactions-before.Transactions))
	return d.arrivedTogether(ctx, names)
}

// random does single changes: new keys, new values, deletes, and keys that the filter drops.
func (d *demo) random(ctx context.Context, rng *rand.Rand, all contents, value []byte) error {
	var kept []string
	for _, key := range slices.Sorted(maps.Keys(all.entries)) {
		if d.filter.Match([]byte(key)) {
			kept = append(kept, key)
		}
	}
	var created, updated, deleted, dropped int
	for i := range demoChanges {
		var op clientv3.Op
		pick := rng.IntN(len(kept))
		switch n := rng.IntN(10); {
		case n < 4:
			key := fmt.Sprintf("/registry/configmaps/team-%c/demo-%03d", 'a'+rune(rng.IntN(2)), i)
			kept = append(kept, key)
			op, created = clientv3.OpPut(key, string(value)), created+1
		case n < 7:
			op, updated = clientv3.OpPut(kept[pick], string(another(value, i))), updated+1
		case n < 9 && len(kept) > 20:
			op, deleted = clientv3.OpDelete(kept[pick]), deleted+1
			kept = slices.Delete(kept, pick, pick+1)
		default:
			op, dropped = clientv3.OpPut(fmt.Sprintf("/registry/leases/kube-node-lease/demo-%d", rng.IntN(5)), string(value)), dropped+1
		}
		if err := d.commit(ctx, op); err != nil {
			return err
		}
	}
	d.say("%d single changes: %d keys created, %d updated, %d deleted, %d writes that the filter drops", demoChanges, created, updated, deleted, dropped)
	return nil
}

// another is an object in protobuf with a field more that its readers do not know, so that it is another value and still can be read.
func another(object []byte, n int) []byte {
	const field = 15 << 3 // field 15, a number
	return binary.AppendUvarint(append(bytes.Clone(object), field), uint64(n))
}

// together changes keys of several resources in one transaction.
func (d *demo) together(ctx context.Context, value []byte) (names []string, err error) {
	var ops []clientv3.Op
	for _, resource := range []string{"configmaps", "secrets", "serviceaccounts", "deployments", "services/specs", "stable.example.com/widgets"} {
		key := "/registry/" + resource + "/team-a/demo-together"
		names = append(names, key)
		ops = append(ops, clientv3.OpPut(key, string(value)))
	}
	if err := d.commit(ctx, ops...); err != nil {
		return nil, err
	}
	d.say("1 transaction with %d keys", len(names))
	return names, nil
}

// arrivedTogether checks that a transaction was not torn.
func (d *demo) arrivedTogether(ctx context.Context, names []string) error {
	standby, err := read(ctx, d.target, "/registry/")
	if err != nil {
		return err
	}
	first := standby.entries[names[0]].mod
	for _, name := range names {
		if mod := standby.entries[name].mod; mod == 0 || mod != first {
			return fmt.Errorf("%s has standby revision %d, %s has %d: the transaction was torn", names[0], first, name, mod)
		}
	}
	d.say("the transaction's %d keys arrived in one standby revision, %d", len(names), first)
	return nil
}
