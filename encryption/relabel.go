package encryption

import (
	"context"
	"errors"
	"fmt"
	"slices"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/internal/kubemeta"
)

// Relabel gives values another key name in place: what follows the label stays as it is. Both labels must be those of one key in the Codec's configuration: one secret, or
// one KMS plugin, under two names. Each value is opened with that key first, so that a value of another cluster's key of the same name is left alone, and listed.
//
// Every write is a transaction that compares the value's mod_revision and keeps its lease, so nothing that others write is lost, and an interruption at any instant does no harm.
// It refuses (ErrWriters) while a configuration of cfg.Loaded writes the old label, or reads it and not the new one; and at the end if values with the old label keep coming.
//
// Errors match ErrConfig, ErrWriters, ErrUnreachable, ErrPermission, or are ctx's. The report is never nil once writing has begun.
func Relabel(ctx context.Context, client *clientv3.Client, codec *Codec, from, to Label, cfg InPlaceConfig) (*InPlaceReport, error) {
	old, fresh, err := relabelPair(codec, from, to)
	if err := errors.Join(append(cfg.check(client), err)...); err != nil {
		return nil, err
	}
	for i, loaded := range cfg.Loaded {
		if err := canRelabel(i, loaded, old.atom, fresh.atom); err != nil {
			return nil, err
		}
	}
	return run(ctx, client, cfg, "with the old label", func(ctx context.Context, key string, value []byte) ([]byte, error) {
		if len(value) < len(old.head) || string(value[:len(old.head)]) != string(old.head) {
			return nil, nil
		}
		if err := codec.opensWith(ctx, old, key, value); err != nil {
			return nil, err
		}
		return slices.Concat(fresh.head, value[len(old.head):]), nil
	})
}

// relabelPair finds one key under two names.
func relabelPair(codec *Codec, from, to Label) (old, fresh *transformer, err error) {
	if codec == nil {
		return nil, nil, &Error{Kind: ErrConfig, Detail: "there is no Codec", Hint: "make one with NewCodec"}
	}
	for _, a := range codec.all {
		for _, b := range codec.all {
			if a.Label == from && b.Label == to && from != to && a.Provider == b.Provider && a.Provider != Identity && sameKey(a.atom, b.atom) {
				return a, b, nil
			}
		}
	}
	return nil, nil, &Error{Kind: ErrConfig, Detail: fmt.Sprintf("the configuration does not have one key under the names %s and %s", from, to), Hint: "relabel between two names of one secret, or use Rewrite"}
}

// sameKey reports whether two atoms differ by name only.
func sameKey(a, b atom) bool {
	a.Name = b.Name
	if a.kms != nil && b.kms != nil {
		kms := *a.kms
		kms.Name = b.kms.Name
		a.kms = &kms
	}
	return a.same(b)
}

func canRelabel(i int, cfg *Configuration, old, fresh atom) error {
	t, err := loadedTable(i, cfg)
	if err != nil {
		return err
	}
	for _, s := range t.specs {
		l := t.lists[s]
		switch {
		case l[0].same(old):
			return &Error{Kind: ErrWriters, Detail: fmt.Sprintf("Loaded[%d]: %s are still written with %s", i, showSpec(s), old), Hint: fmt.Sprintf("let every apiserver write with %s first, and verify that they do", fresh)}
		case l.has(old) && !l.reads(fresh):
			return &Error{Kind: ErrWriters, Detail: fmt.Sprintf("Loaded[%d]: %s cannot be read with %s", i, showSpec(s), fresh), Hint: "give every apiserver the key under its new name first, and verify that they have it"}
		}
	}
	return nil
}

func loadedTable(i int, cfg *Configuration) (*table, error) {
	if _, err := Validate(cfg); err != nil {
		return nil, &Error{Kind: ErrConfig, Detail: fmt.Sprintf("Loaded[%d]", i), Cause: err, Hint: "give what the apiserver runs with"}
	}
	return newTable(cfg)
}

// opensWith checks that a value can be read with one key.
func (c *Codec) opensWith(ctx context.Context, t *transformer, key string, value []byte) error {
	single := &Codec{cfg: c.cfg, identity: c.identity, all: []*transformer{t}, lists: map[spec][]*transformer{everything: {t}}}
	_, err := single.Open(ctx, key, value)
	return err
}

// Rewrite encrypts values anew in place, with what the Codec's configuration writes: what another key has written, and what is not encrypted though it should be.
// only restricts it to values with these labels; none is all. It works, and refuses, like Relabel: every configuration of cfg.Loaded must write with the Codec's key, and
// so read it. Values that cannot be read are left alone and listed.
func Rewrite(ctx context.Context, client *clientv3.Client, codec *Codec, only []Label, cfg InPlaceConfig) (*InPlaceReport, error) {
	errs := cfg.check(client)
	if codec == nil {
		errs = append(errs, &Error{Kind: ErrConfig, Detail: "there is no Codec", Hint: "make one with NewCodec"})
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	for i, loaded := range cfg.Loaded {
		if err := canRewrite(i, loaded, codec.table); err != nil {
			return nil, err
		}
	}
	return run(ctx, client, cfg, "with another key", func(ctx context.Context, key string, value []byte) ([]byte, error) {
		if _, resource, _ := codec.cfg.Resource(key); resource == "" {
			return nil, nil
		}
		if len(only) > 0 && !kubemeta.Encrypted(value) && !slices.Contains(only, Label{Provider: Identity}) {
			return nil, nil
		}
		plain, by, err := codec.openWaiting(ctx, key, value)
		switch {
		case err != nil && len(only) > 0 && !slices.Contains(only, codec.labelOf(value)):
			return nil, nil
		case err != nil:
			return nil, err
		case len(only) > 0 && !slices.Contains(only, by.Label):
			return nil, nil
		}
		w, err := codec.writer(key, plain)
		if err != nil || w.same(by.atom) {
			return nil, err
		}
		return codec.Seal(ctx, key, plain)
	})
}

func canRewrite(i int, cfg *Configuration, wanted *table) error {
	t, err := loadedTable(i, cfg)
	if err != nil {
		return err
	}
	for _, s := range slices.Concat(wanted.specs, t.specs) {
		if has, want := t.lookup(s)[0], wanted.lookup(s)[0]; !has.same(want) {
			return &Error{Kind: ErrWriters, Detail: fmt.Sprintf("Loaded[%d]: %s are written with %s instead of %s", i, showSpec(s), has, want), Hint: "let every apiserver write with the key first, and verify that they do"}
		}
	}
	return nil
}
