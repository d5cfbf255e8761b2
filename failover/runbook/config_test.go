package runbook

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/steps/etcdcluster"
	"github.com/understudy-dr/understudy/failover/steps/mirror"
	"github.com/understudy-dr/understudy/failover/steps/network"
	"github.com/understudy-dr/understudy/internal/testutil"
)

func TestMain(m *testing.M) { testutil.Main(m) }

// nobody is a client of an etcd that is not there: making plans contacts nothing.
func nobody(t *testing.T, endpoint string) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func control() mirror.Control {
	return mirror.ControlFuncs{Text: "a unit", IsRunning: noState, DoStart: noAct, DoStop: noAct}
}

func config(t *testing.T) Config {
	return Config{Domain: "platform.example.com", Mirror: etcdmirror.Config{Name: "global"}, Differences: "/tmp/differences",
		Primary: Cluster{Name: "dc1", VIPs: []string{"10.1.0.10"}, Etcd: nobody(t, "10.1.0.1:2379"), Mirror: control()},
		Standby: Cluster{Name: "dc2", VIPs: []string{"10.2.0.10", "fd00::2"}, Etcd: nobody(t, "10.2.0.1:2379"), Mirror: control()}}
}

// Every field at fault is named, in every runbook that needs it.
func TestConfigErrors(t *testing.T) {
	books := map[string]func(Config) (failover.PlanConfig, error){"switchover": GlobalClusterSwitchover, "failover": GlobalClusterFailover, "failback": GlobalClusterFailback, "drill": Drill}
	for name, build := range books {
		p, err := build(config(t))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := failover.NewPlan(p); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, tc := range []struct {
		want  string
		spoil func(*Config)
		not   string // the runbook that can do without
	}{
		{"Domain is empty", func(c *Config) { c.Domain = "" }, ""},
		{`Domain "10.0.0.1" is no domain`, func(c *Config) { c.Domain = "10.0.0.1" }, ""},
		{"Primary.VIPs is empty", func(c *Config) { c.Primary.VIPs = nil }, ""},
		{`Standby.VIPs[1], "lb", is no address`, func(c *Config) { c.Standby.VIPs = []string{"10.2.0.10", "lb"} }, ""},
		{"share fd00:0::2", func(c *Config) { c.Primary.VIPs = []string{"fd00:0::2"} }, ""},
		{"Primary.Etcd is nil", func(c *Config) { c.Primary.Etcd = nil }, "failover"},
		{"Standby.Etcd is nil", func(c *Config) { c.Standby.Etcd = nil }, ""},
		{"are one client", func(c *Config) { c.Standby.Etcd = c.Primary.Etcd }, ""},
		{"Standby.Etcd goes through the virtual IP", func(c *Config) { c.Standby.Etcd = nobody(t, "https://[fd00::2]:2379") }, ""},
		{`Primary and Standby are both "dc2"`, func(c *Config) { c.Primary.Name = "dc2" }, ""},
		{`Primary.Name "a/b" is no name`, func(c *Config) { c.Primary.Name = "a/b" }, ""},
		{"Standby.Mirror is nil", func(c *Config) { c.Standby.Mirror = nil }, ""},
		{"DNS.Provider is nil", func(c *Config) { c.DNS = &DNS{Resolvers: []string{"10.0.0.53"}} }, ""},
		{"DNS.Resolvers is empty", func(c *Config) { c.DNS = &DNS{} }, ""},
		{"Check.Name", func(c *Config) { c.Check.Name = "other" }, ""},
		{`Mirror.Name "" is no mirror name`, func(c *Config) { c.Mirror.Name = "" }, ""},
		{"has no frontends", func(c *Config) {
			c.Standby.Balancers = []Balancer{{HAProxy: network.HAProxy{Name: "lb", Address: "/s"}}}
		}, ""},
	} {
		for name, build := range books {
			cfg := config(t)
			tc.spoil(&cfg)
			_, err := build(cfg)
			if name == tc.not {
				if err != nil {
					t.Errorf("%s: %v", name, err)
				}
				continue
			}
			if !errors.Is(err, failover.ErrConfig) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%s: %v, want %q", name, err, tc.want)
			}
		}
	}
	if _, err := GlobalClusterSetup(config(t)); err == nil || !strings.Contains(err.Error(), "Primary.Installation is nil") {
		t.Errorf("setup: %v", err)
	}
	if _, err := EncryptionRollout(EncryptionConfig{}); !errors.Is(err, failover.ErrConfig) {
		t.Errorf("encryption: %v", err)
	}
	if _, err := StretchQuorumRestore(StretchConfig{Cluster: "metro", Outage: etcdcluster.Outage{}}); err == nil {
		t.Error("stretch: no error without members")
	}
	cfg := config(t)
	cfg.Differences = ""
	if _, err := GlobalClusterFailback(cfg); err == nil || !strings.Contains(err.Error(), "Differences is empty") {
		t.Errorf("failback: %v", err)
	}
}

func noState(context.Context) (bool, error) { return false, nil }
func noAct(context.Context) error           { return nil }

// What keeps the rules of a pair from holding blocks the set-up, with every field at fault.
func TestParityBlocksTheSetUp(t *testing.T) {
	cfg := config(t)
	in := installation(certificate(t, "platform.example.com", time.Now().AddDate(1, 0, 0)))
	in.Certificate.Chain = nil
	cfg.Primary.Installation, cfg.Standby.Installation = &in, &in
	p, err := GlobalClusterSetup(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range p.Steps {
		if step.Name() != "parity/dc1" {
			continue
		}
		obs, err := step.Observe(t.Context())
		if err != nil || obs.State != failover.Blocked {
			t.Fatalf("%+v, %v", obs, err)
		}
		for _, field := range []string{"ClusterEndpoint", "OtherPlatformAddresses", "Certificate.Chain"} {
			if !strings.Contains(obs.Detail, field+": ") {
				t.Errorf("%q lacks %s", obs.Detail, field)
			}
		}
		return
	}
	t.Error("no such step")
}
