// Package embedetcd runs real etcd clusters of one or three members inside the process, for tests and demonstrations.
//
// Members keep their ports and data over StopMember and StartMember, so that a client sees the same cluster come back.
// The package does not import testing: the demo binary uses it too.
package embedetcd

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/understudy-dr/understudy/internal/testutil/freeport"
	"github.com/understudy-dr/understudy/internal/testutil/testca"
)

// Options describe a cluster. The zero value is one member without TLS in a temporary directory, with etcd's own limits.
type Options struct {
	// Members is the size of the cluster: 1 or 3. 0 means 1.
	Members int
	// Dir holds the data of all members and the TLS files. "" means a temporary directory that Close removes.
	Dir string
	// MaxTxnOps limits the operations of one transaction. 0 means etcd's default of 128.
	MaxTxnOps uint
	// MaxRequestBytes limits the size of one request in bytes. 0 means etcd's default of 1.5 MiB.
	MaxRequestBytes uint
	// QuotaBackendBytes is the size of the database that raises NOSPACE. 0 means etcd's default of 2 GiB.
	QuotaBackendBytes int64
	// TLS serves clients over TLS only and asks them for a certificate; see Cluster.TLSFiles.
	TLS bool
	// Fsync makes members sync their log to the disk. It is off by default: tests survive a killed process, not a power cut.
	Fsync bool
	// Change edits the configuration of each member just before each of its starts. nil changes nothing.
	Change func(member int, cfg *embed.Config)
}

// Cluster is a running etcd cluster. Its methods may be called from several goroutines.
type Cluster struct {
	opts    Options
	dir     string
	ownsDir bool
	token   string
	tls     TLSFiles
	id      uint64

	mu      sync.Mutex
	members []*member
	ca      *testca.Authority // the present one; nil without Options.TLS
	tlsConf *tls.Config       // of clients; nil without Options.TLS
	closed  bool
}

// startAttempts bounds how often Start picks other ports because some were taken meanwhile.
const startAttempts = 10

// Start runs a new cluster and waits until every member serves clients. ctx bounds the start only.
func Start(ctx context.Context, opts Options) (_ *Cluster, err error) {
	switch opts.Members {
	case 0:
		opts.Members = 1
	case 1, 3:
	default:
		return nil, fmt.Errorf("embedetcd: Options.Members is %d: use 1 or 3", opts.Members)
	}
	c := &Cluster{opts: opts, dir: opts.Dir}
	if c.dir == "" {
		if c.dir, err = os.MkdirTemp("", "embedetcd-"); err != nil {
			return nil, fmt.Errorf("embedetcd: temporary directory: %w", err)
		}
		c.ownsDir = true
	}
	defer func() {
		if err != nil && c.ownsDir {
			err = errors.Join(err, os.RemoveAll(c.dir))
		}
	}()
	if opts.TLS {
		if err = c.startTLS(); err != nil {
			return nil, err
		}
	}
	// etcd derives the cluster's ID from the token and the peer URLs; two clusters must never share one.
	var token [16]byte
	_, _ = rand.Read(token[:]) // never fails
	c.token = hex.EncodeToString(token[:])

	for attempt := 1; ; attempt++ {
		err = c.startAll(ctx)
		if err == nil {
			break
		}
		stopErr := c.stopAll()
		for _, m := range c.members {
			stopErr = errors.Join(stopErr, os.RemoveAll(m.dir))
		}
		if stopErr != nil || !freeport.IsInUse(err) || attempt == startAttempts {
			return nil, errors.Join(err, stopErr)
		}
	}
	c.id = uint64(c.members[0].etcd.Server.Cluster().ID())
	return c, nil
}

// startAll picks ports and starts every member of a new cluster.
func (c *Cluster) startAll(ctx context.Context) error {
	ports, err := freeport.Reserve(2 * c.opts.Members)
	if err != nil {
		return err
	}
	c.members = newMembers(c, ports)
	for _, m := range c.members {
		if err := m.start(nil); err != nil {
			return err
		}
	}
	for _, m := range c.members {
		if err := m.waitReady(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Endpoints are the client URLs of all members, stopped ones included.
func (c *Cluster) Endpoints() []string {
	eps := make([]string, len(c.members))
	for i, m := range c.members {
		eps[i] = m.clientURL.String()
	}
	return eps
}

// ID is the cluster's ID, as in the header of each response.
func (c *Cluster) ID() uint64 { return c.id }

// Dir is the directory that holds the cluster's data.
func (c *Cluster) Dir() string { return c.dir }

// TLSFiles are the certificates and keys that clients need; zero without Options.TLS.
func (c *Cluster) TLSFiles() TLSFiles { return c.tls }

// ClientConfig is a configuration for clients of this cluster, for callers that change it before use.
// It holds the certificates that are on disk now.
func (c *Cluster) ClientConfig() clientv3.Config {
	cfg := clientv3.Config{
		Endpoints:   c.Endpoints(),
		DialTimeout: 5 * time.Second,
		Logger:      zap.NewNop(),
	}
	c.mu.Lock()
	if c.tlsConf != nil {
		cfg.TLS = c.tlsConf.Clone()
	}
	c.mu.Unlock()
	const clientDefault, headroom = 2 << 20, 512 << 10
	if n := int(c.opts.MaxRequestBytes) + headroom; n > clientDefault {
		cfg.MaxCallSendMsgSize = n
	}
	return cfg
}

// NewClient connects to all members. The caller closes the client.
func (c *Cluster) NewClient() (*clientv3.Client, error) {
	cli, err := clientv3.New(c.ClientConfig())
	if err != nil {
		return nil, fmt.Errorf("embedetcd: client: %w", err)
	}
	return cli, nil
}

// Member is the running member i, or nil while it is stopped.
func (c *Cluster) Member(i int) *embed.Etcd {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.members[i].etcd
}

// StopMember cuts the member's connections and stops it, without handing over its leadership, as a crash would.
// It keeps the member's data. A stopped member is left as it is.
func (c *Cluster) StopMember(i int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.members[i].stop()
}

// StartMember starts a stopped member on its old data and ports. change, if not nil, edits the configuration of this one run.
// It waits until the member serves clients if the running members are a majority; otherwise it returns at once.
func (c *Cluster) StartMember(ctx context.Context, i int, change func(*embed.Config)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return errors.New("embedetcd: StartMember on a closed cluster")
	}
	m := c.members[i]
	if m.etcd != nil {
		return fmt.Errorf("embedetcd: member %d runs already: stop it first", i)
	}
	if err := m.restart(ctx, change); err != nil {
		return err
	}
	running := 0
	for _, other := range c.members {
		if other.etcd != nil {
			running++
		}
	}
	if 2*running <= len(c.members) {
		return nil
	}
	return m.waitReady(ctx)
}

// Leader is the index of the member that the running members hold for the leader, or -1 while they know none.
func (c *Cluster) Leader() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, m := range c.members {
		if m.etcd != nil && m.etcd.Server.Leader() == m.etcd.Server.MemberID() {
			return i
		}
	}
	return -1
}

// Close stops every member and removes the temporary directory. Further calls do nothing.
func (c *Cluster) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	err := c.stopAll()
	if c.ownsDir && err == nil {
		err = os.RemoveAll(c.dir)
	}
	return err
}

// stopAll stops the members side by side: one that waits for its peers ends sooner when they end too.
func (c *Cluster) stopAll() error {
	errs := make([]error, len(c.members))
	var wg sync.WaitGroup
	for i, m := range c.members {
		wg.Go(func() { errs[i] = m.stop() })
	}
	wg.Wait()
	return errors.Join(errs...)
}
