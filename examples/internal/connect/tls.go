package connect

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"strings"
)

// planTLS decides whether the side speaks TLS, and reads its files.
func (s *Side) planTLS(p *plan) error {
	schemes := map[string]bool{}
	for _, endpoint := range p.endpoints {
		schemes[endpoint.Scheme] = true
	}
	files := s.caCert != "" || s.cert != "" || s.key != ""
	switch {
	case len(schemes) > 1:
		return s.usage("endpoints", "mixes addresses with different schemes", "write all with https://, all with http://, or all without")
	case schemes["http"] && files:
		return s.usage("endpoints", "says http though TLS files are given ("+s.tlsSettings()+")", "write https://, or leave the files out")
	case !schemes["https"] && !files:
		return nil
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.caCert != "" {
		data, err := readFile(s.caCert)
		if err != nil {
			return s.usage("cacert", err.Error(), "give a PEM file that this process can read")
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(data) {
			return s.usage("cacert", s.caCert+" holds no PEM certificate", "give the CA's certificate in PEM form")
		}
	}
	if err := s.planPair(conf); err != nil {
		return err
	}
	p.tls = conf
	return nil
}

// planPair reads the client certificate and its key.
func (s *Side) planPair(conf *tls.Config) error {
	switch {
	case s.cert == "" && s.key == "":
		return nil
	case s.key == "":
		return s.usage("key", "is missing though "+s.Where("cert")+" is given", "give the key of the certificate")
	case s.cert == "":
		return s.usage("cert", "is missing though "+s.Where("key")+" is given", "give the certificate of the key")
	}
	certPEM, err := readFile(s.cert)
	if err != nil {
		return s.usage("cert", err.Error(), "give a PEM file that this process can read")
	}
	keyPEM, err := readFile(s.key)
	if err != nil {
		return s.usage("key", err.Error(), "give a PEM file that this process can read")
	}
	if !holds(certPEM, "CERTIFICATE") {
		return s.usage("cert", s.cert+" holds no PEM certificate", "give the client certificate in PEM form")
	}
	if !holds(keyPEM, "PRIVATE KEY") {
		return s.usage("key", s.key+" holds no PEM private key", "give the key in PEM form, without a passphrase")
	}
	if _, err := tls.X509KeyPair(certPEM, keyPEM); err != nil {
		if strings.Contains(err.Error(), "does not match") {
			return s.usage("key", s.key+" is not the key of "+s.cert, "give the key that the certificate was made for")
		}
		// What package tls says is about the form of either file and shows nothing of them.
		return s.usage("key", s.key+" and "+s.cert+" are no usable pair: "+err.Error(), "give a certificate and its key in PEM form")
	}
	// Read again at each handshake, so that a renewed certificate is used without a restart.
	certFile, keyFile := s.cert, s.key
	conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(certFile, keyFile)
		return &pair, err
	}
	return nil
}

// holds reports whether data has a PEM block whose type ends in kind.
func holds(data []byte, kind string) bool {
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			return false
		}
		if strings.HasSuffix(block.Type, kind) {
			return true
		}
	}
}

// tlsSettings names the TLS files that are given.
func (s *Side) tlsSettings() string {
	var given []string
	for setting, value := range map[string]string{"cacert": s.caCert, "cert": s.cert, "key": s.key} {
		if value != "" {
			given = append(given, s.Where(setting))
		}
	}
	return strings.Join(sorted(given), ", ")
}
