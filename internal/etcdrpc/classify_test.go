package etcdrpc_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/understudy-dr/understudy/internal/etcdrpc"
	"github.com/understudy-dr/understudy/internal/testutil"
)

func TestMain(m *testing.M) { testutil.Main(m) }

// served are errors that an etcd sends, with what they mean.
var served = []struct {
	err  error
	want etcdrpc.Class
}{
	{rpctypes.ErrGRPCCompacted, etcdrpc.Compacted},
	{rpctypes.ErrGRPCFutureRev, etcdrpc.FutureRevision},
	{rpctypes.ErrGRPCNoSpace, etcdrpc.NoSpace},
	{rpctypes.ErrGRPCRequestTooLarge, etcdrpc.TooLarge},
	{rpctypes.ErrGRPCTooManyOps, etcdrpc.TooManyOps},

	{rpctypes.ErrGRPCPermissionDenied, etcdrpc.Denied},
	{rpctypes.ErrGRPCAuthFailed, etcdrpc.Denied},
	{rpctypes.ErrGRPCUserEmpty, etcdrpc.Denied},
	{rpctypes.ErrGRPCInvalidAuthToken, etcdrpc.Denied},

	{rpctypes.ErrGRPCAuthOldRevision, etcdrpc.Retry},
	{rpctypes.ErrGRPCRequestTooManyRequests, etcdrpc.Retry},
	{rpctypes.ErrGRPCNoLeader, etcdrpc.Retry},
	{rpctypes.ErrGRPCNotLeader, etcdrpc.Retry},
	{rpctypes.ErrGRPCLeaderChanged, etcdrpc.Retry},
	{rpctypes.ErrGRPCNotCapable, etcdrpc.Retry},
	{rpctypes.ErrGRPCStopped, etcdrpc.Retry},
	{rpctypes.ErrGRPCTimeout, etcdrpc.Retry},
	{rpctypes.ErrGRPCTimeoutDueToLeaderFail, etcdrpc.Retry},
	{rpctypes.ErrGRPCTimeoutDueToConnectionLost, etcdrpc.Retry},
	{rpctypes.ErrGRPCTimeoutWaitAppliedIndex, etcdrpc.Retry},
	{rpctypes.ErrGRPCUnhealthy, etcdrpc.Retry},
	{rpctypes.ErrGRPCCorrupt, etcdrpc.Retry},
	{rpctypes.ErrGRPCNotSupportedForLearner, etcdrpc.Retry},
	{rpctypes.ErrGRPCWatchCanceled, etcdrpc.Retry},
	{rpctypes.ErrGRPCCanceled, etcdrpc.Retry},
	{rpctypes.ErrGRPCDeadlineExceeded, etcdrpc.Retry},

	{rpctypes.ErrGRPCEmptyKey, etcdrpc.Invalid},
	{rpctypes.ErrGRPCDuplicateKey, etcdrpc.Invalid},
	{rpctypes.ErrGRPCInvalidSortOption, etcdrpc.Invalid},
	{rpctypes.ErrGRPCLeaseNotFound, etcdrpc.Invalid},
	{rpctypes.ErrGRPCLeaseExist, etcdrpc.Invalid},
	{rpctypes.ErrGRPCLeaseTTLTooLarge, etcdrpc.Invalid},
	{rpctypes.ErrGRPCClusterIDMismatch, etcdrpc.Invalid},
	{rpctypes.ErrGRPCInvalidAuthMgmt, etcdrpc.Invalid},

	{status.Error(codes.Unimplemented, "unknown method RangeStream for service etcdserverpb.KV"), etcdrpc.Unsupported},
	{status.Error(codes.PermissionDenied, "a proxy says no"), etcdrpc.Denied},
	{status.Error(codes.Unauthenticated, "a proxy does not know you"), etcdrpc.Denied},
	{status.Error(codes.ResourceExhausted, "trying to send message larger than max (3 vs. 2)"), etcdrpc.TooLarge},
	{status.Error(codes.ResourceExhausted, "grpc: received message larger than max (3 vs. 2)"), etcdrpc.TooLarge},
	{status.Error(codes.ResourceExhausted, "grpc: received message after decompression larger than max (3 vs. 2)"), etcdrpc.TooLarge},
	{status.Error(codes.ResourceExhausted, "a proxy has had enough"), etcdrpc.Retry},
	{status.Error(codes.InvalidArgument, "what?"), etcdrpc.Invalid},
	{status.Error(codes.OutOfRange, "too far"), etcdrpc.Invalid},
	{status.Error(codes.FailedPrecondition, "not now"), etcdrpc.Invalid},
	{status.Error(codes.NotFound, "not here"), etcdrpc.Invalid},
	{status.Error(codes.AlreadyExists, "here already"), etcdrpc.Invalid},
	{status.Error(codes.Unavailable, "connection refused"), etcdrpc.Retry},
	{status.Error(codes.Internal, "stream terminated by RST_STREAM"), etcdrpc.Retry},
	{status.Error(codes.Aborted, "stopped"), etcdrpc.Retry},
	{status.Error(codes.Unknown, "what?"), etcdrpc.Retry},
}

func TestClassifyServedErrors(t *testing.T) {
	for _, c := range served {
		// The same error as it comes out of a raw stub, of the client, of a caller that wraps, and of Do after its deadline.
		forms := map[string]error{
			"raw":            c.err,
			"client":         rpctypes.Error(c.err),
			"wrapped raw":    fmt.Errorf("source: listing keys: %w", c.err),
			"wrapped client": fmt.Errorf("source: listing keys: %w", rpctypes.Error(c.err)),
			"twice":          fmt.Errorf("round 2: %w", fmt.Errorf("source: %w", c.err)),
			"late":           fmt.Errorf("%w of 1s: %w", etcdrpc.ErrTimeout, rpctypes.Error(c.err)),
			"joined":         errors.Join(io.ErrUnexpectedEOF, c.err),
		}
		for form, err := range forms {
			if got := etcdrpc.Classify(err); got != c.want {
				t.Errorf("%s %q: class %d, want %d", form, err, got, c.want)
			}
		}
	}
}

// The client gives the reason of a canceled watch as plain text, with or without gRPC's prefix.
func TestClassifyReasonsOfCanceledWatches(t *testing.T) {
	for _, c := range served {
		if _, ok := rpctypes.Error(c.err).(rpctypes.EtcdError); !ok {
			continue // not an error of etcd: servers never give it as the reason
		}
		for _, text := range []string{c.err.Error(), rpctypes.ErrorDesc(c.err)} {
			if got := etcdrpc.Classify(errors.New(text)); got != c.want {
				t.Errorf("%q: class %d, want %d", text, got, c.want)
			}
		}
	}
}

func TestClassifyOtherErrors(t *testing.T) {
	for _, err := range []error{
		context.Canceled, context.DeadlineExceeded, io.EOF, etcdrpc.ErrTimeout,
		fmt.Errorf("get: %w", context.DeadlineExceeded),
		errors.New("a log line: desc = nothing that etcd says"),
		noStatus{},
	} {
		if got := etcdrpc.Classify(err); got != etcdrpc.Retry {
			t.Errorf("%q: class %d, want Retry", err, got)
		}
	}
}

// noStatus claims to have a gRPC status and has none.
type noStatus struct{}

func (noStatus) Error() string              { return "no status" }
func (noStatus) GRPCStatus() *status.Status { return nil }
