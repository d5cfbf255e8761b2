// Package realcluster holds the whole content of the etcd of a small Kubernetes 1.36 cluster, as its API server wrote it.
package realcluster

import (
	"bytes"
	"compress/gzip"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

//go:embed testdata/kubernetes-1.36-cluster.jsonl.gz
var content []byte

//go:embed testdata/kubernetes-1.36-keys.txt
var keys string

// Prefix is the --etcd-prefix of the cluster. One key, compact_rev_key, lies outside of it.
const Prefix = "/registry/"

// Object is one key of the cluster with the metadata that it had there.
type Object struct {
	Key     string `json:"key"`
	Value   []byte `json:"value"`
	Create  int64  `json:"create"`
	Mod     int64  `json:"mod"`
	Version int64  `json:"version"`
	Lease   int64  `json:"lease"` // 0: none
}

// objects is parsed once. The order of creation is the order in which a mirror may copy owners and dependents.
var objects = sync.OnceValues(func() ([]Object, error) {
	zr, err := gzip.NewReader(bytes.NewReader(content))
	if err != nil {
		return nil, fmt.Errorf("realcluster: %w", err)
	}
	var out []Object
	for dec := json.NewDecoder(zr); ; {
		var o Object
		if err := dec.Decode(&o); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("realcluster: object %d: %w", len(out)+1, err)
		}
		out = append(out, o)
	}
	slices.SortFunc(out, func(a, b Object) int { return int(a.Create - b.Create) })
	return out, nil
})

// Objects are all keys in the order of their creation. The values are shared: do not change them.
func Objects() ([]Object, error) {
	out, err := objects()
	return slices.Clone(out), err
}

// Keys are the keys of all objects, sorted.
func Keys() []string { return strings.Fields(keys) }

// LoadOptions change how Load writes. The zero value writes the keys as they are, without leases.
type LoadOptions struct {
	// Prefix replaces Prefix, "/" at the end included. "" keeps it.
	Prefix string
	// LeaseTTL grants each lease of the cluster with this time to live in seconds and attaches its keys. 0 leaves leases out.
	LeaseTTL int64
}

// loadTimeout is the deadline of each request.
const loadTimeout = 10 * time.Second

// Load puts the objects in the order of their creation, one revision each.
func Load(ctx context.Context, client *clientv3.Client, opts LoadOptions) error {
	objs, err := objects()
	if err != nil {
		return err
	}
	granted := map[int64]bool{0: true}
	for _, o := range objs {
		if err := load(ctx, client, opts, o, granted); err != nil {
			return fmt.Errorf("realcluster: load %q: %w", o.Key, err)
		}
	}
	return nil
}

func load(ctx context.Context, client *clientv3.Client, opts LoadOptions, o Object, granted map[int64]bool) error {
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	var putOpts []clientv3.OpOption
	if opts.LeaseTTL > 0 && o.Lease != 0 {
		if !granted[o.Lease] {
			// The Grant of clientv3 cannot ask for an ID.
			req := &etcdserverpb.LeaseGrantRequest{ID: o.Lease, TTL: opts.LeaseTTL}
			if _, err := clientv3.RetryLeaseClient(client).LeaseGrant(ctx, req); err != nil {
				return err
			}
			granted[o.Lease] = true
		}
		putOpts = append(putOpts, clientv3.WithLease(clientv3.LeaseID(o.Lease)))
	}
	key := o.Key
	if rest, ok := strings.CutPrefix(key, Prefix); ok && opts.Prefix != "" {
		key = opts.Prefix + rest
	}
	_, err := client.Put(ctx, key, string(o.Value), putOpts...)
	return err
}
