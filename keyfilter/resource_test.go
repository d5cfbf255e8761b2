package keyfilter_test

import (
	"testing"

	"github.com/understudy-dr/understudy/keyfilter"
)

func TestResource(t *testing.T) {
	resource, err := keyfilter.Resource("")
	if err != nil {
		t.Fatal(err)
	}
	type answer struct {
		group, resource string
		known           bool
	}
	for key, want := range map[string]answer{
		"/registry/secrets/team-a/s":                       {"", "secrets", true},
		"/registry/minions/n1":                             {"", "nodes", true},
		"/registry/services/specs/team-a/s":                {"", "services", true},
		"/registry/deployments/team-a/d":                   {"apps", "deployments", true},
		"/registry/ingress/team-a/i":                       {"networking.k8s.io", "ingresses", true},
		"/registry/stable.example.com/widgets/a/b":         {"stable.example.com", "widgets", true},
		"/registry/somethingnew/team-a/x":                  {"", "somethingnew", false},
		"/registry/masterleases/192.0.2.1":                 {},
		"/registry/ranges/serviceips":                      {},
		"compact_rev_key":                                  {},
		"/other/secrets/team-a/s":                          {},
		"/registry/secrets":                                {},
		"/registry/secrets/team-a/s/t/u/v":                 {},
		"/registry/apiregistration.k8s.io/apiservices/v1.": {"apiregistration.k8s.io", "apiservices", true},
	} {
		var got answer
		if got.group, got.resource, got.known = resource(key); got != want {
			t.Errorf("%s: got %v, want %v", key, got, want)
		}
	}
	if resource, err = keyfilter.Resource("/kubernetes.io"); err != nil {
		t.Fatal(err)
	}
	if _, name, _ := resource("/kubernetes.io/secrets/a/b"); name != "secrets" {
		t.Errorf("another prefix: %q", name)
	}
	if _, err := keyfilter.Resource("\x00"); err == nil {
		t.Error("a wrong prefix is accepted")
	}
}
