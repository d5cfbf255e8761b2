package encryption_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/encryption"
	"github.com/understudy-dr/understudy/internal/testutil"
)

// The standby's configurations while its key1 becomes key2: only old, both, both with the new one first.
const (
	onlyOld  = "secrets: cbc key1=S, identity"
	oldFirst = "secrets: cbc key1=S key2=S, identity"
	newFirst = "secrets: cbc key2=S key1=S, identity"
)

var (
	labelOld = encryption.Label{Provider: encryption.AESCBC, Name: "key1"}
	labelNew = encryption.Label{Provider: encryption.AESCBC, Name: "key2"}
)

func loaded(t testing.TB, texts ...string) (all []*encryption.Configuration) {
	t.Helper()
	for _, text := range texts {
		all = append(all, config(t, text))
	}
	return all
}

// numbered is an object that tells which version of which key it is.
func numbered(i, version int) []byte {
	return fmt.Appendf(nil, `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s%05d","generation":%d}}`, i, version)
}

// TestRelabelRefuses: nothing is written while an apiserver writes the old label, or could not read the new one.
func TestRelabelRefuses(t *testing.T) {
	ctx := testutil.Context(t)
	client := newEtcd(t)
	codec := newCodec(t, config(t, newFirst))
	put(t, client, secretNo(0), loadReal(t, config(t, onlyOld)).seal(t, secretNo(0), object))
	before := get(t, client, secretNo(0))
	for name, v := range map[string]struct {
		loaded []*encryption.Configuration
		err    error
		says   string
	}{
		"nobody asked":             {nil, encryption.ErrConfig, "Loaded is empty"},
		"one writes the old label": {loaded(t, newFirst, oldFirst), encryption.ErrWriters, `Loaded[1]: secrets are still written with aescbc "key1"`},
		"all write the old label":  {loaded(t, onlyOld), encryption.ErrWriters, "still written"},
		"one cannot read it":       {loaded(t, newFirst, newFirst, "secrets: secretbox b=B, cbc key1=S"), encryption.ErrWriters, "Loaded[2]: secrets cannot be read"},
		"another resource":         {loaded(t, newFirst+"; configmaps: cbc key1=S"), encryption.ErrWriters, "configmaps are still written"},
		"broken":                   {loaded(t, "secrets,*.: identity"), encryption.ErrConfig, "Loaded[0]"},
	} {
		report, err := encryption.Relabel(ctx, client, codec, labelOld, labelNew, encryption.InPlaceConfig{Loaded: v.loaded})
		if !errors.Is(err, v.err) || !strings.Contains(err.Error(), v.says) || report != nil {
			t.Errorf("%s: %v", name, err)
		}
		if name == "broken" || v.loaded == nil {
			continue
		}
		if _, err := encryption.Rewrite(ctx, client, codec, nil, encryption.InPlaceConfig{Loaded: v.loaded}); !errors.Is(err, v.err) {
			t.Errorf("%s: Rewrite: %v", name, err)
		}
	}
	for name, v := range map[string]struct {
		codec    *encryption.Codec
		from, to encryption.Label
	}{
		"another secret": {newCodec(t, config(t, "cbc key1=S key2=P")), labelOld, labelNew},
		"another kind":   {newCodec(t, config(t, "cbc key1=S, gcm key2=S")), labelOld, encryption.Label{Provider: encryption.AESGCM, Name: "key2"}},
		"no such key":    {codec, labelOld, encryption.Label{Provider: encryption.AESCBC, Name: "key3"}},
		"the same":       {codec, labelOld, labelOld},
		"identity":       {codec, encryption.Label{Provider: encryption.Identity}, encryption.Label{Provider: encryption.Identity}},
		"no codec":       {nil, labelOld, labelNew},
	} {
		if _, err := encryption.Relabel(ctx, client, v.codec, v.from, v.to, encryption.InPlaceConfig{Loaded: loaded(t, newFirst)}); !errors.Is(err, encryption.ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if !bytes.Equal(before, get(t, client, secretNo(0))) {
		t.Error("the value was changed")
	}
}

// TestRelabel: all values with the label get the new one, but those of another cluster's key of that name; leases stay; a dry run writes nothing.
func TestRelabel(t *testing.T) {
	ctx := testutil.Context(t)
	client := newEtcd(t)
	mine, alien, plain := loadReal(t, config(t, onlyOld)), loadReal(t, config(t, "secrets: cbc key1=P")), loadReal(t, config(t, "secrets: identity"))
	lease, err := client.Grant(ctx, 1000)
	if err != nil {
		t.Fatal(err)
	}
	const n = 600
	for i := range n {
		put(t, client, secretNo(i), mine.seal(t, secretNo(i), numbered(i, 0)))
	}
	put(t, client, secretNo(n), mine.seal(t, secretNo(n), numbered(n, 0)), clientv3.WithLease(lease.ID))
	put(t, client, secretNo(n+1), alien.seal(t, secretNo(n+1), numbered(n+1, 0)))
	put(t, client, secretNo(n+2), plain.seal(t, secretNo(n+2), numbered(n+2, 0)))
	put(t, client, secretNo(n+3), []byte("k8s:enc:aescbc:v1:key1:0123456789abcdef"))
	put(t, client, "/understudy/m/x", mine.seal(t, secretKey, object))
	before := map[int][]byte{}
	for i := range n + 4 {
		before[i] = get(t, client, secretNo(i))
	}
	codec := newCodec(t, config(t, newFirst))
	cfg := encryption.InPlaceConfig{Loaded: loaded(t, newFirst, newFirst), Rate: -1, DryRun: true}
	report, err := encryption.Relabel(ctx, client, codec, labelOld, labelNew, cfg)
	if err != nil || report.Found != n+1 || report.Written != 0 || report.Skipped != 2 || report.Passes != 1 {
		t.Fatalf("dry run: %v %+v", err, report)
	}
	for i := range n + 4 {
		if !bytes.Equal(before[i], get(t, client, secretNo(i))) {
			t.Fatal("a dry run writes")
		}
	}
	cfg.DryRun = false
	report, err = encryption.Relabel(ctx, client, codec, labelOld, labelNew, cfg)
	if err != nil || report.Found != n+1 || report.Written != n+1 || report.Skipped != 2 || report.Passes != 2 || len(report.List) != 2 || report.List[0].Key != secretNo(n+1) {
		t.Fatalf("%v %+v", err, report)
	}
	v3 := loadReal(t, config(t, "secrets: cbc key2=S key1=P, identity")) // as after the next phase
	for i := range n + 3 {
		value := get(t, client, secretNo(i))
		if plain, err := v3.open(secretNo(i), value); err != nil || !bytes.Equal(plain, numbered(i, 0)) {
			t.Fatalf("%s: %v", secretNo(i), err)
		}
		if i <= n && !bytes.Equal(value[len(value)-32:], before[i][len(before[i])-32:]) {
			t.Fatal("more than the label was changed")
		}
		if i > n && !bytes.Equal(value, before[i]) {
			t.Errorf("%s was changed", secretNo(i))
		}
	}
	resp, err := client.Get(ctx, secretNo(n))
	if err != nil || resp.Kvs[0].Lease != int64(lease.ID) {
		t.Errorf("the lease is lost: %v", err)
	}
	if !bytes.HasPrefix(get(t, client, "/understudy/m/x"), []byte("k8s:enc:aescbc:v1:key1:")) {
		t.Error("a mirror's metadata was touched")
	}
}

// TestRelabelEveryProvider: the label is authenticated by no provider, KMS among them.
func TestRelabelEveryProvider(t *testing.T) {
	ctx := testutil.Context(t)
	client, plugin := newEtcd(t), newKMS(t)
	for i, v := range []struct{ provider, old, both string }{
		{encryption.AESCBC, "cbc old=S", "cbc new=S old=S"},
		{encryption.AESGCM, "gcm old=S", "gcm new=S old=S"},
		{encryption.Secretbox, "secretbox old=S", "secretbox new=S old=S"},
		{encryption.KMSv2, "kms2 old@" + plugin.socket, "kms2 new@" + plugin.socket + ", kms2 old@" + plugin.socket},
		{encryption.KMSv1, "kms1 old@" + plugin.socket, "kms1 new@" + plugin.socket + ", kms1 old@" + plugin.socket},
	} {
		key := secretNo(i)
		put(t, client, key, loadReal(t, config(t, v.old)).seal(t, key, object))
		both := config(t, v.both)
		report, err := encryption.Relabel(ctx, client, newCodec(t, both), encryption.Label{Provider: v.provider, Name: "old"}, encryption.Label{Provider: v.provider, Name: "new"},
			encryption.InPlaceConfig{Loaded: []*encryption.Configuration{both}})
		if err != nil || report.Written != 1 {
			t.Errorf("%s: %v %+v", v.provider, err, report)
			continue
		}
		only := loadReal(t, config(t, strings.ReplaceAll(v.old, "old", "new")))
		if plain, err := only.open(key, get(t, client, key)); err != nil || !bytes.Equal(plain, object) {
			t.Errorf("%s: the new key alone: %v", v.provider, err)
		}
	}
}

// TestRewriteEveryProvider: values of every provider, and unencrypted ones, become those of every other provider.
func TestRewriteEveryProvider(t *testing.T) {
	ctx := testutil.Context(t)
	client, plugin := newEtcd(t), newKMS(t)
	providers := []string{"cbc c=C", "gcm g=G", "secretbox b=B", "kms2 vault@" + plugin.socket, "kms1 old@" + plugin.socket, "identity"}
	for i, text := range providers {
		put(t, client, secretNo(i), loadReal(t, config(t, "secrets: "+text)).seal(t, secretNo(i), numbered(i, 0)))
	}
	put(t, client, "/registry/ranges/serviceips", []byte("k8s\x00x"))
	put(t, client, configMapNo(0), object)
	for first := range providers {
		cfg := config(t, "secrets: "+providers[first]+", "+strings.Join(append(append([]string{}, providers[:first]...), providers[first+1:]...), ", "))
		report, err := encryption.Rewrite(ctx, client, newCodec(t, cfg), nil, encryption.InPlaceConfig{Loaded: []*encryption.Configuration{cfg}})
		if err != nil || report.Skipped != 0 {
			t.Fatalf("%s: %v %+v", providers[first], err, report)
		}
		only := loadReal(t, config(t, "secrets: "+providers[first]))
		for i := range providers {
			if plain, err := only.open(secretNo(i), get(t, client, secretNo(i))); err != nil || !bytes.Equal(plain, numbered(i, 0)) {
				t.Errorf("%s, %s: %v", providers[first], secretNo(i), err)
			}
		}
	}
	if string(get(t, client, "/registry/ranges/serviceips")) != "k8s\x00x" || !bytes.Equal(get(t, client, configMapNo(0)), object) {
		t.Error("what is not encrypted was touched")
	}
	// Only some labels.
	cfg := config(t, "secrets: cbc new=N, identity")
	report, err := encryption.Rewrite(ctx, client, newCodec(t, cfg), []encryption.Label{{Provider: encryption.AESGCM, Name: "g"}}, encryption.InPlaceConfig{Loaded: []*encryption.Configuration{cfg}})
	if err != nil || report.Found != 0 {
		t.Errorf("other labels: %v %+v", err, report)
	}
}

// TestRelabelAmongWriters: apiservers create, change and delete objects all the while. Nothing that they write is lost, and no old label stays.
func TestRelabelAmongWriters(t *testing.T) {
	schedules(t, 2, func(t *testing.T, seed uint64, rng *rand.Rand) {
		ctx := testutil.Context(t)
		client := newEtcd(t)
		old, now := loadReal(t, config(t, onlyOld)), loadReal(t, config(t, newFirst))
		const n = 300
		for i := range n {
			put(t, client, secretNo(i), old.seal(t, secretNo(i), numbered(i, 0)))
		}
		var mu sync.Mutex
		last := map[int]int{} // the version that a writer wrote last; -1 deleted
		stop := make(chan struct{})
		var writers sync.WaitGroup
		for w := range 3 {
			source := rand.New(rand.NewPCG(seed, uint64(w)))
			writers.Go(func() {
				for version := 1; ; version++ {
					select {
					case <-stop:
						return
					default:
					}
					i := source.IntN(n/3)*3 + w // each has its own keys
					var err error
					if source.IntN(5) == 0 {
						_, err = client.Delete(ctx, secretNo(i))
						version = -version
					} else {
						_, err = client.Put(ctx, secretNo(i), string(now.seal(t, secretNo(i), numbered(i, version))))
					}
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					last[i] = version
					mu.Unlock()
					version = max(version, -version)
				}
			})
		}
		report, err := encryption.Relabel(ctx, client, newCodec(t, config(t, newFirst)), labelOld, labelNew, encryption.InPlaceConfig{Loaded: loaded(t, newFirst), Rate: -1, InFlight: 8})
		close(stop)
		writers.Wait()
		if err != nil {
			t.Fatal(err)
		}
		end := loadReal(t, config(t, "secrets: cbc key2=S, identity"))
		for i := range n {
			value := get(t, client, secretNo(i))
			version := last[i]
			switch {
			case version < 0:
				if value != nil {
					t.Errorf("%s was deleted, and is back", secretNo(i))
				}
			default:
				if plain, err := end.open(secretNo(i), value); err != nil || !bytes.Equal(plain, numbered(i, version)) {
					t.Errorf("%s: %v; it does not hold what was written last", secretNo(i), err)
				}
			}
		}
		t.Logf("%+v", *report)
	})
}

// TestRelabelNoticesAWriter: an apiserver that goes on writing the old label is found out.
func TestRelabelNoticesAWriter(t *testing.T) {
	ctx := testutil.Context(t)
	client := newEtcd(t)
	old := loadReal(t, config(t, onlyOld))
	for i := range 300 {
		put(t, client, secretNo(i), old.seal(t, secretNo(i), numbered(i, 0)))
	}
	version := 0
	report, err := encryption.Relabel(ctx, client, newCodec(t, config(t, newFirst)), labelOld, labelNew, encryption.InPlaceConfig{Loaded: loaded(t, newFirst), Rate: -1,
		Progress: func(encryption.InPlaceReport) { // in each pass, behind where it is
			version++
			put(t, client, secretNo(0), old.seal(t, secretNo(0), numbered(0, version)))
		}})
	if !errors.Is(err, encryption.ErrWriters) || report.Passes != encryption.DefaultPasses {
		t.Errorf("%v %+v", err, report)
	}
}

// TestRelabelResumes: ended anywhere, it goes on where it was, and does nothing twice.
func TestRelabelResumes(t *testing.T) {
	ctx := testutil.Context(t)
	client := newEtcd(t)
	old := loadReal(t, config(t, onlyOld))
	const n = 900
	for i := range n {
		put(t, client, secretNo(i), old.seal(t, secretNo(i), numbered(i, 0)))
	}
	codec := newCodec(t, config(t, newFirst))
	cfg := encryption.InPlaceConfig{Loaded: loaded(t, newFirst), Rate: -1}
	written, last := 0, ""
	for range 2 {
		short, cancel := context.WithCancel(ctx)
		cfg.After, cfg.Progress = last, func(encryption.InPlaceReport) { cancel() }
		report, err := encryption.Relabel(short, client, codec, labelOld, labelNew, cfg)
		cancel()
		if !errors.Is(err, context.Canceled) || report.Last <= last {
			t.Fatalf("%v %+v", err, report)
		}
		written, last = written+report.Written, report.Last
	}
	cfg.After, cfg.Progress = last, nil
	report, err := encryption.Relabel(ctx, client, codec, labelOld, labelNew, cfg)
	if err != nil || written+report.Written != n {
		t.Fatalf("%v: %d written before, %+v", err, written, report)
	}
	for i := range n {
		resp, err := client.Get(ctx, secretNo(i))
		if err != nil || resp.Kvs[0].Version != 2 {
			t.Fatalf("%s was written %d times: %v", secretNo(i), resp.Kvs[0].Version, err)
		}
	}
}

// TestRate: the limit is kept, by the time that the writes take at least.
func TestRate(t *testing.T) {
	ctx := testutil.Context(t)
	client := newEtcd(t)
	old := loadReal(t, config(t, onlyOld))
	const n, perSecond = 60, 100
	for i := range n {
		put(t, client, secretNo(i), old.seal(t, secretNo(i), numbered(i, 0)))
	}
	began := time.Now()
	_, err := encryption.Relabel(ctx, client, newCodec(t, config(t, newFirst)), labelOld, labelNew, encryption.InPlaceConfig{Loaded: loaded(t, newFirst), Rate: perSecond})
	if took := time.Since(began); err != nil || took < (n-perSecond/10-1)*time.Second/perSecond {
		t.Errorf("%v: %d writes took %v", err, n, took)
	}
}
