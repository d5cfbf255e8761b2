// Package etcdrpc holds what every caller of an etcd needs and clientv3 leaves to its users:
// a deadline on each call, the meaning of an error, and a backoff between attempts.
package etcdrpc

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Class says what a failed call means for its caller.
type Class int

const (
	// Retry: the cluster may answer later (no leader, a lost connection, a deadline, overload).
	Retry Class = iota
	// NoSpace: the backend quota is exhausted; puts fail until the alarm is disarmed.
	NoSpace
	// TooLarge: the request exceeds --max-request-bytes or the client's own send limit.
	TooLarge
	// TooManyOps: the transaction exceeds --max-txn-ops.
	TooManyOps
	// Compacted: the revision asked for is gone.
	Compacted
	// FutureRevision: the revision asked for does not exist yet: the cluster was rewound, or a stale member answered.
	FutureRevision
	// Denied: authentication or authorisation failed.
	Denied
	// Unsupported: the server does not know the call.
	Unsupported
	// Invalid: the server refused the request for what it holds; sending it again cannot help.
	Invalid
)

// Classify returns the class of a non-nil error of an etcd call, also of a wrapped one.
func Classify(err error) Class {
	known := etcdError(err)
	switch known {
	case rpctypes.ErrCompacted:
		return Compacted
	case rpctypes.ErrFutureRev:
		return FutureRevision
	case rpctypes.ErrNoSpace:
		return NoSpace
	case rpctypes.ErrRequestTooLarge:
		return TooLarge
	case rpctypes.ErrTooManyOps:
		return TooManyOps
	case rpctypes.ErrPermissionDenied, rpctypes.ErrAuthFailed, rpctypes.ErrUserEmpty, rpctypes.ErrInvalidAuthToken:
		return Denied
	case rpctypes.ErrAuthOldRevision, rpctypes.ErrNotLeader, rpctypes.Error(rpctypes.ErrGRPCNotSupportedForLearner):
		return Retry
	case rpctypes.ErrNotCapable: // the member has just started and does not know the cluster's version yet
		return Retry
	}
	switch code(known) {
	case codes.Unimplemented:
		return Unsupported
	case codes.PermissionDenied, codes.Unauthenticated:
		return Denied
	case codes.ResourceExhausted:
		// gRPC's own refusals to send or receive carry no etcd error; etcd's "too many requests" does.
		if strings.Contains(err.Error(), "larger than max") {
			return TooLarge
		}
		return Retry
	case codes.InvalidArgument, codes.FailedPrecondition, codes.OutOfRange, codes.AlreadyExists, codes.NotFound:
		return Invalid
	}
	return Retry
}

// etcdError returns the error of etcd or of gRPC in err. rpctypes.Error finds neither one that was wrapped, nor the one
// of which the client keeps only the text when the server cancels a watch.
func etcdError(err error) error {
	var etcd rpctypes.EtcdError
	if errors.As(err, &etcd) {
		return etcd
	}
	var withStatus interface{ GRPCStatus() *status.Status }
	if errors.As(err, &withStatus) {
		return rpctypes.Error(withStatus.GRPCStatus().Err())
	}
	text := err.Error()
	if _, desc, ok := strings.Cut(text, " desc = "); ok {
		text = desc
	}
	return rpctypes.Error(errors.New(text))
}

func code(err error) codes.Code {
	var etcd rpctypes.EtcdError
	if errors.As(err, &etcd) {
		return etcd.Code()
	}
	return status.Code(err)
}

// ErrTimeout is wrapped by errors of calls that outlived their own deadline while the caller's context was still alive.
var ErrTimeout = errors.New("no answer within the request timeout")

// MemberTries is how many members are asked, one after another, while each knows no leader.
const MemberTries = 4

// Leaderless reports whether a member refused a call because it knows no leader. Nothing has happened then, and another member may take the call:
// the client takes turns. Left to the next round of a caller that makes several calls in each, the same call could meet the same member for ever.
func Leaderless(err error) bool { return err != nil && etcdError(err) == rpctypes.ErrNoLeader }

// Do runs call with a deadline of its own below ctx. It requires a leader: a member that is cut off from the others refuses the call at once,
// instead of keeping it until the deadline, and Do makes it again.
func Do[T any](ctx context.Context, timeout time.Duration, call func(context.Context) (T, error)) (T, error) {
	callCtx, cancel := context.WithTimeout(clientv3.WithRequireLeader(ctx), timeout)
	defer cancel()
	v, err := call(callCtx)
	for tries := 1; tries < MemberTries && Leaderless(err) && callCtx.Err() == nil; tries++ {
		v, err = call(callCtx)
	}
	if err != nil && ctx.Err() == nil && callCtx.Err() != nil {
		err = fmt.Errorf("%w of %v: %w", ErrTimeout, timeout, err)
	}
	return v, err
}

// Head returns the cluster's ID and its current revision by a linearizable read of begin, which the caller must be permitted to read.
func Head(ctx context.Context, c *clientv3.Client, timeout time.Duration, begin string) (clusterID uint64, revision int64, err error) {
	resp, err := Do(ctx, timeout, func(ctx context.Context) (*clientv3.GetResponse, error) {
		return c.Get(ctx, begin, clientv3.WithKeysOnly())
	})
	if err != nil {
		return 0, 0, err
	}
	return resp.Header.ClusterId, resp.Header.Revision, nil
}

// Backoff spaces attempts: from 50 ms, doubling, to 5 s, each with jitter. The zero value is ready; Reset after a success.
type Backoff struct{ next time.Duration }

// Reset starts again at the shortest pause.
func (b *Backoff) Reset() { b.next = 0 }

// Long reports whether the pauses have grown past a second, so that whoever waits briefly gives up.
func (b *Backoff) Long() bool { return b.next > time.Second }

// Next is the pause before the next attempt, for callers that do not wait for it alone.
func (b *Backoff) Next() time.Duration {
	const first, last = 50 * time.Millisecond, 5 * time.Second
	b.next = min(max(2*b.next, first), last)
	return b.next/2 + rand.N(b.next/2)
}

// Wait pauses before the next attempt and returns ctx's error if it ends first.
func (b *Backoff) Wait(ctx context.Context) error {
	timer := time.NewTimer(b.Next())
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
