package etcdmirror_test

import (
	"context"
	"log"
	"log/slog"
	"os"
	"os/signal"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/keyfilter"
)

// A daemon that mirrors one cluster's etcd into another's until it is told to stop.
func Example() {
	source, err := clientv3.New(clientv3.Config{Endpoints: []string{"10.0.1.1:2379"}}) // and TLS
	if err != nil {
		log.Fatal(err)
	}
	defer source.Close()
	target, err := clientv3.New(clientv3.Config{Endpoints: []string{"10.0.2.1:2379"}})
	if err != nil {
		log.Fatal(err)
	}
	defer target.Close()
	filter, err := keyfilter.New(keyfilter.Config{})
	if err != nil {
		log.Fatal(err)
	}
	mirror, err := etcdmirror.New(source, target, etcdmirror.Config{
		Name: "primary-to-standby",
		Keep: filter.Match, KeepID: filter.Hash(), Skip: filter.Skips(etcdmirror.DefaultPrefix),
		Logger: slog.Default(),
	})
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := mirror.Run(ctx); err != nil {
		log.Fatal(err)
	}
}

// A planned switch: after the source's last write, wait until the target has it, then promote.
func ExamplePromote() {
	var (
		ctx            context.Context
		source, target *clientv3.Client
		mirror         *etcdmirror.Mirror // whose Run is under way
	)
	head, err := source.Get(ctx, "/registry/") // its header has the source's revision
	if err != nil {
		log.Fatal(err)
	}
	if err := mirror.WaitForRevision(ctx, head.Header.Revision); err != nil {
		log.Fatal(err)
	}
	promotion, err := etcdmirror.Promote(ctx, target, "primary-to-standby", etcdmirror.PromoteOptions{})
	if err != nil {
		log.Fatal(err)
	}
	log.Printf("epoch %d, source revision %d, %d revisions missing", promotion.Epoch, promotion.SourceRevision, promotion.MissingRevisions())
}

// After a disaster the target alone tells what it has.
func ExampleReadMetadata() {
	var target *clientv3.Client
	md, err := etcdmirror.ReadMetadata(context.Background(), target, "primary-to-standby")
	if err != nil {
		log.Fatal(err)
	}
	c := md.Checkpoint
	log.Printf("%s: equal to source revision %d, last saved %v, source last seen at revision %d", c.Phase, c.SourceRevision, c.At, c.SourceHead)
}
