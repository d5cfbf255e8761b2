package posture_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/steps/kube/posture"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
)

func TestMain(m *testing.M) { testutil.Main(m) }

// away is an API server that nobody runs.
func away(t *testing.T) *rest.Config {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return &rest.Config{Host: "http://" + l.Addr().String()}
}

// found lists findings as "severity check", those that were not looked at with a question mark.
func found(r *posture.Report) (all []string) {
	for _, f := range r.Findings {
		line := string(f.Severity) + " " + f.Check
		if f.NotLooked {
			line += "?"
		}
		all = append(all, line)
	}
	slices.Sort(all)
	return all
}

func TestConfigIsChecked(t *testing.T) {
	good := func() posture.GateConfig { return posture.GateConfig{Config: posture.Config{Standby: away(t)}} }
	for want, change := range map[string]func(c *posture.GateConfig){
		"Standby is nil":        func(c *posture.GateConfig) { c.Standby = nil },
		"Prefix":                func(c *posture.GateConfig) { c.Prefix = "//" },
		"PrimaryNodePorts":      func(c *posture.GateConfig) { c.PrimaryNodePorts = "30000" },
		"StandbyNodePorts":      func(c *posture.GateConfig) { c.StandbyNodePorts = "3-2" },
		"ExcludedNamespaces[1]": func(c *posture.GateConfig) { c.ExcludedNamespaces = []string{"a", "b-*"} },
		"RevisionMargin -1":     func(c *posture.GateConfig) { c.RevisionMargin = -1 },
		"MaxFillers -1":         func(c *posture.GateConfig) { c.MaxFillers = -1 },
		"RequestTimeout":        func(c *posture.GateConfig) { c.RequestTimeout = -1 },
		"Config.Primary":        func(c *posture.GateConfig) { c.Primary = &rest.Config{Host: "://"} },
		"Config.Standby": func(c *posture.GateConfig) {
			c.Standby = &rest.Config{TLSClientConfig: rest.TLSClientConfig{CAData: []byte("x")}, Host: "https://a"}
		},
		`Block "bad"`:            func(c *posture.GateConfig) { c.Block = "bad" },
		`Accept[0] "volume"`:     func(c *posture.GateConfig) { c.Accept = []string{"volume"} },
		`Require[0] "volumes/a"`: func(c *posture.GateConfig) { c.Require = []string{"volumes/a"} },
	} {
		t.Run(want, func(t *testing.T) {
			cfg := good()
			change(&cfg)
			_, err := posture.Gate(cfg)
			var detail *failover.Error
			if !errors.Is(err, failover.ErrConfig) || !errors.As(err, &detail) || !strings.Contains(detail.Detail, want) || detail.Hint == "" {
				t.Errorf("%v: want ErrConfig about %s, with a hint", err, want)
			}
		})
	}
	if _, err := posture.Gate(good()); err != nil {
		t.Error(err)
	}
}

// A report is never empty because nobody answered.
func TestNobodyAnswers(t *testing.T) {
	checker, err := posture.New(posture.Config{Primary: away(t), Standby: away(t), RequestTimeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	r, err := checker.Check(testutil.Context(t))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"fatal controllers?", "info encryption?", "info node-ports?", "info revision?"}
	for _, check := range []string{"service-cidr", "service-accounts", "version", "apiservices", "webhooks", "volumes", "definitions", "root-ca"} {
		want = append(want, "warning "+check+"?")
	}
	slices.Sort(want)
	if got := found(r); !slices.Equal(got, want) || len(r.Clean) != 0 || r.Controllers != posture.ControllersUnknown {
		t.Errorf("found %q, clean %q\nwant %q", got, r.Clean, want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := checker.Check(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that ended: %v", err)
	}
}

// allocate writes an allocation of node ports as an apiserver does.
func allocate(t *testing.T, client *clientv3.Client, ports string) {
	t.Helper()
	codec := scheme.Codecs.EncoderForVersion(protobuf.NewSerializer(scheme.Scheme, scheme.Scheme), corev1.SchemeGroupVersion)
	value, err := runtime.Encode(codec, &corev1.RangeAllocation{Range: ports, Data: []byte{1}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Put(testutil.Context(t), "/registry/ranges/servicenodeports", string(value)); err != nil {
		t.Fatal(err)
	}
}

// TestEtcdsTell has what comes from the etcds: revisions and ranges of node ports; of which flags come first.
func TestEtcdsTell(t *testing.T) {
	primary, standby := testutil.Client(t, testutil.NewCluster(t, embedetcd.Options{})), testutil.Client(t, testutil.NewCluster(t, embedetcd.Options{}))
	allocate(t, primary, "30000-32767")
	check := func(margin int64, change func(c *posture.Config)) *posture.Report {
		t.Helper()
		cfg := posture.Config{Standby: away(t), PrimaryEtcd: primary, StandbyEtcd: standby, RevisionMargin: margin}
		change(&cfg)
		checker, err := posture.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		r, err := checker.Check(testutil.Context(t))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	of := func(r *posture.Report, check string) (problems []string) {
		for _, f := range r.Findings {
			if f.Check == check {
				problems = append(problems, fmt.Sprintf("%s %v %s", f.Severity, f.NotLooked, f.Problem))
			}
		}
		return problems
	}
	none := func(*posture.Config) {}
	if got := of(check(5, none), posture.CheckNodePorts); len(got) != 1 || !strings.HasPrefix(got[0], "info true ") || !strings.Contains(got[0], "StandbyEtcd has no allocation") {
		t.Errorf("without an allocation: %q", got)
	}
	if got := of(check(5, func(c *posture.Config) { c.StandbyNodePorts = "31000-32767" }), posture.CheckNodePorts); len(got) != 1 || !strings.HasPrefix(got[0], "fatal false the primary's 30000-32767") {
		t.Errorf("with a flag: %q", got)
	}
	allocate(t, standby, "30000-32767")
	r := check(5, none)
	if !slices.Contains(r.Clean, posture.CheckNodePorts) {
		t.Errorf("equal: %q", of(r, posture.CheckNodePorts))
	}
	if got := of(r, posture.CheckRevision); len(got) != 1 || !strings.Contains(got[0], "it is at 2, the primary's at 2: a revision fence 5 above it takes 5 filler writes") {
		t.Errorf("revision: %q", got)
	}
	for range 5 {
		if _, err := standby.Put(testutil.Context(t), "filler", ""); err != nil {
			t.Fatal(err)
		}
	}
	if r := check(5, none); !slices.Contains(r.Clean, posture.CheckRevision) {
		t.Errorf("after as many filler writes: %q", of(r, posture.CheckRevision))
	}
	if _, err := standby.Put(testutil.Context(t), "/registry/ranges/servicenodeports", "k8s\x00secret"); err != nil {
		t.Fatal(err)
	}
	if got := of(check(5, none), posture.CheckNodePorts); len(got) != 1 || !strings.HasPrefix(got[0], "warning true ") || strings.Contains(got[0], "secret") {
		t.Errorf("unreadable: %q", got)
	}
	if got := of(check(5, func(c *posture.Config) {
		c.Unreadable = func(context.Context) (int, int, error) { return 3, 0, nil }
	}), posture.CheckEncryption); len(got) != 1 || !strings.HasPrefix(got[0], "fatal false ") {
		t.Errorf("unreadable values: %q", got)
	}
	if got := of(check(5, func(c *posture.Config) {
		c.Unreadable = func(context.Context) (int, int, error) { return 0, 0, errors.New("no plugin") }
	}), posture.CheckEncryption); len(got) != 1 || !strings.HasPrefix(got[0], "warning true ") || !strings.Contains(got[0], "no plugin") {
		t.Errorf("nobody knows: %q", got)
	}
}

// runGate runs a plan of a gate alone, after a dry run that finds the same.
func runGate(t *testing.T, cfg posture.GateConfig) error {
	t.Helper()
	ctx := testutil.Context(t)
	step, err := posture.Gate(cfg)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := failover.NewPlan(failover.PlanConfig{Name: "set-up", Steps: []failover.Step{step}})
	if err != nil {
		t.Fatal(err)
	}
	dry, err := plan.DryRun(ctx, failover.DryRunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	journal := filepath.Join(t.TempDir(), "journal")
	runner, err := failover.New(plan, failover.Config{Journal: journal, NoWait: true})
	if err != nil {
		t.Fatal(err)
	}
	err = runner.Run(ctx)
	if (err == nil) != (dry.Steps[0].State == failover.Done) {
		t.Errorf("the dry run says %v, the run %v", dry.Steps[0], err)
	}
	return err
}

func TestGate(t *testing.T) {
	cfg := posture.GateConfig{Config: posture.Config{Standby: away(t)}, Reference: "set-up, 1"}
	if err := runGate(t, cfg); !errors.Is(err, failover.ErrBlocked) || !strings.Contains(err.Error(), "cannot be reached") {
		t.Errorf("a standby that does not answer: %v", err)
	}
	cfg.Accept = []string{posture.CheckControllers}
	if err := runGate(t, cfg); err != nil {
		t.Errorf("accepted: %v", err)
	}
	cfg.Require = []string{posture.CheckEncryption}
	if err := runGate(t, cfg); !errors.Is(err, failover.ErrBlocked) || !strings.Contains(err.Error(), "encryption") {
		t.Errorf("required: %v", err)
	}
}
