package etcdmirror_test

import (
	"context"
	"errors"
	"testing"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
)

// refused runs a mirror that must end with an error of the kind, before its first write.
func (p *pair) refused(cfg etcdmirror.Config, kind error) {
	p.t.Helper()
	before := p.revisionOf(p.target)
	r := p.start(cfg)
	wantError(p.t, r.ended(p.ctx), kind)
	if after := p.revisionOf(p.target); after != before {
		p.t.Errorf("the target went from revision %d to %d", before, after)
	}
	if s := r.Status(); s.State != etcdmirror.StateStopped || s.Reason == "" {
		p.t.Errorf("status %q %q after the refusal", s.State, s.Reason)
	}
}

func TestP8SourceAndTargetAreOneCluster(t *testing.T) {
	p := newPair(t, embedetcd.Options{Members: 3}, embedetcd.Options{})
	p.targetCluster, p.target = p.sourceCluster, testutil.Client(t, p.sourceCluster)
	p.put(p.source, key(1), "v")
	p.refused(etcdmirror.Config{Name: "test"}, etcdmirror.ErrSameCluster)
}

func TestP8DirectionSwapped(t *testing.T) {
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
	p.put(p.source, key(1), "v")
	r := p.start(etcdmirror.Config{})
	p.sync(r)
	r.stop()
	p.source, p.target = p.target, p.source
	p.refused(etcdmirror.Config{Name: "other"}, etcdmirror.ErrSwapped)
	// Once the standby is promoted, the other direction is the way back.
	if _, err := etcdmirror.Promote(p.ctx, p.source, "test", etcdmirror.PromoteOptions{}); err != nil {
		t.Fatal(err)
	}
	r = p.start(etcdmirror.Config{Name: "back"})
	p.sync(r)
	p.mustEqual("/registry/", nil)
}

func TestP8AnotherSource(t *testing.T) {
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
	p.put(p.source, key(1), "v")
	r := p.start(etcdmirror.Config{})
	p.sync(r)
	r.stop()
	p.sourceCluster = testutil.NewCluster(t, embedetcd.Options{})
	p.source = testutil.Client(t, p.sourceCluster)
	p.refused(etcdmirror.Config{Name: "test"}, etcdmirror.ErrSourceChanged)
}

// A source restored from a backup keeps its cluster ID here: it is stopped, its data directory is put back to an earlier copy, and it is started again.
func TestP8RewoundSource(t *testing.T) {
	for _, while := range []string{"stopped", "running"} {
		t.Run(while, func(t *testing.T) {
			p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
			p.put(p.source, key(1), "v")
			r := p.start(etcdmirror.Config{})
			p.sync(r)
			restore := backup(t, p.sourceCluster)
			for i := range 20 {
				p.put(p.source, key(i), "later")
			}
			p.sync(r)
			if while == "stopped" {
				r.stop()
				restore(p.ctx)
				p.refused(etcdmirror.Config{Name: "test"}, etcdmirror.ErrSourceRewound)
				return
			}
			restore(p.ctx)
			wantError(t, r.ended(p.ctx), etcdmirror.ErrSourceRewound)
			if got := p.get(p.target, key(1)); string(got[key(1)].Value) != "later" {
				t.Error("the target followed the rewound source")
			}
		})
	}
}

func TestP8ChangedPrefixes(t *testing.T) {
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
	p.put(p.source, key(1), "v")
	r := p.start(etcdmirror.Config{})
	p.sync(r)
	r.stop()
	p.refused(etcdmirror.Config{Name: "test", TargetPrefix: "/elsewhere/"}, etcdmirror.ErrPrefixChanged)
	p.refused(etcdmirror.Config{Name: "test", AllKeys: true}, etcdmirror.ErrPrefixChanged)
}

func TestP8ChangedFilterLeadsToAResync(t *testing.T) {
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
	even := func(key []byte) bool { return key[len(key)-1]%2 == 0 }
	low := func(key []byte) bool { return key[len(key)-1] < '5' }
	for i := range 100 {
		p.put(p.source, key(i), "v")
	}
	r := p.start(etcdmirror.Config{Keep: even, KeepID: "even"})
	p.sync(r)
	p.mustEqual("/registry/", even)
	r.stop()
	p.put(p.target, key(6), "changed at the standby") // kept by the first filter, not by the second
	p.put(p.target, key(11), "its own")               // kept by the second only, and the source's wins

	rec := &recorder{}
	r = p.start(etcdmirror.Config{Keep: low, KeepID: "low", LeftFilter: etcdmirror.LeftFilterDelete, Hooks: rec.hooks()})
	p.sync(r)
	r.stop()
	if len(rec.resyncs) != 1 || rec.resyncs[0].Base {
		t.Errorf("resyncs %+v, want one", rec.resyncs)
	}
	// What left the filter is gone where it was a copy, and kept where the target changed it.
	if got := p.get(p.target, key(6)); string(got[key(6)].Value) != "changed at the standby" {
		t.Error("LeftFilterDelete deleted a key that the target had changed")
	}
	p.delete(p.target, key(6))
	if n := p.mustEqual("/registry/", low); n != 50 {
		t.Errorf("%d keys kept", n)
	}

	// With the default policy nothing that left the filter is touched.
	r = p.start(etcdmirror.Config{Keep: even, KeepID: "even"})
	p.sync(r)
	r.stop()
	all := p.get(p.target, "/registry/")
	for i := range 100 {
		k := []byte(key(i))
		if (all[key(i)] != nil) != (even(k) || low(k)) {
			t.Errorf("key %s: at the target %v", k, all[key(i)] != nil)
		}
	}
}

func TestP8UnreachableAndForbidden(t *testing.T) {
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
	p.put(p.source, key(1), "v")
	withAuth(t, p, p.target, "target")
	guest := p.targetCluster.ClientConfig()
	guest.Username, guest.Password = "guest", "guest"
	root := p.target
	p.target = connect(t, guest)
	r := p.start(etcdmirror.Config{})
	wantError(t, r.ended(p.ctx), etcdmirror.ErrPermission)
	if kvs := p.get(root, ""); len(kvs) != 0 {
		t.Errorf("the target has %d keys", len(kvs))
	}
	// With the permissions that the documentation asks for, and no more, it works.
	grant(t, p, root, "guest", etcdmirror.DefaultPrefix, etcdmirror.MetadataPrefix)
	r = p.start(etcdmirror.Config{})
	p.sync(r)
	r.stop()

	if err := p.sourceCluster.StopMember(0); err != nil {
		t.Fatal(err)
	}
	r = p.start(etcdmirror.Config{RequestTimeout: 300_000_000})
	wantError(t, r.ended(p.ctx), etcdmirror.ErrUnreachable)
}

func TestConfigErrorsNameTheField(t *testing.T) {
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
	for want, cfg := range map[string]etcdmirror.Config{
		"Name":         {Name: "a/b"},
		"KeepID":       {Name: "a", Keep: func([]byte) bool { return true }},
		"StripPrefix":  {Name: "a", StripPrefix: true, TargetPrefix: "/x/"},
		"AllKeys":      {Name: "a", AllKeys: true, Prefix: "/x/"},
		"TargetPrefix": {Name: "a", TargetPrefix: "/understudy/x/"},
		"StallTimeout": {Name: "a", StallTimeout: 1},
		"MaxTxnOps":    {Name: "a", MaxTxnOps: 1},
		"InFlight":     {Name: "a", InFlight: -1},
		"Surplus":      {Name: "a", Surplus: 7},
	} {
		_, err := etcdmirror.New(p.source, p.target, cfg)
		wantError(t, err, etcdmirror.ErrConfig)
		var detailed *etcdmirror.Error
		if !errors.As(err, &detailed) || !contains(err.Error(), want) {
			t.Errorf("%s: error %v does not name it", want, err)
		}
	}
	_, err := etcdmirror.New(nil, p.target, etcdmirror.Config{Name: "a"})
	wantError(t, err, etcdmirror.ErrConfig)
	r := p.start(etcdmirror.Config{})
	p.sync(r)
	wantError(t, r.Run(context.Background()), etcdmirror.ErrAlreadyRun)
}
