package etcdmirror_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
)

// jwtSpec is the --auth-token of an etcd that gives out JWTs which live for a second.
func jwtSpec(t testing.TB) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, block := range map[string]*pem.Block{"priv.pem": {Type: "EC PRIVATE KEY", Bytes: private}, "pub.pem": {Type: "PUBLIC KEY", Bytes: public}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return fmt.Sprintf("jwt,pub-key=%s/pub.pem,priv-key=%s/priv.pem,sign-method=ES256,ttl=1s", dir, dir)
}

// Tokens expire while the mirror is quiet, passwords change and roles are taken away: the mirror logs in again, or waits and says why, and goes on without a copy once it may.
func TestP9TokensPasswordsAndRoles(t *testing.T) {
	for _, kind := range []string{"simple", "jwt"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			opts := embedetcd.Options{Change: func(_ int, cfg *embed.Config) { cfg.AuthTokenTTL, cfg.BcryptCost = 1, 4 }}
			if kind == "jwt" {
				spec := jwtSpec(t)
				opts.Change = func(_ int, cfg *embed.Config) { cfg.AuthToken, cfg.BcryptCost = spec, 4 }
			}
			p := newPair(t, opts, opts)
			withAuth(t, p, p.source, "source")
			withAuth(t, p, p.target, "target")
			source, target := p.source, p.target // as root
			grant(t, p, source, "guest", etcdmirror.DefaultPrefix, etcdmirror.MetadataPrefix)
			grant(t, p, target, "guest", etcdmirror.DefaultPrefix, etcdmirror.MetadataPrefix)

			gates, looks := map[string]*gate{}, map[string]*calls{}
			asGuest := func(side string, c *embedetcd.Cluster) *clientv3.Client {
				looks[side], gates[side] = &calls{}, &gate{conns: map[net.Conn]bool{}}
				cfg := c.ClientConfig()
				cfg.Username, cfg.Password = "guest", "guest"
				cfg.DialOptions = append(looks[side].options(), grpc.WithContextDialer(gates[side].dial))
				return connect(t, cfg)
			}
			p.source, p.target = asGuest("source", p.sourceCluster), asGuest("target", p.targetCluster)
			r := p.start(etcdmirror.Config{})
			p.source, p.target = source, target
			p.put(source, key(0), "v")
			p.sync(r)
			before := r.Status()

			// The pause only has to exceed the time to live; a slow server needs a longer one.
			logins, n := looks["target"].logins.Load(), 0
			for pause := 2 * time.Second; looks["target"].logins.Load() == logins; pause += time.Second {
				time.Sleep(pause)
				gates["source"].close() // the watch must be opened with a token that is good
				gates["source"].open()
				n++
				p.put(source, key(1), fmt.Sprint(n))
				p.sync(r)
			}

			cut := func(side string) { // what is open stays open, whatever becomes of the user
				gates[side].close()
				gates[side].open()
			}
			waits := func(side, why string) {
				t.Helper()
				p.eventually(r, side+" waiting: "+why, func(s etcdmirror.Status) bool {
					return s.State == etcdmirror.StateWaiting && strings.HasPrefix(s.Reason, side+": ") && contains(s.Reason, why)
				})
			}
			for side, root := range map[string]*clientv3.Client{"source": source, "target": target} {
				must := func(_ any, err error) {
					t.Helper()
					if err != nil {
						t.Fatal(err)
					}
				}
				must(root.UserRevokeRole(p.ctx, "guest", "guest"))
				n++
				cut(side)
				p.put(source, key(2), fmt.Sprint(n))
				waits(side, "permission denied")
				must(root.UserGrantRole(p.ctx, "guest", "guest"))
				p.sync(r)

				must(root.UserChangePassword(p.ctx, "guest", "another"))
				n++
				cut(side)
				p.put(source, key(2), fmt.Sprint(n))
				waits(side, "authentication failed")
				must(root.UserChangePassword(p.ctx, "guest", "guest"))
				p.sync(r)
			}
			p.mustEqual(etcdmirror.DefaultPrefix, nil)
			if s := r.Status(); s.Resyncs != before.Resyncs || s.State == etcdmirror.StateWaiting {
				t.Errorf("%d resyncs, %q %q", s.Resyncs, s.State, s.Reason)
			}
			looks["source"].mustBeCareful(t, "source")
			looks["target"].mustBeCareful(t, "target")
		})
	}
}

// shownCertificates remembers the serial numbers of the certificates that clients showed, by method.
type shownCertificates struct{ last sync.Map }

func (s *shownCertificates) note(ctx context.Context, method string) {
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(credentials.TLSInfo); ok && len(info.State.PeerCertificates) > 0 {
			s.last.Store(method, info.State.PeerCertificates[0].SerialNumber.String())
		}
	}
}

func (s *shownCertificates) options() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			s.note(ctx, info.FullMethod)
			return handler(ctx, req)
		}),
		grpc.ChainStreamInterceptor(func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			s.note(stream.Context(), info.FullMethod)
			return handler(srv, stream)
		}),
	}
}

// serialOf is the serial number of the certificate in a file.
func serialOf(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert.SerialNumber.String()
}

// The certificates of servers and clients are renewed on disk while the mirror runs: the connections that it makes afterwards use the new ones, and it goes on without a copy.
func TestP7CertificatesAreRenewed(t *testing.T) {
	var shown [2]shownCertificates
	secure := func(i int) embedetcd.Options {
		return embedetcd.Options{TLS: true, Change: func(_ int, cfg *embed.Config) { cfg.GRPCAdditionalServerOptions = shown[i].options() }}
	}
	p := newPair(t, secure(0), secure(1))
	var gates [2]*gate
	var seen [2]sync.Map // servers' serial numbers
	rereading := func(i int, c *embedetcd.Cluster) *clientv3.Client {
		gates[i] = &gate{conns: map[net.Conn]bool{}}
		cfg, files := c.ClientConfig(), c.TLSFiles()
		cfg.TLS.Certificates = nil
		cfg.TLS.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(files.ClientCert, files.ClientKey)
			return &pair, err
		}
		cfg.TLS.VerifyConnection = func(s tls.ConnectionState) error {
			seen[i].Store(s.PeerCertificates[0].SerialNumber.String(), true)
			return nil
		}
		cfg.DialOptions = append(cfg.DialOptions, grpc.WithContextDialer(gates[i].dial))
		return connect(t, cfg)
	}
	source, target := p.source, p.target
	p.source, p.target = rereading(0, p.sourceCluster), rereading(1, p.targetCluster)
	r := p.start(etcdmirror.Config{})
	p.source, p.target = source, target
	p.put(source, key(0), "v")
	p.sync(r)
	before := r.Status()
	for i, c := range []*embedetcd.Cluster{p.sourceCluster, p.targetCluster} {
		if err := c.RenewCertificates(); err != nil {
			t.Fatal(err)
		}
		gates[i].close()
		gates[i].open()
	}
	p.put(source, key(1), "over new connections")
	p.sync(r)
	p.mustEqual(etcdmirror.DefaultPrefix, nil)
	for i, c := range []*embedetcd.Cluster{p.sourceCluster, p.targetCluster} {
		method := []string{"/etcdserverpb.Watch/Watch", "/etcdserverpb.KV/Txn"}[i]
		if got, _ := shown[i].last.Load(method); got != serialOf(t, c.TLSFiles().ClientCert) {
			t.Errorf("side %d: %s came with client certificate %v", i, method, got)
		}
		if _, ok := seen[i].Load(serialOf(t, c.TLSFiles().ServerCert)); !ok {
			t.Errorf("side %d: the server's new certificate was not seen", i)
		}
	}
	if s := r.Status(); s.Resyncs != before.Resyncs || s.State == etcdmirror.StateWaiting {
		t.Errorf("%d resyncs, %q %q", s.Resyncs, s.State, s.Reason)
	}
}

// While no connection to the source comes about, the status says why: an address that refuses, a certificate that is not accepted.
func TestP7TheStatusSaysWhyTheSourceCannotBeReached(t *testing.T) {
	p := newPair(t, embedetcd.Options{}, embedetcd.Options{})
	proxied, gate := gated(t, p.sourceCluster)
	direct := p.source
	p.source = proxied
	r := p.start(etcdmirror.Config{ProgressInterval: 10 * time.Millisecond, StallTimeout: 100 * time.Millisecond})
	p.source = direct
	p.put(direct, key(0), "v")
	p.sync(r)
	gate.close()
	p.eventually(r, "reason", func(s etcdmirror.Status) bool {
		return s.State == etcdmirror.StateWaiting && strings.HasPrefix(s.Reason, "source: ") && contains(s.Reason, "the gate is closed")
	})
	gate.open()
	p.put(direct, key(1), "v")
	p.sync(r)
	if s := r.Status(); s.Resyncs != 1 || s.State == etcdmirror.StateWaiting {
		t.Errorf("%d copies, %q %q", s.Resyncs, s.State, s.Reason)
	}
}
