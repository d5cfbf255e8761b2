package embedetcd

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc"

	"github.com/understudy-dr/understudy/internal/testutil/freeport"
)

// Ticks in milliseconds. A new single member elects itself, so its ticks only cost start-up time; three members on
// a loaded machine need room, or they elect new leaders in the middle of tests.
const (
	singleTick, singleElection = 10, 100
	multiTick, multiElection   = 100, 1000
)

// stopTimeout bounds a stop; a member that takes longer is stuck and its data must not be used.
const stopTimeout = 30 * time.Second

// member is one server with the addresses and directory that it keeps over restarts.
type member struct {
	c         *Cluster
	index     int
	name      string
	dir       string
	clientURL url.URL
	peerURL   url.URL
	initial   string // the InitialCluster of all members

	etcd *embed.Etcd // nil while stopped

	mu   sync.Mutex
	grpc []*grpc.Server // of the present run
}

// newMembers lays out the members on twice as many ports.
func newMembers(c *Cluster, ports []int) []*member {
	scheme := "http"
	if c.opts.TLS {
		scheme = "https"
	}
	members := make([]*member, c.opts.Members)
	initial := make([]string, len(members))
	for i := range members {
		name := "m" + strconv.Itoa(i)
		members[i] = &member{
			c: c, index: i, name: name,
			dir:       filepath.Join(c.dir, name),
			clientURL: url.URL{Scheme: scheme, Host: freeport.Loopback(ports[2*i])},
			peerURL:   url.URL{Scheme: "http", Host: freeport.Loopback(ports[2*i+1])},
		}
		initial[i] = name + "=" + members[i].peerURL.String()
	}
	for _, m := range members {
		m.initial = strings.Join(initial, ",")
	}
	return members
}

// logger is silent except for what ends the process: a fatal error without a word cannot be found.
var logger = sync.OnceValue(func() *zap.Logger {
	return zap.New(zapcore.NewCore(
		zapcore.NewConsoleEncoder(zap.NewDevelopmentEncoderConfig()), zapcore.Lock(os.Stderr), zapcore.DPanicLevel))
})

func (m *member) config() *embed.Config {
	opts := m.c.opts
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir = m.name, m.dir
	cfg.InitialCluster, cfg.InitialClusterToken = m.initial, m.c.token
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{m.clientURL}, []url.URL{m.clientURL}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{m.peerURL}, []url.URL{m.peerURL}
	cfg.TickMs, cfg.ElectionMs = singleTick, singleElection
	// A member that starts again replays its log while it ticks. With short ticks it may stand for election before it has done so, which etcd's raft does not survive.
	if _, err := os.Stat(m.dir); opts.Members > 1 || err == nil {
		cfg.TickMs, cfg.ElectionMs = multiTick, multiElection
	}
	if opts.MaxTxnOps > 0 {
		cfg.MaxTxnOps = opts.MaxTxnOps
	}
	if opts.MaxRequestBytes > 0 {
		cfg.MaxRequestBytes = opts.MaxRequestBytes
	}
	if opts.QuotaBackendBytes > 0 {
		cfg.QuotaBackendBytes = opts.QuotaBackendBytes
	}
	if opts.TLS {
		cfg.ClientTLSInfo.TrustedCAFile = m.c.tls.CA
		cfg.ClientTLSInfo.CertFile = m.c.tls.ServerCert
		cfg.ClientTLSInfo.KeyFile = m.c.tls.ServerKey
		cfg.ClientTLSInfo.ClientCertAuth = true
	}
	cfg.UnsafeNoFsync = !opts.Fsync
	cfg.EnableGRPCGateway = false
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(logger())
	return cfg
}

// start runs the member; it does not wait for it.
func (m *member) start(change func(*embed.Config)) error {
	cfg := m.config()
	if m.c.opts.Change != nil {
		m.c.opts.Change(m.index, cfg)
	}
	if change != nil {
		change(cfg)
	}
	register := cfg.ServiceRegister
	cfg.ServiceRegister = func(s *grpc.Server) {
		m.mu.Lock()
		m.grpc = append(m.grpc, s)
		m.mu.Unlock()
		if register != nil {
			register(s)
		}
	}
	m.mu.Lock()
	m.grpc = nil
	m.mu.Unlock()
	etcd, err := embed.StartEtcd(cfg)
	if err != nil {
		return fmt.Errorf("embedetcd: start member %d: %w", m.index, err)
	}
	m.etcd = etcd
	return nil
}

// restart starts the member on ports that somebody else may hold for a moment.
func (m *member) restart(ctx context.Context, change func(*embed.Config)) error {
	for {
		err := m.start(change)
		if err == nil || !freeport.IsInUse(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (m *member) waitReady(ctx context.Context) error {
	select {
	case <-m.etcd.Server.ReadyNotify():
		return nil
	case <-m.etcd.Server.StopNotify():
		return fmt.Errorf("embedetcd: member %d stopped while it started", m.index)
	case <-ctx.Done():
		return fmt.Errorf("embedetcd: member %d is not ready: %w", m.index, context.Cause(ctx))
	}
}

// stop ends the member's run and waits until nothing of it is left.
func (m *member) stop() error {
	etcd := m.etcd
	if etcd == nil {
		return nil
	}
	m.etcd = nil
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Cut the connections first: a graceful stop would wait seconds for open watches.
		m.mu.Lock()
		servers := m.grpc
		m.mu.Unlock()
		for _, s := range servers {
			s.Stop()
		}
		// Close waits for the listeners, which wait for a member that is ready or stopping; one without quorum is neither.
		etcd.Server.HardStop()
		etcd.Close()
	}()
	select {
	case <-done:
		return nil
	case <-time.After(stopTimeout):
		return fmt.Errorf("embedetcd: member %d did not stop within %v", m.index, stopTimeout)
	}
}
