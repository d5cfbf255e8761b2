package connect

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
)

// listen serves connections with handle until the test ends.
func listen(t *testing.T, handle func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = conn.Close() })
			go handle(conn)
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().String()
}

// refusedAddress is one that nothing listens on.
func refusedAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func host(c *embedetcd.Cluster) string {
	_, address, _ := strings.Cut(c.Endpoints()[0], "://")
	return address
}

func TestDial(t *testing.T) {
	ctx := testutil.Context(t)
	plain := testutil.NewCluster(t, embedetcd.Options{})
	secure := testutil.NewCluster(t, embedetcd.Options{TLS: true})
	files := secure.TLSFiles()
	tlsArgs := []string{"--source-cacert=" + files.CA, "--source-cert=" + files.ClientCert, "--source-key=" + files.ClientKey}
	for name, args := range map[string][]string{
		"plain":           {"--source-endpoints=" + host(plain)},
		"http":            {"--source-endpoints=http://" + host(plain)},
		"https":           append([]string{"--source-endpoints=https://" + host(secure)}, tlsArgs...),
		"files decide":    append([]string{"--source-endpoints=" + host(secure)}, tlsArgs...),
		"one of two dead": {"--source-endpoints=" + refusedAddress(t) + "," + host(plain)},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := newTestSide(t, args...).Dial(ctx)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := conn.Client.Put(ctx, "k", "v"); err != nil {
				t.Error(err)
			}
			warned := len(conn.Warnings) == 1 && strings.Contains(conn.Warnings[0], "connection refused")
			if warned != (name == "one of two dead") {
				t.Errorf("warnings %q", conn.Warnings)
			}
		})
	}
}

func TestDialFailures(t *testing.T) {
	ctx := testutil.Context(t)
	plain := testutil.NewCluster(t, embedetcd.Options{})
	secure := testutil.NewCluster(t, embedetcd.Options{TLS: true})
	other := testutil.NewCluster(t, embedetcd.Options{TLS: true}).TLSFiles()
	files := secure.TLSFiles()
	https := "--source-endpoints=https://" + host(secure)
	silent := listen(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	shell := listen(t, func(c net.Conn) { _, _ = io.WriteString(c, "SSH-2.0-Some_Server\r\n") })
	closes := listen(t, func(c net.Conn) { _ = c.Close() })
	for name, tc := range map[string]struct {
		args []string
		want []string
	}{
		"nobody listens":      {[]string{"--source-endpoints=" + refusedAddress(t)}, []string{"--source-endpoints", "connection refused"}},
		"unknown name":        {[]string{"--source-endpoints=no-such-host.invalid:2379"}, []string{"--source-endpoints", "no-such-host.invalid"}},
		"silence":             {[]string{"--source-endpoints=" + silent, "--source-dial-timeout=1500ms"}, []string{"--source-endpoints", "no answer within 1.5s"}},
		"silence before TLS":  {[]string{"--source-endpoints=https://" + silent, "--source-dial-timeout=500ms"}, []string{"--source-endpoints", "no answer to the TLS handshake"}},
		"something else":      {[]string{"--source-endpoints=" + shell}, []string{"--source-endpoints", "something else"}},
		"something else, TLS": {[]string{"--source-endpoints=https://" + shell}, []string{"--source-endpoints", "does not speak TLS"}},
		"closes":              {[]string{"--source-endpoints=" + closes}, []string{"--source-endpoints", "closed the connection"}},
		"http to https":       {[]string{"--source-endpoints=http://" + host(secure)}, []string{"--source-endpoints", "https://"}},
		"https to http":       {[]string{"--source-endpoints=https://" + host(plain)}, []string{"--source-endpoints", "does not speak TLS", "http://"}},
		"CA of this host":     {[]string{https}, []string{"--source-cacert", "unknown authority"}},
		"another CA":          {[]string{https, "--source-cacert=" + other.CA}, []string{"--source-cacert", "unknown authority", "another CA"}},
		"no certificate":      {[]string{https, "--source-cacert=" + files.CA}, []string{"--source-cert", "asks for a client certificate"}},
		"refused certificate": {[]string{https, "--source-cacert=" + files.CA, "--source-cert=" + other.ClientCert, "--source-key=" + other.ClientKey}, []string{"--source-cert", "refuses the client certificate"}},
		"two, both dead":      {[]string{"--source-endpoints=" + refusedAddress(t) + "," + shell}, []string{"connection refused", "something else"}},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := newTestSide(t, tc.args...).Dial(ctx)
			if conn != nil {
				conn.Close()
			}
			wantError(t, err, ErrUnreachable, tc.want...)
		})
	}
}

// A cluster that has lost its majority takes connections and answers nothing that needs a leader.
func TestDialWithoutALeader(t *testing.T) {
	c := testutil.NewCluster(t, embedetcd.Options{Members: 3})
	for i := range 2 {
		if err := c.StopMember(i); err != nil {
			t.Fatal(err)
		}
	}
	_, address, _ := strings.Cut(c.Endpoints()[2], "://")
	conn, err := newTestSide(t, "--source-endpoints="+address, "--source-dial-timeout=2s").Dial(testutil.Context(t))
	if conn != nil {
		conn.Close()
	}
	wantError(t, err, ErrUnreachable, "--source-endpoints", "leader")
}

// Who asks to end is not kept waiting by a server that does not answer, whichever part of the way it is silent in.
func TestDialEndsWithItsContext(t *testing.T) {
	for name, greets := range map[string]bool{"before HTTP/2": false, "in the login": true} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(testutil.Context(t))
			defer cancel()
			connected := make(chan struct{}, 100)
			address := listen(t, func(c net.Conn) {
				if greets {
					_, _ = io.WriteString(c, "\x00\x00\x00\x04\x00\x00\x00\x00\x00")
				}
				connected <- struct{}{}
				_, _ = io.Copy(io.Discard, c)
			})
			go func() {
				<-connected // the knock
				if greets {
					<-connected // the client, which logs in
				}
				cancel()
			}()
			conn, err := newTestSide(t, "--source-endpoints="+address, "--source-dial-timeout=1h", "--source-user=root:"+secret).Dial(ctx)
			if conn != nil || !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestLogin(t *testing.T) {
	ctx := testutil.Context(t)
	c := testutil.NewCluster(t, embedetcd.Options{Change: func(_ int, cfg *embed.Config) { cfg.BcryptCost = 4 }})
	root := testutil.Client(t, c)
	for _, do := range []func() error{
		func() error { _, err := root.UserAdd(ctx, "root", secret); return err },
		func() error { _, err := root.UserGrantRole(ctx, "root", "root"); return err },
		func() error { _, err := root.UserAdd(ctx, "nobody", secret); return err },
		func() error { _, err := root.AuthEnable(ctx); return err },
	} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
	}
	endpoints := "--source-endpoints=" + host(c)
	passwordFile := writeFile(t, secret)
	wrongFile := writeFile(t, "wrong"+secret)

	for name, args := range map[string][]string{
		"password in the flag": {endpoints, "--source-user=root:" + secret},
		"password in a file":   {endpoints, "--source-user=root", "--source-password-file=" + passwordFile},
	} {
		conn, err := newTestSide(t, args...).Dial(ctx)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := conn.Client.Get(ctx, "a", clientv3.WithPrefix()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		conn.Close()
	}
	// A user without rights is known; what it may do, the caller finds out.
	conn, err := newTestSide(t, endpoints, "--source-user=nobody:"+secret).Dial(ctx)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()

	for name, tc := range map[string]struct{ args, want []string }{
		"no user":        {[]string{endpoints}, []string{"--source-user", "asks for a user"}},
		"wrong password": {[]string{endpoints, "--source-user=root", "--source-password-file=" + wrongFile}, []string{"--source-password-file", `"root"`}},
		"unknown user":   {[]string{endpoints, "--source-user=ghost:" + secret}, []string{"--source-user", `"ghost"`}},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := newTestSide(t, tc.args...).Dial(ctx)
			if conn != nil {
				conn.Close()
			}
			wantError(t, err, ErrDenied, tc.want...)
		})
	}
}
