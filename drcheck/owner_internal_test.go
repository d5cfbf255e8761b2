package drcheck

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utiljson "k8s.io/apimachinery/pkg/util/json"

	"github.com/understudy-dr/understudy/internal/kubemeta"
	"github.com/understudy-dr/understudy/internal/testutil/kubeobj"
	"github.com/understudy-dr/understudy/internal/testutil/realcluster"
)

// ownersOf reads owners with apimachinery's decoders.
func ownersOf(value []byte) ([]ownerReference, bool) {
	var object metav1.PartialObjectMetadata
	if body, ok := bytes.CutPrefix(value, []byte(protobufEnvelope)); ok {
		var u runtime.Unknown
		if u.Unmarshal(body) != nil || object.Unmarshal(u.Raw) != nil {
			return nil, false
		}
	} else if utiljson.Unmarshal(value, &object) != nil {
		return nil, false
	}
	var out []ownerReference
	for _, o := range object.OwnerReferences {
		if o.UID != "" {
			out = append(out, ownerReference{APIVersion: o.APIVersion, Kind: o.Kind, Name: o.Name, UID: string(o.UID)})
		}
	}
	return out, true
}

func TestReadOwners(t *testing.T) {
	withOwners := 0
	for _, obj := range realObjects(t) {
		want, _ := ownersOf(obj.Value)
		if diff := cmp.Diff(want, readOwners(obj.Value)); diff != "" {
			t.Errorf("%s: (-apimachinery +readOwners)\n%s", obj.Key, diff)
		}
		if want != nil {
			withOwners++
		}
	}
	if withOwners < 10 {
		t.Errorf("only %d objects have owners", withOwners)
	}
	first, second := kubeobj.Owner{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "rs", UID: "u1"}, kubeobj.Owner{APIVersion: "v1", Kind: "Node", Name: "node", UID: "u2"}
	noUID := kubeobj.Owner{APIVersion: "v1", Kind: "Pod", Name: "p"}
	want := []ownerReference{ownerReference(first), ownerReference(second)}
	object := kubeobj.Object{APIVersion: "v1", Kind: "Pod", Namespace: "ns", Name: "n", UID: "u", Owners: []kubeobj.Owner{first, noUID, second}}
	var fields map[string]any
	if err := json.Unmarshal(object.JSON(), &fields); err != nil {
		t.Fatal(err)
	}
	cbor, err := encodings["CBOR"](fields)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string][]byte{"protobuf": object.Protobuf(), "JSON": object.JSON(), "CBOR": cbor} {
		if diff := cmp.Diff(want, readOwners(value)); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", name, diff)
		}
		for end := range value[:len(value)-1] { // JSON ends with a line feed
			if owners := readOwners(value[:end]); owners != nil && unreadable(value[:end]) != "" {
				t.Errorf("%s: %d of %d bytes have %d owners", name, end, len(value), len(owners))
			}
		}
	}
	if owners := readOwners(object.Encrypted("aescbc", "key1")); owners != nil {
		t.Errorf("an encrypted value has %d owners", len(owners))
	}
}

func TestOwnerKeysOfARealCluster(t *testing.T) {
	keys := map[string]string{} // by UID
	references := 0
	for _, obj := range realObjects(t) {
		if uid, _ := kubeobj.Identify(obj.Value); uid != "" {
			keys[uid] = obj.Key
		}
	}
	// find is the place of the key that an owner with the reference has.
	find := func(dependent string, o ownerReference) int {
		t.Helper()
		if keys[o.UID] == "" {
			t.Fatalf("%s: its owner is not in the data", dependent)
		}
		parts := strings.Split(dependent, "/")
		namespace := parts[len(parts)-2] // for one without a namespace it is something else, which must not hurt
		candidates := ownerKeys(realcluster.Prefix, namespace, o)
		i := slices.Index(candidates, keys[o.UID])
		if i < 0 {
			t.Errorf("%s: owner %s is not among %q", dependent, keys[o.UID], candidates)
		}
		return i
	}
	kinds := map[string]bool{}
	for _, obj := range realObjects(t) {
		for _, o := range readOwners(obj.Value) {
			references++
			if place := find(obj.Key, o); place > 1 {
				t.Errorf("%s: owner %s comes after %d others", obj.Key, keys[o.UID], place)
			}
		}
		// Any object may own others that are beside it.
		var object metav1.PartialObjectMetadata
		if body, ok := bytes.CutPrefix(obj.Value, []byte(protobufEnvelope)); ok {
			var u runtime.Unknown
			if err := errors.Join(u.Unmarshal(body), object.Unmarshal(u.Raw)); err != nil {
				t.Fatal(err)
			}
			object.APIVersion, object.Kind = u.APIVersion, u.Kind
		} else if !kubemeta.JSON(obj.Value) {
			continue
		} else if err := utiljson.Unmarshal(obj.Value, &object); err != nil {
			t.Fatal(err)
		}
		if object.UID == "" || object.Kind == "PodThing" {
			continue // the resource of PodThing is pods, which nobody can guess
		}
		kinds[object.Kind] = true
		itself := ownerReference{APIVersion: object.APIVersion, Kind: object.Kind, Name: object.Name, UID: string(object.UID)}
		if place := find(obj.Key, itself); place > 1 {
			t.Errorf("%s: comes after %d others", obj.Key, place)
		}
	}
	if references < 10 || len(kinds) < 60 {
		t.Errorf("only %d references, and objects of %d kinds", references, len(kinds))
	}
}

func TestOwnerKeysOfKinds(t *testing.T) {
	for _, c := range []struct {
		prefix, apiVersion, kind, want string
		last                           int // the place that the key may have at most
	}{
		{"/registry/", "v1", "Endpoints", "/registry/services/endpoints/ns/o", 0},
		{"/registry/", "v1", "ReplicationController", "/registry/controllers/ns/o", 0},
		{"/registry/", "extensions/v1beta1", "Ingress", "/registry/ingress/ns/o", 0},
		{"/registry/", "policy/v1beta1", "PodSecurityPolicy", "/registry/podsecuritypolicy/o", 1},
		{"/registry/", "networking.k8s.io/v1", "IngressClass", "/registry/ingressclasses/o", 1},
		{"/registry/", "networking.k8s.io/v1", "NetworkPolicy", "/registry/networkpolicies/ns/o", 0},
		{"/registry/", "storage.k8s.io/v1", "CSIStorageCapacity", "/registry/csistoragecapacities/ns/o", 0},
		{"/registry/", "later.k8s.io/v1", "Thing", "/registry/things/o", 11},
		{"/registry", "argoproj.io/v1alpha1", "Rollout", "/registry/argoproj.io/rollouts/ns/o", 0},
		{"/registry/", "gateway.networking.k8s.io/v1", "Gateway", "/registry/gateway.networking.k8s.io/gateways/ns/o", 0},
		{"/registry/", "gateway.networking.k8s.io/v1", "GatewayClass", "/registry/gateway.networking.k8s.io/gatewayclasses/o", 1},
		{"/registry/", "monitoring.coreos.com/v1", "Prometheus", "/registry/monitoring.coreos.com/prometheuses/ns/o", 0},
		{"/registry/", "databases.spotahome.com/v1", "Redis", "/registry/databases.spotahome.com/redis/ns/o", 2},
		{"/registry/", "config.openshift.io/v1", "Proxy", "/registry/config.openshift.io/proxies/o", 1},
		{"/registry/", "maistra.io/v1", "Mesh", "/registry/maistra.io/meshes/ns/o", 0},
		{"/registry/", "example.com/v1", "Box", "/registry/example.com/boxs/ns/o", 5},
		{"/registry/", "example.com/v1", "Day", "/registry/example.com/daies/ns/o", 3}, // apimachinery's own guess
		{"/registry/", "example.com/v1", "Metadata", "/registry/example.com/metadata/ns/o", 3},
		{"/registry/", "example.com/v1", "Ingress", "/registry/example.com/ingresses/ns/o", 0},
		{"/registry/", "example.com/v1", "Y", "/registry/example.com/ys/ns/o", 0},
		{"/kubernetes.io/", "config.openshift.io/v1", "Ingress", "/kubernetes.io/config.openshift.io/ingresses/o", 1},
		{"/kubernetes.io/", "apps.openshift.io/v1", "DeploymentConfig", "/openshift.io/deploymentconfigs/ns/o", 6},
		{"/openshift.io/", "build.openshift.io/v1", "BuildConfig", "/openshift.io/buildconfigs/ns/o", 6},
		{"/openshift.io/", "apps/v1", "Deployment", "/kubernetes.io/deployments/ns/o", 0},
	} {
		keys := ownerKeys(c.prefix, "ns", ownerReference{APIVersion: c.apiVersion, Kind: c.kind, Name: "o", UID: "u"})
		if place := slices.Index(keys, c.want); place < 0 || place > c.last {
			t.Errorf("%s %s: %s has place %d of %q, want %d at most", c.apiVersion, c.kind, c.want, place, keys, c.last)
		}
	}
}

func TestOwnerKeysAreFewAndDistinct(t *testing.T) {
	const seed = 9
	rng := rand.New(rand.NewPCG(seed, 0))
	pick := func(from ...string) string { return from[rng.IntN(len(from))] }
	most := 0
	for range 3000 {
		o := ownerReference{APIVersion: pick("v1", "apps/v1", "batch/v1", "storage.k8s.io/v1", "example.com/v1", "apps.openshift.io/v1", "extensions/v1beta1"), Name: pick("o", "a:b", "1.2.3.4")}
		for range 1 + rng.IntN(6) {
			o.Kind += pick("P", "x", "s", "y", "ch", "e", "a", "z", "Node", "Ingress", "Service")
		}
		prefix, namespace := pick("/registry/", "/kubernetes.io/", "/openshift.io/", "/"), pick("", "ns")
		keys := ownerKeys(prefix, namespace, o)
		most = max(most, len(keys))
		seen := map[string]bool{}
		for _, key := range keys {
			if seen[key] || !strings.HasSuffix(key, "/"+o.Name) || !strings.HasPrefix(key, "/") || strings.Contains(key, "//") || namespace == "" && strings.Contains(key, "/ns/") {
				t.Fatalf("seed %d: %+v in %q below %q: %q among %q", seed, o, namespace, prefix, key, keys)
			}
			seen[key] = true
		}
		if len(keys) == 0 || len(keys) > 12 {
			t.Fatalf("seed %d: %+v has %d keys", seed, o, len(keys))
		}
	}
	if most != 12 {
		t.Errorf("%d keys at most: the references do not reach the bound", most)
	}
	sound := ownerReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "o", UID: "u"}
	for _, spoil := range []func(o *ownerReference){
		func(o *ownerReference) { o.APIVersion = "" },
		func(o *ownerReference) { o.APIVersion = "apps/" },
		func(o *ownerReference) { o.APIVersion = "a/b/v1" },
		func(o *ownerReference) { o.APIVersion = "../v1" },
		func(o *ownerReference) { o.Kind = "" },
		func(o *ownerReference) { o.Kind = "a/b" },
		func(o *ownerReference) { o.Name = "" },
		func(o *ownerReference) { o.Name = ".." },
		func(o *ownerReference) { o.Name = "a/b" },
	} {
		o := sound
		spoil(&o)
		if keys := ownerKeys("/registry/", "ns", o); keys != nil {
			t.Errorf("%+v: %q", o, keys)
		}
	}
	if keys := ownerKeys("/registry/", "a/b", sound); slices.ContainsFunc(keys, func(key string) bool { return strings.Contains(key, "a/b") }) || len(keys) == 0 {
		t.Errorf("a namespace that is none: %q", keys)
	}
}
