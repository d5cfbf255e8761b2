//go:build unix

package rollout_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/encryption"
	"github.com/understudy-dr/understudy/failover"
	"github.com/understudy-dr/understudy/failover/steps/nodes"
	"github.com/understudy-dr/understudy/failover/steps/rollout"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
	"github.com/understudy-dr/understudy/internal/testutil/steprun"
	"github.com/understudy-dr/understudy/keyfilter"
)

func TestMain(m *testing.M) { testutil.Main(m) }

func secretText(word string) string {
	sum := sha256.Sum256([]byte(word))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// config has one key, as the clusters of the first procedure do.
func config(t *testing.T, name, word string) *encryption.Configuration {
	t.Helper()
	cfg, err := encryption.Parse(fmt.Appendf(nil, `apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets]
  providers:
  - aescbc:
      keys:
      - name: %s
        secret: %s
  - identity: {}
`, name, secretText(word)))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// stage is two clusters: real etcds, a folder for the machine of each apiserver, and what each apiserver has loaded from there.
type stage struct {
	t       *testing.T
	dir     string
	clients map[encryption.Role]*clientv3.Client
	loaded  map[string][]byte
	writes  map[string]int // how often each was restarted
	fail    string         // the apiserver that does not come back
	mirror  bool
	finds   int // looks into the history
	encryption.EtcdValues
}

func (s *stage) restart(_ context.Context, h nodes.Host) error {
	s.writes[h.Name()]++
	if h.Name() == s.fail {
		return errors.New("it does not come back")
	}
	data, err := os.ReadFile(filepath.Join(s.dir, h.Name(), "enc.yaml"))
	s.loaded[h.Name()] = data
	return err
}

func (s *stage) metrics(_ context.Context, a encryption.Apiserver) (io.ReadCloser, error) {
	text := "process_start_time_seconds 1\n"
	if data := s.loaded[a.Name]; data != nil {
		text += fmt.Sprintf("apiserver_encryption_config_controller_last_config_info{apiserver_id_hash=\"sha256:x\",hash=%q} 1\n", encryption.Hash(data))
	}
	return io.NopCloser(strings.NewReader(text)), nil
}

func (s *stage) Running(context.Context) (bool, error) { return s.mirror, nil }
func (s *stage) Copied(context.Context) (bool, error)  { return s.mirror, nil }
func (s *stage) Stop(context.Context) error            { s.mirror = false; return nil }
func (s *stage) Start(context.Context) error           { s.mirror = true; return nil }

// Find lets the etcd forget its history the second time that somebody looks into it, as an apiserver orders it now and then.
func (s *stage) Find(ctx context.Context, cluster encryption.Role, history bool, loaded *encryption.Configuration, match func(ctx context.Context, codec *encryption.Codec, key string, value []byte) (bool, error)) (string, error) {
	if history {
		if s.finds++; s.finds%2 == 0 {
			client := s.clients[cluster]
			resp, err := client.Get(ctx, "x")
			if err == nil {
				_, err = client.Compact(ctx, resp.Header.Revision)
			}
			if err != nil && !strings.Contains(err.Error(), "compacted") {
				return "", err
			}
		}
	}
	return s.EtcdValues.Find(ctx, cluster, history, loaded, match)
}

func key(i int) string { return fmt.Sprintf("/registry/secrets/team-a/s%05d", i) }
func plain(i int) []byte {
	return fmt.Appendf(nil, `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s%05d"}}`, i)
}

const values = 200

func newStage(t *testing.T) (*stage, *encryption.Rollout, rollout.Config) {
	t.Helper()
	ctx := testutil.Context(t)
	resource, err := keyfilter.Resource("")
	if err != nil {
		t.Fatal(err)
	}
	s := &stage{t: t, dir: t.TempDir(), clients: map[encryption.Role]*clientv3.Client{}, loaded: map[string][]byte{}, writes: map[string]int{}, mirror: true}
	for _, role := range []encryption.Role{encryption.Primary, encryption.Standby} {
		s.clients[role] = testutil.Client(t, testutil.NewCluster(t, embedetcd.Options{}))
	}
	s.EtcdValues = encryption.EtcdValues{Clients: s.clients, Resource: resource, InPlace: encryption.InPlaceConfig{Rate: -1}}
	hosts := map[string]nodes.Host{}
	cluster := func(cfg *encryption.Configuration, names ...string) encryption.Cluster {
		c := encryption.Cluster{Config: cfg}
		data, err := encryption.Encode(cfg)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			h, err := nodes.NewLocal(nodes.LocalConfig{Name: name})
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(s.dir, name, "enc.yaml")
			if err := errors.Join(os.Mkdir(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o600)); err != nil {
				t.Fatal(err)
			}
			hosts[name], s.loaded[name] = h, data
			c.Apiservers = append(c.Apiservers, encryption.Apiserver{Name: name, Path: path})
		}
		return c
	}
	standby := config(t, "key1", "standby")
	plan, err := encryption.PlanRollout(encryption.RolloutConfig{Primary: cluster(config(t, "key1", "primary"), "p-0", "p-1"), Standby: cluster(standby, "s-0", "s-1"),
		Merge: encryption.MergeOptions{Clash: encryption.ClashRenameStandby}, Drop: true})
	if err != nil {
		t.Fatal(err)
	}
	codec, err := encryption.NewCodec(standby, encryption.CodecConfig{Resource: resource})
	if err != nil {
		t.Fatal(err)
	}
	defer codec.Close()
	for i := range values {
		value, err := codec.Seal(ctx, key(i), plain(i))
		if err == nil {
			_, err = s.clients[encryption.Standby].Put(ctx, key(i), string(value))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	files, err := rollout.NewHosts(plan, rollout.HostsConfig{Hosts: hosts, Owner: fmt.Sprint(os.Geteuid()), Group: fmt.Sprint(os.Getegid()), User: true, Restart: s.restart, Metrics: s.metrics})
	if err != nil {
		t.Fatal(err)
	}
	return s, plan, rollout.Config{Plan: plan, Effects: encryption.Effects{Files: files, Loaded: files, Values: s, Mirror: s}}
}

func (s *stage) revision() int64 {
	s.t.Helper()
	resp, err := s.clients[encryption.Standby].Get(testutil.Context(s.t), "x")
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.Header.Revision
}

// reads checks that an apiserver reads every value with what it has loaded.
func (s *stage) reads(name string) {
	s.t.Helper()
	ctx := testutil.Context(s.t)
	cfg, err := encryption.Parse(s.loaded[name])
	if err != nil {
		s.t.Fatal(err)
	}
	codec, err := encryption.NewCodec(cfg, encryption.CodecConfig{Resource: s.Resource})
	if err != nil {
		s.t.Fatal(err)
	}
	defer codec.Close()
	for i := range values {
		resp, err := s.clients[encryption.Standby].Get(ctx, key(i))
		if err != nil || len(resp.Kvs) != 1 {
			s.t.Fatalf("%s: %v", key(i), err)
		}
		if got, err := codec.Open(ctx, key(i), resp.Kvs[0].Value); err != nil || !bytes.Equal(got, plain(i)) {
			s.t.Fatalf("%s does not read %s: %v", name, key(i), err)
		}
	}
}

// TestRollout carries out the plan for two clusters with one key's name and different secrets, the drop of the standby's key included, on real etcds and real files: with an apiserver that does not
// come back first, and then with runners that are given up before and after each phase.
func TestRollout(t *testing.T) {
	s, plan, cfg := newStage(t)
	steps, err := rollout.Steps(cfg)
	if err != nil {
		t.Fatal(err)
	}
	run := steprun.NewRun(t, steps...)
	if len(steps) != len(plan.Phases) {
		t.Errorf("%d steps for %d phases", len(steps), len(plan.Phases))
	}
	first := plan.Phases[1]
	if first.Kind != encryption.PhaseInstall {
		t.Fatalf("the second phase is %s", first.Kind)
	}
	if got, want := run.Plan().PointOfNoReturn(), "encryption/"+first.Name; got != want {
		t.Errorf("the point of no return is %s, want %s", got, want)
	}
	before := s.revision()
	run.DryRun()
	if s.revision() != before || len(s.writes) > 0 || !s.mirror {
		t.Error("a dry run has changed something")
	}
	s.fail = "s-0"
	if err := run.Do(); !errors.Is(err, failover.ErrStepFailed) || !strings.Contains(err.Error(), "s-0: it does not come back") {
		t.Errorf("an apiserver that does not come back: %v", err)
	}
	if s.writes["s-1"] > 0 {
		t.Error("the next apiserver was touched")
	}
	if err := run.Undo(); !errors.Is(err, failover.ErrPointOfNoReturn) {
		t.Errorf("undo after it: %v", err)
	}
	s.fail = ""
	s.reads("s-0")
	s.reads("s-1")
	run.DoKilled()
	for _, name := range []string{"s-0", "s-1"} {
		s.reads(name)
		if !bytes.Equal(s.loaded[name], s.loaded["p-0"]) {
			t.Errorf("%s and p-0 do not run with one file", name)
		}
	}
	final, err := encryption.Parse(s.loaded["s-1"])
	if err != nil || len(final.Resources) != 1 || len(final.Resources[0].Providers[0].AESCBC.Keys) != 1 || final.Resources[0].Providers[0].AESCBC.Keys[0].Secret != secretText("primary") {
		t.Errorf("in the end they do not have the primary's key alone: %v", err)
	}
	installs := map[string]int{"s-0": 1} // of the time when it did not come back
	for _, p := range plan.Phases {
		for _, f := range p.Files {
			installs[f.Apiserver.Name]++
		}
	}
	for name, want := range installs {
		if s.writes[name] != want {
			t.Errorf("%s was restarted %d times, want %d", name, s.writes[name], want)
		}
	}
	if !s.mirror {
		t.Error("the mirror does not run")
	}
	texts := run.Texts()
	for _, word := range []string{"primary", "standby"} {
		if strings.Contains(texts, secretText(word)) {
			t.Errorf("the plan or the journal hold the %s's key", word)
		}
	}
	if !strings.Contains(texts, "encryption/"+first.Name) || !strings.Contains(texts, first.Files[0].Hash) {
		t.Error("the plan does not name the files' hashes")
	}
}

// TestUndoOfTheMirror: what comes before the point of no return is taken back; a mirror that did not run is not started.
func TestUndoOfTheMirror(t *testing.T) {
	for _, ran := range []bool{true, false} {
		s, _, cfg := newStage(t)
		s.mirror = ran
		steps, err := rollout.Steps(cfg)
		if err != nil {
			t.Fatal(err)
		}
		run := steprun.NewRun(t, steps[0])
		if err := run.Do(); err != nil || s.mirror {
			t.Errorf("ran %v: stopped: %v, %v", ran, !s.mirror, err)
		}
		if err := run.Undo(); err != nil || s.mirror != ran {
			t.Errorf("ran %v: after undo it runs: %v, %v", ran, s.mirror, err)
		}
	}
}

func TestConfig(t *testing.T) {
	wants := func(err error, parts ...string) {
		t.Helper()
		if !errors.Is(err, failover.ErrConfig) {
			t.Errorf("got %v", err)
			return
		}
		for _, part := range parts {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%v does not say %s", err, part)
			}
		}
	}
	_, plan, _ := newStage(t)
	_, err := rollout.Steps(rollout.Config{Timeout: -1})
	wants(err, "Config.Plan", "Config.Timeout")
	_, err = rollout.Steps(rollout.Config{Plan: plan})
	wants(err, "Effects.Mirror is missing, which phase stop-mirror", "Effects.Files", "Effects.Loaded", "Effects.Values")
	_, err = rollout.NewHosts(plan, rollout.HostsConfig{Hosts: map[string]nodes.Host{}})
	wants(err, "p-0", "p-1", "s-0", "s-1", "HostsConfig.Restart", "HostsConfig.Metrics")
	_, err = rollout.NewHosts(nil, rollout.HostsConfig{})
	wants(err, "the plan is nil")
}
