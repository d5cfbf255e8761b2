package embedetcd

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/understudy-dr/understudy/internal/testutil/testca"
)

// TLSFiles are the paths of a cluster's PEM files.
type TLSFiles struct {
	CA, ServerCert, ServerKey, ClientCert, ClientKey string
}

// RenewCertificates replaces the certificates and keys of the servers and of the clients on disk by new ones of the same CA.
// Members read theirs at each handshake, so connections made from then on show the new ones.
func (c *Cluster) RenewCertificates() error { return c.renewTLS(false) }

// ReplaceCA puts a new CA in the place of the old one, and certificates of it in the place of all others, on disk. Members trust clients
// by the new CA, and no longer those of the old one, from their next start on.
func (c *Cluster) ReplaceCA() error { return c.renewTLS(true) }

func (c *Cluster) renewTLS(newCA bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.opts.TLS {
		return errors.New("embedetcd: a cluster without Options.TLS has no certificates")
	}
	if err := c.issue(newCA); err != nil {
		return fmt.Errorf("embedetcd: TLS files: %w", err)
	}
	return nil
}

// startTLS makes a CA, a server certificate for the loopback addresses and a client certificate below the cluster's directory.
func (c *Cluster) startTLS() error {
	dir := filepath.Join(c.dir, "tls")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("embedetcd: TLS files: %w", err)
	}
	c.tls = TLSFiles{
		CA:         filepath.Join(dir, "ca.crt"),
		ServerCert: filepath.Join(dir, "server.crt"),
		ServerKey:  filepath.Join(dir, "server.key"),
		ClientCert: filepath.Join(dir, "client.crt"),
		ClientKey:  filepath.Join(dir, "client.key"),
	}
	return c.renewTLS(true)
}

func (c *Cluster) issue(newCA bool) error {
	if newCA {
		var err error
		if c.ca, err = testca.New("embedetcd CA"); err != nil {
			return err
		}
		if err := c.ca.WriteCert(c.tls.CA); err != nil {
			return err
		}
	}
	// etcd's own gateway dials its server with the server's certificate, which is good for both ends.
	if err := c.ca.Server("embedetcd server", c.tls.ServerCert, c.tls.ServerKey); err != nil {
		return err
	}
	if err := c.ca.Client("embedetcd client", nil, c.tls.ClientCert, c.tls.ClientKey); err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(c.tls.ClientCert, c.tls.ClientKey)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AddCert(c.ca.Cert)
	c.tlsConf = &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	return nil
}
