package keyfilter

import (
	"bufio"
	"errors"
	"os"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation"
)

// clusterKeys are all keys of the etcd of a real Kubernetes 1.36 cluster.
func clusterKeys(t testing.TB) []string {
	t.Helper()
	f, err := os.Open("testdata/kubernetes-1.36-keys.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var keys []string
	for s := bufio.NewScanner(f); s.Scan(); {
		keys = append(keys, s.Text())
	}
	if len(keys) != 492 {
		t.Fatalf("%d keys, want 492", len(keys))
	}
	return keys
}

// malformedKeys cannot be placed, each for its own reason.
var malformedKeys = []struct{ key, why string }{
	{"/registry/", whyEmptySegment},
	{"/registry//", whyEmptySegment},
	{"/registry/pods//p1", whyEmptySegment},
	{"/registry//pods/ns/p1", whyEmptySegment},
	{"/registry/pods/ns/p1/", whyEmptySegment},
	{"/registry/namespaces/", whyEmptySegment},
	{"/registry/pods/ns/.", whyDotSegment},
	{"/registry/pods/ns/..", whyDotSegment},
	{"/registry/./pods/ns", whyDotSegment},
	{"/registry/roles/ns/a%2fb", whyPercent},
	{"/registry/roles/ns/a\x00b", whyControl},
	{"/registry/roles/ns/a\nb", whyControl},
	{"/registry/roles/ns/a\x7f", whyControl},
	{"/registry/roles/ns/\xff", whyUTF8},
	{"/registry/roles/ns/\xed\xa0\x80", whyUTF8},
	{"/registry/\x00\x01\x02", whyControl},
	{"/registry/pods", whyOneSegment},
	{"/registry/compact_rev_key", whyOneSegment},
	{"/registry/stable.example.com", whyOneSegment},
	{"/registry/masterleases", whyOneSegment},
	{"/registry/pods/x", whyWantNamespace},
	{"/registry/pods/ns/x/y", whyWantNamespace},
	{"/registry/services/specs/x", whyWantNamespace},
	{"/registry/services/specs/ns/x/y", whyWantNamespace},
	{"/registry/minions/ns/n", whyWantCluster},
	{"/registry/namespaces/a/b", whyWantCluster},
	{"/registry/apiextensions.k8s.io/customresourcedefinitions/ns/x", whyWantCluster},
	{"/registry/services/ns/x", whyServices},
	{"/registry/services/status/ns/x", whyServices},
	{"/registry/nodes/n1", whyElsewhere},
	{"/registry/replicationcontrollers/ns/rc", whyElsewhere},
	{"/registry/ingresses/ns/i", whyElsewhere},
	{"/registry/podsecuritypolicies/p", whyElsewhere},
	{"/registry/endpoints/ns/e", whyElsewhere},
	{"/registry/rbac.authorization.k8s.io/roles/ns/r", whyElsewhere},
	{"/registry/internal.apiserver.k8s.io/storageversions/v", whyElsewhere},
	{"/registry/pods/Team_A/p", whyNamespace},
	{"/registry/newthings/a.b/n", whyNamespace},
	{"/registry/stable.example.com/widgets/-ns/n", whyNamespace},
	{"/registry/newthings/a/b/c", whyTooDeep},
	{"/registry/core/configmaps/root:org/default/cm", whyTooDeep}, // kcp's layout
	{"/registry/apis.kcp.io/apibindings/root:org/b", whyNamespace},
	{"/registry/stable.example.com/widgets/a/b/c", whyTooDeep},
	{"/registry/Newthings/a", whyResource},
	{"/registry/new_things/a", whyResource},
	{"/registry/9things/a", whyResource},
	{"/registry/stable.example.com/Widgets/a", whyResource},
	{"/registry/Stable.example.com/widgets/a", whyGroup},
	{"/registry/stable..com/widgets/a", whyGroup},
	{"/registry/.com/widgets/a", whyGroup},
	{"/registry/stable.example.com/widgets", whyNoName},
	{"/registry/apiregistration.k8s.io/apiservices", whyNoName},
	{"/registry/wardle.example.com/wardle.example.com/flunders", whySubtree},
	{"/registry/wardle.example.com/wardle.example.com/flunders/ns/a/b", whySubtree},
	{"/registry/wardle.example.com/A.b/flunders/a", whySubtree},
}

func TestParseMalformed(t *testing.T) {
	for _, tc := range malformedKeys {
		k, err := Parse(DefaultPrefix, []byte(tc.key))
		if err != nil {
			t.Fatal(err)
		}
		if want := (Key{Prefix: "/registry/", Scope: Unclassified, Reason: tc.why}); k != want {
			t.Errorf("%q:\n got %+v\nwant %+v", tc.key, k, want)
		}
		checkParse(t, DefaultPrefix, []byte(tc.key))
	}
}

func TestParseOutside(t *testing.T) {
	for _, key := range []string{"", "/", "/registry", "/registryx/pods/a/b", "registry/pods/a/b", "compact_rev_key2", "compact_rev_ke", "/kubernetes.io/pods/a/b", "/understudy/m/checkpoint", "\x00"} {
		k, err := Parse("", []byte(key))
		if err != nil {
			t.Fatal(err)
		}
		if want := (Key{Scope: Outside, Reason: whyOutside}); k != want {
			t.Errorf("%q: %+v, want %+v", key, k, want)
		}
	}
	k, _ := Parse("", []byte("compact_rev_key"))
	if want := (Key{ResourcePrefix: "compact_rev_key", Scope: Internal}); k != want {
		t.Errorf("compact_rev_key: %+v, want %+v", k, want)
	}
}

// TestParsePrefix: the prefix is taken as the apiserver takes it.
func TestParsePrefix(t *testing.T) {
	for prefix, norm := range map[string]string{
		"": "/registry/", "registry": "/registry/", "/registry/": "/registry/", "//registry//": "/registry/", "/registry/.": "/registry/",
		"kubernetes.io": "/kubernetes.io/", "a/b": "/a/b/", "a/../b": "/b/", "/": "/", ".": "/",
	} {
		k, err := Parse(prefix, []byte(norm+"pods/ns/p"))
		if err != nil {
			t.Fatalf("%q: %v", prefix, err)
		}
		if want := (Key{Prefix: norm, ResourcePrefix: "pods", GroupKnown: true, Resource: "pods", Namespace: "ns", Name: "p", Scope: Namespaced}); k != want {
			t.Errorf("prefix %q: %+v, want %+v", prefix, k, want)
		}
	}
	for _, prefix := range []string{"/a\x00", "/a\nb", "/\xff"} {
		_, err := Parse(prefix, []byte("/a/pods/ns/p"))
		var ce *ConfigError
		if !errors.As(err, &ce) || ce.Field != "prefix" || !errors.Is(err, ErrConfig) {
			t.Errorf("prefix %q: %v, want a ConfigError about it", prefix, err)
		}
	}
}

func TestParseOpenShift(t *testing.T) {
	want := map[string]Key{
		"/openshift.io/oauth/accesstokens/sha256~abc":        {ResourcePrefix: "oauth/accesstokens", Group: "oauth.openshift.io", Resource: "oauthaccesstokens", Name: "sha256~abc"},
		"/openshift.io/oauth/authorizetokens/sha256~abc":     {ResourcePrefix: "oauth/authorizetokens", Group: "oauth.openshift.io", Resource: "oauthauthorizetokens", Name: "sha256~abc"},
		"/openshift.io/oauth/clients/console":                {ResourcePrefix: "oauth/clients", Group: "oauth.openshift.io", Resource: "oauthclients", Name: "console"},
		"/openshift.io/oauth/clientauthorizations/u:console": {ResourcePrefix: "oauth/clientauthorizations", Group: "oauth.openshift.io", Resource: "oauthclientauthorizations", Name: "u:console"},
		"/openshift.io/useridentities/ldap:jane":             {ResourcePrefix: "useridentities", Group: "user.openshift.io", Resource: "identities", Name: "ldap:jane"},
	}
	for key, k := range want {
		k.Prefix, k.GroupKnown, k.Scope = "/openshift.io/", true, Cluster
		if got, err := Parse("openshift.io", []byte(key)); err != nil || got != k {
			t.Errorf("%s:\n got %+v, %v\nwant %+v", key, got, err, k)
		}
	}
	for key, why := range map[string]string{
		"/openshift.io/oauth/clients":               whyNoName,
		"/openshift.io/oauth/clients/a/b":           whyWantCluster,
		"/openshift.io/oauth/other/a":               whyOpenShift,
		"/openshift.io/authorization/local/roles/a": whyOpenShift,
		"/openshift.io/registry/sdnsubnets/node1":   whyOpenShift,
		"/openshift.io/useridentities/a/b":          whyWantCluster,
	} {
		if got, err := Parse("openshift.io", []byte(key)); err != nil || got.Scope != Unclassified || got.Reason != why {
			t.Errorf("%s: %+v, %v; want unclassified: %s", key, got, err, why)
		}
	}
	// Another prefix has none of this: there the shape speaks.
	got, err := Parse("kubernetes.io", []byte("/kubernetes.io/oauth/clients/console"))
	if want := (Key{Prefix: "/kubernetes.io/", ResourcePrefix: "oauth", Resource: "oauth", Namespace: "clients", Name: "console", Scope: Namespaced}); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	if got, _ := Parse("openshift.io", []byte("/openshift.io/routes/ns/r")); got.Scope != Namespaced || got.GroupKnown || got.Resource != "routes" {
		t.Errorf("a resource that is not in the table: %+v, want its shape without a group", got)
	}
}

// TestNameChecks compares the package's own checks with apimachinery's, at and around the borders.
func TestNameChecks(t *testing.T) {
	words := []string{"", "a", "-", "a-", "-a", "a-b", "9", "9a", "a9", "A", "a.b", ".a", "a.", "a..b", "a-.b", "a.-b", "a_b", "é", "a b",
		strings.Repeat("a", 63), strings.Repeat("a", 64), strings.Repeat("a.", 126) + "a", strings.Repeat("a.", 127) + "a"}
	for _, s := range words {
		if got, want := isLabel(s, false), len(validation.IsDNS1123Label(s)) == 0; got != want {
			t.Errorf("isLabel(%q, false) = %v, want %v", s, got, want)
		}
		if got, want := isLabel(s, true), len(validation.IsDNS1035Label(s)) == 0; got != want {
			t.Errorf("isLabel(%q, true) = %v, want %v", s, got, want)
		}
		if got, want := isSubdomain(s), len(validation.IsDNS1123Subdomain(s)) == 0; got != want {
			t.Errorf("isSubdomain(%q) = %v, want %v", s, got, want)
		}
	}
}

func TestScopeString(t *testing.T) {
	seen := map[string]bool{}
	for s := Unclassified; s <= Outside; s++ {
		if name := s.String(); name == "invalid" || seen[name] {
			t.Errorf("scope %d is called %q", s, name)
		} else {
			seen[name] = true
		}
	}
	if Scope(99).String() != "invalid" {
		t.Error("an invalid scope has a name")
	}
}
