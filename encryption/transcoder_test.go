package encryption_test

import (
	"bytes"
	"context"
	"errors"
	mathrand "math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/drcheck"
	"github.com/understudy-dr/understudy/encryption"
	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/keyfilter"
)

// The shapes that the other packages ask for.
var (
	_ etcdmirror.Transformer = (*encryption.Transcoder)(nil)
	_ drcheck.Transformer    = (*encryption.Transcoder)(nil)
	_ drcheck.Opener         = (*encryption.Codec)(nil).Open
	_ etcdmirror.Guard       = (*encryption.Codec)(nil).Guard(context.Background(), nil)
)

func newTranscoder(t testing.TB, source, target *encryption.Configuration) *encryption.Transcoder {
	t.Helper()
	transcoder, err := encryption.NewTranscoder(newCodec(t, source), newCodec(t, target))
	if err != nil {
		t.Fatal(err)
	}
	return transcoder
}

// TestTranscodeRandomly: what an apiserver of the source has stored under its key, one of the target reads under its own; both are kube-apiserver's own loader.
func TestTranscodeRandomly(t *testing.T) {
	ctx := testutil.Context(t)
	plugin := newKMS(t)
	kms := []string{"kms2 k1@" + plugin.socket, "kms1 k3@" + plugin.socket}
	done, refused := 0, 0
	schedules(t, 60, func(t *testing.T, seed uint64, rng *mathrand.Rand) {
		a, b := randomConfig(t, rng, kms...), randomConfig(t, rng, kms...)
		source, target := loadReal(t, a), loadReal(t, b)
		transcoder := newTranscoder(t, a, b)
		for range 20 {
			key := someKeys[rng.IntN(len(someKeys))]
			targetKey := strings.Replace(key, "team-a", "team-b", rng.IntN(2))
			plain := numbered(rng.IntN(1000), 0)
			stored := source.seal(t, key, plain)
			if rng.IntN(6) == 0 {
				stored = target.seal(t, key, plain) // another cluster's
			}
			want, readErr := source.open(key, stored)
			got, err := transcoder.Transform(ctx, key, targetKey, stored)
			if readErr != nil {
				refused++
				if !errors.Is(err, encryption.ErrUnreadable) || got != nil {
					t.Errorf("%s: the source cannot read it, and it becomes %q: %v", key, got, err)
				}
				continue
			}
			if !bytes.Equal(want, plain) {
				continue // a wrong key's garbage
			}
			if err != nil {
				t.Errorf("%s to %s, %s: %v", brief(a, true), brief(b, true), key, err)
				continue
			}
			done++
			if back, err := target.open(targetKey, got); err != nil || !bytes.Equal(back, plain) {
				t.Errorf("%s to %s: the target does not read %s: %v", brief(a, true), brief(b, true), targetKey, err)
			}
			if encryption.LabelOf(got) != encryption.LabelOf(target.seal(t, targetKey, plain)) {
				t.Errorf("%s: written by %s", targetKey, encryption.LabelOf(got))
			}
			if equal, err := transcoder.Equal(ctx, key, targetKey, stored, got); err != nil || !equal {
				t.Errorf("not equal: %v", err)
			}
			other := target.seal(t, targetKey, numbered(1000, 1))
			if equal, err := transcoder.Equal(ctx, key, targetKey, stored, other); err != nil || equal {
				t.Errorf("equal to another object: %v", err)
			}
		}
	})
	t.Logf("%d values transcoded, %d refused", done, refused)
}

func TestTranscode(t *testing.T) {
	ctx := testutil.Context(t)
	cbc, gcm := config(t, "secrets: cbc a=A, identity"), config(t, "secrets: gcm g=G, identity")
	transcoder := newTranscoder(t, cbc, gcm)
	stored := loadReal(t, cbc).seal(t, secretKey, object)
	first, err := transcoder.Transform(ctx, secretKey, secretKey, stored)
	if err != nil {
		t.Fatal(err)
	}
	second, err := transcoder.Transform(ctx, secretKey, secretKey, stored)
	if err != nil || bytes.Equal(first, second) {
		t.Errorf("the same twice: a nonce is used again (%v)", err)
	}
	// Unencrypted values are encrypted, and those that are no object of the API stay.
	if got, err := transcoder.Transform(ctx, secretKey, secretKey, object); err != nil || !bytes.HasPrefix(got, []byte("k8s:enc:aesgcm:v1:g:")) {
		t.Errorf("an unencrypted secret becomes %q: %v", got, err)
	}
	for _, key := range []string{"/registry/configmaps/a/b", "/registry/ranges/serviceips", "compact_rev_key", "/elsewhere"} {
		if got, err := transcoder.Transform(ctx, key, key, object); err != nil || !bytes.Equal(got, object) {
			t.Errorf("%s: %v", key, err)
		}
	}
	// One key on both sides: the value stays, unless it would be bound to another etcd key.
	same := newTranscoder(t, cbc, config(t, "secrets: cbc a=A b=B"))
	if got, err := same.Transform(ctx, secretKey, secretKey+"2", stored); err != nil || !bytes.Equal(got, stored) {
		t.Errorf("one aescbc key: %v", err)
	}
	bound := newTranscoder(t, gcm, gcm)
	stored = loadReal(t, gcm).seal(t, secretKey, object)
	if got, err := bound.Transform(ctx, secretKey, secretKey, stored); err != nil || !bytes.Equal(got, stored) {
		t.Errorf("one aesgcm key: %v", err)
	}
	got, err := bound.Transform(ctx, secretKey, secretKey+"2", stored)
	if err != nil || bytes.Equal(got, stored) {
		t.Errorf("one aesgcm key, another etcd key: %v", err)
	}
	if _, err := loadReal(t, gcm).open(secretKey+"2", got); err != nil {
		t.Error(err)
	}
}

// TestTranscoderID changes with every key, provider and order, of either side, and tells no secret.
func TestTranscoderID(t *testing.T) {
	const plain = "secrets: cbc a=A b=B, identity; configmaps: gcm g=G"
	ids := map[string]string{}
	for _, text := range []string{plain, "secrets: cbc a=A, identity; configmaps: gcm g=G", "secrets: cbc b=B a=A, identity; configmaps: gcm g=G", "secrets: cbc a=X b=B, identity; configmaps: gcm g=G",
		"secrets: cbc a=A b=B; configmaps: gcm g=G", "secrets: gcm a=A b=B, identity; configmaps: gcm g=G", "secrets,configmaps: cbc a=A b=B, identity", "secrets: kms2 k@/x", "secrets: kms2 k@/y"} {
		for _, pair := range [][2]string{{text, plain}, {plain, text}} {
			id := newTranscoder(t, config(t, pair[0]), config(t, pair[1])).ID()
			name := strings.Join(pair[:], " > ")
			if other, ok := ids[id]; ok && other != name {
				t.Errorf("%q and %q have one ID", other, name)
			}
			ids[id] = name
			if again := newTranscoder(t, config(t, pair[0]), config(t, pair[1])).ID(); again != id || !strings.HasPrefix(id, "transcode-") || len(id) != 26 {
				t.Errorf("IDs %q and %q", id, again)
			}
		}
	}
	// Entries in another order mean the same.
	if newTranscoder(t, config(t, plain), config(t, plain)).ID() != newTranscoder(t, config(t, "configmaps: gcm g=G; secrets: cbc a=A b=B, identity"), config(t, plain)).ID() {
		t.Error("the order of entries makes a difference")
	}
}

// TestMirrorTranscodes: a mirror between two clusters that share no key and no prefix. What cannot be read is guarded; the check opens both sides.
func TestMirrorTranscodes(t *testing.T) {
	ctx := testutil.Context(t)
	source, target := newEtcd(t), newEtcd(t)
	primary, standby := config(t, "secrets: gcm key1=P, identity"), config(t, "secrets: cbc key1=S, secretbox b=B, identity")
	writer := loadReal(t, primary)
	const n = 50
	for i := range n {
		put(t, source, secretNo(i), writer.seal(t, secretNo(i), numbered(i, 0)))
	}
	put(t, source, configMapNo(0), numbered(0, 0))
	damaged := "/registry/secrets/team-a/x-damaged"
	put(t, source, damaged, loadReal(t, config(t, "secrets: gcm key1=X")).seal(t, damaged, object))

	sourceCodec := newCodec(t, primary)
	resource, err := keyfilter.Resource("/kubernetes.io")
	if err != nil {
		t.Fatal(err)
	}
	targetCodec, err := encryption.NewCodec(standby, encryption.CodecConfig{Resource: resource})
	if err != nil {
		t.Fatal(err)
	}
	defer targetCodec.Close()
	transcoder, err := encryption.NewTranscoder(sourceCodec, targetCodec)
	if err != nil {
		t.Fatal(err)
	}
	const prefix = "/kubernetes.io/"
	mirror, err := etcdmirror.New(source, target, etcdmirror.Config{Name: "m", TargetPrefix: prefix, Transform: transcoder})
	if err != nil {
		t.Fatal(err)
	}
	runCtx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() {
		if err := mirror.Run(runCtx); err != nil {
			t.Error(err)
		}
	})
	put(t, source, secretNo(1), writer.seal(t, secretNo(1), numbered(1, 1)))
	resp, err := source.Get(ctx, "x")
	if err != nil {
		t.Fatal(err)
	}
	if err := mirror.WaitForRevision(ctx, resp.Header.Revision); err != nil {
		t.Fatal(err)
	}
	reader := loadReal(t, standby)
	reader.resource = resource
	for i := range n {
		key := strings.Replace(secretNo(i), "/registry/", prefix, 1)
		version := 0
		if i == 1 {
			version = 1
		}
		if plain, err := reader.open(key, get(t, target, key)); err != nil || !bytes.Equal(plain, numbered(i, version)) {
			t.Fatalf("%s: %v", key, err)
		}
	}
	if get(t, target, strings.Replace(damaged, "/registry/", prefix, 1)) != nil {
		t.Error("a value that the source cannot read was written")
	}
	status := mirror.Status()
	if status.Guarded != 1 {
		t.Errorf("guarded: %d", status.Guarded)
	}
	// The standby's apiserver rewrites one with another of its keys: that is no difference.
	key := strings.Replace(secretNo(2), "/registry/", prefix, 1)
	rewritten, err := encryption.NewCodec(config(t, "secrets: secretbox b=B"), encryption.CodecConfig{Resource: resource})
	if err != nil {
		t.Fatal(err)
	}
	defer rewritten.Close()
	value, err := rewritten.Seal(ctx, key, numbered(2, 0))
	if err != nil {
		t.Fatal(err)
	}
	put(t, target, key, value)
	checker, err := drcheck.New(source, target, drcheck.Config{Name: "m", TargetPrefix: prefix, Transform: transcoder, OpenSource: sourceCodec.Open, OpenTarget: targetCodec.Open, Settle: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	result, err := checker.Check(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if result.Count.Missed != 1 || result.Count.Different != 0 || result.Count.Surplus != 0 {
		t.Errorf("%+v", result.Differences)
	}
}

// TestGuardByConfiguration: a mirror of bytes asks the standby's configuration; a key of the right name and another secret does not pass.
func TestGuardByConfiguration(t *testing.T) {
	ctx := testutil.Context(t)
	guard := newCodec(t, config(t, "secrets: cbc key1=S, gcm g=G, identity")).Guard(ctx, func(key string) string { return strings.Replace(key, "/registry/", "/registry/", 1) })
	for text, passes := range map[string]bool{"secrets: cbc key1=S": true, "secrets: cbc key1=P": false, "secrets: gcm g=G": true, "secrets: cbc key2=S": false, "secrets: identity": true} {
		err := guard(secretKey, loadReal(t, config(t, text)).seal(t, secretKey, object))
		if (err == nil) != passes {
			t.Errorf("%s: %v", text, err)
		}
	}
	moved := newCodec(t, config(t, "secrets: gcm g=G")).Guard(ctx, func(key string) string { return key + "2" })
	if err := moved(secretKey, loadReal(t, config(t, "secrets: gcm g=G")).seal(t, secretKey, object)); !errors.Is(err, encryption.ErrUnreadable) {
		t.Errorf("under another key: %v", err)
	}
}
