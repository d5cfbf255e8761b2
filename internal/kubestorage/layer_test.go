package kubestorage

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/server/options/encryptionconfig"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/apiserver/pkg/storage/value"
	"k8s.io/client-go/tools/cache"

	"github.com/understudy-dr/understudy/encryption"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
	"github.com/understudy-dr/understudy/keyfilter"
)

func uid(n int64) types.UID { return types.UID(fmt.Sprintf("00000000-0000-4000-8000-%012d", n)) }

// cluster is an etcd with the storage layers of its apiservers.
type cluster struct {
	t      testing.TB
	ctx    context.Context
	server *embedetcd.Cluster
	client *clientv3.Client
	prefix string // --etcd-prefix
	// keys is the EncryptionConfiguration; "" is none.
	keys string
}

func newCluster(t testing.TB, prefix, keys string) *cluster {
	t.Helper()
	c := &cluster{t: t, ctx: testutil.Context(t), server: testutil.NewCluster(t, embedetcd.Options{}), prefix: prefix, keys: keys}
	c.client = testutil.Client(t, c.server)
	return c
}

// with is the same etcd to apiservers that have other keys.
func (c *cluster) with(keys string) *cluster {
	other := *c
	other.keys = keys
	return &other
}

// encrypts writes an EncryptionConfiguration for Secrets: providers are such as "aescbc key1=P", "identity", in the order of the file. The secret behind = is the hash of what stands there.
func encrypts(providers ...string) string {
	var b strings.Builder
	b.WriteString("apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers:\n")
	for _, p := range providers {
		provider, key, _ := strings.Cut(p, " ")
		if provider == "identity" {
			b.WriteString("  - identity: {}\n")
			continue
		}
		name, secret, _ := strings.Cut(key, "=")
		sum := sha256.Sum256([]byte(secret))
		fmt.Fprintf(&b, "  - %s:\n      keys:\n      - name: %s\n        secret: %s\n", provider, name, base64.StdEncoding.EncodeToString(sum[:]))
	}
	return b.String()
}

// transformer is what upstream makes of the keys for a kind.
func (c *cluster) transformer(k kind) value.Transformer {
	c.t.Helper()
	if c.keys == "" {
		return nil // the factory's default
	}
	path := filepath.Join(c.t.TempDir(), "encryption.yaml")
	if err := os.WriteFile(path, []byte(c.keys), 0o600); err != nil {
		c.t.Fatal(err)
	}
	cfg, err := encryptionconfig.LoadEncryptionConfig(c.ctx, path, false, "test")
	if err != nil {
		c.t.Fatal(err)
	}
	return encryptionconfig.StaticTransformers(cfg.Transformers).TransformerForResource(k.resource)
}

// codec is the project's own reading of the same keys.
func (c *cluster) codec() *encryption.Codec {
	c.t.Helper()
	cfg, err := encryption.Parse([]byte(c.keys))
	if err != nil {
		c.t.Fatal(err)
	}
	resource, err := keyfilter.Resource(c.prefix)
	if err != nil {
		c.t.Fatal(err)
	}
	codec, err := encryption.NewCodec(cfg, encryption.CodecConfig{Resource: resource})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(codec.Close)
	return codec
}

// layer is the storage of one kind.
type layer struct {
	storage.Interface
	kind
	c    *cluster
	slow bool // it ends the watches of clients that do not keep up
}

// direct is the storage without a cache.
func (c *cluster) direct(k kind) *layer {
	c.t.Helper()
	cfg := storagebackend.NewDefaultConfig(c.prefix, k.codec)
	cfg.Transport.ServerList = c.server.Endpoints()
	cfg.CompactionInterval = 0
	cfg.Transformer = c.transformer(k)
	s, destroy, err := factory.Create(*cfg.ForResource(k.resource), k.object, k.list, k.prefix)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(destroy)
	return &layer{Interface: s, kind: k, c: c}
}

// cached is the storage behind a watch cache, as apiservers have it.
func (c *cluster) cached(k kind) *layer {
	c.t.Helper()
	direct := c.direct(k)
	watchCache, err := cacher.NewCacherFromConfig(cacher.Config{
		Storage: direct.Interface, Versioner: storage.APIObjectVersioner{}, GroupResource: k.resource,
		EventsHistoryWindow: storagebackend.DefaultEventsHistoryWindow,
		ResourcePrefix:      k.prefix, KeyFunc: k.keyOf, GetAttrsFunc: k.attrs(), NewFunc: k.object, NewListFunc: k.list, Codec: k.codec,
	})
	if err != nil {
		c.t.Fatal(err)
	}
	delegator := cacher.NewCacheDelegator(watchCache, direct.Interface)
	c.t.Cleanup(func() {
		delegator.Stop()
		watchCache.Stop()
	})
	l := &layer{Interface: delegator, kind: k, c: c, slow: true}
	l.ready()
	return l
}

// layers are both, by name.
func (c *cluster) layers(k kind) map[string]*layer {
	return map[string]*layer{"direct": c.direct(k), "cached": c.cached(k)}
}

// ready waits until the cache has read the etcd.
func (l *layer) ready() {
	l.c.t.Helper()
	for l.ReadinessCheck() != nil {
		select {
		case <-time.After(5 * time.Millisecond): // a poll
		case <-l.c.ctx.Done():
			l.c.t.Fatalf("the cache of %s does not become ready: %v", l.resource, l.ReadinessCheck())
		}
	}
}

// options turns a client's into those of the storage, as the apiserver's registry does.
func (l *layer) options(o metav1.ListOptions) storage.ListOptions {
	return storage.ListOptions{
		ResourceVersion: o.ResourceVersion, ResourceVersionMatch: o.ResourceVersionMatch, Recursive: true, SendInitialEvents: o.SendInitialEvents,
		Predicate: storage.SelectionPredicate{Label: labels.Everything(), Field: fields.Everything(), GetAttrs: l.attrs(), Limit: o.Limit, Continue: o.Continue, AllowWatchBookmarks: o.AllowWatchBookmarks},
	}
}

func (l *layer) tryList(o metav1.ListOptions) (items []runtime.Object, info metav1.ListInterface, err error) {
	list := l.kind.list()
	if err := l.GetList(l.c.ctx, l.prefix+"/", l.options(o), list); err != nil {
		return nil, nil, err
	}
	if items, err = meta.ExtractList(list); err != nil {
		return nil, nil, err
	}
	info, err = meta.ListAccessor(list)
	return items, info, err
}

func (l *layer) mustList(o metav1.ListOptions) ([]runtime.Object, metav1.ListInterface) {
	l.c.t.Helper()
	items, info, err := l.tryList(o)
	if err != nil {
		l.c.t.Fatalf("list of %s: %v", l.resource, err)
	}
	return items, info
}

func (l *layer) mustWatch(from string) watch.Interface {
	l.c.t.Helper()
	w, err := l.Watch(l.c.ctx, l.prefix+"/", l.options(metav1.ListOptions{ResourceVersion: from}))
	if err != nil {
		l.c.t.Fatalf("watch of %s from %s: %v", l.resource, from, err)
	}
	l.c.t.Cleanup(w.Stop)
	return w
}

func (l *layer) create(obj runtime.Object) {
	l.c.t.Helper()
	key, _ := l.keyOf(obj)
	if err := l.Create(l.c.ctx, key, obj, nil, 0); err != nil {
		l.c.t.Errorf("create %s: %v", key, err)
	}
}

// listWatch is what an informer reads a storage by, in place of the HTTP between them.
func (l *layer) listWatch() *cache.ListWatch {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list := l.kind.list()
			return list, l.GetList(ctx, l.prefix+"/", l.options(o), list)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			w, err := l.Watch(ctx, l.prefix+"/", l.options(o))
			if err != nil {
				return nil, err
			}
			return watch.Filter(w, func(e watch.Event) (watch.Event, bool) {
				// The cache's watch gives all its clients one object with its encodings, of which HTTP would carry one.
				if shared, ok := e.Object.(interface{ GetObject() runtime.Object }); ok {
					e.Object = shared.GetObject()
				}
				return e, true
			}), nil
		},
	}
}

func encode(t testing.TB, l *layer, obj runtime.Object) string {
	t.Helper()
	data, err := runtime.Encode(l.codec, obj)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
