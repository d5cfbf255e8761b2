package embedetcd_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"os"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
)

func TestCertificatesAreReplaced(t *testing.T) {
	ctx, c, first := start(t, embedetcd.Options{TLS: true})
	old := c.ClientConfig()
	put(ctx, t, first, "k", "v")
	content := func() (ca, server, client []byte) {
		t.Helper()
		f := c.TLSFiles()
		for path, into := range map[string]*[]byte{f.CA: &ca, f.ServerCert: &server, f.ClientCert: &client} {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			*into = data
		}
		return ca, server, client
	}
	connect := func(cfg clientv3.Config) *clientv3.Client {
		t.Helper()
		cli, err := clientv3.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cli.Close() })
		return cli
	}

	ca, server, client := content()
	if err := c.RenewCertificates(); err != nil {
		t.Fatal(err)
	}
	sameCA, newServer, newClient := content()
	if !bytes.Equal(ca, sameCA) || bytes.Equal(server, newServer) || bytes.Equal(client, newClient) {
		t.Fatal("renewed is something else than the certificates")
	}
	// Without a restart, the server shows its new certificate and takes the old and the new one of a client.
	for name, cfg := range map[string]clientv3.Config{"old": old, "new": c.ClientConfig()} {
		var shown *x509.Certificate
		cfg.TLS = cfg.TLS.Clone()
		cfg.TLS.VerifyPeerCertificate = func(_ [][]byte, chains [][]*x509.Certificate) error {
			shown = chains[0][0]
			return nil
		}
		put(ctx, t, connect(cfg), "k", name)
		if shown == nil || !bytes.Equal(newServer, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: shown.Raw})) {
			t.Errorf("%s client: the server does not show its new certificate", name)
		}
	}

	if err := c.ReplaceCA(); err != nil {
		t.Fatal(err)
	}
	if newCA, _, _ := content(); bytes.Equal(ca, newCA) {
		t.Fatal("the CA is the old one")
	}
	if err := c.StopMember(0); err != nil {
		t.Fatal(err)
	}
	if err := c.StartMember(ctx, 0, nil); err != nil {
		t.Fatal(err)
	}
	put(ctx, t, connect(c.ClientConfig()), "k", "after")
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	if _, err := connect(old).Get(short, "k"); err == nil {
		t.Error("a client and a server of different CAs trust each other")
	}

	_, plain, _ := start(t, embedetcd.Options{})
	if plain.RenewCertificates() == nil || plain.ReplaceCA() == nil {
		t.Error("a cluster without TLS has certificates")
	}
}
