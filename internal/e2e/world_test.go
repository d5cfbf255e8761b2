package e2e_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/understudy-dr/understudy/encryption"
	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/failover/steps/mirror/engine"
	"github.com/understudy-dr/understudy/internal/testutil/kubeapi"
	"github.com/understudy-dr/understudy/internal/testutil/testca"
	"github.com/understudy-dr/understudy/keyfilter"
)

const (
	mirrorName = "global"
	registry   = "/registry/"
	// requestTimeout bounds a request to an etcd. It is longer than the default because a busy machine is not what is tested.
	requestTimeout = 30 * time.Second
)

// site is a control plane with what a test needs of it.
type site struct {
	*kubeapi.ControlPlane
	name    string
	etcd    *clientv3.Client
	dynamic dynamic.Interface
	codec   *encryption.Codec
	config  *encryption.Configuration
}

// pair is two control planes that share no CA, no ServiceAccount key and no encryption key. Users have certificates that both accept.
type pair struct {
	t                *testing.T
	primary, standby *site
	filter           *keyfilter.Filter
	mirror           etcdmirror.Config // from the primary to the standby
	users            rest.TLSClientConfig
	usersCA          string
}

// options of a pair.
type options struct {
	servers  int      // API servers of the standby; 0 is 1
	args     []string // of all API servers
	sameName bool     // the clusters' encryption keys have one name
	oneKey   bool     // the clusters share one encryption key, and the mirror copies values as they are
}

func encryptionConfig(key, word string) []byte {
	sum := sha256.Sum256([]byte(word))
	return fmt.Appendf(nil, `apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets]
  providers:
  - aescbc: {keys: [{name: %s, secret: %s}]}
  - identity: {}
`, key, base64.StdEncoding.EncodeToString(sum[:]))
}

// newPair starts both control planes, each with a controller manager, and mirrors nothing yet.
func newPair(ctx context.Context, t *testing.T, o options) *pair {
	t.Helper()
	kubeapi.Need(t, "etcd", "kube-apiserver", "kube-controller-manager")
	p := &pair{t: t}
	ca, err := testca.New("users")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	p.usersCA = filepath.Join(dir, "users.crt")
	cert, key := filepath.Join(dir, "user.crt"), filepath.Join(dir, "user.key")
	p.users.ServerName = "localhost"
	err = errors.Join(ca.WriteCert(p.usersCA), ca.Client("user", []string{user.SystemPrivilegedGroup}, cert, key))
	if err == nil {
		p.users.CertData, err = os.ReadFile(cert) // from a file client-go would watch it for ever
	}
	if err == nil {
		p.users.KeyData, err = os.ReadFile(key)
	}
	if err != nil {
		t.Fatal(err)
	}
	if p.filter, err = keyfilter.New(keyfilter.Config{}); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	start := func(to **site, name string, servers int) {
		key, secret := name, name
		switch {
		case o.oneKey:
			key, secret = "shared", "shared"
		case o.sameName:
			key = "key1"
		}
		wg.Go(func() {
			*to = p.newSite(ctx, name, encryptionConfig(key, secret), kubeapi.Options{Servers: servers, ServerArgs: o.args})
		})
	}
	start(&p.primary, "primary", 1)
	start(&p.standby, "standby", o.servers)
	wg.Wait()
	if t.Failed() || p.primary == nil || p.standby == nil {
		t.FailNow()
	}
	p.mirror = etcdmirror.Config{Name: mirrorName, Keep: p.filter.Match, KeepID: p.filter.Hash(), Skip: p.filter.Skips(registry), RequestTimeout: requestTimeout, Logger: logger()}
	if o.oneKey {
		p.mirror.Guards = []etcdmirror.Guard{p.standby.codec.Guard(ctx, nil)}
	} else if p.mirror.Transform, err = encryption.NewTranscoder(p.primary.codec, p.standby.codec); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *pair) newSite(ctx context.Context, name string, enc []byte, o kubeapi.Options) *site {
	o.EncryptionConfig, o.ControllerManager = enc, true
	o.ServerArgs = append([]string{"--client-ca-file=" + p.usersCA}, o.ServerArgs...)
	s := &site{name: name, ControlPlane: kubeapi.Start(ctx, p.t, o)}
	fail := func(err error) {
		if err != nil {
			p.t.Errorf("%s: %v", name, err)
		}
	}
	var err error
	s.etcd, err = clientv3.New(clientv3.Config{Endpoints: s.Etcd.Endpoints, Logger: zap.NewNop()})
	fail(err)
	p.t.Cleanup(func() { _ = s.etcd.Close() })
	s.dynamic, err = dynamic.NewForConfig(s.REST())
	fail(err)
	s.config, err = encryption.Parse(enc)
	fail(err)
	resource, err := keyfilter.Resource(registry)
	fail(err)
	if s.config != nil {
		s.codec, err = encryption.NewCodec(s.config, encryption.CodecConfig{Resource: resource})
		fail(err)
		p.t.Cleanup(s.codec.Close)
	}
	return s
}

// revision is that of the site's etcd.
func (s *site) revision(ctx context.Context, t *testing.T) int64 {
	t.Helper()
	resp, err := s.etcd.Get(ctx, "x", clientv3.WithCountOnly())
	if err != nil {
		t.Fatal(err)
	}
	return resp.Header.Revision
}

// raise writes to the site's etcd, beside all objects, until its revision is at least a number.
func (s *site) raise(ctx context.Context, t *testing.T, to int64) {
	t.Helper()
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for {
				resp, err := s.etcd.Put(ctx, fmt.Sprintf("/elsewhere/%d", i), "")
				if err != nil {
					t.Errorf("raise the revision of %s: %v", s.name, err)
					return
				}
				if resp.Header.Revision >= to {
					return
				}
			}
		})
	}
	wg.Wait()
}

// startMirror starts a mirror in this process and ends it with the test.
func startMirror(ctx context.Context, t *testing.T, from, to *site, cfg etcdmirror.Config) *engine.InProcess {
	t.Helper()
	m := newMirror(t, from, to, cfg)
	if err := m.Start(ctx); err != nil {
		t.Fatal(err)
	}
	return m
}

func newMirror(t *testing.T, from, to *site, cfg etcdmirror.Config) *engine.InProcess {
	t.Helper()
	m, err := engine.NewInProcess(from.etcd, to.etcd, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := m.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	return m
}

// follows waits until the mirror's copy is complete.
func follows(ctx context.Context, t *testing.T, m *engine.InProcess) {
	t.Helper()
	until(ctx, t, "the mirror's base copy", func() string {
		if err := m.Failure(); err != nil {
			t.Fatal(err)
		}
		if st := m.Status(); st.State != etcdmirror.StateTail {
			return fmt.Sprintf("state %v", st.State)
		}
		return ""
	})
}

// caughtUp waits until the standby holds all that the primary has committed by now.
func caughtUp(ctx context.Context, t *testing.T, m *engine.InProcess, from *site) {
	t.Helper()
	if err := m.WaitForRevision(ctx, from.revision(ctx, t)); err != nil {
		t.Fatalf("waiting for the mirror: %v", err)
	}
}

// restartsReady restarts the API servers of a site, one after the other, and waits until each is ready.
func restartsReady(ctx context.Context, t *testing.T, s *site) {
	t.Helper()
	for _, server := range s.Servers {
		began := time.Now()
		if err := server.Restart(ctx); err != nil {
			t.Fatalf("the API server of the %s does not become ready after a restart: %v", s.name, err)
		}
		if err := server.Ready(ctx); err != nil {
			t.Fatal(err)
		}
		t.Logf("the API server %s of the %s is ready %v after a restart", server.Addr, s.name, time.Since(began).Round(time.Millisecond))
	}
}
