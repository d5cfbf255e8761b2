package connect

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
)

// logged collects log lines.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logged) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// take returns what was logged since the last call.
func (l *logged) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.text.Reset()
	return l.text.String()
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// write writes a file in place, as careless tools do.
func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// installed are the files of a client, copied from those of its cluster as an administrator would.
type installed struct{ ca, cert, key string }

func install(t *testing.T, from embedetcd.TLSFiles, dir string) installed {
	t.Helper()
	f := installed{filepath.Join(dir, "ca.pem"), filepath.Join(dir, "client.pem"), filepath.Join(dir, "client-key.pem")}
	write(t, f.ca, read(t, from.CA))
	write(t, f.cert, read(t, from.ClientCert))
	write(t, f.key, read(t, from.ClientKey))
	return f
}

func (f installed) side(t *testing.T, endpoints string) *Side {
	t.Helper()
	return newTestSide(t, "--source-endpoints="+endpoints, "--source-cacert="+f.ca, "--source-cert="+f.cert, "--source-key="+f.key)
}

// keyringOf is what a side's files hold now.
func keyringOf(t *testing.T, side *Side) *keyring {
	t.Helper()
	p, err := side.plan()
	if err != nil {
		t.Fatal(err)
	}
	return p.tls
}

// shown is the leaf of the certificate that a client shows.
func shown(t *testing.T, conf *tls.Config) *x509.Certificate {
	t.Helper()
	pair, err := conf.GetClientCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	return pair.Leaf
}

// A file that cannot be used is reported, once, and leaves what it held before in use; it counts again as soon as it is whole.
func TestUnusableFilesLeaveTheOldOnesInUse(t *testing.T) {
	c := testutil.NewCluster(t, embedetcd.Options{TLS: true})
	other := testutil.NewCluster(t, embedetcd.Options{TLS: true}).TLSFiles()
	f := install(t, c.TLSFiles(), t.TempDir())
	ca, cert, key := read(t, f.ca), read(t, f.cert), read(t, f.key)
	damaged := strings.Replace(ca, "MII", "AAA", 1)
	for name, tc := range map[string]struct {
		path, text string
		want       []string
	}{
		"CA gone":                {f.ca, "", []string{"--source-cacert", "no such file"}},
		"CA empty":               {f.ca, "\n", []string{"--source-cacert", "no PEM certificate"}},
		"CA cut off":             {f.ca, ca[:len(ca)/2], []string{"--source-cacert", "cut off"}},
		"second CA cut off":      {f.ca, ca + ca[:len(ca)/2], []string{"--source-cacert", "cut off"}},
		"CA damaged":             {f.ca, damaged, []string{"--source-cacert", "damaged"}},
		"certificate gone":       {f.cert, "", []string{"--source-cert", "no such file"}},
		"certificate cut off":    {f.cert, cert[:len(cert)-30], []string{"--source-cert", "cut off"}},
		"certificate comes late": {f.key, read(t, other.ClientKey), []string{"--source-key", "is not the key of"}},
		"key comes late":         {f.cert, read(t, other.ClientCert), []string{"--source-key", "is not the key of"}},
		"key cut off":            {f.key, key[:len(key)-30], []string{"--source-key", "cut off"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := install(t, c.TLSFiles(), filepath.Dir(f.ca))
			var log logged
			side := f.side(t, host(c))
			side.Logger = log.logger()
			k := keyringOf(t, side)
			before := k.config()
			if err := k.refresh(); err != nil || log.take() != "" {
				t.Fatalf("before: %v", err)
			}
			if tc.text == "" {
				if err := os.Remove(tc.path); err != nil {
					t.Fatal(err)
				}
			} else {
				write(t, tc.path, tc.text)
			}
			for i := range 2 {
				wantError(t, k.refresh(), ErrUsage, tc.want...)
				if text := log.take(); (i == 0) != strings.Contains(text, tc.want[1]) || strings.Contains(text, "PRIVATE") {
					t.Errorf("time %d: logged %q", i+1, text)
				}
				after := k.config()
				if !after.RootCAs.Equal(before.RootCAs) || !shown(t, after).Equal(shown(t, before)) {
					t.Error("what was read before is not in use")
				}
			}
			write(t, f.ca, read(t, other.CA))
			write(t, f.cert, read(t, other.ClientCert))
			write(t, f.key, read(t, other.ClientKey))
			if err := k.refresh(); err != nil {
				t.Fatal(err)
			}
			after, text := k.config(), log.take()
			if after.RootCAs.Equal(before.RootCAs) || shown(t, after).Equal(shown(t, before)) {
				t.Error("the new files are not in use")
			}
			for _, want := range []string{"renewed CAs", "renewed client certificate", "used again"} {
				if !strings.Contains(text, want) {
					t.Errorf("%q is not in the log: %q", want, text)
				}
			}
		})
	}
}

// Wherever the writing of a bundle is interrupted, the part is refused, unless it is a whole bundle by itself.
func TestPartsOfABundleAreRefused(t *testing.T) {
	c := testutil.NewCluster(t, embedetcd.Options{TLS: true})
	f := install(t, c.TLSFiles(), t.TempDir())
	first := read(t, f.ca)
	if err := c.ReplaceCA(); err != nil {
		t.Fatal(err)
	}
	second := read(t, c.TLSFiles().CA)
	bundle := "# old\n" + first + "# new\n" + second
	firstEnds, secondBegins := strings.Index(bundle, first)+len(first)-1, strings.Index(bundle, second)
	side := f.side(t, host(c))
	one := x509.NewCertPool()
	one.AppendCertsFromPEM([]byte(first))
	both := one.Clone()
	both.AppendCertsFromPEM([]byte(second))
	near := func(n, border int) bool { return max(n-border, border-n) < 100 }
	for n := range len(bundle) + 1 {
		if n%7 != 0 && !near(n, 0) && !near(n, firstEnds) && !near(n, len(bundle)) {
			continue // within a certificate one byte is as good as the next
		}
		write(t, f.ca, bundle[:n])
		pool, err := side.readCAs()
		switch {
		case n >= firstEnds && n <= secondBegins:
			if err != nil || !pool.Equal(one) {
				t.Errorf("%d bytes: %v", n, err)
			}
		case n >= len(bundle)-1: // but for the last line's end
			if err != nil || !pool.Equal(both) {
				t.Errorf("%d bytes: %v", n, err)
			}
		case err == nil:
			t.Errorf("%d of %d bytes were taken for a bundle", n, len(bundle))
		}
	}
}

// handshake connects to a server by a side's credentials, as gRPC does for an authority. It returns the certificate that the server was shown.
func handshake(t *testing.T, k *keyring, server *tls.Config, authority string) (*x509.Certificate, error) {
	t.Helper()
	ours, theirs := net.Pipe()
	accepted := make(chan *x509.Certificate, 1)
	go func() {
		defer close(accepted)
		conn := tls.Server(theirs, server)
		defer theirs.Close()
		if conn.Handshake() == nil {
			if certs := conn.ConnectionState().PeerCertificates; len(certs) > 0 {
				accepted <- certs[0]
			}
		}
	}()
	conn, _, err := k.credentials().Clone().ClientHandshake(t.Context(), authority, ours)
	if err == nil {
		_, _ = conn.Read(make([]byte, 1)) // the server's verdict
	}
	_ = ours.Close()
	return <-accepted, err
}

// Server certificates are verified in full with each state of the files: the signer, the name, an IP address too.
func TestServersAreVerified(t *testing.T) {
	c := testutil.NewCluster(t, embedetcd.Options{TLS: true})
	serverConfig := func() *tls.Config {
		pair, err := tls.LoadX509KeyPair(c.TLSFiles().ServerCert, c.TLSFiles().ServerKey)
		if err != nil {
			t.Fatal(err)
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM([]byte(read(t, c.TLSFiles().CA)))
		return &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, NextProtos: []string{"h2"}}
	}
	dir := t.TempDir()
	f := install(t, c.TLSFiles(), dir)
	k := keyringOf(t, f.side(t, host(c)))
	for _, renewed := range []bool{false, true} {
		server := serverConfig()
		for authority, good := range map[string]bool{
			"127.0.0.1:2379": true, "localhost:2379": true, "[::1]:2379": true,
			"127.0.0.2:2379": false, "other.example:2379": false, "[::2]:2379": false,
		} {
			cert, err := handshake(t, k, server, authority)
			var wrongName x509.HostnameError
			switch {
			case good && (err != nil || cert == nil || !cert.Equal(shown(t, k.config()))):
				t.Errorf("%s, renewed %v: %v, the server was shown %v", authority, renewed, err, cert)
			case !good && !errors.As(err, &wrongName):
				t.Errorf("%s, renewed %v: %v, want a refused name", authority, renewed, err)
			}
		}
		if renewed {
			break
		}
		// The server is ahead of the client, then the client is ahead of the server.
		if err := c.ReplaceCA(); err != nil {
			t.Fatal(err)
		}
		var unknown x509.UnknownAuthorityError
		if _, err := handshake(t, k, serverConfig(), "localhost:1"); !errors.As(err, &unknown) {
			t.Errorf("a server of a new CA: %v", err)
		}
		write(t, f.key, "")
		if _, err := handshake(t, k, serverConfig(), "localhost:1"); !errors.As(err, &unknown) || !strings.Contains(err.Error(), "--source-key") {
			t.Errorf("with an empty file: %v", err)
		}
		install(t, c.TLSFiles(), dir)
		if _, err := handshake(t, k, server, "localhost:1"); !errors.As(err, &unknown) {
			t.Errorf("a server of the old CA: %v", err)
		}
	}
}

// CAs, server and client certificates are replaced on both sides of a running mirror, by way of files of which parts are missing: it goes on without a restart and without a copy.
func TestAMirrorOutlivesNewCAs(t *testing.T) {
	ctx := testutil.Context(t)
	var log logged
	var clusters [2]*embedetcd.Cluster
	var files [2]installed
	var conns [2]*Conn
	for i := range clusters {
		clusters[i] = testutil.NewCluster(t, embedetcd.Options{TLS: true})
		files[i] = install(t, clusters[i].TLSFiles(), t.TempDir())
		side := files[i].side(t, host(clusters[i]))
		side.Logger = log.logger()
		conn, err := side.Dial(ctx)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(conn.Close)
		conns[i] = conn
	}
	m, err := etcdmirror.New(conns[0].Client, conns[1].Client, etcdmirror.Config{Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	running, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- m.Run(running) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	const key = "/registry/configmaps/a/b"
	put := func(value string) int64 { // by a client of its own, with what the cluster's files hold now
		t.Helper()
		resp, err := testutil.Client(t, clusters[0]).Put(ctx, key, value)
		if err != nil {
			t.Fatal(err)
		}
		return resp.Header.Revision
	}
	mirrored := func(rev int64, value string) {
		t.Helper()
		if err := m.WaitForRevision(ctx, rev); err != nil {
			t.Fatalf("%v; status %+v", err, m.Status())
		}
		resp, err := testutil.Client(t, clusters[1]).Get(ctx, key)
		if err != nil || len(resp.Kvs) != 1 || string(resp.Kvs[0].Value) != value {
			t.Fatalf("at the target: %v, %v", resp, err)
		}
	}
	restart := func() {
		t.Helper()
		for _, c := range clusters {
			if err := errors.Join(c.StopMember(0), c.StartMember(ctx, 0, nil)); err != nil {
				t.Fatal(err)
			}
		}
	}
	mirrored(put("1"), "1")

	// Somebody begins to write new files. Connections that are made meanwhile use the old ones.
	for _, f := range files {
		write(t, f.ca, "")
		write(t, f.key, read(t, f.key)[:20])
	}
	restart()
	mirrored(put("2"), "2")
	if text := log.take(); !strings.Contains(text, "no PEM certificate") || !strings.Contains(text, "cut off") {
		t.Errorf("the log does not say which files cannot be used: %q", text)
	}

	// The servers go first: nobody trusts anybody until the clients' files are there.
	for _, c := range clusters {
		if err := c.ReplaceCA(); err != nil {
			t.Fatal(err)
		}
	}
	restart()
	rev := put("3")
	for kv := pb.NewKVClient(conns[0].Client.ActiveConnection()); ; {
		_, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte(key)}) // does not wait for a connection
		if err == nil || ctx.Err() != nil {
			t.Fatalf("with a server of an unknown CA: %v", err)
		}
		if strings.Contains(err.Error(), "unknown authority") {
			break
		}
	}
	for i, c := range clusters {
		install(t, c.TLSFiles(), filepath.Dir(files[i].ca))
	}
	mirrored(rev, "3")
	if text := log.take(); strings.Count(text, "renewed CAs") != 2 || strings.Count(text, "renewed client certificate") != 2 {
		t.Errorf("the log does not tell of the renewed files: %q", text)
	}
	if s := m.Status(); s.Resyncs != 1 {
		t.Errorf("%d copies", s.Resyncs)
	}
}
