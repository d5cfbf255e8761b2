package connect

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"sync"

	"google.golang.org/grpc/credentials"
)

// keyring is what a side's TLS files hold. They are read again for each new connection, so that renewed ones are used without
// a restart: the CAs, the client certificate and its key. While one cannot be used, such as a file of which only a part is
// written or a certificate whose key comes a moment later, what was read before stays in use.
type keyring struct {
	side *Side

	mu   sync.Mutex
	cas  *x509.CertPool   // nil: those of this host
	pair *tls.Certificate // nil: no client certificate
	told string           // the problem that the log was told of last
}

// config is what a connection is made with. Server certificates are verified in full, the name of the host included.
func (k *keyring) config() *tls.Config {
	k.mu.Lock()
	defer k.mu.Unlock()
	conf := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: k.cas}
	if pair := k.pair; pair != nil {
		// Shown whichever CAs the server asks for: its refusal says more than a certificate that is held back.
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return pair, nil }
	}
	return conf
}

// refresh reads the files again. It returns which of them cannot be used, and tells the log of that and of what has changed.
func (k *keyring) refresh() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	log := k.side.log()
	cas, caErr := k.side.readCAs()
	if caErr == nil {
		if k.cas != nil && !k.cas.Equal(cas) {
			log.Info("renewed CAs are used", "side", k.side.name, "file", k.side.caCert)
		}
		k.cas = cas
	}
	pair, pairErr := k.side.readPair()
	if pairErr == nil {
		if k.pair != nil && !bytes.Equal(k.pair.Certificate[0], pair.Certificate[0]) {
			log.Info("a renewed client certificate is used", "side", k.side.name, "file", k.side.cert, "expires", pair.Leaf.NotAfter)
		}
		k.pair = pair
	}
	problem, text := cmp.Or(caErr, pairErr), ""
	if caErr != nil && pairErr != nil {
		problem = fmt.Errorf("%w; %w", caErr, pairErr)
	}
	if problem != nil {
		text = problem.Error()
	}
	switch {
	case text == k.told:
	case text == "":
		log.Info("all TLS files can be used again", "side", k.side.name)
	default:
		log.Warn("a TLS file cannot be used; what it held before stays in use", "side", k.side.name, "error", problem)
	}
	k.told = text
	return problem
}

// fromFiles are gRPC's TLS credentials with a keyring's files as they are at each handshake.
type fromFiles struct {
	credentials.TransportCredentials
	keyring *keyring
}

func (k *keyring) credentials() credentials.TransportCredentials {
	return fromFiles{credentials.NewTLS(k.config()), k}
}

// ClientHandshake reads the files and does the handshake that gRPC would do. A failure also says which file could not be used.
func (c fromFiles) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	problem := c.keyring.refresh()
	conn, info, err := credentials.NewTLS(c.keyring.config()).ClientHandshake(ctx, authority, raw)
	if err != nil && problem != nil {
		err = fmt.Errorf("%w (what the file held before was used: %w)", err, problem)
	}
	return conn, info, err
}

// Clone returns credentials that share the keyring.
func (c fromFiles) Clone() credentials.TransportCredentials {
	return fromFiles{c.TransportCredentials.Clone(), c.keyring}
}
