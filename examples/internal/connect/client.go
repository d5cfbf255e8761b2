package connect

import (
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// How connections live on after Dial. See the package's documentation.
const (
	// keepAlive is how long a connection that is in use may be silent before it is tried, and keepAliveTimeout how long the peer has to
	// answer: one that vanished is noticed after 14 seconds, just before the mirror's StallTimeout of 15, and another endpoint is used.
	// gRPC does not go below 10 seconds; etcd takes less than 5 for an attack. An unused connection is not tried, for the same reason,
	// but as soon as a call uses it. The kernel gives data that nobody acknowledges up after keepAliveTimeout, too.
	keepAlive, keepAliveTimeout = 10 * time.Second, 4 * time.Second
	// firstRetry and lastRetry space the attempts to connect again. gRPC's own last pause of two minutes would add that much to an outage.
	firstRetry, lastRetry = 500 * time.Millisecond, 5 * time.Second
)

// clientConfig is the configuration of the side's client, but for its timeout at the start.
func (s *Side) clientConfig(p *plan) clientv3.Config {
	cfg := clientv3.Config{Username: p.user, Password: p.password, Logger: zap.NewNop(),
		DialKeepAliveTime: keepAlive, DialKeepAliveTimeout: keepAliveTimeout}
	for _, endpoint := range p.endpoints {
		cfg.Endpoints = append(cfg.Endpoints, endpoint.String())
	}
	pauses := backoff.DefaultConfig
	pauses.BaseDelay, pauses.MaxDelay = firstRetry, lastRetry
	// An attempt has as long as the first one had.
	cfg.DialOptions = []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{Backoff: pauses, MinConnectTimeout: s.dialTimeout})}
	if p.tls != nil {
		// In place of Config.TLS, whose certificates would be those of the start for ever.
		cfg.DialOptions = append(cfg.DialOptions, grpc.WithTransportCredentials(p.tls.credentials()))
	}
	return cfg
}
