package etcdmirror_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
)

var errPoison = errors.New("the standby could not read it")

func poisonGuard(_ string, value []byte) error {
	if bytes.HasPrefix(value, []byte("poison")) {
		return errPoison
	}
	return nil
}

func TestGuardsKeepValuesFromTheTarget(t *testing.T) {
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
	p.put(p.source, key(1), "poison")
	p.put(p.source, key(2), "good")
	p.put(p.source, key(3), "good")
	rec := &recorder{}
	cfg := etcdmirror.Config{Guards: []etcdmirror.Guard{poisonGuard}, Hooks: rec.hooks()}
	r := p.start(cfg)
	p.sync(r)
	p.put(p.source, key(2), "poison again") // the tail
	p.sync(r)
	target := p.get(p.target, "/registry/")
	if target[key(1)] != nil || string(target[key(2)].Value) != "good" || target[key(3)] == nil {
		t.Errorf("the target has %d keys; guarded ones are not as they were", len(target))
	}
	md := p.metadata()
	if len(md.Guarded) != 2 || md.Guarded[0].Key != key(1) || md.Guarded[0].Reason != errPoison.Error() || r.Status().Guarded != 2 {
		t.Errorf("guarded %+v, status %d", md.Guarded, r.Status().Guarded)
	}
	r.stop()
	if len(rec.guarded) != 2 || rec.guarded[0].Key != key(1) {
		t.Errorf("reported %+v", rec.guarded)
	}

	// A restart knows them; a value that passes, or a delete, ends the matter.
	r = p.start(cfg)
	p.put(p.source, key(1), "good")
	p.delete(p.source, key(2))
	p.sync(r)
	p.mustEqual("/registry/", nil)
	if md := p.metadata(); len(md.Guarded) != 0 || r.Status().Guarded != 0 {
		t.Errorf("guarded %+v", md.Guarded)
	}
	// Also after an outage in which the log was lost.
	p.put(p.source, key(3), "poison")
	p.put(p.source, key(4), "poison")
	p.sync(r)
	r.stop()
	p.delete(p.source, key(3))
	p.put(p.source, key(4), "good")
	p.compact(p.source)
	r = p.start(cfg)
	p.sync(r)
	p.mustEqual("/registry/", nil)
	if md := p.metadata(); len(md.Guarded) != 0 {
		t.Errorf("guarded %+v", md.Guarded)
	}
}

// rot13 stands for a transcoder between two encryptions: values differ on both sides, and some cannot be read.
type rot13 struct{ id string }

func (r rot13) ID() string { return r.id }

func (rot13) Transform(_ context.Context, sourceKey, targetKey string, value []byte) ([]byte, error) {
	if bytes.HasPrefix(value, []byte("poison")) {
		return nil, errPoison
	}
	return bytes.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return 'a' + (r-'a'+13)%26
		}
		return r
	}, append([]byte(targetKey+"="), value...)), nil
}

func (r rot13) Equal(ctx context.Context, sourceKey, targetKey string, source, target []byte) (bool, error) {
	want, err := r.Transform(ctx, sourceKey, targetKey, source)
	return bytes.Equal(want, target), err
}

func TestTransform(t *testing.T) {
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
	p.put(p.source, key(1), "one")
	p.put(p.source, key(2), "poison")
	cfg := etcdmirror.Config{Transform: rot13{"rot13"}, TargetPrefix: "/elsewhere/"}
	r := p.start(cfg)
	p.put(p.source, key(3), "three")
	p.sync(r)
	r.stop()
	moved := "/elsewhere/" + strings.TrimPrefix(key(1), "/registry/")
	want, _ := rot13{}.Transform(p.ctx, key(1), moved, []byte("one"))
	target := p.get(p.target, "/elsewhere/")
	if len(target) != 2 || !bytes.Equal(target[moved].Value, want) {
		t.Errorf("%d keys at the target, or the wrong value", len(target))
	}
	if md := p.metadata(); len(md.Guarded) != 1 || md.Identity.TransformID != "rot13" {
		t.Errorf("metadata %+v", md)
	}
	// Another transformation leads to a resync, in which nothing that is equal is written again.
	cfg.Transform = rot13{"the same by another name"}
	r = p.start(cfg)
	p.sync(r)
	if s := r.Status(); s.Resyncs != 1 || s.Puts != 0 {
		t.Errorf("%d resyncs, %d puts", s.Resyncs, s.Puts)
	}
}

// TestNoValueIsEverShown searches logs, errors, metadata and status for what the values hold.
func TestNoValueIsEverShown(t *testing.T) {
	const secret = "correct-horse-battery-staple"
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{MaxRequestBytes: 64 << 10})
	var log bytes.Buffer
	cfg := etcdmirror.Config{Guards: []etcdmirror.Guard{poisonGuard}, Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	p.put(p.target, key(9), secret)
	p.put(p.source, key(1), "poison"+secret)
	p.put(p.source, key(2), secret)
	r := p.start(cfg)
	p.sync(r)
	p.put(p.source, key(3), strings.Repeat(secret, 5000)) // too large: waits
	p.eventually(r, "waiting", func(s etcdmirror.Status) bool { return s.State == etcdmirror.StateWaiting })
	shown := r.Status().Reason
	_, err := etcdmirror.Promote(p.ctx, p.target, "test", etcdmirror.PromoteOptions{})
	shown += errString(err)
	_, err = etcdmirror.Promote(p.ctx, p.target, "test", etcdmirror.PromoteOptions{AllowIncomplete: true})
	shown += errString(err) + errString(r.ended(p.ctx))
	for k, kv := range p.get(p.target, etcdmirror.MetadataPrefix) {
		shown += k + string(kv.Value)
	}
	shown += log.String()
	if strings.Contains(shown, secret) {
		t.Errorf("a value is shown:\n%s", shown)
	}
	if !strings.Contains(shown, key(1)) {
		t.Error("the guarded key is not shown: the test looks at nothing")
	}
}

func errString(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// A source value that is kept away does not cost the target the object of its own that lies under the key.
func TestP5AGuardedValueReplacesNothing(t *testing.T) {
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
	p.put(p.target, key(0), "the standby's own")
	p.put(p.source, key(1), "v")
	r := p.start(etcdmirror.Config{Guards: []etcdmirror.Guard{poisonGuard}})
	p.sync(r)
	p.put(p.source, key(0), "poison")
	p.sync(r)
	if kv := p.get(p.target, key(0))[key(0)]; kv == nil || string(kv.Value) != "the standby's own" {
		t.Error("the target's own object is gone")
	}
	if s := r.Status(); s.Foreign != 1 || s.Guarded != 1 {
		t.Errorf("%d foreign and %d guarded keys, want one of each", s.Foreign, s.Guarded)
	}
	p.put(p.source, key(0), "wholesome")
	p.sync(r)
	p.mustEqual("/registry/", nil)
}
