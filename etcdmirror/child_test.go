package etcdmirror_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/understudy-dr/understudy/etcdmirror"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/proc"
)

func TestMain(m *testing.M) {
	proc.RunChild(map[string]func() int{"mirror": childMirror})
	testutil.Main(m)
}

// childMirror runs a mirror in a process of its own, to be killed. It prints each state.
func childMirror() int {
	var clients []*clientv3.Client
	for _, side := range []string{"SOURCE", "TARGET"} {
		c, err := clientv3.New(clientv3.Config{Endpoints: strings.Split(os.Getenv(side), ","), Logger: zap.NewNop()})
		if err != nil {
			fmt.Println(err)
			return 1
		}
		clients = append(clients, c)
	}
	fmt.Println("connected")
	session := time.Second
	if ttl, err := time.ParseDuration(os.Getenv("SESSION_TTL")); err == nil {
		session = ttl
	}
	m, err := etcdmirror.New(clients[0], clients[1], etcdmirror.Config{Name: "test", SessionTTL: session, Unchecked: true, Replica: fmt.Sprint(os.Getpid()), Hooks: etcdmirror.Hooks{
		State:   func(i etcdmirror.StateInfo) { fmt.Printf("state %s: %s\n", i.State, i.Reason) },
		Leading: func(i etcdmirror.LeadingInfo) { fmt.Println("leading") },
	}})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(m.Run(context.Background()))
	return 1
}

// child runs a mirror in a process of its own; env adds to its environment.
func (p *pair) child(env ...string) *proc.Proc {
	return proc.Start(p.t, "mirror", append(env,
		"SOURCE="+strings.Join(p.sourceCluster.Endpoints(), ","),
		"TARGET="+strings.Join(p.targetCluster.Endpoints(), ",")))
}
