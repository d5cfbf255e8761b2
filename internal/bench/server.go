package main

import (
	"context"
	"errors"
	"os"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// server is an etcd of the benchmark.
type server struct {
	process  *process
	endpoint string
	client   *clientv3.Client
	dir      string
}

func (b *bench) startEtcd(ctx context.Context) (*server, error) {
	dir, err := os.MkdirTemp(b.dir, "etcd-")
	if err != nil {
		return nil, err
	}
	s := &server{dir: dir}
	if s.process, err = startProcess(roleEtcd, roleFlags{dir: dir}); err != nil {
		return nil, err
	}
	if s.endpoint, err = s.process.line(ctx); err == nil {
		s.client, err = connect(s.endpoint)
	}
	if err == nil {
		_, err = get(ctx, s.client, prefix)
	}
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// close kills the server: its data is not needed any more.
func (s *server) close() error {
	var err error
	if s.client != nil {
		err = s.client.Close()
	}
	s.process.stop()
	return errors.Join(err, os.RemoveAll(s.dir))
}

// withEtcd starts an etcd for as long as use takes.
func (b *bench) withEtcd(ctx context.Context, use func(*server) error) (err error) {
	s, err := b.startEtcd(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	return use(s)
}

// withEtcds starts several.
func (b *bench) withEtcds(ctx context.Context, n int, use func([]*server) error, before ...*server) error {
	if n == 0 {
		return use(before)
	}
	return b.withEtcd(ctx, func(s *server) error { return b.withEtcds(ctx, n-1, use, append(before, s)...) })
}
