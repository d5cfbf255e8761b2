package etcdmirror_test

import (
	"fmt"
	"math/rand/v2"
	"sort"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
	"github.com/understudy-dr/understudy/internal/testutil/kubeobj"
	"github.com/understudy-dr/understudy/internal/testutil/realcluster"
	"github.com/understudy-dr/understudy/keyfilter"
)

// TestP1ARealClusterConverges mirrors the content of a real Kubernetes cluster through the default filter, then changes it live.
func TestP1ARealClusterConverges(t *testing.T) {
	p := newRecordedPair(t, embedetcd.Options{}, embedetcd.Options{Members: 3})
	if err := realcluster.Load(p.ctx, p.source, realcluster.LoadOptions{}); err != nil {
		t.Fatal(err)
	}
	filter, err := keyfilter.New(keyfilter.Config{})
	if err != nil {
		t.Fatal(err)
	}
	p.oracle.Keep = filter.Match
	r := p.start(etcdmirror.Config{Keep: filter.Match, KeepID: filter.Hash()})
	p.sync(r)
	kept := p.mustEqual("/registry/", filter.Match)
	if kept < 50 || kept > 300 {
		t.Errorf("%d of %d keys kept", kept, len(realcluster.Keys()))
	}
	if kvs := p.get(p.target, "/registry/leases/"); len(kvs) != 0 {
		t.Errorf("%d leases of the source at the target", len(kvs))
	}
	before := r.Status()
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range 300 {
		name := fmt.Sprintf("/registry/configmaps/team-a/live-%d", rng.IntN(50))
		if rng.IntN(3) == 0 {
			p.delete(p.source, name)
		} else {
			p.put(p.source, name, fmt.Sprint("value ", i))
		}
		p.put(p.source, "/registry/leases/kube-system/kube-scheduler", fmt.Sprint(i))
	}
	p.sync(r)
	p.mustEqual("/registry/", filter.Match)
	after := r.Status()
	// An event that the filter drops costs no write at the target: at most one transaction per kept change, and the last to save the progress.
	if n := after.Transactions - before.Transactions; n > 302 {
		t.Errorf("%d transactions for 300 kept changes", n)
	}
	r.stop()
	p.check()
}

func TestEmptySourceAndFilterThatKeepsNothing(t *testing.T) {
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
	r := p.start(etcdmirror.Config{})
	p.sync(r)
	r.stop()
	p.mustEqual("/registry/", nil)

	p = newPair(t, embedetcd.Options{}, embedetcd.Options{})
	nothing := func([]byte) bool { return false }
	for i := range 50 {
		p.put(p.source, key(i), "v")
	}
	p.put(p.target, key(0), "the standby's own")
	r = p.start(etcdmirror.Config{Keep: nothing, KeepID: "nothing"})
	p.sync(r)
	written := r.Status().Transactions
	for i := range 200 {
		p.put(p.source, key(i), "w")
	}
	p.sync(r)
	if s := r.Status(); s.Puts != 0 || s.Deletes != 0 || s.Filtered != 250 || s.Transactions-written > 2 {
		t.Errorf("status %+v", s)
	}
	if kvs := p.get(p.target, "/registry/"); len(kvs) != 1 {
		t.Errorf("%d keys at the target", len(kvs))
	}
}

// TestP10OrderOfTheBaseCopy: definitions, namespaces (each with its ServiceAccount "default" in the same revision), ServiceAccounts, then owners before dependents,
// in data where the order of keys is the opposite.
func TestP10OrderOfTheBaseCopy(t *testing.T) {
	p := newRecordedPair(t, embedetcd.Options{}, embedetcd.Options{})
	rng := rand.New(rand.NewPCG(3, 3))
	var above kubeobj.Object
	// A chain: each object owns the one before it in key order.
	for i := 99; i >= 0; i-- {
		obj := kubeobj.Object{APIVersion: "v1", Kind: "ConfigMap", Namespace: "ns1", Name: fmt.Sprintf("c%02d", i), UID: kubeobj.UID(rng)}
		if i < 99 {
			obj.Owners = []kubeobj.Owner{above.AsOwner()}
		}
		above = obj
		value := obj.Protobuf()
		if i%2 == 0 {
			value = obj.JSON()
		}
		p.put(p.source, "/registry/configmaps/ns1/"+obj.Name, string(value))
	}
	for i := range 40 {
		ns := fmt.Sprintf("ns%d", i)
		for _, k := range []string{"/registry/secrets/" + ns + "/token", "/registry/serviceaccounts/" + ns + "/builder", "/registry/serviceaccounts/" + ns + "/default", "/registry/namespaces/" + ns} {
			p.put(p.source, k, string(kubeobj.Object{Kind: "X", Name: k, UID: kubeobj.UID(rng)}.Protobuf()))
		}
	}
	p.put(p.source, "/registry/stable.example.com/widgets/default", string(kubeobj.Object{Kind: "Widget", Name: "default", UID: kubeobj.UID(rng)}.JSON()))
	p.put(p.source, "/registry/apiextensions.k8s.io/customresourcedefinitions/widgets.stable.example.com", string(kubeobj.Object{Kind: "CustomResourceDefinition", Name: "widgets.stable.example.com", UID: kubeobj.UID(rng)}.JSON()))
	var encrypted []string // cannot be read: they follow create_revision, which is not the order of their keys
	for _, i := range rng.Perm(30) {
		k := fmt.Sprintf("/registry/secrets/ns1/e%02d", i)
		p.put(p.source, k, string(kubeobj.Object{Kind: "Secret", Name: k, UID: kubeobj.UID(rng), Fill: uint64(i)}.Encrypted("aescbc", "key1")))
		encrypted = append(encrypted, k)
	}

	r := p.start(etcdmirror.Config{BatchOps: 8, InFlight: 8})
	p.sync(r)
	r.stop()
	p.check() // owners before dependents
	target := p.get(p.target, "/registry/")
	created := func(k string) int64 { return target[k].CreateRevision }
	last := map[string]int64{} // class -> its last revision
	first := map[string]int64{}
	for k, kv := range target {
		class := strings.SplitN(strings.TrimPrefix(k, "/registry/"), "/", 2)[0]
		if strings.HasSuffix(k, "/default") && class == "serviceaccounts" {
			class = "default serviceaccounts"
			if ns := "/registry/namespaces/" + strings.Split(k, "/")[3]; kv.CreateRevision != created(ns) {
				t.Errorf("%s came in revision %d, its namespace in %d", k, kv.CreateRevision, created(ns))
			}
		}
		last[class] = max(last[class], kv.CreateRevision)
		if first[class] == 0 || kv.CreateRevision < first[class] {
			first[class] = kv.CreateRevision
		}
	}
	for _, order := range [][2]string{{"apiextensions.k8s.io", "namespaces"}, {"namespaces", "serviceaccounts"}, {"serviceaccounts", "secrets"}, {"serviceaccounts", "configmaps"}, {"apiextensions.k8s.io", "stable.example.com"}} {
		if last[order[0]] >= first[order[1]] {
			t.Errorf("the last of %s came in revision %d, the first of %s in %d", order[0], last[order[0]], order[1], first[order[1]])
		}
	}
	if !sort.SliceIsSorted(encrypted, func(i, j int) bool { return created(encrypted[i]) < created(encrypted[j]) }) {
		t.Error("values that cannot be read did not come in the order of their create_revision")
	}
}

// TestP2OneRevisionInManyFragments: a source transaction that the watch delivers in fragments, and that exceeds the target's limit, comes as parts, and the checkpoint only with the last.
func TestP2OneRevisionInManyFragments(t *testing.T) {
	p := newRecordedPair(t, embedetcd.Options{MaxTxnOps: 1000, MaxRequestBytes: 12 << 20}, embedetcd.Options{})
	cfg := p.sourceCluster.ClientConfig()
	cfg.MaxCallSendMsgSize = 16 << 20
	big := connect(t, cfg)
	r := p.start(etcdmirror.Config{})
	p.put(p.source, key(0), "v")
	p.sync(r)
	for round := range 3 {
		ops := make([]clientv3.Op, 600)
		for i := range ops {
			ops[i] = clientv3.OpPut(key(i), strings.Repeat(fmt.Sprint(round), 16<<10))
		}
		if _, err := big.Txn(p.ctx).Then(ops...).Commit(); err != nil {
			t.Fatal(err)
		}
		p.delete(p.source, "/registry/configmaps/ns4/", clientv3.WithPrefix())
	}
	p.sync(r)
	p.mustEqual("/registry/", nil)
	if s := r.Status(); s.Splits < 3 { // more where a slow machine made it begin a revision again
		t.Errorf("%d splits, want 3", s.Splits)
	}
	r.stop()
	p.check()
}
