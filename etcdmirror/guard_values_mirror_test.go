package etcdmirror_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
	"github.com/understudy-dr/understudy/internal/testutil/realcluster"
)

// TestP12ValuesThatBreakAnAPIServerStayAway mirrors a real cluster in which some values are damaged or encrypted with a key that the standby lacks.
func TestP12ValuesThatBreakAnAPIServerStayAway(t *testing.T) {
	objects, err := realcluster.Objects()
	if err != nil {
		t.Fatal(err)
	}
	readable, err := etcdmirror.Readable("identity", "k8s:enc:aescbc:v1:key1")
	if err != nil {
		t.Fatal(err)
	}
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
	if err := realcluster.Load(p.ctx, p.source, realcluster.LoadOptions{}); err != nil {
		t.Fatal(err)
	}
	bad := map[string]string{}
	for _, o := range objects[:40] {
		bad[o.Key+"-cut"] = string(o.Value[:len(o.Value)/2])
	}
	bad[secretKey+"-1"], bad[secretKey+"-2"] = "k8s:enc:aescbc:v1:key1:"+zeroBytes(16), "k8s:enc:aescbc:v1:key2:"+zeroBytes(32)
	for key, value := range bad {
		p.put(p.source, key, value)
	}
	p.put(p.source, secretKey, "k8s:enc:aescbc:v1:key1:"+zeroBytes(32))
	r := p.start(etcdmirror.Config{Guards: []etcdmirror.Guard{readable}})
	p.sync(r)
	late := secretKey + "-late" // by the tail
	bad[late] = "k8s:enc:aescbc:v1:key10:" + zeroBytes(32)
	p.put(p.source, late, bad[late])
	p.sync(r)

	p.mustEqual("/registry/", func(key []byte) bool { return bad[string(key)] == "" })
	target := p.get(p.target, "/registry/")
	guarded := map[string]string{}
	for _, g := range p.metadata().Guarded {
		guarded[g.Key] = g.Reason
	}
	for key := range bad {
		if target[key] != nil {
			t.Errorf("%s is at the target", key)
		}
		if guarded[key] == "" {
			t.Errorf("%s is not reported", key)
		}
	}
	if len(guarded) != len(bad) || len(target) < len(objects)-1 {
		t.Errorf("%d keys guarded of %d bad ones, %d at the target of %d objects", len(guarded), len(bad), len(target), len(objects))
	}
	if want := `key "key2", which the standby's configuration does not have; add it there as a read key, restart its apiservers`; !strings.Contains(guarded[secretKey+"-2"], want) {
		t.Errorf("reported as %q", guarded[secretKey+"-2"])
	}
}

// What a standby can read differs by resource where its configuration has several entries.
func ExampleReadable() {
	secrets, err := etcdmirror.Readable("k8s:enc:aescbc:v1:key1", "k8s:enc:secretbox:v1:new") // all Secrets are encrypted
	if err != nil {
		fmt.Println(err)
		return
	}
	others, err := etcdmirror.Readable("identity") // and nothing else
	if err != nil {
		fmt.Println(err)
		return
	}
	cfg := etcdmirror.Config{Guards: []etcdmirror.Guard{etcdmirror.Intact, func(sourceKey string, value []byte) error {
		if strings.HasPrefix(sourceKey, "/registry/secrets/") {
			return secrets(sourceKey, value)
		}
		return others(sourceKey, value)
	}}}
	body := bytes.Repeat([]byte{7}, 48)
	for _, guard := range cfg.Guards {
		fmt.Println(guard("/registry/secrets/team-a/password", append([]byte("k8s:enc:aescbc:v1:key2:"), body...)))
	}
	// Output:
	// <nil>
	// unreadable for the standby's apiserver: encrypted with aescbc key "key2", which the standby's configuration does not have; add it there as a read key, restart its apiservers, then restart the mirror with it in its list of readable headers
}

func BenchmarkIntact(b *testing.B) {
	objects, err := realcluster.Objects()
	if err != nil {
		b.Fatal(err)
	}
	for _, format := range []struct{ name, prefix string }{{"protobuf", "k8s\x00"}, {"json", "{"}} {
		var some []realcluster.Object // around 2 KB
		size := 0
		for _, o := range objects {
			if bytes.HasPrefix(o.Value, []byte(format.prefix)) && len(o.Value) > 1500 && len(o.Value) < 3000 {
				some = append(some, o)
				size += len(o.Value)
			}
		}
		b.Run(format.name, func(b *testing.B) {
			b.SetBytes(int64(size / len(some)))
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if err := etcdmirror.Intact(some[i%len(some)].Key, some[i%len(some)].Value); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	for name, value := range map[string]string{"aescbc": "k8s:enc:aescbc:v1:key1:" + zeroBytes(2048), "kms": kmsValue(2048, "\x28\x01")} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			v := []byte(value)
			for b.Loop() {
				if err := etcdmirror.Intact(secretKey, v); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
