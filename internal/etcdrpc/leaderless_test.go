package etcdrpc_test

import (
	"context"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"github.com/understudy-dr/understudy/internal/etcdrpc"
	"github.com/understudy-dr/understudy/internal/testutil"
	"github.com/understudy-dr/understudy/internal/testutil/embedetcd"
)

// A member that is cut off from the others is passed over by each call; without any leader a call fails at once and says why.
func TestLeaderlessMembers(t *testing.T) {
	ctx := testutil.Context(t)
	c := testutil.NewCluster(t, embedetcd.Options{Members: 3})
	cli := testutil.Client(t, c)
	calls := 0
	// Raw, because the client itself repeats reads.
	txn := func(ctx context.Context) (*pb.TxnResponse, error) {
		calls++
		return pb.NewKVClient(cli.ActiveConnection()).Txn(ctx, &pb.TxnRequest{}, grpc.WaitForReady(true))
	}
	lost := c.Leader()
	if lost < 0 {
		lost = 0
	}
	cut := c.Member(lost).Server
	for i := range 3 {
		if i != lost {
			cut.CutPeer(c.Member(i).Server.MemberID())
			c.Member(i).Server.CutPeer(cut.MemberID())
		}
	}
	for cut.Leader() != 0 || c.Leader() < 0 || c.Leader() == lost {
		if ctx.Err() != nil {
			t.Fatal("no election")
		}
		time.Sleep(10 * time.Millisecond) // a poll
	}
	// The client takes turns, so of nine calls three meet the member. Only a further election of the others may end a row of successes.
	for row := 0; row < 9; row++ {
		if _, err := etcdrpc.Do(ctx, ample, txn); err != nil {
			if ctx.Err() != nil || !etcdrpc.Leaderless(err) {
				t.Fatalf("with a majority: %v", err)
			}
			row = -1
		}
	}

	for i := range 3 {
		if i != lost {
			if err := c.StopMember(i); err != nil {
				t.Fatal(err)
			}
		}
	}
	for {
		calls = 0
		_, err := etcdrpc.Do(ctx, ample, txn)
		if err == nil || ctx.Err() != nil {
			t.Fatalf("without a majority: %v", err)
		}
		if etcdrpc.Leaderless(err) { // before, connections broke
			wantClass(t, "no leader", err, etcdrpc.Retry)
			if calls != etcdrpc.MemberTries {
				t.Errorf("%d calls", calls)
			}
			break
		}
	}
}
