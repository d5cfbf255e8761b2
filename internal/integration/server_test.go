package integration_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/understudy-dr/understudy/internal/etcdrpc"
	"github.com/understudy-dr/understudy/internal/testutil/proc"
)

const (
	requestTimeout = 10 * time.Second
	// startTimeout is the deadline of a server's start, and of all attempts at it.
	startTimeout = time.Minute
	// pollInterval is how often a condition is looked at that something else brings about.
	pollInterval = 5 * time.Millisecond
)

// server is a single-member etcd in a process of its own. It keeps its ports and data over kill and restart.
type server struct {
	t         *testing.T
	dir, name string
	maxTxnOps int // 0: the server's default

	clientPort, peerPort int
	proc                 *proc.Proc
	version              string
}

// startServer starts a new server, which ends with the test.
func startServer(ctx context.Context, t *testing.T, maxTxnOps int) *server {
	t.Helper()
	// The name tells this server from any other that has taken its port in the meantime.
	s := &server{t: t, name: fmt.Sprintf("integration-%x", rand.Uint64()), maxTxnOps: maxTxnOps}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		s.dir = filepath.Join(t.TempDir(), "data")
		s.clientPort, s.peerPort = freePort(t), freePort(t)
		err := s.run(ctx)
		if err == nil {
			return s
		}
		if !errors.Is(err, errPortTaken) || ctx.Err() != nil {
			t.Fatal(err)
		}
	}
}

// freePort finds a port that is free now, below the range that Linux gives to outgoing connections: so it stays free while its server is down.
func freePort(t *testing.T) int {
	t.Helper()
	for range 1000 {
		port := 18000 + rand.IntN(14000)
		l, err := net.Listen("tcp", address(port))
		if err == nil {
			_ = l.Close()
			return port
		}
	}
	t.Fatal("no free port between 18000 and 32000")
	return 0
}

func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

var errPortTaken = errors.New("port taken")

// run starts the process and waits until it serves.
func (s *server) run(ctx context.Context) error {
	s.t.Helper()
	client, peer := "http://"+address(s.clientPort), "http://"+address(s.peerPort)
	args := []string{
		"--name", s.name, "--data-dir", s.dir,
		"--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
		"--initial-cluster", s.name + "=" + peer,
		"--initial-cluster-token", s.name, // clusters that share one share an ID
		"--logger", "zap", "--log-level", "error",
		"--heartbeat-interval", "20", "--election-timeout", "200",
		"--snapshot-count", "1000", // so that a restart finds snapshots as well as a log
	}
	if s.maxTxnOps > 0 {
		args = append(args, "--max-txn-ops", strconv.Itoa(s.maxTxnOps))
	}
	s.proc = proc.StartBinary(s.t, binary(s.t), nil, args...)
	ended := make(chan error, 1)
	waiting, stopWaiting := context.WithCancel(ctx)
	defer stopWaiting()
	go func() { ended <- s.proc.Wait(waiting) }()

	cli, err := clientv3.New(s.clientConfig())
	if err != nil {
		return err
	}
	defer cli.Close()
	for {
		var answer error
		if s.version, answer = s.serves(ctx, cli); answer == nil {
			return nil
		}
		select {
		case err := <-ended:
			if strings.Contains(s.proc.Output(), "address already in use") {
				return errPortTaken
			}
			return fmt.Errorf("%s ended while it started: %w", binary(s.t), err)
		case <-time.After(pollInterval):
		case <-ctx.Done():
			return fmt.Errorf("%s does not serve: %w", binary(s.t), answer)
		}
	}
}

// serves makes sure by a linearizable read that the server answers, and that it is this one. It returns its version.
func (s *server) serves(ctx context.Context, cli *clientv3.Client) (version string, err error) {
	const attempt = time.Second
	if _, _, err := etcdrpc.Head(ctx, cli, attempt, "/"); err != nil {
		return "", err
	}
	members, err := etcdrpc.Do(ctx, attempt, func(ctx context.Context) (*clientv3.MemberListResponse, error) { return cli.MemberList(ctx) })
	if err != nil {
		return "", err
	}
	if len(members.Members) != 1 || members.Members[0].Name != s.name {
		return "", fmt.Errorf("another cluster answers at port %d", s.clientPort)
	}
	status, err := etcdrpc.Do(ctx, attempt, func(ctx context.Context) (*clientv3.StatusResponse, error) {
		return cli.Status(ctx, cli.Endpoints()[0])
	})
	if err != nil {
		return "", err
	}
	return status.Version, nil
}

// kill ends the process without a chance to clean up.
func (s *server) kill() { s.proc.Kill9() }

// restart starts a killed server on its old data and ports.
func (s *server) restart(ctx context.Context) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		err := s.run(ctx)
		if err == nil {
			return
		}
		if !errors.Is(err, errPortTaken) || ctx.Err() != nil {
			s.t.Fatal(err)
		}
	}
}

// orderedProgress tells whether the server sends progress notifications in order with events (etcd#15220).
func (s *server) orderedProgress() bool {
	var minor, patch int
	if _, err := fmt.Sscanf(s.version, "3.%d.%d", &minor, &patch); err != nil {
		s.t.Fatalf("version %q: %v", s.version, err)
	}
	return minor > 5 || minor == 5 && patch >= 8 || minor == 4 && patch >= 25
}

func (s *server) clientConfig() clientv3.Config {
	return quick(clientv3.Config{Endpoints: []string{"http://" + address(s.clientPort)}, Logger: zap.NewNop()})
}

// quick makes a client connect again soon after its server is back: gRPC alone waits for seconds.
func quick(cfg clientv3.Config) clientv3.Config {
	cfg.DialOptions = append(cfg.DialOptions, grpc.WithConnectParams(grpc.ConnectParams{
		Backoff: backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, MaxDelay: 200 * time.Millisecond}, MinConnectTimeout: time.Second}))
	return cfg
}
