package encryption

import (
	"bytes"
	"context"
	"slices"
)

// ResourceNames are the resources that notices know, by group.
func ResourceNames() map[string][]string {
	names := map[string][]string{}
	for name := range coreResources {
		names[""] = append(names[""], name)
	}
	for name, group := range groupOf {
		names[group] = append(names[group], name)
	}
	return names
}

// SingleWriters are configurations that write a resource with one of the providers that cfg has for it, for each of these.
func SingleWriters(cfg *Configuration, group, resource string) (all []*Configuration) {
	t, err := newTable(cfg)
	if err != nil {
		panic(err)
	}
	s := spec{Group: group, Resource: resource}
	for _, a := range t.lookup(s) {
		one := &table{lists: map[spec]list{}}
		one.set(s, list{a})
		all = append(all, one.emit())
	}
	return all
}

// Relabelled is what Relabel makes of one value; nil if it has another key's label, or another key of the name has written it.
func Relabelled(ctx context.Context, codec *Codec, key string, value []byte, from, to Label) []byte {
	old, fresh, err := relabelPair(codec, from, to)
	if err != nil {
		panic(err)
	}
	if !bytes.HasPrefix(value, old.head) || codec.opensWith(ctx, old, key, value) != nil {
		return nil
	}
	return slices.Concat(fresh.head, value[len(old.head):])
}

// Needs reports whether a value was written with a key that a phase is about.
func Needs(p *Phase, codec *Codec, key string, value []byte) (bool, error) {
	return p.needs(context.Background(), codec, key, value)
}
