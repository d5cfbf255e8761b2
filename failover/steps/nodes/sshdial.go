package nodes

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/crypto/ssh/knownhosts"
)

// dial makes a connection, and logs in.
func (s *SSH) dial(ctx context.Context) (*ssh.Client, error) {
	ctx, cancel := limit(ctx, 0, s.cfg.ConnectTimeout)
	defer cancel()
	known, err := knownhosts.New(s.cfg.KnownHosts...)
	if err != nil {
		return nil, &Error{Kind: ErrHostKeyUnknown, Host: s.cfg.Name, Detail: "known_hosts cannot be read", Hint: "put it right; nothing is connected to without it", Cause: err}
	}
	conn, err := s.transport(ctx)
	if err != nil {
		return nil, err
	}
	// A connection through another host knows no deadlines: closing it ends whatever waits for it.
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	auth := &login{host: s}
	defer auth.close()
	var refused error // by what the host's key was
	raw, chans, reqs, err := ssh.NewClientConn(conn, s.addr, &ssh.ClientConfig{
		User:              s.cfg.User,
		Auth:              []ssh.AuthMethod{ssh.PublicKeysCallback(func() ([]ssh.Signer, error) { return auth.signers(ctx) })},
		HostKeyAlgorithms: s.hostKeyAlgorithms(known),
		HostKeyCallback: func(host string, remote net.Addr, key ssh.PublicKey) error {
			refused = s.judge(known(host, remote, key), key)
			return refused
		},
	})
	if err != nil {
		stop()
		_ = conn.Close() // nothing was said
		return nil, s.dialError(ctx, err, refused, auth)
	}
	if !stop() {
		_ = raw.Close() // conn is closed
		return nil, &Error{Kind: ErrUnreachable, Host: s.cfg.Name, Cause: context.Cause(ctx)}
	}
	return ssh.NewClient(raw, chans, reqs), nil
}

// transport connects to the port, through the other host if there is one.
func (s *SSH) transport(ctx context.Context) (net.Conn, error) {
	if s.cfg.Jump == nil {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", s.addr)
		if err != nil {
			return nil, &Error{Kind: ErrUnreachable, Host: s.cfg.Name, Hint: "look at the host, its sshd and the firewalls between", Cause: err}
		}
		return conn, nil
	}
	via := s.cfg.Jump.cfg.Name
	client, reused, err := s.cfg.Jump.connected(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s, through %s: %w", s.cfg.Name, via, err)
	}
	conn, err := client.DialContext(ctx, "tcp", s.addr)
	var open *ssh.OpenChannelError
	if err != nil && reused && ctx.Err() == nil && !errors.As(err, &open) { // the connection to the other host was lost
		s.cfg.Jump.drop(client)
		if client, _, err = s.cfg.Jump.connected(ctx); err != nil {
			return nil, fmt.Errorf("%s, through %s: %w", s.cfg.Name, via, err)
		}
		conn, err = client.DialContext(ctx, "tcp", s.addr)
	}
	if err != nil {
		return nil, &Error{Kind: ErrUnreachable, Host: s.cfg.Name, Detail: "through " + via, Hint: "look at the host, and whether " + via + " may forward to it", Cause: err}
	}
	return conn, nil
}

func (s *SSH) dialError(ctx context.Context, err, refused error, auth *login) error {
	switch {
	case refused != nil:
		return refused
	case auth.err != nil:
		return &Error{Kind: ErrAuth, Host: s.cfg.Name, Detail: "a key of user " + s.cfg.User + " cannot be used", Hint: "look at the key file or the agent", Cause: auth.err}
	case ctx.Err() != nil:
		return &Error{Kind: ErrUnreachable, Host: s.cfg.Name, Detail: "while logging in", Cause: context.Cause(ctx)}
	case auth.asked && strings.Contains(err.Error(), "unable to authenticate"): // it has no type
		return &Error{Kind: ErrAuth, Host: s.cfg.Name, Detail: fmt.Sprintf("user %s, with %s", s.cfg.User, auth.offered()), Hint: "add a public key to the user's authorized_keys there", Cause: err}
	}
	return &Error{Kind: ErrUnreachable, Host: s.cfg.Name, Detail: "the ssh handshake failed", Hint: "see the log of its sshd", Cause: err}
}

// judge makes an error of what known_hosts says about a host's key.
func (s *SSH) judge(err error, key ssh.PublicKey) error {
	if err == nil {
		return nil
	}
	shown := fmt.Sprintf("%s %s", key.Type(), ssh.FingerprintSHA256(key))
	files := strings.Join(s.cfg.KnownHosts, ", ")
	e := &Error{Kind: ErrHostKeyUnknown, Host: s.cfg.Name, Detail: fmt.Sprintf("%s shows %s, and %s has no key for it", s.addr, shown, files),
		Hint: "compare the fingerprint with what ssh-keygen -lf says about the files /etc/ssh/ssh_host_*_key.pub on the machine's console, and only then add the key for " + knownhosts.Normalize(s.addr)}
	var revoked *knownhosts.RevokedError
	var unknown *knownhosts.KeyError
	switch {
	case errors.As(err, &revoked):
		e.Kind, e.Detail = ErrHostKeyRevoked, fmt.Sprintf("%s shows %s, revoked by %s, line %d", s.addr, shown, revoked.Revoked.Filename, revoked.Revoked.Line)
		e.Hint = "somebody has its private key: do not connect before it has another"
	case errors.As(err, &unknown) && len(unknown.Want) > 0:
		var want []string
		for _, k := range unknown.Want {
			want = append(want, fmt.Sprintf("%s %s (%s, line %d)", k.Key.Type(), ssh.FingerprintSHA256(k.Key), k.Filename, k.Line))
		}
		e.Kind, e.Detail = ErrHostKeyChanged, fmt.Sprintf("%s shows %s, known is %s", s.addr, shown, strings.Join(want, ", "))
		e.Hint = "it is another machine, or was installed anew: find out which on its console; only then replace the line"
	case !errors.As(err, &unknown): // a certificate that does not hold
		e.Detail, e.Cause = fmt.Sprintf("%s shows %s", s.addr, shown), err
	}
	return e
}

// hostKeyAlgorithms puts those first for which known_hosts has a key of the host: a host with keys of several types would otherwise show one that is not there. The rest follows,
// so that a host that has only others is told with its fingerprint.
func (s *SSH) hostKeyAlgorithms(known ssh.HostKeyCallback) []string {
	var unknown *knownhosts.KeyError
	if !errors.As(known(s.addr, &net.TCPAddr{IP: net.IPv4zero}, noKey{}), &unknown) {
		return nil
	}
	var first []string
	for _, k := range unknown.Want {
		switch {
		case byAuthority(k):
			for _, algorithm := range ssh.SupportedAlgorithms().HostKeys {
				if strings.Contains(algorithm, "-cert-") {
					first = append(first, algorithm)
				}
			}
		case k.Key.Type() == ssh.KeyAlgoRSA:
			first = append(first, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
		default:
			first = append(first, k.Key.Type())
		}
	}
	var all []string
	for _, algorithm := range append(first, ssh.SupportedAlgorithms().HostKeys...) {
		isCert := strings.Contains(algorithm, "-cert-") && !slices.Contains(first, algorithm)
		if !slices.Contains(all, algorithm) && !isCert { // a certificate of an authority that is not known would hide the key that is
			all = append(all, algorithm)
		}
	}
	return all
}

// byAuthority reports whether a line of known_hosts is about a certificate authority, which knownhosts does not tell.
func byAuthority(k knownhosts.KnownKey) bool {
	data, err := os.ReadFile(k.Filename)
	lines := bytes.Split(data, []byte("\n"))
	return err == nil && k.Line >= 1 && k.Line <= len(lines) && bytes.HasPrefix(bytes.TrimSpace(lines[k.Line-1]), []byte("@cert-authority"))
}

// noKey is a key that no host has.
type noKey struct{}

func (noKey) Type() string                        { return "none" }
func (noKey) Marshal() []byte                     { return nil }
func (noKey) Verify([]byte, *ssh.Signature) error { return errors.New("no key") }

// login offers keys.
type login struct {
	host  *SSH
	agent net.Conn
	asked bool
	tried []string
	err   error // why one could not be used
}

func (l *login) signers(ctx context.Context) (all []ssh.Signer, err error) {
	l.asked = true
	for _, key := range l.host.signer {
		signers, err := key.signers(ctx, l.host.cfg.Passphrase)
		if err != nil {
			l.err = err
			return nil, err
		}
		all = append(all, signers...)
	}
	if path := l.host.cfg.Agent; path != "" {
		more, err := l.ofAgent(ctx, path)
		if err != nil && len(all) == 0 {
			l.err = fmt.Errorf("the ssh-agent at %s: %w", path, err)
			return nil, l.err
		}
		all = append(all, more...) // with keys from files, an agent that does not answer is none
	}
	for _, signer := range all {
		l.tried = append(l.tried, ssh.FingerprintSHA256(signer.PublicKey()))
	}
	return all, nil
}

func (l *login) ofAgent(ctx context.Context, path string) ([]ssh.Signer, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	l.agent = conn
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return nil, err
		}
	}
	return agent.NewClient(struct{ io.ReadWriter }{conn}).Signers()
}

func (l *login) offered() string {
	if len(l.tried) == 0 {
		return "no key: the agent has none"
	}
	return "the keys " + strings.Join(l.tried, ", ")
}

func (l *login) close() {
	if l.agent != nil {
		_ = l.agent.Close() // it was only read
	}
}

// keyFile is a private key.
type keyFile struct {
	path string
	pem  []byte
	cert *ssh.Certificate // nil if there is none

	mu   sync.Mutex
	open ssh.Signer // once it is decrypted
}

func readKeyFile(path string, passphrase bool) (*keyFile, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	k := &keyFile{path: path, pem: pem}
	var missing *ssh.PassphraseMissingError
	switch k.open, err = ssh.ParsePrivateKey(pem); {
	case errors.As(err, &missing) && passphrase:
	case errors.As(err, &missing):
		return nil, fmt.Errorf("%s has a passphrase", path)
	case err != nil:
		return nil, fmt.Errorf("%s is no private key: %w", path, err)
	}
	text, err := os.ReadFile(path + "-cert.pub")
	if errors.Is(err, os.ErrNotExist) {
		return k, nil
	} else if err != nil {
		return nil, err
	}
	public, _, _, _, err := ssh.ParseAuthorizedKey(text)
	if err != nil {
		return nil, fmt.Errorf("%s-cert.pub: %w", path, err)
	}
	cert, ok := public.(*ssh.Certificate)
	if !ok {
		return nil, fmt.Errorf("%s-cert.pub is no certificate", path)
	}
	k.cert = cert
	return k, nil
}

// signers are the certificate, if there is one, and the key.
func (k *keyFile) signers(ctx context.Context, passphrase func(ctx context.Context, keyFile string) ([]byte, error)) ([]ssh.Signer, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.open == nil {
		secret, err := passphrase(ctx, k.path)
		if err != nil {
			return nil, fmt.Errorf("the passphrase of %s: %w", k.path, err)
		}
		if k.open, err = ssh.ParsePrivateKeyWithPassphrase(k.pem, secret); err != nil {
			return nil, fmt.Errorf("%s: %w", k.path, err)
		}
	}
	if k.cert == nil {
		return []ssh.Signer{k.open}, nil
	}
	certified, err := ssh.NewCertSigner(k.cert, k.open)
	if err != nil {
		return nil, fmt.Errorf("%s-cert.pub does not belong to %s: %w", k.path, k.path, err)
	}
	return []ssh.Signer{certified, k.open}, nil
}
