package connect

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
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
	cas, err := s.readCAs()
	if err != nil {
		return err
	}
	pair, err := s.readPair()
	if err != nil {
		return err
	}
	p.tls = &keyring{side: s, cas: cas, pair: pair}
	return nil
}

// readCAs reads the CAs that sign the servers' certificates; nil stands for those of this host. It takes the whole file or nothing:
// one that is being written must not pass for a shorter one.
func (s *Side) readCAs() (*x509.CertPool, error) {
	if s.caCert == "" {
		return nil, nil
	}
	data, err := readFile(s.caCert)
	if err != nil {
		return nil, s.usage("cacert", err.Error(), "give a PEM file that this process can read")
	}
	pool, n := x509.NewCertPool(), 0
	list, _ := blocks(data)
	for _, block := range list {
		if block.Type != "CERTIFICATE" {
			continue
		}
		n++
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, s.usage("cacert", fmt.Sprintf("certificate %d in %s is damaged: %v", n, s.caCert, err), "write the file anew")
		}
		pool.AddCert(cert)
	}
	switch {
	case cutOff(data):
		return nil, s.cutOff("cacert", s.caCert)
	case n == 0:
		return nil, s.usage("cacert", s.caCert+" holds no PEM certificate", "give the CA's certificate in PEM form")
	}
	return pool, nil
}

// readPair reads the client certificate and its key; nil if none are given.
func (s *Side) readPair() (*tls.Certificate, error) {
	switch {
	case s.cert == "" && s.key == "":
		return nil, nil
	case s.key == "":
		return nil, s.usage("key", "is missing though "+s.Where("cert")+" is given", "give the key of the certificate")
	case s.cert == "":
		return nil, s.usage("cert", "is missing though "+s.Where("key")+" is given", "give the certificate of the key")
	}
	certPEM, err := readFile(s.cert)
	if err != nil {
		return nil, s.usage("cert", err.Error(), "give a PEM file that this process can read")
	}
	keyPEM, err := readFile(s.key)
	if err != nil {
		return nil, s.usage("key", err.Error(), "give a PEM file that this process can read")
	}
	switch {
	case cutOff(certPEM):
		return nil, s.cutOff("cert", s.cert)
	case cutOff(keyPEM):
		return nil, s.cutOff("key", s.key)
	case !holds(certPEM, "CERTIFICATE"):
		return nil, s.usage("cert", s.cert+" holds no PEM certificate", "give the client certificate in PEM form")
	case !holds(keyPEM, "PRIVATE KEY"):
		return nil, s.usage("key", s.key+" holds no PEM private key", "give the key in PEM form, without a passphrase")
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		if strings.Contains(err.Error(), "does not match") {
			return nil, s.usage("key", s.key+" is not the key of "+s.cert, "give the key that the certificate was made for")
		}
		// What package tls says is about the form of either file and shows nothing of them.
		return nil, s.usage("key", s.key+" and "+s.cert+" are no usable pair: "+err.Error(), "give a certificate and its key in PEM form")
	}
	return &pair, nil
}

// blocks are the PEM blocks that can be read, and what follows the last.
func blocks(data []byte) (list []*pem.Block, rest []byte) {
	for {
		block, after := pem.Decode(data)
		if block == nil {
			return list, data
		}
		list, data = append(list, block), after
	}
}

// holds reports whether data has a PEM block whose type ends in kind.
func holds(data []byte, kind string) bool {
	list, _ := blocks(data)
	return slices.ContainsFunc(list, func(block *pem.Block) bool { return strings.HasSuffix(block.Type, kind) })
}

// cutOff reports whether a PEM block begins that cannot be read: package pem passes over it without a word.
func cutOff(data []byte) bool {
	list, rest := blocks(data)
	lastLine := rest[bytes.LastIndexByte(rest, '\n')+1:]
	return bytes.Count(data, []byte("-----BEGIN ")) > len(list) || bytes.HasPrefix(lastLine, []byte("-"))
}

func (s *Side) cutOff(setting, path string) error {
	return s.usage(setting, path+" holds a PEM block that is cut off or damaged", "write the file anew, whole")
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
