package encryption_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/encryption"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
)

func put(t testing.TB, client *clientv3.Client, key string, value []byte, opts ...clientv3.OpOption) {
	t.Helper()
	if _, err := client.Put(testutil.Context(t), key, string(value), opts...); err != nil {
		t.Fatal(err)
	}
}

func get(t testing.TB, client *clientv3.Client, key string) []byte {
	t.Helper()
	resp, err := client.Get(testutil.Context(t), key)
	if err != nil {
		t.Fatal(err)
	}
	if len(resp.Kvs) == 0 {
		return nil
	}
	return resp.Kvs[0].Value
}

func newEtcd(t testing.TB) *clientv3.Client {
	t.Helper()
	return testutil.Client(t, testutil.NewCluster(t, embedetcd.Options{}))
}

func secretNo(i int) string    { return fmt.Sprintf("/registry/secrets/team-a/s%05d", i) }
func configMapNo(i int) string { return fmt.Sprintf("/registry/configmaps/team-a/c%05d", i) }

// TestAudit counts values that were written by apiservers with several configurations, all providers among them, and damaged ones.
func TestAudit(t *testing.T) {
	ctx := testutil.Context(t)
	client, plugin := newEtcd(t), newKMS(t)
	kms := " vault@" + plugin.socket
	writers := []*apiserver{}
	for _, text := range []string{"secrets: cbc key1=P", "secrets: cbc key1=S", "secrets: gcm g=G", "secrets: secretbox b=B", "secrets: kms2" + kms, "secrets: identity", "secrets: kms1 old@" + plugin.socket} {
		writers = append(writers, loadReal(t, config(t, text)))
	}
	stored := map[string][]byte{}
	keep := func(key string, value []byte) {
		stored[key] = value
		put(t, client, key, value)
	}
	const each = 700 // several windows together
	for i := range each * len(writers) {
		keep(secretNo(i), writers[i%len(writers)].seal(t, secretNo(i), object))
	}
	for i := range 10 {
		keep(configMapNo(i), object)
	}
	keep("/registry/secrets/team-b/panic", append([]byte("k8s:enc:aescbc:v1:key1:"), make([]byte, 16)...))
	keep("/registry/secrets/team-b/short", []byte("k8s:enc:aesgcm:v1:g:x"))
	keep("/registry/secrets/team-b/scheme", []byte("k8s:enc:"))
	keep("/registry/secrets/team-b/moved", writers[2].seal(t, secretKey, object))
	keep("/registry/ranges/serviceips", []byte("k8s\x00x"))
	put(t, client, "/understudy/m/checkpoint", []byte("{}"))
	put(t, client, "/elsewhere/x", []byte("{}"))

	codec := newCodec(t, config(t, "secrets: cbc key1=P, gcm g=G, secretbox b=B, kms2"+kms+", kms1 old@"+plugin.socket+", identity"))
	report, err := encryption.Audit(ctx, client, encryption.AuditConfig{Codec: codec, Limit: 3})
	if err != nil {
		t.Fatal(err)
	}
	row := func(resource, provider, name string) encryption.AuditCount {
		for _, c := range report.Counts {
			if c.Resource == resource && c.Provider == provider && c.Name == name {
				return c
			}
		}
		return encryption.AuditCount{}
	}
	size := func(c encryption.AuditCount) [4]int { return [4]int{c.Values, c.Readable, c.Unreadable, c.Stale} }
	for _, v := range []struct {
		resource, provider, name string
		want                     [4]int
	}{
		{"secrets", encryption.AESCBC, "key1", [4]int{2*each + 1, each, each + 1, 0}},
		{"secrets", encryption.AESGCM, "g", [4]int{each + 2, each, 2, each}},
		{"secrets", encryption.Secretbox, "b", [4]int{each, each, 0, each}},
		{"secrets", encryption.KMSv2, "vault", [4]int{each, each, 0, each}},
		{"secrets", encryption.KMSv1, "old", [4]int{each, each, 0, each}},
		{"secrets", encryption.Identity, "", [4]int{each, each, 0, each}},
		{"secrets", "malformed", "", [4]int{1, 0, 1, 0}},
		{"configmaps", encryption.Identity, "", [4]int{10, 10, 0, 0}},
		{"", encryption.Identity, "", [4]int{1, 1, 0, 0}},
	} {
		if got := size(row(v.resource, v.provider, v.name)); got != v.want {
			t.Errorf("%s %s %s: values, readable, unreadable, stale are %v, want %v", v.resource, v.provider, v.name, got, v.want)
		}
	}
	if report.Values != len(stored) || report.Unreadable != each+4 || report.Readable+report.Unreadable != report.Values || len(report.Counts) != 9 || len(report.List) != 3 {
		t.Errorf("the sums are wrong: %+v", report)
	}
	if err := report.Err(); !errors.Is(err, encryption.ErrUnreadable) || !strings.Contains(err.Error(), fmt.Sprintf("%d of %d values", each+4, len(stored))) {
		t.Errorf("the error is %v", err)
	}
	if n := report.With(encryption.Label{Provider: encryption.AESCBC, Name: "key1"}); n != 2*each+1 {
		t.Errorf("%d values with key1", n)
	}
	var text bytes.Buffer
	if err := report.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"secrets     aescbc     key1   1401    700       701", "unreadable: \"/registry/secrets/team-a/s00001\": encrypted with aescbc \"key1\"", "and 701 more"} {
		if !strings.Contains(text.String(), line) {
			t.Errorf("the text lacks %q:\n%s", line, &text)
		}
	}
	if data, err := json.Marshal(report); err != nil || !strings.Contains(string(data), `{"resource":"secrets","provider":"aescbc","name":"key1","values":1401,`) {
		t.Errorf("JSON: %v\n%s", err, data)
	}

	// Labels alone.
	labels, err := encryption.Audit(ctx, client, encryption.AuditConfig{Resource: resourceFunc(t, ""), Prefix: "/registry/secrets/"})
	if err != nil || labels.Checked || labels.Err() != nil || labels.Values != len(stored)-11 || labels.With(encryption.Label{Provider: encryption.AESCBC, Name: "key1"}) != 2*each+1 {
		t.Errorf("labels alone: %v\n%+v", err, labels)
	}
	// The same values without an etcd, and under the key that they would have at a target with another prefix: gcm and KMS v1 and v2 are bound to it.
	checked, err := encryption.CheckReadable(ctx, codec, maps.All(stored))
	if !errors.Is(err, encryption.ErrUnreadable) || checked.Unreadable != report.Unreadable || checked.Readable != report.Readable {
		t.Errorf("CheckReadable: %v, %d and %d", err, checked.Readable, checked.Unreadable)
	}
	moved, err := encryption.Audit(ctx, client, encryption.AuditConfig{Codec: codec, Prefix: "/registry/secrets/team-a/", Key: func(key string) string { return strings.Replace(key, "team-a", "team-z", 1) }})
	if err != nil || moved.Unreadable != 4*each {
		t.Errorf("under other keys: %v, %d unreadable", err, moved.Unreadable)
	}
	// A plugin that is away leaves its values unknown, and does not hold the audit up at each of them.
	plugin.stop()
	fresh := config(t, "secrets: cbc key1=P, kms2"+kms)
	fresh.Resources[0].Providers[1].KMS.Timeout.Duration = 50e6
	away, err := encryption.Audit(ctx, client, encryption.AuditConfig{Codec: newCodec(t, fresh), Prefix: "/registry/secrets/"})
	if err != nil || away.Unavailable != each || !errors.Is(away.Err(), encryption.ErrUnavailable) {
		t.Errorf("without the plugin: %v, %d unknown", err, away.Unavailable)
	}
}

// TestAuditRows: damaged headers may name anything; the rows are bounded.
func TestAuditRows(t *testing.T) {
	codec := newCodec(t, config(t, "secrets: cbc a=A, identity"))
	report, err := encryption.CheckReadable(testutil.Context(t), codec, func(yield func(string, []byte) bool) {
		for i := range 5000 {
			if !yield(secretNo(i), fmt.Appendf(nil, "k8s:enc:aescbc:v1:name-%d:", i)) {
				return
			}
		}
	})
	if !errors.Is(err, encryption.ErrUnreadable) || len(report.Counts) > 1001 || report.With(encryption.Label{Provider: "(others)"}) != 4000 {
		t.Errorf("%d rows, %v", len(report.Counts), err)
	}
}

func TestAuditErrors(t *testing.T) {
	ctx := testutil.Context(t)
	client, codec := newEtcd(t), newCodec(t, config(t, "cbc a=A"))
	for name, cfg := range map[string]encryption.AuditConfig{"nothing": {}, "two ranges": {Codec: codec, Prefix: "/a", AllKeys: true}, "a negative timeout": {Codec: codec, RequestTimeout: -1}} {
		if _, err := encryption.Audit(ctx, client, cfg); !errors.Is(err, encryption.ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := encryption.Audit(ctx, nil, encryption.AuditConfig{Codec: codec}); !errors.Is(err, encryption.ErrConfig) {
		t.Errorf("no client: %v", err)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := encryption.Audit(ended, client, encryption.AuditConfig{Codec: codec}); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	cluster := testutil.NewCluster(t, embedetcd.Options{})
	gone := testutil.Client(t, cluster)
	if err := cluster.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := encryption.Audit(ctx, gone, encryption.AuditConfig{Codec: codec, RequestTimeout: 100e6}); !errors.Is(err, encryption.ErrUnreachable) {
		t.Errorf("unreachable: %v", err)
	}
}
