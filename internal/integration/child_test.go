package integration_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/internal/testutil/proc"
)

const (
	sourceVariable  = "UNDERSTUDY_TEST_SOURCE"
	targetVariable  = "UNDERSTUDY_TEST_TARGET"
	replicaVariable = "UNDERSTUDY_TEST_REPLICA"
)

// child runs a mirror with the default configuration in a process of its own.
func (p *pair) child(replica string) *proc.Proc {
	p.t.Helper()
	return proc.Start(p.t, "mirror", []string{
		sourceVariable + "=" + strings.Join(p.source.Endpoints(), ","),
		targetVariable + "=" + strings.Join(p.target.Endpoints(), ","),
		replicaVariable + "=" + replica,
	})
}

// output waits until a child has written texts.
func (p *pair) output(child *proc.Proc, texts ...string) {
	p.t.Helper()
	for _, text := range texts {
		if err := child.WaitOutput(p.ctx, text); err != nil {
			p.t.Fatal(err)
		}
	}
}

// childMirror is that process. It tells its states and when it leads.
func childMirror() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var clients [2]*clientv3.Client
	for i, variable := range []string{sourceVariable, targetVariable} {
		var err error
		clients[i], err = clientv3.New(quick(clientv3.Config{Endpoints: strings.Split(os.Getenv(variable), ","), Logger: zap.NewNop()}))
		if err != nil {
			fmt.Println(err)
			return 1
		}
	}
	m, err := etcdmirror.New(clients[0], clients[1], etcdmirror.Config{Name: mirrorName, Replica: os.Getenv(replicaVariable), SessionTTL: time.Second, Unchecked: true, Hooks: etcdmirror.Hooks{
		State:   func(i etcdmirror.StateInfo) { fmt.Printf("state %s: %s\n", i.State, i.Reason) },
		Leading: func(etcdmirror.LeadingInfo) { fmt.Println("leading") },
	}})
	if err == nil {
		err = m.Run(ctx)
	}
	if err = errors.Join(err, clients[0].Close(), clients[1].Close()); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}
