package realcluster_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
	"github.com/understudy-dr/understudy/internal/testutil/realcluster"
)

func TestMain(m *testing.M) { testutil.Main(m) }

func TestKeysAreTheKeysOfTheObjects(t *testing.T) {
	objs, err := realcluster.Objects()
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for i, o := range objs {
		keys = append(keys, o.Key)
		if len(o.Value) == 0 || o.Create < 1 || o.Mod < o.Create || o.Version < 1 {
			t.Errorf("%s: create %d, mod %d, version %d, %d bytes", o.Key, o.Create, o.Mod, o.Version, len(o.Value))
		}
		if i > 0 && objs[i-1].Create > o.Create {
			t.Errorf("%s is not in the order of creation", o.Key)
		}
	}
	slices.Sort(keys)
	if len(keys) < 400 || !slices.Equal(keys, realcluster.Keys()) {
		t.Errorf("%d objects, %d keys", len(keys), len(realcluster.Keys()))
	}
}

func TestLoad(t *testing.T) {
	ctx := testutil.Context(t)
	objs, err := realcluster.Objects()
	if err != nil {
		t.Fatal(err)
	}
	for name, opts := range map[string]realcluster.LoadOptions{
		"as it is":               {},
		"other prefix and lease": {Prefix: "/other/registry/", LeaseTTL: 3600},
	} {
		t.Run(name, func(t *testing.T) {
			cli := testutil.Client(t, testutil.NewCluster(t, embedetcd.Options{}))
			began := time.Now()
			if err := realcluster.Load(ctx, cli, opts); err != nil {
				t.Fatal(err)
			}
			t.Logf("loaded in %v", time.Since(began))
			r, err := cli.Get(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithSort(clientv3.SortByCreateRevision, clientv3.SortAscend))
			if err != nil {
				t.Fatal(err)
			}
			if len(r.Kvs) != len(objs) {
				t.Fatalf("%d keys of %d", len(r.Kvs), len(objs))
			}
			for i, kv := range r.Kvs {
				want := objs[i]
				if opts.Prefix != "" {
					want.Key = strings.Replace(want.Key, realcluster.Prefix, opts.Prefix, 1)
				}
				if opts.LeaseTTL == 0 {
					want.Lease = 0
				}
				if string(kv.Key) != want.Key || string(kv.Value) != string(want.Value) || kv.Lease != want.Lease || kv.CreateRevision != int64(i)+2 {
					t.Fatalf("key %d is %q at %d with lease %d, want %q with %d", i, kv.Key, kv.CreateRevision, kv.Lease, want.Key, want.Lease)
				}
			}
		})
	}
}
