package embedetcd

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// TLSFiles are the paths of a cluster's PEM files.
type TLSFiles struct {
	CA, ServerCert, ServerKey, ClientCert, ClientKey string
}

// authority is a CA with its key.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
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
		if c.ca, err = newAuthority(); err != nil {
			return err
		}
		if err := writePEM(c.tls.CA, "CERTIFICATE", c.ca.cert.Raw); err != nil {
			return err
		}
	}
	server := certificate("embedetcd server")
	server.DNSNames, server.IPAddresses = []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	// etcd's own gateway dials its server with the server's certificate, so it is good for both ends.
	server.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	client := certificate("embedetcd client")
	client.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if err := c.ca.sign(server, c.tls.ServerCert, c.tls.ServerKey); err != nil {
		return err
	}
	if err := c.ca.sign(client, c.tls.ClientCert, c.tls.ClientKey); err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(c.tls.ClientCert, c.tls.ClientKey)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AddCert(c.ca.cert)
	c.tlsConf = &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	return nil
}

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	ca := certificate("embedetcd CA")
	ca.IsCA, ca.BasicConstraintsValid, ca.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &authority{cert, key}, err
}

// sign writes a certificate with a new key.
func (a *authority) sign(cert *x509.Certificate, certFile, keyFile string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, a.cert, key.Public(), a.key)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(writePEM(certFile, "CERTIFICATE", der), writePEM(keyFile, "PRIVATE KEY", keyDER))
}

func certificate(name string) *x509.Certificate {
	now := time.Now()
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62)) // never fails
	return &x509.Certificate{
		SerialNumber: serial.Add(serial, big.NewInt(1)),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.Add(24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
}

// writePEM replaces a file in one step, so that whoever reads it never sees a part.
func writePEM(path, kind string, der []byte) error {
	next := path + ".next"
	if err := os.WriteFile(next, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		return err
	}
	return os.Rename(next, path)
}
