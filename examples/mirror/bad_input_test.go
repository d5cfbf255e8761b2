package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/authpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/examples/internal/connect"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
	"github.com/understudy-dr/understudy/keyfilter"
)

// Each bad input ends with its exit code and one line that names the setting, and the target's revision stays what it was.
func TestBadInput(t *testing.T) {
	p := newPair(t)
	fill(t, p.sourceC, 3)
	put(t, p.targetC, "/registry/configmaps/own/kept", "v")
	secure := testutil.NewCluster(t, embedetcd.Options{TLS: true})
	files, other := secure.TLSFiles(), testutil.NewCluster(t, embedetcd.Options{TLS: true}).TLSFiles()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	source, target := p.source.Endpoints()[0], p.target.Endpoints()[0]
	_, sourceAddress, _ := strings.Cut(source, "://")
	missing := filepath.Join(t.TempDir(), "missing")
	notPEM := writeFile(t, "not.pem", secret)
	badRules := writeFile(t, "rules.yaml", "prefixes: [/registry]\nrulez: []\n")
	otherPrefix := writeFile(t, "other.yaml", "prefixes: [/kubernetes.io]\n")
	badConfig := writeFile(t, "mirror.yaml", "target-endpoint: x:1\n")
	toSecure := func(more ...string) []string {
		return append([]string{"run", "--source-endpoints", source, "--target-endpoints", secure.Endpoints()[0]}, more...)
	}
	for name, tc := range map[string]struct {
		args []string
		code int
		want []string
	}{
		"no endpoints":             {[]string{"run", "--target-endpoints", target}, 2, []string{"--source-endpoints", "is missing"}},
		"source does not answer":   {[]string{"run", "--source-endpoints", dead, "--target-endpoints", target}, 3, []string{"--source-endpoints", "connection refused"}},
		"target does not answer":   {[]string{"run", "--source-endpoints", source, "--target-endpoints", dead}, 3, []string{"--target-endpoints", "connection refused"}},
		"no port":                  {[]string{"run", "--source-endpoints", "127.0.0.1", "--target-endpoints", target}, 2, []string{"--source-endpoints", "no port"}},
		"equal endpoints":          {[]string{"run", "--source-endpoints", "http://" + sourceAddress + ",http://" + dead, "--target-endpoints", source}, 6, []string{"--source-endpoints", "--target-endpoints", sourceAddress}},
		"one cluster by two names": {[]string{"run", "--source-endpoints", strings.Replace(target, "127.0.0.1", "localhost", 1), "--target-endpoints", target}, 6, []string{"--source-endpoints", "same cluster"}},
		"CA that is not there":     {toSecure("--target-cacert", missing), 2, []string{"--target-cacert", "no such file"}},
		"CA that is no PEM":        {toSecure("--target-cacert", notPEM), 2, []string{"--target-cacert", "no PEM certificate"}},
		"wrong CA":                 {toSecure("--target-cacert", other.CA), 3, []string{"--target-cacert", "unknown authority"}},
		"key of another":           {toSecure("--target-cacert", files.CA, "--target-cert", files.ClientCert, "--target-key", other.ClientKey), 2, []string{"--target-key", "is not the key of"}},
		"no client certificate":    {toSecure("--target-cacert", files.CA), 3, []string{"--target-cert", "client certificate"}},
		"http with TLS files":      {p.args("run", "--source-cacert", files.CA), 2, []string{"--source-endpoints", "says http"}},
		"unknown flag":             {p.args("run", "--purge"), 2, []string{"--purge", "no such flag"}},
		"unknown choice":           {p.args("run", "--surplus", "maybe"), 2, []string{"--surplus", "keep or delete"}},
		"name with slashes":        {p.args("run", "--name", "a/b"), 2, []string{"--name", "a/b"}},
		"status, bad name":         {p.args("status", "--name", "a/b"), 2, []string{"--name"}},
		"promote, bad name":        {p.args("promote", "--name", "a/b", "--confirm", "a/b"), 2, []string{"--name"}},
		"too few operations":       {p.args("run", "--max-txn-ops", "1"), 2, []string{"--max-txn-ops", "below"}},
		"negative in flight":       {p.args("run", "--in-flight", "-1"), 2, []string{"--in-flight", "below"}},
		"no log interval":          {p.args("run", "--log-interval", "0s"), 2, []string{"--log-interval"}},
		"unknown drift":            {p.args("run", "--drift", "ignore"), 2, []string{"--drift", "report or repair"}},
		"unknown watch":            {p.args("run", "--watch", "some"), 2, []string{"--watch", "auto or all or kept"}},
		"no watch to catch up":     {p.args("run", "--catch-up-watches", "-1"), 2, []string{"--catch-up-watches", "below"}},
		"unknown leases":           {p.args("run", "--leases", "copy"), 2, []string{"--leases", "drop or mirror"}},
		"negative delay":           {p.args("run", "--repair-delay", "-1s"), 2, []string{"--repair-delay", "negative"}},
		"no delay":                 {p.args("run", "--repair-delay", "0s"), 2, []string{"--repair-delay", "is zero"}},
		"no repairs":               {p.args("run", "--repair-limit", "0"), 2, []string{"--repair-limit", "--drift report"}},
		"fewer than no repairs":    {p.args("run", "--repair-limit", "-1"), 2, []string{"--repair-limit", "below"}},
		"share in percent":         {p.args("run", "--deletion-share", "30"), 2, []string{"--deletion-share", "at most 1"}},
		"no share":                 {p.args("run", "--deletion-share", "0"), 2, []string{"--deletion-share", "--no-deletion-guard"}},
		"share that is no number":  {p.args("run", "--deletion-share", "NaN"), 2, []string{"--deletion-share", "NaN"}},
		"no keys":                  {p.args("run", "--deletion-count", "0"), 2, []string{"--deletion-count", "is zero"}},
		"no window":                {p.args("run", "--deletion-window", "0s"), 2, []string{"--deletion-window", "is zero"}},
		"guard off and limited":    {p.args("run", "--no-deletion-guard", "--deletion-count", "9"), 2, []string{"--no-deletion-guard", "--deletion-count"}},
		"session in parts":         {p.args("run", "--session-ttl", "1500ms"), 2, []string{"--session-ttl", "whole seconds"}},
		"no session":               {p.args("run", "--session-ttl", "0s"), 2, []string{"--session-ttl", "is zero"}},
		"listen without a port":    {p.args("run", "--http-listen", "localhost"), 2, []string{"--http-listen", "no port", "[IPv6 address]:port"}},
		"listen without brackets":  {p.args("run", "--http-listen", "::1:8080"), 2, []string{"--http-listen", "brackets"}},
		"listen at a URL":          {p.args("run", "--http-listen", "http://localhost:8080"), 2, []string{"--http-listen", "more than a host and a port"}},
		"listen elsewhere":         {p.args("run", "--http-listen", "[2001:db8::1]:0"), 2, []string{"--http-listen", "an address of this host"}},
		"profiles nowhere":         {p.args("run", "--pprof"), 2, []string{"--pprof", "without --http-listen", "localhost:8080"}},
		"no lag at all":            {p.args("run", "--ready-lag", "0s"), 2, []string{"--ready-lag", "not positive"}},
		"checks without a pause":   {p.args("run", "--check-interval", "9s"), 2, []string{"--check-interval", "below 10s", "10m"}},
		"checks back in time":      {p.args("run", "--check-interval", "-1m"), 2, []string{"--check-interval", "below 10s"}},
		"unknown check mode":       {p.args("run", "--check-mode", "values"), 2, []string{"--check-mode", "content or keys"}},
		"long replica":             {p.args("run", "--replica", strings.Repeat("r", 201)), 2, []string{"--replica", "201"}},
		"approve nothing":          {p.args("approve", "--confirm", "default"), 1, []string{"no such mirror"}},
		"approve unconfirmed":      {p.args("approve"), 2, []string{"--confirm default", "the target loses the keys"}},
		"rules that are not there": {p.args("run", "--rules", missing), 2, []string{"--rules", "no such file"}},
		"rules with a wrong field": {p.args("run", "--rules", badRules), 2, []string{"--rules", "rulez"}},
		"rules and no rules":       {p.args("run", "--rules", otherPrefix, "--no-rules"), 2, []string{"--no-rules", "--rules"}},
		"rules of another prefix":  {p.args("run", "--rules", otherPrefix), 2, []string{"--prefix", "/kubernetes.io/"}},
		"prefix without a slash":   {p.args("run", "--prefix", "registry"), 2, []string{"--prefix", "--no-rules"}},
		"empty prefix":             {p.args("run", "--prefix", ""), 2, []string{"--prefix", "--all-keys"}},
		"metadata as prefix":       {p.args("run", "--prefix", "/understudy/", "--no-rules"), 2, []string{"--", "/understudy/"}},
		"two target prefixes":      {p.args("run", "--target-prefix", "/x/", "--strip-prefix"), 2, []string{"--strip-prefix"}},
		"all keys with defaults":   {p.args("run", "--all-keys"), 2, []string{"--all-keys", "--no-rules"}},
		"all keys and a prefix":    {p.args("run", "--all-keys", "--no-rules", "--prefix", "/a/"), 2, []string{"--all-keys", "--prefix"}},
		"config with a typo":       {p.args("run", "--config", badConfig), 2, []string{"mirror.yaml: target-endpoint", "no such setting"}},
		"config not there":         {p.args("status", "--config", missing), 2, []string{"--config", "no such file"}},
		"unknown mirror":           {p.args("status", "--name", "nobody"), 1, []string{"no such mirror"}},
		"no mirror at all":         {p.args("status"), 1, []string{"no such mirror"}},
		"promote nothing":          {p.args("promote", "--confirm", "default"), 1, []string{"no such mirror"}},
		"promote unconfirmed":      {p.args("promote"), 2, []string{"--confirm", "--confirm default"}},
		"promote misconfirmed":     {p.args("promote", "--confirm", "defualt"), 2, []string{"--confirm", `"defualt"`}},
		"demote unconfirmed":       {p.args("demote"), 2, []string{"--confirm"}},
		"demote nothing":           {p.args("demote", "--confirm", "default"), 1, []string{"no such mirror"}},
		"demote, wrong flag":       {p.args("demote", "--accept-incomplete"), 2, []string{"--accept-incomplete", "no such flag"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, before := values(t, p.targetC)
			r := invoke(t, tc.args...).want(t, tc.code, tc.want...)
			if r.out != "" || strings.Count(r.err, "\n") != countErrors(name) || !strings.HasPrefix(r.err, "mirror: ") {
				t.Errorf("not one clear line on standard error:\n%s%s", r.out, r.err)
			}
			if _, after := values(t, p.targetC); after != before {
				t.Errorf("the target went from revision %d to %d", before, after)
			}
		})
	}
}

// countErrors is how many lines a bad input gives: one, unless two settings are wrong at once.
func countErrors(name string) int {
	if name == "metadata as prefix" { // it is the prefix at both sides
		return 2
	}
	return 1
}

// All that is wrong is told at once.
func TestSeveralErrors(t *testing.T) {
	r := invoke(t, "run", "--name", "A", "--in-flight", "-1", "--target-endpoints", "x").want(t, 2, "--name: ", "--in-flight: ", "--source-endpoints: ", "--target-endpoints: ")
	for line := range strings.Lines(r.err) {
		if !strings.HasPrefix(line, "mirror: --") {
			t.Errorf("line %q names no setting", line)
		}
	}
}

// enableAuth makes users: root, reader (may read everything), and stranger (may do nothing).
func enableAuth(t *testing.T, c *clientv3.Client) {
	t.Helper()
	ctx := testutil.Context(t)
	all := clientv3.GetPrefixRangeEnd("/")
	for _, do := range []func() error{
		func() error { _, err := c.UserAdd(ctx, "root", secret); return err },
		func() error { _, err := c.UserGrantRole(ctx, "root", "root"); return err },
		func() error { _, err := c.RoleAdd(ctx, "read"); return err },
		func() error {
			_, err := c.RoleGrantPermission(ctx, "read", "/", all, clientv3.PermissionType(authpb.READ))
			return err
		},
		func() error { _, err := c.UserAdd(ctx, "reader", secret); return err },
		func() error { _, err := c.UserGrantRole(ctx, "reader", "read"); return err },
		func() error { _, err := c.UserAdd(ctx, "stranger", secret); return err },
		func() error { _, err := c.AuthEnable(ctx); return err },
	} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPermissions(t *testing.T) {
	p := newPair(t)
	fill(t, p.sourceC, 3)
	password := writeFile(t, "password", secret+"\n")
	enableAuth(t, p.targetC)
	cfg := p.target.ClientConfig()
	cfg.Username, cfg.Password = "root", secret
	root, err := clientv3.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	_, before := values(t, root)
	for name, tc := range map[string]struct {
		args []string
		want []string
	}{
		"no user":              {p.args("run"), []string{"--target-user", "asks for a user"}},
		"wrong password":       {p.args("run", "--target-user", "reader:x"), []string{"--target-user", `"reader"`}},
		"may not write":        {p.args("run", "--target-user", "reader", "--target-password-file", password), []string{"--target-user", "permission"}},
		"may not read":         {p.args("run", "--target-user", "stranger", "--target-password-file", password), []string{"--target-user", "permission"}},
		"may not read, status": {p.args("status", "--target-user", "stranger", "--target-password-file", password), []string{"--target-user", "permission"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := invoke(t, tc.args...)
			r.want(t, exitPermission, tc.want...)
		})
	}
	if _, after := values(t, root); after != before {
		t.Errorf("the target went from revision %d to %d", before, after)
	}
	// With the right to do so it works, also with the password where it should not be, and nothing shows it.
	for _, user := range [][]string{{"--target-user", "root", "--target-password-file", password}, {"--target-user", "root:" + secret}} {
		args := append(p.args("run", "--exit-after-copy", "--log-level", "debug", "--log-format", "json"), user...)
		r := invoke(t, args...).want(t, 0)
		if warns := strings.Contains(r.err, "password-file"); warns != (len(user) == 2) {
			t.Errorf("a warning about the password: %v\n%s", warns, r.err)
		}
		for line := range strings.Lines(r.err) {
			if !json.Valid([]byte(line)) {
				t.Errorf("a line of the log is not JSON: %s", line)
			}
		}
	}
	t.Setenv("UNDERSTUDY_TARGET_USER", "root:"+secret)
	if r := invoke(t, p.args("status")...).want(t, 0, "tail"); r.err != "" {
		t.Errorf("a warning about the environment: %s", r.err)
	}
}

func TestExitCode(t *testing.T) {
	for code, errs := range map[int][]error{
		0: {nil},
		1: {errors.New("x"), etcdmirror.ErrNoMirror, etcdmirror.ErrIncomplete, etcdmirror.ErrMetadata},
		2: {connect.ErrUsage, etcdmirror.ErrConfig, &keyfilter.ConfigError{}, errors.Join(connect.ErrUsage, connect.ErrUsage)},
		3: {connect.ErrUnreachable, &etcdmirror.Error{Kind: etcdmirror.ErrUnreachable}},
		4: {connect.ErrDenied, fmt.Errorf("x: %w", &etcdmirror.Error{Kind: etcdmirror.ErrPermission})},
		5: {&etcdmirror.FencedError{}, &etcdmirror.FencedError{Promoted: true}, etcdmirror.ErrPromoted},
		7: {&etcdmirror.Error{Kind: etcdmirror.ErrNotPromoted}, fmt.Errorf("x: %w", etcdmirror.ErrNotTripped)},
		6: {etcdmirror.ErrSameCluster, etcdmirror.ErrSwapped, etcdmirror.ErrSourceChanged, etcdmirror.ErrSourceRewound, etcdmirror.ErrPrefixChanged},
	} {
		for _, err := range errs {
			if got := mirror().ExitCode(err); got != code {
				t.Errorf("%v gives %d, want %d", err, got, code)
			}
		}
	}
}
