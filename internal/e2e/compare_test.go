package e2e_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/tools/pager"

	"github.com/understudy-dr/understudy/keyfilter"
)

// liveOwned are the fields of mirrored objects that a live standby owns, so that they may differ from the primary's. All others have to be equal.
var liveOwned = []struct {
	resource string // "" is every one
	path     []string
	reason   string
}{
	{"", []string{"metadata", "resourceVersion"}, "it is the revision of the etcd that the object was read from, and each etcd counts its own"},
	{"deployments.apps", []string{"status"}, "the standby's own controllers report what runs there"},
	{"deployments.apps", []string{"metadata", "managedFields"}, "it records when they did"},
	{"replicasets.apps", []string{"status"}, "the standby's own controllers report what runs there"},
	{"replicasets.apps", []string{"metadata", "managedFields"}, "it records when they did"},
	{token, []string{"data", "ca.crt"}, "the standby's controllers write the CA of their own API servers into ServiceAccount tokens"},
	{token, []string{"metadata", "managedFields"}, "it records when they did"},
}

// token is what liveOwned calls Secrets that are ServiceAccount tokens.
const token = "secrets of ServiceAccounts"

// id names an object in both clusters.
type id struct{ group, resource, namespace, name string }

func (i id) kind() string {
	if i.group == "" {
		return i.resource
	}
	return i.resource + "." + i.group
}

func (i id) String() string { return strings.Trim(i.kind()+" "+i.namespace+"/"+i.name, "/") }

// served reads every object of every resource that a site's API server lists, page by page.
func (s *site) served(ctx context.Context, t *testing.T) map[id]*unstructured.Unstructured {
	t.Helper()
	lists, err := s.Client().Discovery().ServerPreferredResources()
	if err != nil {
		t.Fatalf("%s: %v", s.name, err)
	}
	all := map[id]*unstructured.Unstructured{}
	for _, list := range discovery.FilteredBy(discovery.SupportsAllVerbs{Verbs: []string{"list", "get"}}, lists) {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range list.APIResources {
			of := s.dynamic.Resource(gv.WithResource(r.Name))
			pages := pager.New(func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) { return of.List(ctx, opts) })
			pages.FullListIfExpired = false
			err := pages.EachListItem(ctx, metav1.ListOptions{Limit: 500}, func(o runtime.Object) error {
				u, ok := o.(*unstructured.Unstructured)
				if !ok {
					return errors.New("no unstructured object")
				}
				all[id{gv.Group, r.Name, u.GetNamespace(), u.GetName()}] = u
				return nil
			})
			if err != nil {
				t.Fatalf("%s: list %s: %v", s.name, r.Name, err)
			}
		}
	}
	return all
}

// kept are the objects in a site's etcd that the filter keeps.
func (p *pair) kept(ctx context.Context, s *site) map[id]bool {
	p.t.Helper()
	resp, err := s.etcd.Get(ctx, registry, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		p.t.Fatal(err)
	}
	all := map[id]bool{}
	for _, kv := range resp.Kvs {
		if !p.filter.Match(kv.Key) {
			continue
		}
		k, err := keyfilter.Parse(registry, kv.Key)
		if err != nil || !k.GroupKnown {
			p.t.Fatalf("%s is kept, and is of no known group: %v", kv.Key, err)
		}
		all[id{k.Group, k.Resource, k.Namespace, k.Name}] = true
	}
	return all
}

// differences compares every kept object as both API servers serve it. It tells paths, no values.
func (p *pair) differences(ctx context.Context) (texts []string, counts map[string]int) {
	p.t.Helper()
	want, have := p.kept(ctx, p.primary), p.kept(ctx, p.standby)
	from, to := p.primary.served(ctx, p.t), p.standby.served(ctx, p.t)
	counts = map[string]int{}
	for i := range want {
		a, b := from[i], to[i]
		switch {
		case a == nil:
			texts = append(texts, fmt.Sprintf("%s is not served by the primary", i))
		case b == nil:
			texts = append(texts, fmt.Sprintf("%s is not served by the standby", i))
		default:
			counts[i.kind()]++
			if paths := unequal(trim(i, a), trim(i, b), ""); len(paths) > 0 {
				texts = append(texts, fmt.Sprintf("%s differs at %s", i, strings.Join(paths, ", ")))
			}
		}
	}
	for i := range have {
		if !want[i] {
			texts = append(texts, fmt.Sprintf("%s is at the standby alone", i))
		}
	}
	slices.Sort(texts)
	return texts, counts
}

// trim takes out of a copy what a live standby owns.
func trim(i id, u *unstructured.Unstructured) map[string]any {
	c := u.DeepCopy().Object
	kind := i.kind()
	if kind == "secrets" && c["type"] == string(corev1.SecretTypeServiceAccountToken) {
		kind = token
	}
	for _, f := range liveOwned {
		if f.resource == "" || f.resource == kind {
			unstructured.RemoveNestedField(c, f.path...)
		}
	}
	return c
}

// unequal lists the paths at which two objects differ.
func unequal(a, b any, path string) (paths []string) {
	x, xIs := a.(map[string]any)
	y, yIs := b.(map[string]any)
	if !xIs || !yIs {
		if reflect.DeepEqual(a, b) {
			return nil
		}
		return []string{cmp.Or(path, "its root")}
	}
	for k := range x {
		paths = append(paths, unequal(x[k], y[k], path+"."+k)...)
	}
	for k := range y {
		if _, there := x[k]; !there {
			paths = append(paths, path+"."+k)
		}
	}
	slices.Sort(paths)
	return paths
}

// equal waits until both clusters serve the same, and logs how many objects were compared.
func (p *pair) equal(ctx context.Context, t *testing.T) {
	t.Helper()
	var counts map[string]int
	for attempt := 1; ; attempt++ {
		var texts []string
		if texts, counts = p.differences(ctx); len(texts) == 0 {
			break
		}
		if attempt == 10 { // controllers of either side may have been at work while the first lists were read
			t.Fatalf("%d objects differ:\n%s", len(texts), strings.Join(texts[:min(len(texts), 40)], "\n"))
		}
	}
	total := 0
	var parts []string
	for _, kind := range slices.Sorted(maps.Keys(counts)) {
		total += counts[kind]
		parts = append(parts, fmt.Sprintf("%s %d", kind, counts[kind]))
	}
	t.Logf("%d objects read through both API servers are equal: %s", total, strings.Join(parts, ", "))
}

// ownObjects are those of a site's excluded namespaces, with their resource versions. What its own components renew all the time is left out: Leases and Events.
func (s *site) ownObjects(ctx context.Context, t *testing.T) map[id]string {
	t.Helper()
	excluded := keyfilter.DefaultExcludedNamespaces()
	own := map[id]string{}
	for i, u := range s.served(ctx, t) {
		namespace := i.namespace
		if i.kind() == "namespaces" {
			namespace = i.name
		}
		if slices.Contains(excluded, namespace) && i.resource != "leases" && i.resource != "events" {
			own[i] = fmt.Sprintf("UID %s at %s", u.GetUID(), u.GetResourceVersion())
		}
	}
	return own
}
