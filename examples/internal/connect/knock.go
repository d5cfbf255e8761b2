package connect

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
)

// settingsWait is how long a server that took the connection has to show that it speaks HTTP/2. One that stays silent
// counts as reached: the first call decides.
const settingsWait = time.Second

// opening is what an HTTP/2 client says first: the preface and an empty SETTINGS frame.
const opening = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + "\x00\x00\x00\x04\x00\x00\x00\x00\x00"

// knockError is why an endpoint cannot be used, and which setting of the side to look at.
type knockError struct {
	problem, setting, hint string
}

func (e *knockError) Error() string { return e.problem }

// knock connects to one endpoint as etcd's client would, TLS included, and says what goes wrong.
func knock(ctx context.Context, endpoint Endpoint, conf *tls.Config) *knockError {
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", endpoint.Address)
	if err != nil {
		return dialProblem(err)
	}
	defer raw.Close()
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	conn := raw
	if conf != nil {
		host, _, _ := net.SplitHostPort(endpoint.Address)
		conf = conf.Clone()
		conf.ServerName, conf.NextProtos = host, []string{"h2"}
		secure := tls.Client(raw, conf)
		if err := secure.HandshakeContext(ctx); err != nil {
			return tlsProblem(err, conf)
		}
		conn = secure
	}
	_ = conn.SetReadDeadline(time.Now().Add(settingsWait))
	if ctx.Err() != nil {
		return dialProblem(ctx.Err())
	}
	if _, err := io.WriteString(conn, opening); err != nil {
		return silence(err, conf)
	}
	var header [9]byte
	if _, err := io.ReadFull(conn, header[:]); err != nil {
		return silence(err, conf)
	}
	const settingsFrame = 4
	switch {
	case header[3] == settingsFrame:
		return nil
	case conf == nil && header[0] == 0x15: // an alert record of TLS
		return speaksTLS
	}
	return &knockError{"something else than an etcd listens there", "endpoints", "give the client address of an etcd member"}
}

var speaksTLS = &knockError{"the server closed the connection, as one does that expects TLS", "endpoints", "write https:// and give the CA, unless something else is wrong there"}

func dialProblem(err error) *knockError {
	var dns *net.DNSError
	var timeout net.Error
	switch {
	case errors.As(err, &dns):
		return &knockError{fmt.Sprintf("the name %q cannot be resolved", dns.Name), "endpoints", "correct the address"}
	case errors.Is(err, syscall.ECONNREFUSED):
		return &knockError{"connection refused", "endpoints", "correct the address, or start the etcd there"}
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return &knockError{"no answer", "endpoints", "correct the address, or let packets through to it"}
	case errors.Is(err, context.Canceled):
		return &knockError{"not waited for", "endpoints", ""}
	}
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	return &knockError{err.Error(), "endpoints", "correct the address"}
}

func tlsProblem(err error, conf *tls.Config) *knockError {
	var authority x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	var record tls.RecordHeaderError
	var timeout net.Error
	switch {
	case errors.As(err, &authority):
		hint := "give the file of the CA that signed it"
		if conf.RootCAs != nil {
			hint = "the file holds another CA than the one that signed it"
		}
		return &knockError{"the server's certificate is signed by an unknown authority", "cacert", hint}
	case errors.As(err, &host):
		return &knockError{host.Error(), "endpoints", "use an address that the server's certificate is made for"}
	case errors.As(err, &invalid):
		return &knockError{"the server's certificate is not valid: " + invalid.Error(), "endpoints", "renew the server's certificate, or set the clock"}
	case errors.As(err, &record), errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		return &knockError{"the server does not speak TLS", "endpoints", "write http:// and leave the TLS files out, or use the address that it serves TLS on"}
	case strings.Contains(err.Error(), "remote error"):
		return refusedPair(err, conf)
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return &knockError{"no answer to the TLS handshake", "endpoints", "correct the address"}
	}
	return &knockError{"TLS handshake: " + err.Error(), "cacert", "check the TLS files of both ends"}
}

// refusedPair explains an alert of the server, which is about what this end showed.
func refusedPair(err error, conf *tls.Config) *knockError {
	_, alert, _ := strings.Cut(err.Error(), "tls: ")
	if conf.GetClientCertificate == nil {
		return &knockError{"the server asks for a client certificate (" + alert + ")", "cert", "give a client certificate and its key"}
	}
	return &knockError{"the server refuses the client certificate (" + alert + ")", "cert", "give one that is signed by the CA which the server trusts, and has not expired"}
}

// silence explains a connection that was taken and brought nothing.
func silence(err error, conf *tls.Config) *knockError {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil
	case conf != nil && strings.Contains(err.Error(), "remote error"):
		return refusedPair(err, conf)
	case conf == nil:
		return speaksTLS
	case conf.GetClientCertificate == nil:
		return &knockError{"the server closed the connection after the TLS handshake", "cert", "it may ask for a client certificate: give one and its key"}
	}
	return &knockError{"the server closed the connection after the TLS handshake", "cert", "it may refuse the client certificate: check it"}
}

func sorted(list []string) []string {
	slices.Sort(list)
	return list
}
