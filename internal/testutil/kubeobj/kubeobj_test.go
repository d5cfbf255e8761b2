package kubeobj

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
)

func TestMain(m *testing.M) { testutil.Main(m) }

func sample() Object {
	return Object{
		APIVersion: "apps/v1", Kind: "ReplicaSet", Namespace: "team-00", Name: "web", UID: "11111111-2222-4333-8444-555555555555",
		Labels: map[string]string{"b": "2", "a": "1"}, Annotations: map[string]string{"note": "x"},
		Owners:     []Owner{{"apps/v1", "Deployment", "web", "u1"}, {"v1", "Node", "n", "u2"}},
		Generation: 7, Padding: 300 << 10, Fill: 99,
	}
}

// decodeProtobuf reads a value with the decoders of Kubernetes.
func decodeProtobuf(t *testing.T, value []byte) (runtime.TypeMeta, metav1.ObjectMeta, []byte) {
	t.Helper()
	body, ok := bytes.CutPrefix(value, []byte("k8s\x00"))
	if !ok {
		t.Fatal("no envelope")
	}
	var u runtime.Unknown
	if err := u.Unmarshal(body); err != nil {
		t.Fatal(err)
	}
	num, typ, n := protowire.ConsumeTag(u.Raw)
	if num != 1 || typ != protowire.BytesType {
		t.Fatalf("the object begins with field %d", num)
	}
	content, m := protowire.ConsumeBytes(u.Raw[n:])
	var meta metav1.ObjectMeta
	if err := meta.Unmarshal(content); err != nil {
		t.Fatal(err)
	}
	return u.TypeMeta, meta, u.Raw[n+m:]
}

func TestProtobufIsWhatKubernetesDecodes(t *testing.T) {
	o := sample()
	typ, meta, rest := decodeProtobuf(t, o.Protobuf())
	if typ.Kind != o.Kind || typ.APIVersion != o.APIVersion {
		t.Errorf("type %+v", typ)
	}
	want := o.meta()
	if diff := cmp.Diff(want.OwnerReferences, meta.OwnerReferences); diff != "" {
		t.Error(diff)
	}
	if meta.Name != o.Name || meta.Namespace != o.Namespace || string(meta.UID) != o.UID || meta.Generation != 7 || !cmp.Equal(meta.Labels, o.Labels) {
		t.Errorf("metadata %+v", meta)
	}
	num, _, n := protowire.ConsumeTag(rest)
	entry, m := protowire.ConsumeBytes(rest[n:])
	if num != 2 || n+m != len(rest) || len(entry) < o.Padding {
		t.Errorf("data field %d of %d bytes", num, len(entry))
	}
	o.Padding = 0
	if _, _, rest := decodeProtobuf(t, o.Protobuf()); len(rest) != 0 {
		t.Error("an object without padding has a data field")
	}
}

func TestJSONIsWhatKubernetesDecodes(t *testing.T) {
	o := sample()
	var meta struct {
		metav1.TypeMeta   `json:",inline"`
		metav1.ObjectMeta `json:"metadata"`
		Spec              struct{ Data string } `json:"spec"`
	}
	if err := json.Unmarshal(o.JSON(), &meta); err != nil {
		t.Fatal(err)
	}
	if meta.Kind != o.Kind || meta.APIVersion != o.APIVersion || string(meta.UID) != o.UID || len(meta.Spec.Data) != o.Padding {
		t.Errorf("%+v %+v", meta.TypeMeta, meta.ObjectMeta)
	}
	if diff := cmp.Diff(o.meta().OwnerReferences, meta.OwnerReferences); diff != "" {
		t.Error(diff)
	}
}

func TestIdentify(t *testing.T) {
	o := sample()
	for name, value := range map[string][]byte{"protobuf": o.Protobuf(), "JSON": o.JSON()} {
		uid, owners := Identify(value)
		if uid != o.UID || !slices.Equal(owners, []string{"u1", "u2"}) {
			t.Errorf("%s: UID %q, owners %q", name, uid, owners)
		}
		for cut := range min(200, len(value)) { // a torn value must not panic
			if uid, _ := Identify(value[:cut]); uid != "" && uid != o.UID {
				t.Errorf("%s cut to %d bytes: UID %q", name, cut, uid)
			}
		}
	}
	for _, value := range []string{"", "{}", "null", `{"metadata":null}`, "k8s\x00", "k8s\x00\xff", string(o.Encrypted("aescbc", "key1"))} {
		if uid, owners := Identify([]byte(value)); uid != "" || owners != nil {
			t.Errorf("%.20q: UID %q, owners %q", value, uid, owners)
		}
	}
}

func TestEncryptedHasWholeBlocks(t *testing.T) {
	for padding := range 100 {
		o := sample()
		o.Padding = padding
		body, ok := bytes.CutPrefix(o.Encrypted("aescbc", "key1"), []byte("k8s:enc:aescbc:v1:key1:"))
		if !ok || len(body)%16 != 0 || len(body) < 16+32 {
			t.Fatalf("padding %d: header %v, body %d", padding, ok, len(body))
		}
	}
	if v := sample().Encrypted("kms", "plugin"); !bytes.HasPrefix(v, []byte("k8s:enc:kms:v2:plugin:")) {
		t.Error("KMS v2 has another header")
	}
}

func TestUIDs(t *testing.T) {
	form := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	rng := rand.New(rand.NewPCG(3, 4))
	seen := map[string]bool{}
	for range 10000 {
		u := UID(rng)
		if !form.MatchString(u) || seen[u] {
			t.Fatal(u)
		}
		seen[u] = true
	}
}

func TestSameInputsSameBytes(t *testing.T) {
	a, b, c := sample(), sample(), sample()
	c.Fill++
	for name, f := range map[string]func(Object) []byte{
		"Protobuf": Object.Protobuf, "JSON": Object.JSON,
		"Encrypted": func(o Object) []byte { return o.Encrypted("aescbc", "k") },
	} {
		if !bytes.Equal(f(a), f(b)) {
			t.Errorf("%s differs for equal objects", name)
		}
		if bytes.Equal(f(a), f(c)) {
			t.Errorf("%s is equal for another Fill", name)
		}
	}
	sum := func(seed uint64) (string, int) {
		h, n := "", 0
		for k, v := range Dataset(rand.New(rand.NewPCG(seed, 0)), 500) {
			h += fmt.Sprintf("%s %x\n", k, v)
			n++
		}
		return h, n
	}
	a1, n := sum(1)
	a2, _ := sum(1)
	b1, _ := sum(2)
	if n != 500 || a1 != a2 || a1 == b1 {
		t.Errorf("%d pairs; the same seed gives the same: %v; another seed another: %v", n, a1 == a2, a1 != b1)
	}
}

// identityOf reads UID and owners; false for what is encrypted.
func identityOf(t *testing.T, value []byte) (uid, namespace string, owners []string, ok bool) {
	t.Helper()
	var meta metav1.ObjectMeta
	switch {
	case bytes.HasPrefix(value, []byte("k8s:enc:")):
		return "", "", nil, false
	case value[0] == '{':
		doc := struct {
			Metadata *metav1.ObjectMeta `json:"metadata"`
		}{&meta}
		if err := json.Unmarshal(value, &doc); err != nil {
			t.Fatal(err)
		}
	default:
		_, meta, _ = decodeProtobuf(t, value)
	}
	for _, o := range meta.OwnerReferences {
		owners = append(owners, string(o.UID))
	}
	return string(meta.UID), meta.Namespace, owners, true
}

func TestDatasetHasTheShapeOfACluster(t *testing.T) {
	const n = 20000
	began := time.Now()
	var total, within, largest, encrypted, owned int
	keys, uids, namespaces := map[string]bool{}, map[string]string{}, map[string]bool{}
	count := map[string]int{}
	for key, value := range Dataset(rand.New(rand.NewPCG(5, 6)), n) {
		if keys[key] {
			t.Fatalf("%s comes twice", key)
		}
		keys[key] = true
		count[strings.Split(key, "/")[2]]++
		total += len(value)
		largest = max(largest, len(value))
		if len(value) >= 1024 && len(value) <= 2048 {
			within++
		}
		uid, ns, owners, ok := identityOf(t, value)
		if !ok {
			encrypted++
			continue
		}
		if uids[uid] != "" {
			t.Fatalf("%s and %s have one UID", key, uids[uid])
		}
		uids[uid] = key
		if ns != "" {
			namespaces[ns] = true
			if !keys["/registry/namespaces/"+ns] {
				t.Fatalf("%s comes before its namespace", key)
			}
		}
		for _, o := range owners {
			owned++
			if uids[o] == "" {
				t.Fatalf("%s comes before its owner", key)
			}
			if !strings.Contains(uids[o], "/"+ns+"/") {
				t.Fatalf("%s has its owner %s in another namespace", key, uids[o])
			}
		}
	}
	t.Logf("%d keys in %v: mean %d, largest %d, %d within 1..2 KiB, %d encrypted, %d owned, %d namespaces\n%v",
		len(keys), time.Since(began), total/n, largest, within, encrypted, owned, len(namespaces), count)
	if len(keys) != n {
		t.Errorf("%d keys, want %d", len(keys), n)
	}
	if mean := float64(total) / n / 1024; mean < 2.2 || mean > 2.4 {
		t.Errorf("mean %.2f KiB", mean)
	}
	if share := float64(within) / n; share < 0.88 || share > 0.93 {
		t.Errorf("%.3f of the values have 1 to 2 KiB", share)
	}
	if largest < 50<<10 || largest > 66<<10 {
		t.Errorf("the largest value has %d bytes", largest)
	}
	if len(namespaces) != maxNamespaces || encrypted < n/20 || owned < n/4 {
		t.Errorf("%d namespaces, %d encrypted, %d owned", len(namespaces), encrypted, owned)
	}
}

func TestSmallAndVolatileSets(t *testing.T) {
	for n := range 200 {
		for name, seq := range map[string]func(*rand.Rand, int) int{
			"Dataset": func(r *rand.Rand, n int) (c int) {
				for range Dataset(r, n) {
					c++
				}
				return c
			},
			"Volatile": func(r *rand.Rand, n int) (c int) {
				seen := map[string]bool{}
				for _, v := range Volatile(r, n) {
					uid, _, owners, _ := identityOf(t, v)
					for _, o := range owners {
						if !seen[o] {
							t.Fatal("a dependent comes before its owner")
						}
					}
					seen[uid] = true
					c++
				}
				return c
			},
		} {
			if got := seq(rand.New(rand.NewPCG(1, 1)), n); got != n {
				t.Errorf("%s of %d yields %d", name, n, got)
			}
		}
	}
	for range Dataset(rand.New(rand.NewPCG(1, 1)), 100) {
		break // an early end must not panic
	}
}

func TestLoadDatasetCommitsOwnersFirst(t *testing.T) {
	ctx := testutil.Context(t)
	c := testutil.NewCluster(t, embedetcd.Options{})
	cli := testutil.Client(t, c)
	const n = 5000
	began := time.Now()
	if err := LoadDataset(ctx, cli, n, 4); err != nil {
		t.Fatal(err)
	}
	t.Logf("loaded in %v", time.Since(began))
	r, err := cli.Get(ctx, "/registry/", clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByCreateRevision, clientv3.SortAscend))
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Kvs) != n {
		t.Fatalf("%d keys, want %d", len(r.Kvs), n)
	}
	created, deps := map[string]int64{}, 0
	for _, kv := range r.Kvs {
		if uid, _, _, ok := identityOf(t, kv.Value); ok {
			created[uid] = kv.CreateRevision
		}
	}
	for _, kv := range r.Kvs {
		_, _, owners, _ := identityOf(t, kv.Value)
		for _, o := range owners {
			deps++
			if created[o] == 0 || created[o] >= kv.CreateRevision {
				t.Fatalf("%s was created at %d, its owner at %d", kv.Key, kv.CreateRevision, created[o])
			}
		}
	}
	if deps < n/5 {
		t.Errorf("only %d owner references", deps)
	}
}

func BenchmarkDataset(b *testing.B) {
	for b.Loop() {
		for range Dataset(rand.New(rand.NewPCG(1, 1)), 100_000) {
		}
	}
}
