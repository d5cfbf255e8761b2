package encryption

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/understudy-dr/understudy/internal/kubemeta"
)

// Transcoder rewrites values on their way from one cluster to another: it decrypts with the source's configuration and the source's key of etcd as authenticated data, and
// encrypts with the target's configuration and the target's key. So the two clusters share no secret, may use different providers, names and --etcd-prefixes, and no file changes.
//
// It is an etcdmirror.Transformer and a drcheck.Transformer. It is safe for concurrent use.
type Transcoder struct {
	source, target *Codec
	id             string
}

// NewTranscoder makes a Transcoder of the Codecs of both sides, which stay the caller's to close.
func NewTranscoder(source, target *Codec) (*Transcoder, error) {
	if source == nil || target == nil {
		return nil, &Error{Kind: ErrConfig, Detail: "a Codec is missing", Hint: "make both with NewCodec"}
	}
	hash := sha256.New()
	for _, c := range []*Codec{source, target} {
		for _, s := range slices.SortedFunc(maps.Keys(c.lists), func(a, b spec) int { return strings.Compare(specText(a), specText(b)) }) {
			fmt.Fprintf(hash, "%q\n", specText(s))
			for _, t := range c.lists[s] {
				secret := sha256.Sum256(t.secret)
				fmt.Fprintf(hash, "%q %q %x", t.Provider, t.Name, secret)
				if t.kms != nil {
					fmt.Fprintf(hash, " %q", t.kms.Endpoint)
				}
				fmt.Fprintln(hash)
			}
		}
		fmt.Fprintln(hash)
	}
	return &Transcoder{source: source, target: target, id: "transcode-" + hex.EncodeToString(hash.Sum(nil)[:8])}, nil
}

// ID changes whenever a key, a provider or their order changes on either side, so that a mirror compares everything again: values that could not be read may be readable now.
// It is part of a hash of all keys of both sides together, and tells nothing about any.
func (t *Transcoder) ID() string { return t.id }

// Transform returns what an apiserver of the target would store under targetKey for what one of the source has stored under sourceKey. A value that the target would write with the
// very same key, and can read under its own key of etcd, stays as it is. Values under keys that are of no resource stay as they are unless they are encrypted.
// It waits for KMS plugins until ctx ends. Errors match ErrUnreadable or ErrUnavailable and hold nothing of the value but its label.
func (t *Transcoder) Transform(ctx context.Context, sourceKey, targetKey string, value []byte) (out []byte, err error) {
	plain, by, err := t.source.openWaiting(ctx, sourceKey, value)
	if err != nil {
		return nil, err
	}
	if !kubemeta.Encrypted(value) {
		if _, resource, _ := t.source.cfg.Resource(sourceKey); resource == "" {
			return value, nil
		}
	}
	w, err := t.target.writer(targetKey, plain)
	if err != nil {
		return nil, err
	}
	if w.same(by.atom) && (!w.bound() || sourceKey == targetKey) {
		return value, nil
	}
	err = t.target.wait(ctx, func() error {
		out, err = w.seal(ctx, targetKey, plain)
		return err
	})
	return out, err
}

// Equal reports whether both values hold the same plaintext, each read as its own cluster reads it. Which key the target's value was written with does not matter:
// the target's own apiservers, too, rewrite values.
func (t *Transcoder) Equal(ctx context.Context, sourceKey, targetKey string, sourceValue, targetValue []byte) (bool, error) {
	source, err := t.source.Open(ctx, sourceKey, sourceValue)
	if err != nil {
		return false, err
	}
	target, err := t.target.Open(ctx, targetKey, targetValue)
	if err != nil {
		return false, err
	}
	return bytes.Equal(source, target), nil
}
