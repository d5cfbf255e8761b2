package encryption_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/encryption"
	"github.com/understudy-dr/understudy/internal/testutil"
)

// stage is two clusters with real etcds, whose apiservers are loaded files.
type stage struct {
	t       *testing.T
	clients map[encryption.Role]*clientv3.Client
	loaded  map[string]encryption.File // by apiserver
	fail    string                     // the apiserver that does not load its file
	mirror  bool
	asked   int
	did     []string
}

func (s *stage) effects() encryption.Effects {
	return encryption.Effects{Files: s, Loaded: s, Mirror: s,
		Values: &encryption.EtcdValues{Clients: s.clients, Resource: resourceFunc(s.t, ""), InPlace: encryption.InPlaceConfig{Rate: -1}}}
}

func (s *stage) Install(_ context.Context, f encryption.File) error {
	s.did = append(s.did, f.Apiserver.Name)
	if s.fail != f.Apiserver.Name {
		s.loaded[f.Apiserver.Name] = f
	}
	return nil
}

func (s *stage) Verify(_ context.Context, f encryption.File) error {
	metrics := "process_start_time_seconds 1\n"
	if now, ok := s.loaded[f.Apiserver.Name]; ok {
		metrics += fmt.Sprintf("apiserver_encryption_config_controller_last_config_info{apiserver_id_hash=\"sha256:x\",hash=%q} 1\n", now.Hash)
	}
	_, err := encryption.VerifyLoaded(strings.NewReader(metrics), encryption.LoadedFile{Hash: f.Hash})
	return err
}

func (s *stage) Running(context.Context) (bool, error) { return s.mirror, nil }
func (s *stage) Stop(context.Context) error            { s.mirror = false; return nil }
func (s *stage) Start(context.Context) error           { s.mirror = true; return nil }

// Copied is asked twice before the copy is done, which takes time after the start.
func (s *stage) Copied(context.Context) (bool, error) {
	if s.mirror {
		s.asked++
	}
	return s.asked > 2, nil
}

// apiserver is what one apiserver has loaded.
func (s *stage) apiserver(name string) *apiserver {
	cfg, err := encryption.Parse(s.loaded[name].Data)
	if err != nil {
		s.t.Fatal(err)
	}
	return loadReal(s.t, cfg)
}

// TestExecute runs a whole plan of equal names on real etcds, phase by phase: each says before that it is not reached, and after that it is.
func TestExecute(t *testing.T) {
	ctx := testutil.Context(t)
	cfg := rolloutConfig(config(t, "secrets: cbc key1=P, identity"), config(t, "secrets: cbc key1=S, identity"), 2)
	cfg.Merge.Clash, cfg.Drop = encryption.ClashRenameStandby, true
	plan, err := encryption.PlanRollout(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s := &stage{t: t, clients: map[encryption.Role]*clientv3.Client{encryption.Primary: newEtcd(t), encryption.Standby: newEtcd(t)}, loaded: map[string]encryption.File{}, mirror: true}
	standby := s.clients[encryption.Standby]
	old := loadReal(t, cfg.Standby.Config)
	const n = 300
	for i := range n {
		put(t, standby, secretNo(i), old.seal(t, secretNo(i), numbered(i, 0)))
	}
	e := s.effects()
	for i := range plan.Phases {
		p := &plan.Phases[i]
		kept := p.Name == "audit" || p.Name == "audit-drop" // reached by the phase before
		if err := p.Check(ctx, e); !kept && !errors.Is(err, encryption.ErrNotReached) && !errors.Is(err, encryption.ErrNotLoaded) {
			t.Fatalf("%s: before: %v", p.Name, err)
		}
		switch p.Kind {
		case encryption.PhaseCompaction:
			short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
			if err := p.Do(short, e); !errors.Is(err, encryption.ErrNotReached) && !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("%s: without a compaction: %v", p.Name, err)
			}
			cancel()
			compact(t, standby)
		case encryption.PhaseInstall: // one apiserver does not load it: the next is not touched
			s.did, s.fail = nil, p.Files[0].Apiserver.Name
			if err := p.Do(ctx, e); !errors.Is(err, encryption.ErrNotLoaded) || !strings.Contains(err.Error(), s.fail) || len(s.did) != 1 {
				t.Fatalf("%s: one apiserver does not load the file: %v, after %v", p.Name, err, s.did)
			}
			s.fail = ""
		}
		for range 2 { // and again after an interruption
			if err := p.Do(ctx, e); err != nil {
				t.Fatalf("%s: %v", p.Name, err)
			}
		}
		if err := p.Check(ctx, e); err != nil {
			t.Fatalf("%s: after: %v", p.Name, err)
		}
		if p.Kind == encryption.PhaseStartMirror { // what the mirror brings
			primary := s.apiserver("p-0")
			for i := range n {
				put(t, standby, secretNo(n+i), primary.seal(t, secretNo(n+i), numbered(n+i, 0)))
			}
		}
		if p.Kind == encryption.PhaseInstall && p.Files[len(p.Files)-1].Cluster == encryption.Standby {
			for _, name := range []string{"s-0", "s-1"} {
				server := s.apiserver(name)
				resp, err := standby.Get(ctx, "/registry/", clientv3.WithPrefix())
				if err != nil {
					t.Fatal(err)
				}
				for _, kv := range resp.Kvs {
					if plain, err := server.open(string(kv.Key), kv.Value); err != nil || !bytes.Contains(plain, []byte("Secret")) {
						t.Fatalf("%s: %s does not read %s: %v", p.Name, name, kv.Key, err)
					}
				}
			}
		}
	}
	if cfg, err := encryption.Parse(s.loaded["s-1"].Data); err != nil || brief(cfg, false) != "secrets [key1 identity]" {
		t.Errorf("in the end: %v", err)
	}
	for i := range plan.Phases {
		if err := plan.Phases[i].Check(ctx, encryption.Effects{}); !errors.Is(err, encryption.ErrConfig) {
			t.Errorf("%s without effects: %v", plan.Phases[i].Name, err)
		}
		if err := plan.Phases[i].Do(ctx, encryption.Effects{}); !errors.Is(err, encryption.ErrConfig) {
			t.Errorf("%s without effects: %v", plan.Phases[i].Name, err)
		}
	}
}

func compact(t testing.TB, client *clientv3.Client) {
	t.Helper()
	ctx := testutil.Context(t)
	resp, err := client.Get(ctx, "x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Compact(ctx, resp.Header.Revision); err != nil {
		t.Fatal(err)
	}
}

// TestOldestRevision: what is found at the oldest revision is what a watch from the past may still read, on an etcd that was never compacted, too.
func TestOldestRevision(t *testing.T) {
	ctx := testutil.Context(t)
	client := newEtcd(t)
	values := &encryption.EtcdValues{Clients: map[encryption.Role]*clientv3.Client{encryption.Standby: client}, Resource: resourceFunc(t, "")}
	find := func(want string) {
		t.Helper()
		key, err := values.Find(ctx, encryption.Standby, true, config(t, "identity"), func(_ context.Context, _ *encryption.Codec, _ string, value []byte) (bool, error) {
			return string(value) == "old", nil
		})
		if err != nil || key != want {
			t.Errorf("found %q, want %q: %v", key, want, err)
		}
	}
	find("")
	put(t, client, secretKey, []byte("old"))
	compact(t, client)
	put(t, client, secretKey, []byte("new"))
	find(secretKey)
	compact(t, client)
	find("")
	// What came and went since the compaction, deletions among it.
	put(t, client, secretNo(1), []byte("old"))
	if _, err := client.Delete(ctx, secretNo(1)); err != nil {
		t.Fatal(err)
	}
	put(t, client, secretNo(2), []byte("new"))
	find(secretNo(1))
	compact(t, client)
	find("")
	if _, err := values.Find(ctx, encryption.Primary, false, config(t, "identity"), nil); !errors.Is(err, encryption.ErrConfig) {
		t.Errorf("no client: %v", err)
	}
}
