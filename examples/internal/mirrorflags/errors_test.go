package mirrorflags

import (
	"errors"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/drcheck"
	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/examples/internal/connect"
	"github.com/understudy-dr/understudy/internal/testutil"
)

func TestMain(m *testing.M) { testutil.Main(m) }

// An error of either package begins with the setting to look at, where it came from, and keeps its kind.
func TestInSettings(t *testing.T) {
	f := NewRun()
	lookup := func(name string) (string, bool) { return "/standby/", name == "UNDERSTUDY_TARGET_PREFIX" }
	if err := f.Settings.Parse([]string{"--source-endpoints", "a:1", "--name", "n"}, lookup); err != nil {
		t.Fatal(err)
	}
	plain := errors.New("plain")
	for _, tc := range []struct {
		err  error
		want string // the whole text, or what it begins with if that ends in a colon
		kind error
	}{
		{&etcdmirror.Error{Kind: etcdmirror.ErrConfig, Detail: "SessionTTL 1.5s is not in whole seconds", Hint: "round it"}, "--session-ttl: 1.5s is not in whole seconds; round it", connect.ErrUsage},
		{&drcheck.Error{Kind: drcheck.ErrConfig, Detail: "TargetPrefix is bad", Hint: "correct it"}, "UNDERSTUDY_TARGET_PREFIX: is bad; correct it", connect.ErrUsage},
		{&drcheck.Error{Kind: drcheck.ErrConfig, Detail: "MaxRechecks -1 is negative"}, "invalid configuration:", drcheck.ErrConfig}, // no flag is behind it
		{&drcheck.Error{Kind: drcheck.ErrUnreachable, Side: "source"}, "--source-endpoints: source:", drcheck.ErrUnreachable},
		{&drcheck.Error{Kind: drcheck.ErrPermission, Side: "target"}, "--target-user: target:", drcheck.ErrPermission},
		{&etcdmirror.Error{Kind: etcdmirror.ErrPermission, Side: "source"}, "--source-user: source:", etcdmirror.ErrPermission},
		{&drcheck.Error{Kind: drcheck.ErrSameCluster}, "--source-endpoints, --target-endpoints:", drcheck.ErrSameCluster},
		{&drcheck.Error{Kind: drcheck.ErrNoMirror, Side: "target"}, "--name:", drcheck.ErrNoMirror},
		{&drcheck.Error{Kind: drcheck.ErrTooMany}, "--max-deletes:", drcheck.ErrTooMany},
		{&drcheck.Error{Kind: drcheck.ErrOtherMirror, Side: "target", Detail: `the Prefix of mirror "n" is "/a/", the check's is "/b/"`}, "UNDERSTUDY_TARGET_PREFIX: target:", drcheck.ErrOtherMirror},
		{&drcheck.Error{Kind: drcheck.ErrOtherMirror, Side: "target", Detail: `the KeepID (the filter's hash) of mirror "n" is`}, "--rules: target:", drcheck.ErrOtherMirror},
		{&drcheck.Error{Kind: drcheck.ErrOtherMirror, Side: "source", Detail: "its revision is 1"}, "--name, --source-endpoints: source:", drcheck.ErrOtherMirror},
		{errors.Join(&drcheck.Error{Kind: drcheck.ErrConfig, Detail: "Name is bad"}, &drcheck.Error{Kind: drcheck.ErrConfig, Detail: "Prefix is bad"}), "--name: is bad\n--prefix: is bad", connect.ErrUsage},
		{plain, "plain", plain},
	} {
		got := InSettings(tc.err, f.Settings, f.Source, f.Target)
		text := got.Error()
		if !(text == tc.want || strings.HasSuffix(tc.want, ":") && strings.HasPrefix(text, tc.want)) || !errors.Is(got, tc.kind) {
			t.Errorf("%v became %q, want %q", tc.err, text, tc.want)
		}
	}
}

// Which rules are in force decides how a key's resource is named; keys need not be those of Kubernetes without any.
func TestResource(t *testing.T) {
	for _, tc := range []struct {
		args      []string
		key, want string
	}{
		{nil, "/registry/pods/a/b", "pods"},
		{nil, "/registry/replicasets/a/b", "apps/replicasets"},
		{nil, "/registry/services/specs/a/b", "services"},
		{nil, "/registry/stable.example.com/widgets/a/b", "stable.example.com/widgets"},
		{nil, "/registry/pods", "unclassified"},
		{nil, "/elsewhere", "outside"},
		{[]string{"--prefix", "/k8s/"}, "/k8s/pods/a/b", "pods"},
		{[]string{"--no-rules"}, "/registry/pods/a/b", ""},
	} {
		settings := connect.NewSettings(EnvPrefix)
		keys := NewKeys(settings)
		if err := settings.Parse(tc.args, func(string) (string, bool) { return "", false }); err != nil {
			t.Fatal(err)
		}
		filter, err := keys.Filter()
		if err != nil {
			t.Fatal(err)
		}
		name := Resource(filter)
		if name == nil {
			if tc.want != "" {
				t.Errorf("%q: resources have no names", tc.args)
			}
			continue
		}
		if got := name(tc.key); got != tc.want {
			t.Errorf("%q: %s is of resource %q, want %q", tc.args, tc.key, got, tc.want)
		}
	}
}
