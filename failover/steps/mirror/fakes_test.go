package mirror_test

import (
	"context"
	"errors"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/understudy-dr/understudy/failover/steps/mirror"
)

// fakeVerdicts is for what would take a disaster to come about.
type fakeVerdicts struct{ standing func() mirror.Standing }

func (f fakeVerdicts) Standing(context.Context) (mirror.Standing, bool, error) {
	return f.standing(), true, nil
}
func (f fakeVerdicts) Check(context.Context) (mirror.Outcome, error) {
	return mirror.Outcome{}, errors.New("the primary is dead")
}

type fakeRecords struct{}

func (fakeRecords) State(context.Context) (mirror.State, error) { return mirror.State{}, nil }
func (fakeRecords) Promote(context.Context, bool) error         { return nil }
func (fakeRecords) Demote(context.Context) error                { return nil }

// fakePair has clients that are connected to nothing.
func fakePair(t *testing.T) mirror.Pair {
	client := func() *clientv3.Client {
		c := must(clientv3.New(clientv3.Config{Endpoints: []string{"127.0.0.1:1"}, Logger: zap.NewNop()}))
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	return mirror.Pair{Mirror: "ab", Primary: client(), Standby: client(), Records: fakeRecords{}}
}
