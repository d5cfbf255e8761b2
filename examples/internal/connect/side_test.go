package connect

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
)

func TestMain(m *testing.M) { testutil.Main(m) }

// newTestSide parses arguments for a side named "source".
func newTestSide(t *testing.T, args ...string) *Side {
	t.Helper()
	settings := NewSettings("TESTENV")
	side := NewSide(settings, "source")
	if err := settings.Parse(args, environment(nil)); err != nil {
		t.Fatal(err)
	}
	return side
}

// wantError checks an error's kind, that it contains texts, and that it is one line without the password.
func wantError(t *testing.T, err, kind error, texts ...string) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("got %v, want an error of kind %q", err, kind)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("%q does not contain %q", err, text)
		}
	}
	if strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), "\n") {
		t.Errorf("%q shows the password or has several lines", err)
	}
}

func TestBadSides(t *testing.T) {
	one := testutil.NewCluster(t, embedetcd.Options{TLS: true}).TLSFiles()
	other := testutil.NewCluster(t, embedetcd.Options{TLS: true}).TLSFiles()
	notPEM := writeFile(t, secret+"\n")
	missing := filepath.Join(t.TempDir(), "missing.pem")
	twoLines := writeFile(t, secret+"\nmore\n")
	empty := writeFile(t, "\n")
	for name, tc := range map[string]struct {
		args []string
		want []string
	}{
		"no endpoints":            {[]string{}, []string{"--source-endpoints", "is missing"}},
		"bad endpoint":            {[]string{"--source-endpoints=a:1,b"}, []string{"--source-endpoints", "endpoint 2"}},
		"no time":                 {[]string{"--source-endpoints=a:1", "--source-dial-timeout=0"}, []string{"--source-dial-timeout"}},
		"mixed schemes":           {[]string{"--source-endpoints=http://a:1,https://b:1"}, []string{"--source-endpoints", "mixes"}},
		"http with TLS files":     {[]string{"--source-endpoints=http://a:1", "--source-cacert=" + one.CA}, []string{"--source-endpoints", "says http", "--source-cacert"}},
		"missing CA":              {[]string{"--source-endpoints=a:1", "--source-cacert=" + missing}, []string{"--source-cacert", missing, "no such file"}},
		"CA is no PEM":            {[]string{"--source-endpoints=a:1", "--source-cacert=" + notPEM}, []string{"--source-cacert", "no PEM certificate"}},
		"CA is a key":             {[]string{"--source-endpoints=a:1", "--source-cacert=" + one.ClientKey}, []string{"--source-cacert", "no PEM certificate"}},
		"certificate without key": {[]string{"--source-endpoints=a:1", "--source-cert=" + one.ClientCert}, []string{"--source-key", "is missing"}},
		"key without certificate": {[]string{"--source-endpoints=a:1", "--source-key=" + one.ClientKey}, []string{"--source-cert", "is missing"}},
		"missing certificate":     {[]string{"--source-endpoints=a:1", "--source-cert=" + missing, "--source-key=" + one.ClientKey}, []string{"--source-cert", "no such file"}},
		"missing key":             {[]string{"--source-endpoints=a:1", "--source-cert=" + one.ClientCert, "--source-key=" + missing}, []string{"--source-key", "no such file"}},
		"certificate is no PEM":   {[]string{"--source-endpoints=a:1", "--source-cert=" + notPEM, "--source-key=" + one.ClientKey}, []string{"--source-cert", "no PEM certificate"}},
		"key is no PEM":           {[]string{"--source-endpoints=a:1", "--source-cert=" + one.ClientCert, "--source-key=" + notPEM}, []string{"--source-key", "no PEM private key"}},
		"swapped files":           {[]string{"--source-endpoints=a:1", "--source-cert=" + one.ClientKey, "--source-key=" + one.ClientCert}, []string{"--source-cert", "no PEM certificate"}},
		"key of another":          {[]string{"--source-endpoints=a:1", "--source-cert=" + one.ClientCert, "--source-key=" + other.ClientKey}, []string{"--source-key", "is not the key of"}},
		"user without password":   {[]string{"--source-endpoints=a:1", "--source-user=root"}, []string{"--source-user", "without a password"}},
		"empty password":          {[]string{"--source-endpoints=a:1", "--source-user=root:"}, []string{"--source-user", "empty password"}},
		"password without user":   {[]string{"--source-endpoints=a:1", "--source-user=:" + secret}, []string{"--source-user", "names no user"}},
		"file without user":       {[]string{"--source-endpoints=a:1", "--source-password-file=" + notPEM}, []string{"--source-user", "names no user"}},
		"password twice":          {[]string{"--source-endpoints=a:1", "--source-user=root:" + secret, "--source-password-file=" + notPEM}, []string{"--source-password-file", "--source-user"}},
		"missing password file":   {[]string{"--source-endpoints=a:1", "--source-user=root", "--source-password-file=" + missing}, []string{"--source-password-file", "no such file"}},
		"two lines":               {[]string{"--source-endpoints=a:1", "--source-user=root", "--source-password-file=" + twoLines}, []string{"--source-password-file", "one line"}},
		"empty password file":     {[]string{"--source-endpoints=a:1", "--source-user=root", "--source-password-file=" + empty}, []string{"--source-password-file", "one line"}},
	} {
		t.Run(name, func(t *testing.T) {
			side := newTestSide(t, tc.args...)
			wantError(t, side.Check(), ErrUsage, tc.want...)
			if _, err := side.Dial(testutil.Context(t)); !errors.Is(err, ErrUsage) {
				t.Errorf("Dial: %v", err)
			}
		})
	}
}

func TestGoodSides(t *testing.T) {
	passwordFile := writeFile(t, secret+"\r\n")
	for name, args := range map[string][]string{
		"plain":               {"--source-endpoints=a:1"},
		"https by the host":   {"--source-endpoints=https://a:1"},
		"password file":       {"--source-endpoints=a:1", "--source-user=root", "--source-password-file=" + passwordFile},
		"password with colon": {"--source-endpoints=a:1", "--source-user=root:" + secret + ":x"},
	} {
		side := newTestSide(t, args...)
		p, err := side.plan()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if name == "https by the host" && (p.tls == nil || p.tls.config().RootCAs != nil) {
			t.Errorf("%s: TLS is %v", name, p.tls)
		}
		if name == "password file" && (p.user != "root" || p.password != secret || len(side.Warnings()) != 0) {
			t.Errorf("%s: user %q, warnings %q", name, p.user, side.Warnings())
		}
		if name == "password with colon" {
			if p.password != secret+":x" || len(side.Warnings()) != 1 || strings.Contains(side.Warnings()[0], secret) {
				t.Errorf("%s: warnings %q", name, side.Warnings())
			}
		}
	}
}

func TestShared(t *testing.T) {
	settings := NewSettings("TESTENV")
	a, b := NewSide(settings, "source"), NewSide(settings, "target")
	for _, tc := range []struct{ a, b, want string }{
		{"h:1,g:2", "http://G:2", "g:2"},
		{"h:1", "h:2", ""},
		{"h:1", "", ""},
	} {
		a.endpoints, b.endpoints = tc.a, tc.b
		if got := Shared(a, b); got != tc.want {
			t.Errorf("%q and %q share %q, want %q", tc.a, tc.b, got, tc.want)
		}
	}
}
