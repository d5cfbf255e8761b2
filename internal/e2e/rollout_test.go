package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/understudy-dr/understudy/encryption"
	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/steps/mirror/engine"
	"github.com/understudy-dr/understudy/failover/steps/nodes"
	"github.com/understudy-dr/understudy/failover/steps/rollout"
	"github.com/understudy-dr/understudy/internal/testutil/kubeapi"
	"github.com/understudy-dr/understudy/keyfilter"
)

// fleet is the API servers of both clusters by their names in the plan.
type fleet map[string]*member

type member struct {
	*kubeapi.Server
	site *site
}

func (f fleet) restart(ctx context.Context, h nodes.Host) error { return f[h.Name()].Restart(ctx) }

func (f fleet) ready(ctx context.Context, a encryption.Apiserver) error {
	return f[a.Name].Ready(ctx)
}

// metrics is what one API server serves at /metrics.
func (f fleet) metrics(ctx context.Context, a encryption.Apiserver) (io.ReadCloser, error) {
	client, err := rest.HTTPClientFor(f[a.Name].REST())
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+f[a.Name].Addr+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		_ = resp.Body.Close()
		return nil, fmt.Errorf("/metrics answers %s", resp.Status)
	}
	return resp.Body, nil
}

// own is a Secret that a test made, and its content.
type own struct{ namespace, name, value string }

// wrong says which API server is not ready, or does not serve a Secret as it was made; "" for none. LIST and GET are different ways in a server.
func (f fleet) wrong(ctx context.Context, secrets map[*site][]own) string {
	for name, m := range f {
		if err := m.Ready(ctx); err != nil {
			return fmt.Sprintf("%s is not ready: %v", name, err)
		}
		list, err := m.Client().CoreV1().Secrets("").List(ctx, metav1.ListOptions{})
		if err != nil {
			return fmt.Sprintf("%s lists no Secrets: %v", name, err)
		}
		listed := map[string]string{}
		for _, s := range list.Items {
			listed[s.Namespace+"/"+s.Name] = string(s.Data["value"])
		}
		for i, want := range secrets[m.site] {
			if listed[want.namespace+"/"+want.name] != want.value {
				return fmt.Sprintf("%s does not list %s/%s as it was made", name, want.namespace, want.name)
			}
			if i%10 != 0 {
				continue
			}
			s, err := m.Client().CoreV1().Secrets(want.namespace).Get(ctx, want.name, metav1.GetOptions{})
			if err != nil || string(s.Data["value"]) != want.value {
				return fmt.Sprintf("%s does not serve %s/%s as it was made: %v", name, want.namespace, want.name, err)
			}
		}
	}
	return ""
}

// control is a mirror in this process as a roll-out sees it.
type control struct{ *engine.InProcess }

func (c control) Copied(context.Context) (bool, error) {
	return c.Status().State == etcdmirror.StateTail, c.Failure()
}

// makeSecrets makes Secrets of a site's own.
func (s *site) makeSecrets(ctx context.Context, t *testing.T, n int, namespace func(i int) string, prefix string) []own {
	t.Helper()
	all := make([]own, n)
	side(t, n, func(i int) error {
		all[i] = own{namespace(i), fmt.Sprintf("%s-%d", prefix, i), fmt.Sprintf("%s's number %d", s.name, i)}
		_, err := s.Client().CoreV1().Secrets(all[i].namespace).Create(ctx, &corev1.Secret{ObjectMeta: meta("", all[i].name), StringData: map[string]string{"value": all[i].value}}, metav1.CreateOptions{})
		return err
	})
	return all
}

// TestEncryptionRollout brings two clusters whose keys have one name and different secrets to one configuration, on real API servers: two of the standby, one of the primary.
// After each phase every API server is ready and serves every Secret of its cluster, and after the mirror has run the primary's as well.
func TestEncryptionRollout(t *testing.T) {
	ctx := bounded(t)
	// The API servers order a compaction every five minutes otherwise; the last phases wait for two.
	p := newPair(ctx, t, options{sameName: true, servers: 2, args: []string{"--etcd-compaction-interval=5s"}})
	var wg sync.WaitGroup
	for _, s := range []*site{p.primary, p.standby} {
		wg.Go(func() { s.furnish(ctx, t); s.settled(ctx, t) })
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	p.primary.populate(ctx, t, 1)
	excluded := keyfilter.DefaultExcludedNamespaces()
	inExcluded := func(i int) string { return excluded[i%len(excluded)] }
	secrets := map[*site][]own{
		p.primary: p.primary.makeSecrets(ctx, t, 300, tenant, "mirrored"),
		p.standby: p.standby.makeSecrets(ctx, t, 300, inExcluded, "kept"),
	}

	if _, err := encryption.Merge(p.primary.config, p.standby.config, encryption.MergeOptions{}); !errors.Is(err, encryption.ErrConflict) {
		t.Errorf("merging keys of one name and different secrets: %v", err)
	}
	all, hosts := fleet{}, map[string]nodes.Host{}
	cluster := func(s *site) encryption.Cluster {
		c := encryption.Cluster{Config: s.config}
		for i, server := range s.Servers {
			name := fmt.Sprintf("%s-%d", s.name, i)
			h, err := nodes.NewLocal(nodes.LocalConfig{Name: name})
			if err != nil {
				t.Fatal(err)
			}
			all[name], hosts[name] = &member{server, s}, h
			c.Apiservers = append(c.Apiservers, encryption.Apiserver{Name: name, Path: server.EncryptionConfigFile})
		}
		return c
	}
	plan, err := encryption.PlanRollout(encryption.RolloutConfig{Primary: cluster(p.primary), Standby: cluster(p.standby), Merge: encryption.MergeOptions{Clash: encryption.ClashRenameStandby}, Drop: true})
	if err != nil {
		t.Fatal(err)
	}
	files, err := rollout.NewHosts(plan, rollout.HostsConfig{Hosts: hosts, Owner: fmt.Sprint(os.Geteuid()), Group: fmt.Sprint(os.Getegid()), User: true, Restart: all.restart, Metrics: all.metrics, Ready: all.ready})
	if err != nil {
		t.Fatal(err)
	}
	resource, err := keyfilter.Resource(registry)
	if err != nil {
		t.Fatal(err)
	}
	cfg := p.mirror
	cfg.Transform = nil // in the end both clusters have one key
	merged, err := encryption.NewCodec(plan.Merged, encryption.CodecConfig{Resource: resource})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(merged.Close)
	cfg.Guards = []etcdmirror.Guard{merged.Guard(ctx, nil)}
	m := newMirror(t, p.primary, p.standby, cfg)
	values := &encryption.EtcdValues{Clients: map[encryption.Role]*clientv3.Client{encryption.Primary: p.primary.etcd, encryption.Standby: p.standby.etcd}, Resource: resource,
		InPlace: encryption.InPlaceConfig{Rate: -1, RequestTimeout: requestTimeout}}
	steps, err := rollout.Steps(rollout.Config{Plan: plan, Timeout: 3 * time.Minute, Effects: encryption.Effects{Files: files, Loaded: files, Values: values, Mirror: control{m}}})
	if err != nil {
		t.Fatal(err)
	}
	// Between two phases, a look at every API server.
	var looked []string
	var withLooks []failover.Step
	began := time.Now()
	for i, step := range steps {
		phase := plan.Phases[i]
		withLooks = append(withLooks, step, failover.Check("look/"+phase.Name, func(ctx context.Context) (failover.Observation, error) {
			if phase.Kind == encryption.PhaseStartMirror {
				if err := m.WaitForRevision(ctx, p.primary.revision(ctx, t)); err != nil {
					return failover.Observation{}, err
				}
				secrets[p.standby] = append(secrets[p.standby], secrets[p.primary]...)
			}
			if wrong := all.wrong(ctx, secrets); wrong != "" {
				return failover.Observation{State: failover.Blocked, Detail: wrong}, nil
			}
			looked = append(looked, fmt.Sprintf("%s (%v)", phase.Name, time.Since(began).Round(100*time.Millisecond)))
			return failover.Observation{State: failover.Done}, nil
		}, failover.Description{Action: "Is every API server ready, and serves it every Secret?"}))
	}
	whole, err := failover.NewPlan(failover.PlanConfig{Name: "rollout", Steps: withLooks})
	if err != nil {
		t.Fatal(err)
	}
	r, err := failover.New(whole, failover.Config{Journal: filepath.Join(t.TempDir(), "journal"), NoWait: true, ObserveTimeout: 2 * time.Minute, Poll: 100 * time.Millisecond, Logger: logger()})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Run(ctx); err != nil {
		t.Fatalf("after %v: %v", looked, err)
	}
	if len(looked) < len(steps) {
		t.Errorf("API servers were looked at after %d of %d phases: %v", len(looked), len(steps), looked)
	}
	t.Logf("%d API servers ready, and %d and %d Secrets served by each of the primary's and the standby's, after: %s", len(all), len(secrets[p.primary]), len(secrets[p.standby]), strings.Join(looked, ", "))

	// In the end the standby has the primary's key alone, and all values with it.
	audit, err := encryption.Audit(ctx, p.standby.etcd, encryption.AuditConfig{Codec: p.primary.codec})
	if err != nil {
		t.Fatal(err)
	}
	if err := audit.Err(); err != nil || audit.Stale > 0 {
		t.Errorf("values at the standby under the primary's first configuration: %v, %d stale", err, audit.Stale)
	}
	restartsReady(ctx, t, p.standby)
	if wrong := all.wrong(ctx, secrets); wrong != "" {
		t.Error(wrong)
	}
}
