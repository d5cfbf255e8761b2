package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/drcheck"
	"github.com/understudy-dr/understudy/examples/internal/connect"
	"github.com/understudy-dr/understudy/examples/internal/program"
	"github.com/understudy-dr/understudy/internal/testutil"
)

// result is the answer of check --output json.
func result(t *testing.T, o output) *drcheck.Result {
	t.Helper()
	var r drcheck.Result
	if err := json.Unmarshal([]byte(o.out), &r); err != nil {
		t.Fatalf("%v:\n%s%s", err, o.out, o.err)
	}
	return &r
}

// Equal, different and impossible to compare have their exit codes, in text and in JSON.
func TestCheck(t *testing.T) {
	p := mirrored(t, 20)
	invoke(t, p.args("check")...).want(t, 0, "Equal: the target holds all that the source held", "LOCAL ETCD missed keys: 0", "LOCAL ETCD surplus keys: 0", "LOCAL ETCD different keys: 0")
	r := result(t, invoke(t, p.args("check", "--output", "json")...).want(t, 0))
	if !r.Equal || r.SourceKeys != 21 || r.TargetKeys != 21 || r.Filtered != 1 || r.Mode != drcheck.Content || r.Mirror == nil || r.Mirror.Name != "default" || len(r.Resources) != 2 || r.Resources[0].Resource != "configmaps" || r.Resources[0].Keys != 20 {
		t.Errorf("equal: %+v", r)
	}

	remove(t, p.targetC, "/registry/configmaps/team-a/cm-000")
	remove(t, p.targetC, "/registry/configmaps/team-a/cm-001")
	put(t, p.targetC, "/registry/secrets/team-a/s", secret+"!")
	put(t, p.targetC, "/registry/deployments/own/d", "own")
	o := invoke(t, p.args("check")...).want(t, exitDiffers, "Differs: 2 keys missed, 1 surplus, 1 different", "LOCAL ETCD missed keys: 2", "/registry/configmaps/team-a/cm-001", "/registry/secrets/team-a/s", "/registry/deployments/own/d")
	if o.err != "" {
		t.Errorf("that the two differ is no error: %s", o.err)
	}
	r = result(t, invoke(t, p.args("check", "--output", "json", "--limit", "1")...).want(t, exitDiffers))
	if want := (drcheck.Count{Missed: 2, Surplus: 1, Different: 1}); r.Count != want || r.Equal || len(r.Differences) != 3 || r.Unlisted != 1 || r.Differences[0].Key != "/registry/configmaps/team-a/cm-000" {
		t.Errorf("different: %+v", r)
	}
	for _, res := range r.Resources {
		if res.Resource == "apps/deployments" && res.Surplus == 1 {
			r = nil
			break
		}
	}
	if r != nil {
		t.Errorf("the surplus Deployment is of no resource: %+v", r.Resources)
	}
	if r := result(t, invoke(t, p.args("check", "--output", "json", "--limit", "0", "--mode", "keys")...).want(t, exitDiffers)); r.Count.Different != 0 || r.Count.Missed != 2 || len(r.Differences) != 0 || r.Unlisted != 3 {
		t.Errorf("keys: %+v", r)
	}
	// Without its name the mirror is not known, and the keys are compared all the same.
	if r := result(t, invoke(t, p.args("check", "--output", "json", "--name", "")...).want(t, exitDiffers)); r.Mirror != nil || r.Count.Total() != 4 {
		t.Errorf("without a name: %+v", r)
	}
}

// What the target's own cluster made may be accepted.
func TestCheckAccepts(t *testing.T) {
	p := newPair(t)
	put(t, p.targetC, "/registry/configmaps/own/o", "own")
	put(t, p.sourceC, "/registry/configmaps/team-a/a", "v")
	p.mirror(t, "default")
	if r := result(t, invoke(t, p.args("check", "--output", "json")...).want(t, exitDiffers)); r.Count.Surplus != 1 || r.Differences[0].Reason != drcheck.ReasonMadeAtTarget {
		t.Errorf("unaccepted: %+v", r)
	}
	if r := result(t, invoke(t, p.args("check", "--output", "json", "--accept-made-at-target")...).want(t, 0)); !r.Equal || r.Count.Accepted != 1 || !r.Differences[0].Accepted {
		t.Errorf("accepted: %+v", r)
	}
}

// The file and the environment of mirror run serve the check; IPv6 addresses are taken in brackets.
func TestCheckWithTheFileOfMirrorRun(t *testing.T) {
	p := newPair(t)
	put(t, p.sourceC, "/k8s/pods/a/b", "v")
	put(t, p.sourceC, "/elsewhere", "v")
	put(t, p.targetC, "/standby/pods/a/b", "v")
	source, target := byIPv6(t, p.source), byIPv6(t, p.target)
	file := writeFile(t, "mirror.yaml", fmt.Sprintf("source-endpoints: [%q]\ntarget-endpoints: [%q]\nprefix: /k8s/\ntarget-prefix: /standby/\nno-rules: true\nsession-ttl: 7s\nhttp-listen: :8080\nsettle: 50ms\n", "http://"+source, target))
	t.Setenv("UNDERSTUDY_CONFIG", file)
	if r := result(t, invoke(t, "check", "--name", "", "--output", "json").want(t, 0)); r.SourceKeys != 1 || r.TargetKeys != 1 {
		t.Errorf("got %+v", r)
	}
	put(t, p.targetC, "/standby/pods/a/b", "changed")
	t.Setenv("UNDERSTUDY_MODE", "keys")
	invoke(t, "check", "--name", "").want(t, 0)
	invoke(t, "check", "--name", "", "--mode", "content").want(t, exitDiffers)
	invoke(t, "verdict").want(t, exitNoAnswer, "--name", "no such mirror")
}

// Each bad input ends with exit code 2 and one line that names the setting, and nothing is written.
func TestBadInput(t *testing.T) {
	p := mirrored(t, 3)
	put(t, p.targetC, "/registry/configmaps/own/o", "own")
	other := mirrored(t, 1)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	source, target := p.source.Endpoints()[0], p.target.Endpoints()[0]
	missing := filepath.Join(t.TempDir(), "missing")
	noKeys, badQuote, notSurplus := writeFile(t, "none", "\n \n"), writeFile(t, "quote", "\"/registry/a\n"), writeFile(t, "not", "/registry/configmaps/team-a/cm-000\n")
	rules := writeFile(t, "rules.yaml", "excludedNamespaces: [team-b]\n")
	for name, tc := range map[string]struct {
		args []string
		want []string
	}{
		"no source":                {[]string{"check", "--target-endpoints", target}, []string{"--source-endpoints", "is missing"}},
		"no target":                {[]string{"verdict"}, []string{"--target-endpoints", "is missing"}},
		"source does not answer":   {[]string{"check", "--source-endpoints", dead, "--target-endpoints", target}, []string{"--source-endpoints", "connection refused"}},
		"target does not answer":   {[]string{"verdict", "--target-endpoints", dead}, []string{"--target-endpoints", "connection refused"}},
		"IPv6 without brackets":    {[]string{"check", "--source-endpoints", "::1:2379", "--target-endpoints", target}, []string{"--source-endpoints", "brackets"}},
		"equal endpoints":          {[]string{"check", "--source-endpoints", target, "--target-endpoints", target}, []string{"--source-endpoints", "--target-endpoints", "same cluster"}},
		"one cluster, two names":   {[]string{"check", "--name", "", "--source-endpoints", strings.Replace(target, "127.0.0.1", "localhost", 1), "--target-endpoints", target}, []string{"--source-endpoints", "same cluster"}},
		"unknown flag":             {p.args("check", "--apply"), []string{"--apply", "no such flag"}},
		"source for a verdict":     {p.args("verdict", "--source-endpoints", source), []string{"--source-endpoints", "no such flag"}},
		"unknown mode":             {p.args("check", "--mode", "values"), []string{"--mode", "content or keys"}},
		"unknown output":           {p.args("verdict", "--output", "yaml"), []string{"--output", "text or json"}},
		"negative limit":           {p.args("check", "--limit", "-1"), []string{"--limit", "negative"}},
		"no settling":              {p.args("check", "--settle", "0s"), []string{"--settle", "is zero"}},
		"negative settling":        {p.args("check", "--settle", "-1s"), []string{"--settle", "negative"}},
		"negative time":            {p.args("check", "--timeout", "-1s"), []string{"--timeout", "negative"}},
		"too little time":          {p.args("check", "--timeout", "1ns"), []string{"--timeout", "within 1ns", "--mode keys"}},
		"name with slashes":        {p.args("check", "--name", "a/b"), []string{"--name", "a/b"}},
		"verdict without a name":   {p.args("verdict", "--name", ""), []string{"--name", "no mirror name"}},
		"unknown mirror":           {p.args("check", "--name", "nobody"), []string{"--name", "no such mirror"}},
		"verdict of nobody":        {p.args("verdict", "--name", "nobody"), []string{"--name", "no such mirror"}},
		"another source":           {[]string{"check", "--source-endpoints", other.source.Endpoints()[0], "--target-endpoints", target}, []string{"--source-endpoints", "not the one to be checked"}},
		"another prefix":           {p.args("check", "--target-prefix", "/standby/"), []string{"--target-prefix", "not the one to be checked"}},
		"other rules":              {p.args("check", "--rules", rules), []string{"--rules", "not the one to be checked"}},
		"no rules":                 {p.args("repair", "--no-rules"), []string{"--no-rules", "not the one to be checked"}},
		"empty prefix":             {p.args("check", "--prefix", ""), []string{"--prefix", "--all-keys"}},
		"rules that do not exist":  {p.args("check", "--rules", missing), []string{"--rules", "no such file"}},
		"no date":                  {p.args("verdict", "--at", "yesterday"), []string{"--at", "RFC 3339"}},
		"disaster to come":         {p.args("verdict", "--at", time.Now().Add(time.Hour).Format(time.RFC3339)), []string{"--at", "future"}},
		"unknown class":            {p.args("repair", "--classes", "missed,wrong"), []string{"--classes", `"wrong"`}},
		"class to delete":          {p.args("repair", "--classes", "surplus"), []string{"--classes", "--delete-surplus-file"}},
		"no deletes":               {p.args("repair", "--max-deletes", "0"), []string{"--max-deletes", "below 1"}},
		"nothing to repair":        {p.args("repair", "--limit", "0"), []string{"--limit", "is zero"}},
		"two ways to delete":       {p.args("repair", "--delete-all-surplus", "--delete-surplus-file", notSurplus), []string{"--delete-all-surplus", "--delete-surplus-file"}},
		"list that does not exist": {p.args("repair", "--delete-surplus-file", missing), []string{"--delete-surplus-file", "no such file"}},
		"list of no keys":          {p.args("repair", "--delete-surplus-file", noKeys), []string{"--delete-surplus-file", "names no key"}},
		"list with a bad quote":    {p.args("repair", "--delete-surplus-file", badQuote), []string{"--delete-surplus-file", "line 1"}},
		"key that is not surplus":  {p.args("repair", "--apply", "--delete-surplus-file", notSurplus), []string{"--delete-surplus-file", "/registry/configmaps/team-a/cm-000"}},
	} {
		t.Run(name, func(t *testing.T) {
			before := values(t, p.targetC)
			o := invoke(t, tc.args...).want(t, exitNoAnswer, tc.want...)
			if o.out != "" || strings.Count(o.err, "\n") != 1 || !strings.HasPrefix(o.err, "drcheck: ") {
				t.Errorf("not one clear line on standard error:\n%s%s", o.out, o.err)
			}
			if after := values(t, p.targetC); fmt.Sprint(after) != fmt.Sprint(before) {
				t.Errorf("the target was %v and is %v", before, after)
			}
		})
	}
}

// A password is not shown, and one that is wrong is told as such.
func TestPermission(t *testing.T) {
	p := mirrored(t, 1)
	ctx := testutil.Context(t)
	for _, do := range []func() error{
		func() error { _, err := p.targetC.UserAdd(ctx, "root", secret); return err },
		func() error { _, err := p.targetC.UserGrantRole(ctx, "root", "root"); return err },
		func() error { _, err := p.targetC.UserAdd(ctx, "stranger", secret); return err },
		func() error { _, err := p.targetC.AuthEnable(ctx); return err },
	} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
	}
	// Logins are slow on purpose, and slower on a busy machine.
	patient := []string{"--target-dial-timeout", "60s"}
	file := writeFile(t, "password", secret+"\n")
	invoke(t, p.args("check")...).want(t, exitNoAnswer, "--target-user", "asks for a user")
	invoke(t, append(p.args("check", "--target-user", "stranger", "--target-password-file", file), patient...)...).want(t, exitNoAnswer, "--target-user", "permission")
	invoke(t, append(p.args("verdict", "--target-user", "stranger", "--target-password-file", file), patient...)...).want(t, exitNoAnswer, "--target-user", "permission")
	invoke(t, append(p.args("check", "--target-user", "root", "--target-password-file", file), patient...)...).want(t, 0)
	invoke(t, append(p.args("verdict", "--target-user", "root:"+secret), patient...)...).want(t, 0, "last proven equal", "drcheck: warning: --target-user holds a password")
}

func TestInterrupted(t *testing.T) {
	p := mirrored(t, 1)
	ctx, cancel := context.WithCancel(testutil.Context(t))
	cancel()
	for _, command := range []string{"check", "verdict", "repair"} {
		invokeWithin(t, ctx, p.args(command)...).want(t, program.Interrupted)
	}
}

func TestExitCode(t *testing.T) {
	for code, errs := range map[int][]error{
		0:   {nil},
		1:   {outcome(&drcheck.Result{})},
		2:   {errors.New("x"), connect.ErrUsage, &drcheck.Error{Kind: drcheck.ErrOtherMirror}, connect.ErrUnreachable, drcheck.ErrPromoted, context.DeadlineExceeded},
		130: {context.Canceled},
	} {
		for _, err := range errs {
			if got := drcheckProgram().ExitCode(err); got != code {
				t.Errorf("%v gives %d, want %d", err, got, code)
			}
		}
	}
	if err := outcome(&drcheck.Result{Equal: true}); err != nil {
		t.Errorf("equal: %v", err)
	}
}
