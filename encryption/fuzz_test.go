package encryption_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/encryption"
)

// FuzzTranscode: no value makes it panic, and none comes out that the target cannot read.
func FuzzTranscode(f *testing.F) {
	source, target := config(f, "secrets: cbc a=A a:b=B, gcm g=G, secretbox b=B, identity"), config(f, "secrets: gcm a=X, identity")
	real := loadReal(f, source)
	f.Add(real.seal(f, secretKey, object))
	for _, text := range []string{"secrets: gcm g=G", "secrets: secretbox b=B", "secrets: cbc a:b=B"} {
		f.Add(loadReal(f, config(f, text)).seal(f, secretKey, object))
	}
	f.Add([]byte("k8s:enc:aescbc:v1:a:0123456789abcdef"))
	f.Add([]byte("k8s:enc:kms:v2:x:"))
	f.Add(object)
	f.Add([]byte{})
	transcoder, reader := newTranscoder(f, source, target), newCodec(f, target)
	f.Fuzz(func(t *testing.T, value []byte) {
		ctx := context.Background()
		got, err := transcoder.Transform(ctx, secretKey, secretKey+"2", value)
		if err != nil {
			if !errors.Is(err, encryption.ErrUnreadable) {
				t.Errorf("%q: %v", value, err)
			}
			return
		}
		plain, err := reader.Open(ctx, secretKey+"2", got)
		if err != nil {
			t.Fatalf("%q becomes unreadable: %v", value, err)
		}
		if real.panics(secretKey, value) {
			t.Fatalf("kube-apiserver panics on %q", value)
		}
		if want, err := real.open(secretKey, value); err != nil || !bytes.Equal(plain, want) {
			t.Fatalf("%q: kube-apiserver reads %q, %v; it became %q", value, want, err, plain)
		}
	})
}

// FuzzMerge: whatever two files are merged to, kube-apiserver takes it, and it reads what each of the two reads, once renamed keys are relabelled.
func FuzzMerge(f *testing.F) {
	for _, pair := range [][2]string{{"cbc a=P", "cbc b=S"}, {"cbc key1=P", "cbc key1=S"}, {"secrets: gcm k=P; *.*: identity", "*.apps: secretbox k=S; configmaps: cbc a:b=S, identity"}, {"identity, cbc a=P", "*.: cbc a=S"}} {
		for clash := range 3 {
			f.Add(encode(f, config(f, pair[0])), encode(f, config(f, pair[1])), clash)
		}
	}
	f.Fuzz(func(t *testing.T, a, b []byte, clash int) {
		p, err := encryption.Parse(a)
		if err != nil {
			return
		}
		s, err := encryption.Parse(b)
		if err != nil {
			return
		}
		merged, err := encryption.Merge(p, s, encryption.MergeOptions{Clash: encryption.ClashPolicy(uint(clash) % 3)})
		if err != nil {
			for _, kind := range []error{encryption.ErrInvalid, encryption.ErrConflict, encryption.ErrKMS, encryption.ErrPlan} {
				if errors.Is(err, kind) {
					return
				}
			}
			t.Fatal(err)
		}
		if bytes.Contains(a, []byte("kms")) || bytes.Contains(b, []byte("kms")) {
			return
		}
		reader := loadReal(t, merged.Config)
		for side, cfg := range []*encryption.Configuration{p, s} {
			own := loadReal(t, cfg)
			for _, key := range someKeys {
				plain := numbered(side, 0)
				stored := own.seal(t, key, plain)
				if back, err := own.open(key, stored); err != nil || !bytes.Equal(back, plain) {
					continue // it does not read its own
				}
				if side == 1 {
					label := encryption.LabelOf(stored)
					for _, r := range merged.Renames {
						if r.Provider == label.Provider && (r.Old == label.Name || strings.HasPrefix(r.Old, label.Name+":")) {
							stored = nil // to be relabelled: TestRolloutOfRandomPairs does
						}
					}
					if stored == nil {
						continue
					}
				}
				if back, err := reader.open(key, stored); err != nil || !bytes.Equal(back, plain) {
					t.Fatalf("%s and %s: %s of %d is lost: %v\n%s", brief(p, true), brief(s, true), key, side, err, brief(merged.Config, true))
				}
			}
		}
	})
}
