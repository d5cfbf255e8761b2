package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/understudy-dr/understudy/drcheck"
)

// seen is what a role has read; it prints that as JSON.
type seen struct {
	SourceKeys int `json:"sourceKeys"`
	TargetKeys int `json:"targetKeys"`
	// Filtered are the source's keys that a check has dropped. A reader drops none.
	Filtered int `json:"filtered"`
	// ValueBytes are of both sides.
	ValueBytes int64 `json:"valueBytes"`
}

// bothSides is what a role does with its two clients.
type bothSides func(ctx context.Context, f roleFlags, source, target *clientv3.Client) (seen, error)

// playReader connects to both sides, waits for the order to begin, reads, and prints what it has seen.
func playReader(read bothSides) func(roleFlags, <-chan string) error {
	return func(f roleFlags, orders <-chan string) error {
		source, target, err := connectBoth(f)
		if err != nil {
			return err
		}
		fmt.Println(readyLine)
		if err := awaitGo(orders); err != nil {
			return err
		}
		var s seen
		err = profiled(f.cpuProfile, func() (err error) {
			s, err = read(context.Background(), f, source, target)
			return err
		})
		if err != nil {
			return err
		}
		line, err := json.Marshal(s)
		if err != nil {
			return err
		}
		fmt.Println(string(line))
		return nil
	}
}

// readSides reads both sides at once, and drops what it reads.
func readSides(read func(context.Context, *clientv3.Client) (content, error)) bothSides {
	return func(ctx context.Context, _ roleFlags, source, target *clientv3.Client) (seen, error) {
		var s, t content
		group, ctx := errgroup.WithContext(ctx)
		group.Go(func() (err error) {
			s, err = read(ctx, source)
			return err
		})
		group.Go(func() (err error) {
			t, err = read(ctx, target)
			return err
		})
		err := group.Wait()
		return seen{SourceKeys: s.keys, TargetKeys: t.keys, ValueBytes: s.values + t.values}, err
	}
}

var errSilent = fmt.Errorf("no message of the stream in %v", requestTimeout)

// readStream reads all below the prefix as one stream.
func readStream(keysOnly bool) func(context.Context, *clientv3.Client) (content, error) {
	return func(ctx context.Context, client *clientv3.Client) (c content, err error) {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		watchdog := time.AfterFunc(requestTimeout, func() { cancel(errSilent) })
		defer watchdog.Stop()
		request := &pb.RangeRequest{Key: []byte(prefix), RangeEnd: []byte(clientv3.GetPrefixRangeEnd(prefix)), KeysOnly: keysOnly}
		// Raw: the client's own wrapper puts all messages together.
		stream, err := pb.NewKVClient(client.ActiveConnection()).RangeStream(ctx, request, grpc.MaxCallRecvMsgSize(math.MaxInt32))
		if err != nil {
			return c, err
		}
		for {
			message, err := stream.Recv()
			switch {
			case errors.Is(err, io.EOF):
				return c, nil
			case errors.Is(context.Cause(ctx), errSilent):
				return c, errSilent
			case err != nil:
				return c, err
			}
			watchdog.Reset(requestTimeout)
			c.add(message.GetRangeResponse().GetKvs()...)
		}
	}
}

// readerPageKeys is how many keys with their values a plain reader asks for at a time.
const readerPageKeys = 1000

// readPages reads all below the prefix in pages.
func readPages(ctx context.Context, client *clientv3.Client) (content, error) {
	return weigh(ctx, client, everything, clientv3.WithLimit(readerPageKeys))
}

// check compares the sides as drcheck does where no mirror is known. Nobody writes, so that what differs need not settle.
func check(mode drcheck.Mode) bothSides {
	return func(ctx context.Context, f roleFlags, source, target *clientv3.Client) (seen, error) {
		cfg := drcheck.Config{Prefix: prefix, Mode: mode, Settle: time.Millisecond, RequestTimeout: requestTimeout}
		if f.filter {
			keep, err := keepFunc(true)
			if err != nil {
				return seen{}, err
			}
			cfg.Keep, cfg.KeepID = keep, "bench"
		}
		checker, err := drcheck.New(source, target, cfg)
		if err != nil {
			return seen{}, err
		}
		r, err := checker.Check(ctx)
		if err != nil {
			return seen{}, err
		}
		if !r.Equal {
			first := "none is listed"
			if len(r.Differences) > 0 {
				first = fmt.Sprintf("first: %s %q", r.Differences[0].Class, r.Differences[0].Key)
			}
			return seen{}, fmt.Errorf("the sides are not equal: %d missed, %d surplus, %d different; %s", r.Count.Missed, r.Count.Surplus, r.Count.Different, first)
		}
		return seen{SourceKeys: r.SourceKeys, TargetKeys: r.TargetKeys, Filtered: r.Filtered, ValueBytes: r.Bytes}, nil
	}
}
