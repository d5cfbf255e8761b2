package drcheck_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/drcheck"
	"github.com/understudy-dr/understudy/etcdmirror"
)

// object is a stored object in JSON. rest are further members.
func object(kind, name, uid, owners, rest string) string {
	return fmt.Sprintf(`{"apiVersion":"v1","kind":%q,"metadata":{"name":%q,"namespace":"ns","uid":%q,"managedFields":[{"manager":"m"}],"ownerReferences":[%s]},"spec":{"a":1}%s}`, kind, name, uid, owners, rest)
}

func ownedBy(apiVersion, kind, name, uid string) string {
	return fmt.Sprintf(`{"apiVersion":%q,"kind":%q,"name":%q,"uid":%q}`, apiVersion, kind, name, uid)
}

const brief = 100 * time.Millisecond // for checks of which nothing settles any more

// What the source changed after the mirror has stopped is in flight, whichever class it has.
func TestReasonInFlight(t *testing.T) {
	s := newSides(t)
	const key = "/registry/secrets/ns/"
	s.fill(s.source, map[string]string{key + "a": "1", key + "b": "1", key + "c": "1"})
	m := s.mirror(etcdmirror.Config{})
	s.sync(m)
	m.stop()
	cfg := drcheck.Config{Name: "test", Settle: brief}
	if r := s.check(cfg); !r.Equal {
		t.Errorf("%+v", r.Differences)
	}
	for _, c := range []struct {
		change func()
		key    string
		class  drcheck.Class
	}{
		{func() { s.put(s.source, key+"a", "2") }, key + "a", drcheck.Different},
		{func() { s.delete(s.source, key+"b") }, key + "b", drcheck.Surplus},
		{func() { s.put(s.source, key+"d", "1") }, key + "d", drcheck.Missed},
	} {
		c.change()
		mustDiffer(t, s.check(cfg), c.key, c.class, drcheck.ReasonInFlight)
		m = s.mirror(etcdmirror.Config{})
		s.sync(m)
		if r := s.check(cfg); !r.Equal {
			t.Errorf("%+v", r.Differences)
		}
		m.stop()
	}
	// Where the log no longer reaches back to the mirror, it is in flight all the same.
	s.put(s.source, key+"a", "3")
	s.compact(s.source)
	mustDiffer(t, s.check(cfg), key+"a", drcheck.Different, drcheck.ReasonInFlight)
}

// While a copy is under way nothing is known to be wrong.
func TestReasonCopying(t *testing.T) {
	s := newSides(t)
	s.fill(s.source, map[string]string{"/registry/secrets/ns/a": "1", "/registry/secrets/ns/b": "1"})
	hold, held := make(chan struct{}), make(chan struct{})
	m := s.mirror(etcdmirror.Config{BatchOps: 1, InFlight: 1, Hooks: etcdmirror.Hooks{Applied: func(i etcdmirror.AppliedInfo) {
		if i.Puts > 0 {
			select {
			case held <- struct{}{}:
				<-hold
			case <-hold:
			}
		}
	}}})
	<-held
	r := s.check(drcheck.Config{Name: "test", Settle: brief})
	if len(r.Differences) == 0 || r.Equal {
		t.Fatal("nothing differs in the middle of a copy")
	}
	for _, d := range r.Differences {
		if d.Class != drcheck.Missed || d.Reason != drcheck.ReasonCopying {
			t.Errorf("%+v", d)
		}
	}
	close(hold)
	s.sync(m)
	if r := s.check(drcheck.Config{Name: "test"}); !r.Equal {
		t.Errorf("%+v", r.Differences)
	}
}

func TestReasonGuarded(t *testing.T) {
	s := newSides(t)
	const key = "/registry/secrets/ns/a"
	guard := func(_ string, value []byte) error {
		if strings.HasPrefix(string(value), "bad") {
			return errors.New("it is bad")
		}
		return nil
	}
	m := s.mirror(etcdmirror.Config{Unchecked: true, Guards: []etcdmirror.Guard{func(k string, v []byte) error { return guard(k, v) }}})
	s.put(s.source, key, "bad 1")
	s.sync(m)
	cfg := drcheck.Config{Name: "test"}
	if d := mustDiffer(t, s.check(cfg), key, drcheck.Missed, drcheck.ReasonGuarded); d.Detail != "it is bad" {
		t.Errorf("%+v", d)
	}
	s.put(s.source, key, "good")
	s.put(s.source, key, "bad 2")
	s.sync(m)
	mustDiffer(t, s.check(cfg), key, drcheck.Different, drcheck.ReasonGuarded)
}

// What the target's own cluster does, and what the garbage collector there makes of missing owners.
func TestReasonsOfTheTarget(t *testing.T) {
	s := newSides(t)
	const (
		deployment = "/registry/deployments/ns/owner"
		replicas   = "/registry/replicasets/ns/dependent"
		custom     = "/registry/example.com/things/ns/dependent"
		secret     = "/registry/secrets/ns/plain"
		own        = "/registry/secrets/ns/own"
	)
	pod := object("Pod", "p", "u-pod", "", `,"status":{"phase":"Pending"}`)
	all := map[string]string{
		deployment:              object("Deployment", "owner", "u-1", "", ""),
		replicas:                object("ReplicaSet", "dependent", "u-2", ownedBy("apps/v1", "Deployment", "owner", "u-1"), ""),
		"/registry/minions/one": object("Node", "one", "u-3", "", ""),
		custom:                  object("Thing", "dependent", "u-4", ownedBy("v1", "Node", "one", "u-3"), ""),
		"/registry/pods/ns/p":   pod,
		secret:                  "1",
	}
	s.fill(s.source, all)
	keep := func(key []byte) bool { return !strings.HasPrefix(string(key), "/registry/minions/") }
	m := s.mirror(etcdmirror.Config{Keep: keep, KeepID: "no nodes"})
	s.sync(m)
	cfg := drcheck.Config{Name: "test", Keep: keep, KeepID: "no nodes"}
	// noted waits until the mirror knows, and has saved, what was done.
	noted := func(n int) {
		t.Helper()
		s.eventually("note of what was done", func() bool {
			md, err := etcdmirror.ReadMetadata(s.ctx, s.target, "test")
			return err == nil && len(md.Drift)+len(md.Foreign) == n
		})
	}
	restore := func(keys ...string) {
		t.Helper()
		for _, key := range keys {
			s.delete(s.source, key)
			s.put(s.source, key, all[key])
		}
		s.sync(m)
		noted(0)
	}
	s.put(s.target, secret, "2")
	noted(1)
	mustDiffer(t, s.check(cfg), secret, drcheck.Different, drcheck.ReasonChangedAtTarget)
	restore(secret)

	s.delete(s.target, secret)
	noted(1)
	mustDiffer(t, s.check(cfg), secret, drcheck.Missed, drcheck.ReasonChangedAtTarget)
	restore(secret)

	s.put(s.target, own, "own")
	noted(1)
	mustDiffer(t, s.check(cfg), own, drcheck.Surplus, drcheck.ReasonMadeAtTarget)
	accepting := cfg
	accepting.AcceptMadeAtTarget = true
	r := s.check(accepting)
	if d := mustDiffer(t, r, own, drcheck.Surplus, drcheck.ReasonMadeAtTarget); !d.Accepted || r.Count.Accepted != 1 || r.Count.Total() != 0 {
		t.Errorf("%+v: %+v", d, r.Count)
	}
	s.delete(s.target, own)
	noted(0)

	s.delete(s.target, replicas)
	s.delete(s.target, deployment)
	noted(2)
	r = s.check(cfg)
	if len(r.Differences) != 2 || r.Differences[0].Key != deployment || r.Differences[0].Reason != drcheck.ReasonChangedAtTarget ||
		r.Differences[1].Key != replicas || r.Differences[1].Reason != drcheck.ReasonOwnerMissing || r.Differences[1].Detail != deployment {
		t.Errorf("%+v", r.Differences)
	}
	restore(deployment, replicas)

	s.delete(s.target, custom)
	noted(1)
	if d := mustDiffer(t, s.check(cfg), custom, drcheck.Missed, drcheck.ReasonOwnerExcluded); d.Detail != "/registry/minions/one" {
		t.Errorf("%+v", d)
	}
	restore(custom)

	s.put(s.target, "/registry/pods/ns/p", strings.Replace(pod, "Pending", "Running", 1))
	noted(1)
	mustDiffer(t, s.check(cfg), "/registry/pods/ns/p", drcheck.Different, drcheck.ReasonStatus)
	s.put(s.target, "/registry/pods/ns/p", strings.Replace(pod, `"manager":"m"`, `"manager":"n"`, 1))
	mustDiffer(t, s.check(cfg), "/registry/pods/ns/p", drcheck.Different, drcheck.ReasonManagedFields)
	s.put(s.target, "/registry/pods/ns/p", pod[:len(pod)/2])
	if d := mustDiffer(t, s.check(cfg), "/registry/pods/ns/p", drcheck.Different, drcheck.ReasonUnreadable); d.Detail == "" {
		t.Error("no word on why it cannot be read")
	}
	restore("/registry/pods/ns/p")

	if _, err := etcdmirror.Promote(s.ctx, s.target, "test", etcdmirror.PromoteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.put(s.target, secret, "the new primary's")
	mustDiffer(t, s.check(cfg), secret, drcheck.Different, drcheck.ReasonPromoted)
	if r := s.check(cfg); r.Mirror == nil || r.Mirror.Phase != "promoted" {
		t.Errorf("%+v", r.Mirror)
	}
}

func TestReasonExpired(t *testing.T) {
	s := newSides(t)
	const key = "/registry/secrets/ns/brief"
	lease, err := s.source.Grant(s.ctx, 3600)
	if err != nil {
		t.Fatal(err)
	}
	s.put(s.source, key, "1", clientv3.WithLease(lease.ID))
	m := s.mirror(etcdmirror.Config{Leases: etcdmirror.LeaseMirror})
	s.sync(m)
	m.stop()
	if _, err := s.target.Revoke(s.ctx, lease.ID); err != nil {
		t.Fatal(err)
	}
	c := s.checker(drcheck.Config{Name: "test"})
	result, err := c.Check(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	mustDiffer(t, result, key, drcheck.Missed, drcheck.ReasonExpired)
	// Put without its lease it would stay for ever.
	plan, err := c.PlanRepair(s.ctx, result, drcheck.RepairOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if report, err := c.Repair(s.ctx, plan); err != nil || report.Put != 0 || len(report.Skipped) != 1 {
		t.Errorf("%v, %+v", err, report)
	}
}

// Without a name nothing is known of a mirror; the keys are compared all the same.
func TestWithoutAMirror(t *testing.T) {
	s := newSides(t)
	s.fill(s.source, map[string]string{"/registry/secrets/ns/a": "1", "/registry/secrets/ns/b": "1"})
	s.fill(s.target, map[string]string{"/registry/secrets/ns/a": "1", "/registry/secrets/ns/b": "2"})
	mustDiffer(t, s.check(drcheck.Config{Settle: brief}), "/registry/secrets/ns/b", drcheck.Different, drcheck.ReasonUnknown)
	if _, err := s.checker(drcheck.Config{Name: "test"}).Check(s.ctx); !errors.Is(err, drcheck.ErrNoMirror) {
		t.Errorf("with a name that no mirror has: %v", err)
	}
}

// sealed values hold their plaintext behind a key's name and a nonce, which no two encryptions share.
func sealed(key, nonce, plain string) string {
	return "k8s:enc:aescbc:v1:" + key + ":" + nonce + plain
}

func opener(keys ...string) drcheck.Opener {
	return func(_ context.Context, _ string, value []byte) ([]byte, error) {
		for _, key := range keys {
			if rest, ok := strings.CutPrefix(string(value), "k8s:enc:aescbc:v1:"+key+":"); ok {
				return []byte(rest[4:]), nil
			}
		}
		return nil, errors.New("no key opens it")
	}
}

// Encrypted values are compared by what they hold, where that can be opened, and else byte by byte.
func TestEncryptedValues(t *testing.T) {
	s := newSides(t)
	const key = "/registry/secrets/ns/a"
	both := drcheck.Config{Settle: brief, OpenSource: opener("one"), OpenTarget: opener("two")}
	set := func(source, target string) { s.put(s.source, key, source); s.put(s.target, key, target) }

	set(sealed("one", "1234", "plain"), sealed("two", "5678", "plain"))
	if r := s.check(both); !r.Equal {
		t.Errorf("%+v", r.Differences)
	}
	mustDiffer(t, s.check(drcheck.Config{Settle: brief}), key, drcheck.Different, drcheck.ReasonUnknown)
	set(sealed("one", "1234", "plain"), sealed("two", "5678", "other"))
	mustDiffer(t, s.check(both), key, drcheck.Different, drcheck.ReasonUnknown)
	// The same bytes are of no use to a standby that has no key for them.
	set(sealed("one", "1234", "plain"), sealed("one", "1234", "plain"))
	if d := mustDiffer(t, s.check(both), key, drcheck.Different, drcheck.ReasonUnreadable); d.Detail != "no key opens it" {
		t.Errorf("%+v", d)
	}
	if r := s.check(drcheck.Config{Settle: brief}); !r.Equal {
		t.Errorf("%+v", r.Differences)
	}
	// Of an object, only what is inside tells that nothing but its status differs.
	pod := object("Pod", "p", "u-pod", "", `,"status":{"phase":"Pending"}`)
	set(sealed("one", "1234", pod), sealed("two", "5678", strings.Replace(pod, "Pending", "Running", 1)))
	mustDiffer(t, s.check(both), key, drcheck.Different, drcheck.ReasonStatus)
	// One side may be in clear.
	set(pod, sealed("two", "5678", pod))
	if r := s.check(both); !r.Equal {
		t.Errorf("%+v", r.Differences)
	}
}

// The check covers a part of the source; owners live outside of it.
func TestOwnersOutsideOfThePrefix(t *testing.T) {
	for name, prefixes := range map[string][2]string{
		"same prefix":   {"/registry/example.com/things/a-long-namespace/", ""},
		"other prefix":  {"/registry/example.com/things/", "/c/"},
		"longer prefix": {"/registry/example.com/things/a-long-namespace/", "/c/"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSides(t)
			const owner, dependent = "/registry/minions/n", "/registry/example.com/things/a-long-namespace/d"
			s.put(s.source, owner, object("Node", "n", "uid-o", "", ""))
			s.put(s.source, dependent, object("Thing", "d", "uid-d", ownedBy("v1", "Node", "n", "uid-o"), ""))
			m := s.mirror(etcdmirror.Config{RepairDelay: time.Millisecond, Prefix: prefixes[0], TargetPrefix: prefixes[1]})
			s.sync(m)
			there := dependent
			if prefixes[1] != "" {
				there = prefixes[1] + strings.TrimPrefix(dependent, prefixes[0])
			}
			s.delete(s.target, there)
			r := s.check(drcheck.Config{Name: "test", Prefix: prefixes[0], TargetPrefix: prefixes[1], Settle: 300 * time.Millisecond})
			if len(r.Differences) != 1 || r.Differences[0].Reason == drcheck.ReasonOwnerMissing {
				t.Errorf("%+v", r.Differences)
			}
		})
	}
}
