package encryption

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"

	"github.com/understudy-dr/understudy/internal/etcdrpc"
	"github.com/understudy-dr/understudy/internal/kubemeta"
)

// ResourceFunc tells which resource a key of etcd is of: "apps", "deployments", true. Of a resource whose group the key does not tell, known is false; then the
// object itself says it. What is no resource of an API has no name either: "", "", false. keyfilter.Resource makes one.
type ResourceFunc func(key string) (group, resource string, known bool)

// CodecConfig says how a Codec looks at keys.
type CodecConfig struct {
	// Resource tells which resource a key is of, and so which providers are used. Required.
	Resource ResourceFunc
	// Logger is told when a KMS plugin does not answer; nil discards.
	Logger *slog.Logger
}

// Codec opens and seals the values of etcd as an apiserver with one configuration does, by upstream's own ciphers. It is safe for concurrent use.
//
// Two things are different from an apiserver, for the better: a malformed aescbc value is an error instead of a panic, and what a wrong aescbc key
// takes for its own (one value of 255: nothing authenticates it) is an error instead of garbage, because it is no object.
type Codec struct {
	cfg      CodecConfig
	table    *table
	lists    map[spec][]*transformer
	identity []*transformer // of resources that no spec covers
	all      []*transformer // of every list
	cancel   context.CancelFunc

	waiting sync.Map // names of KMS providers that were reported
}

// NewCodec validates a configuration and copies it. It contacts nothing: KMS plugins are called when they are needed. Close it after use.
func NewCodec(cfg *Configuration, c CodecConfig) (*Codec, error) {
	var errs []error
	if c.Resource == nil {
		errs = append(errs, &Error{Kind: ErrConfig, Detail: "CodecConfig.Resource is missing", Hint: "set it to what keyfilter.Resource returns"})
	}
	if _, err := Validate(cfg); err != nil {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	t, err := newTable(cfg)
	if err != nil {
		return nil, err
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(context.Background())
	codec := &Codec{cfg: c, table: t, lists: map[spec][]*transformer{}, cancel: cancel}
	made := map[string]*transformer{} // one plugin for all lists that name it
	for _, s := range t.specs {
		list := make([]*transformer, 0, len(t.lists[s]))
		for _, a := range t.lists[s] {
			id := a.prefix() + "\x00" + string(a.secret)
			if made[id] == nil {
				if made[id], err = newTransformer(ctx, a); err != nil {
					cancel()
					return nil, err
				}
				codec.all = append(codec.all, made[id])
			}
			list = append(list, made[id])
		}
		codec.lists[s] = list
	}
	plain, _ := newTransformer(ctx, identityAtom) // never fails
	codec.identity = []*transformer{plain}
	return codec, nil
}

// Close ends the connections to KMS plugins.
func (c *Codec) Close() { c.cancel() }

// place is what is known about the providers of a key.
type place struct {
	list []*transformer
	// sure: the list is the one that an apiserver uses. Otherwise it is everything that may be it.
	sure bool
	// object: the key is of a resource.
	object   bool
	resource string
}

func (c *Codec) lookup(group, resource string) []*transformer {
	for _, s := range []spec{{Group: group, Resource: resource}, {Group: group, Resource: "*"}, everything} {
		if l, ok := c.lists[s]; ok {
			return l
		}
	}
	return c.identity
}

// placeOf finds the providers of a key.
func (c *Codec) placeOf(key string) place {
	group, resource, known := c.cfg.Resource(key)
	switch {
	case known:
		return place{list: c.lookup(group, resource), sure: true, object: true, resource: resource}
	case resource == "":
		if one := c.only(func(spec) bool { return true }); one != nil {
			return place{list: one, sure: true}
		}
		return place{list: c.all}
	}
	// The group is not known. It makes no difference if every list that might be used is the same.
	if one := c.only(func(s spec) bool { return s.Resource == resource || s.Resource == "*" }); one != nil {
		return place{list: one, sure: true, object: true, resource: resource}
	}
	return place{list: c.all, object: true, resource: resource}
}

// only returns the one list of all specs that match and of what no spec covers, nil if there are several.
func (c *Codec) only(matches func(spec) bool) []*transformer {
	rest, ok := c.lists[everything]
	if !ok {
		rest = c.identity
	}
	for s, l := range c.lists {
		if matches(s) && !sameList(l, rest) {
			return nil
		}
	}
	return rest
}

func sameList(a, b []*transformer) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !a[i].same(b[i].atom) {
			return false
		}
	}
	return true
}

// Open returns the plaintext of a value that is stored under a key, or the value itself if it is not encrypted and the configuration reads that.
// Values under keys that are of no resource pass unless they are encrypted. It waits for KMS plugins that do not answer until ctx ends.
//
// Errors match ErrUnreadable, or ErrUnavailable when ctx ended while a plugin did not answer, and hold nothing of the value but its label.
func (c *Codec) Open(ctx context.Context, key string, value []byte) ([]byte, error) {
	plain, _, err := c.openWaiting(ctx, key, value)
	return plain, err
}

func (c *Codec) openWaiting(ctx context.Context, key string, value []byte) (plain []byte, by *transformer, err error) {
	err = c.wait(ctx, func() error {
		plain, by, err = c.open(ctx, key, value)
		return err
	})
	return plain, by, err
}

// wait calls again what a KMS plugin was not available for.
func (c *Codec) wait(ctx context.Context, call func() error) error {
	var pause etcdrpc.Backoff
	for {
		err := call()
		if !errors.Is(err, ErrUnavailable) || ctx.Err() != nil {
			return err
		}
		e, _ := errors.AsType[*Error](err)
		if _, reported := c.waiting.LoadOrStore(e.Field, true); !reported {
			c.cfg.Logger.Warn("waiting for a KMS plugin", "reason", err.Error())
		}
		if pause.Wait(ctx) != nil {
			return err
		}
	}
}

// open makes one attempt.
func (c *Codec) open(ctx context.Context, key string, value []byte) ([]byte, *transformer, error) {
	p := c.placeOf(key)
	encrypted := kubemeta.Encrypted(value)
	if !encrypted && !p.object {
		return value, c.identity[0], nil
	}
	if !encrypted && !p.sure {
		// The object itself tells its group, and so whether the configuration reads it unencrypted.
		if group, ok := groupOfObject(value); ok {
			p.list, p.sure = c.lookup(group, p.resource), true
		}
	}
	var problems problems
	for _, t := range p.list {
		if t.isIdentity() {
			if !encrypted {
				return value, t, nil
			}
			continue
		}
		body, ok := bytes.CutPrefix(value, t.head)
		if !ok {
			continue
		}
		if problem := kubemeta.CheckBody(t.scheme, body); problem != "" {
			problems.malformed = string(problem)
			continue
		}
		plain, err := t.open(ctx, key, body)
		switch {
		case err != nil:
			problems.add(t, err)
		case !t.authenticated() && !isObject(plain):
			// An apiserver takes it, and cannot decode it.
			problems.garbage = true
			if p.sure {
				return nil, nil, problems.error(value)
			}
		case !p.sure && p.object && !c.covers(t, p.resource, plain):
		default:
			if t.isKMS() {
				c.waiting.Delete(t.Name)
			}
			return plain, t, nil
		}
	}
	return nil, nil, problems.error(value)
}

// covers reports whether an apiserver would use t for an object of a resource, whose group the object tells.
func (c *Codec) covers(t *transformer, resource string, plain []byte) bool {
	group, ok := groupOfObject(plain)
	return ok && slices.Contains(c.lookup(group, resource), t)
}

// isObject reports whether a plaintext is one that apiservers store.
func isObject(plain []byte) bool {
	return kubemeta.Protobuf(plain) || kubemeta.CBOR(plain) || kubemeta.JSON(plain) && json.Valid(plain)
}

// problems collects why a value could not be opened.
type problems struct {
	malformed   string
	garbage     bool
	refused     bool // a key has the label and does not fit
	plugin      string
	unavailable error
}

func (p *problems) add(t *transformer, err error) {
	switch {
	case errors.Is(err, ErrUnavailable):
		p.unavailable = err
	case t.isKMS():
		p.plugin = err.Error()
	default:
		p.refused = true
	}
}

func (p *problems) error(value []byte) error {
	if p.unavailable != nil {
		return p.unavailable
	}
	what := "not encrypted"
	if kubemeta.Encrypted(value) {
		what = "encrypted with " + labelOf(value).String()
	}
	e := &Error{Kind: ErrUnreadable}
	switch {
	case p.garbage:
		e.Detail, e.Hint = what+", but what comes out is no object", "the key has the right name and another secret, or the value is damaged"
	case p.plugin != "":
		e.Detail, e.Hint = what+", but "+p.plugin, "see the plugin's log, and whether it has the key that the value was written with"
	case p.refused:
		e.Detail, e.Hint = what+", but the key of this name does not fit", "the key has the right name and another secret, the value lies under another etcd key than it was written to, or it is damaged"
	case p.malformed != "":
		e.Detail, e.Hint = what+", but "+p.malformed, "the value is damaged: restore the object from a backup, or delete the key"
	case what == "not encrypted":
		e.Detail, e.Hint = what+", and the configuration reads encrypted values only", "add identity: {} as the last provider of the resource"
	default:
		e.Detail, e.Hint = what+", which the configuration does not have for the resource", "add the key to the resource's providers"
	}
	return e
}

// Seal returns what an apiserver would store under a key for a plaintext: encrypted by the first provider of the resource. It waits for KMS plugins like Open.
// Nothing is sealed under keys that are of no resource: that is an error.
func (c *Codec) Seal(ctx context.Context, key string, plain []byte) (value []byte, err error) {
	err = c.wait(ctx, func() error {
		value, err = c.seal(ctx, key, plain)
		return err
	})
	return value, err
}

func (c *Codec) seal(ctx context.Context, key string, plain []byte) ([]byte, error) {
	w, err := c.writer(key, plain)
	if err != nil {
		return nil, err
	}
	return w.seal(ctx, key, plain)
}

// writer finds what writes a key.
func (c *Codec) writer(key string, plain []byte) (*transformer, error) {
	if kubemeta.Encrypted(plain) {
		return nil, &Error{Kind: ErrUnreadable, Detail: "the plaintext itself begins like an encrypted value", Hint: "look at the key: no object is encrypted twice"}
	}
	p := c.placeOf(key)
	switch {
	case p.object && p.sure:
		return p.list[0], nil
	case p.object:
		if group, ok := groupOfObject(plain); ok {
			return c.lookup(group, p.resource)[0], nil
		}
	}
	return nil, &Error{Kind: ErrUnreadable, Detail: "nothing tells which resource it is of, and so with which key it is to be written", Hint: "leave the key out of what is mirrored, or let Resource tell its resource"}
}

// groupOfObject reads the API group of an object.
func groupOfObject(plain []byte) (group string, ok bool) {
	var version string
	switch {
	case kubemeta.Protobuf(plain):
		head, problem := kubemeta.CheckProtobuf(plain)
		if problem != "" {
			return "", false
		}
		version = string(head.APIVersion)
	case kubemeta.CBOR(plain):
		var object map[string]any
		if direct.Unmarshal(plain, &object) != nil {
			return "", false
		}
		version, _ = object["apiVersion"].(string)
	case kubemeta.JSON(plain):
		var object struct {
			APIVersion string `json:"apiVersion"`
		}
		if json.Unmarshal(plain, &object) != nil {
			return "", false
		}
		version = object.APIVersion
	}
	gv, err := schema.ParseGroupVersion(version)
	return gv.Group, err == nil && gv.Version != ""
}

// labelOf reads a value's label, by its first colon where the name may hold some.
func labelOf(value []byte) Label {
	if !kubemeta.Encrypted(value) {
		return Label{Provider: Identity}
	}
	h, problem := kubemeta.ReadHeader(value)
	if problem == kubemeta.MalformedScheme {
		return Label{Provider: "malformed"}
	}
	provider, version, _ := strings.Cut(string(h.Scheme), ":")
	if provider == "kms" || version != "v1" {
		provider = string(h.Scheme)
	}
	return Label{Provider: provider, Name: cmp.Or(string(h.Name), "?")}
}

// LabelOf tells what a stored value claims to be encrypted with. Of a name that holds colons it gives what comes before the first.
// A header that is damaged gives the provider "malformed" or the name "?".
func LabelOf(value []byte) Label { return labelOf(value) }

// Guard returns a function for etcdmirror.Config.Guards that refuses values which an apiserver of the target with this configuration cannot read, secrets that differ
// under one name included. targetKey is the target's name of a source key; nil is the same. The guard waits for KMS plugins until ctx ends.
func (c *Codec) Guard(ctx context.Context, targetKey func(sourceKey string) string) func(sourceKey string, value []byte) error {
	return func(sourceKey string, value []byte) error {
		key := sourceKey
		if targetKey != nil {
			key = targetKey(sourceKey)
		}
		_, err := c.Open(ctx, key, value)
		return err
	}
}

func (t *transformer) String() string { return fmt.Sprint(t.Label) }
